"""Films of a damped pendulum, 16 x 16 noisy pixels, with frames that were never taken: a structured posterior against a
mean-field one.

Both models have the same linear prior, decoder, noise and width. The peer's encoder reads the whole film and emits an
independent Gaussian for every frame, taken or not; the structured one reads each frame by itself and leaves the rest to
the prior. Frames that are missing, single ones and runs, are filled in films that were not trained on. Rows: squared
error and CRPS of the noise-free pixels there; and, through a ridge readout of (sin, -cos) from noise-free training
frames that is applied to every draw, squared error, CRPS and how far the coverage of the 90 % interval is from 0.90.
Each split is a data set of its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciinfer.extend import registry
from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import Padded, SeriesBatch
from sciinfer.models.base import Draws
from sciinfer.models.svae import svae
from sciinfer.models.svae_lds import LinearSVAE
from sciinfer.models.svae_recognition import GaussianReader, expected_fit
from sciinfer.random import generator, numpy_generator
from sciinfer.statespace import cholesky, outer_form
from sciinfer.training import TrainingConfig, train

from .harness import Row, versions
from .protocol import single_thread

SIDE, STEPS, DT, NOISE = 16, 60, 0.1, 0.2
OPTIONS = {"latent": 6, "hidden": 48, "likelihood": "gaussian"}
F64 = torch.float64


class Film(NamedTuple):
    """``images, clean [S, T, 256]``, ``position [S, T, 2]``, ``taken [S, T]``."""

    images: np.ndarray
    clean: np.ndarray
    position: np.ndarray
    taken: np.ndarray


def film(size: int, seed: int, steps: int = STEPS) -> Film:
    """Pendulums of the simulator, drawn; a quarter of the frames missing singly, and two runs of five."""
    ds = registry().get("simulators", "damped_pendulum")(
        seed=seed, n_series=size, n_times=steps, dt=DT, noise_sd=0.0, truth=True
    )
    position = ds["truth_y"].values
    rng = numpy_generator(seed, "pendulum-films")
    clean = draw(position)
    taken = rng.random((size, steps)) > 0.25
    for start in rng.integers(2, steps - 7, (2, size)):
        for s, first in enumerate(start):
            taken[s, first : first + 5] = False
    taken[:, 0] = True
    return Film(clean + NOISE * rng.standard_normal(clean.shape), clean, position, taken)


def draw(position: np.ndarray) -> np.ndarray:
    """``[..., 256]``: a rod of length 0.8 and width 0.15, from the origin towards ``position [..., 2]``."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    points, tip = np.stack([x.ravel(), y.ravel()], axis=-1), 0.8 * position[..., None, :]
    along = np.clip((points * tip).sum(-1) / 0.64, 0, 1)[..., None]
    distance = np.sqrt(((points - along * tip) ** 2).sum(-1))
    return np.clip((0.2 - distance) / 0.12, 0, 1)


def schema() -> Schema:
    """Time in frames; pixels as they are."""
    pixels = tuple(Channel("y", (i,), str(i)) for i in range(SIDE * SIDE))
    return Schema(TimeAxis("time", "number", 0.0, 1.0), "series", (Variable("y", ("pixel",)),), pixels)


def batch_of(one: Film) -> SeriesBatch:
    """Missing frames as rows without data."""
    values = torch.as_tensor(np.where(one.taken[..., None], one.images, np.nan))
    return SeriesBatch.of([torch.arange(values.shape[1], dtype=F64)] * len(values), list(values))


class MeanFieldSVAE(LinearSVAE):
    """The same prior, decoder and noise; ``q(z) = prod_t N(m_t, diag(s_t^2))`` for every frame, taken or not."""

    def elbo_terms(self, batch: SeriesBatch, *, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        padded = batch.padded()
        mean, sd = self._emit(padded)
        cov = torch.diag_embed(sd.square())
        fit = expected_fit(self.decoder, self.likelihood, padded, mean, cov, generator)
        return fit, self._divergence(padded.time, mean, cov) - sd.log().sum((1, 2)) - 0.5 * mean[0].numel()

    def _divergence(self, time: Tensor, mean: Tensor, cov: Tensor) -> Tensor:
        """``-E log p(z)`` less its ``log 2 pi``."""
        A, Q = self.process.transition(time.diff(dim=1))
        second = outer_form(A, cov[:, :-1]) + cov[:, 1:]
        miss = mean[:, 1:] - (A @ mean[:, :-1, :, None])[..., 0]
        root = cholesky(Q)
        inner = torch.cholesky_solve(second + miss[..., :, None] * miss[..., None, :], root)
        log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum((1, 2))
        first = mean[:, 0].square().sum(-1) + cov[:, 0].diagonal(dim1=-2, dim2=-1).sum(-1)
        return 0.5 * (inner.diagonal(dim1=-2, dim2=-1).sum((1, 2)) + log_det + first)

    def _emit(self, padded: Padded) -> tuple[Tensor, Tensor]:
        if self.reader is None:
            raise ValueError("a reader is needed")
        mean, log_p = self.reader.rows(padded).chunk(2, dim=-1)
        return mean, (-3 * torch.tanh(log_p / 6)).exp()

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """At the frames of the batch."""
        mean, sd = self._emit(batch.padded())
        noise = torch.randn((draws, *mean.shape), generator=generator, dtype=mean.dtype, device=mean.device)
        z = mean + sd * noise
        eta = self.decoder(z)
        return Draws(eta, self.likelihood.sample(eta, generator), z)


def build(structured: bool, seed: int, **options: object) -> LinearSVAE:
    """The model, or the peer with the same parts and an encoder of whole films."""
    chosen = {**OPTIONS, **options}
    model = svae(schema(), seed=seed, **(chosen if structured else {**chosen, "encoder": "scan", "hide": 0.0}))
    if not isinstance(model, LinearSVAE):
        raise TypeError("lds wanted")
    if structured:
        return model
    if not isinstance(model.reader, GaussianReader):
        raise TypeError("a reader is wanted")
    return MeanFieldSVAE(model.process, model.decoder, model.likelihood, model.reader, warmup=model.warmup)


def fit(model: LinearSVAE, data: SeriesBatch, steps: int, seed: int) -> None:
    """Adam on minibatches of films, as ``si.fit`` does it; of 5e-3 and 1e-2 the rate that suits the peer."""
    model.initialise(data)
    config = TrainingConfig(steps=steps, learning_rate=5e-3, batch_size=16, validation=0.0, device="cpu")
    train(model, data, config, seed=seed)


def ridge_readout(one: Film) -> np.ndarray:
    """``[1 + 256, 2]`` from noise-free training frames."""
    design = _with_one(one.clean.reshape(-1, SIDE * SIDE))
    return np.linalg.solve(design.T @ design + np.eye(design.shape[1]), design.T @ one.position.reshape(-1, 2))


def _with_one(x: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((*x.shape[:-1], 1)), x], axis=-1)


def scores(model: LinearSVAE, one: Film, readout: np.ndarray, draws: int = 60) -> dict[str, float]:
    """Of the frames that were not taken."""
    data = batch_of(one)
    times = torch.arange(one.images.shape[1], dtype=F64).expand(len(one.images), -1)
    with torch.no_grad():
        found = model.predict(data, times, draws=draws, generator=generator(0, "score")).signal.numpy()
    hidden = ~one.taken
    pixels, truth = found[:, hidden], one.clean[hidden]
    place, where = _with_one(pixels) @ readout, one.position[hidden]
    low, high = np.quantile(place, [0.05, 0.95], axis=0)
    coverage = float(((where >= low) & (where <= high)).mean())
    seen = _with_one(found[:, one.taken]) @ readout
    low, high = np.quantile(seen, [0.05, 0.95], axis=0)
    inside = float(((one.position[one.taken] >= low) & (one.position[one.taken] <= high)).mean())
    return {
        "pixel-mse": float(((pixels.mean(0) - truth) ** 2).mean()), "pixel-crps": crps(pixels, truth),
        "position-mse": float(((place.mean(0) - where) ** 2).mean()), "position-crps": crps(place, where),
        "coverage": coverage, "miscoverage": abs(coverage - 0.9),
        "coverage-taken": inside, "miscoverage-taken": abs(inside - 0.9),
    }  # fmt: skip


def crps(draws: np.ndarray, truth: np.ndarray) -> float:
    """Of the empirical distribution of the draws (first axis), fair."""
    n = len(draws)
    ordered = np.sort(draws, axis=0)
    weight = (2 * np.arange(1, n + 1) - n - 1).reshape(-1, *([1] * truth.ndim))
    spread = (weight * ordered).sum(0) / (n * (n - 1))
    return float((np.abs(draws - truth).mean(0) - spread).mean())


def compare(seed: int, *, size: int = 80, steps: int = 300, **options: object) -> dict[str, dict[str, float]]:
    """One split: scores of both, seconds and numbers of parameters."""
    whole = film(size + size // 3, seed)
    known, new = (Film(*(part[s] for part in whole)) for s in (slice(size), slice(size, None)))
    readout, found = ridge_readout(known), {}
    for name, structured in (("svae", True), ("mean-field", False)):
        model, start = build(structured, seed, **options), time.process_time()
        fit(model, batch_of(known), steps, seed)
        found[name] = scores(model, new, readout) | {
            "seconds": time.process_time() - start, "parameters": sum(p.numel() for p in model.parameters()),
        }  # fmt: skip
        print(f"split {seed}: {name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """The structured posterior against the mean-field one, over three splits."""
    single_thread()
    size, steps = (6, 2) if tiny else (80, 300)
    splits = [compare(seed, size=size, steps=steps) for seed in range(3)]
    for metric in ("pixel-mse", "pixel-crps", "position-mse", "position-crps", "miscoverage", "miscoverage-taken"):
        ours, theirs = ([split[name][metric] for split in splits] for name in ("svae", "mean-field"))
        coverage = metric.replace("mis", "")
        note = f"sd {np.std(ours, ddof=1):.2g} and {np.std(theirs, ddof=1):.2g} over {len(splits)} splits"
        if coverage != metric:
            shown = ["/".join(f"{split[name][coverage]:.3f}" for split in splits) for name in ("svae", "mean-field")]
            note = f"coverage {shown[0]} against {shown[1]}, wanted 0.90"
        yield Row(
            name=f"svae_pendulum/{metric}", ours=float(np.mean(ours)), peer=float(np.mean(theirs)),
            unit="share" if coverage != metric else "squared" if metric.endswith("mse") else "units of the data",
            goal=1.0, note=note, versions=versions(),
        )  # fmt: skip
