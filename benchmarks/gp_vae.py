"""GP-VAEs: missing pixels of turning digits, and the time of a training step against dense kernel matrices.

Digits: films of 8 x 8 pixels with noise, of which 60 % of the pixels are missing at random; each split has films of its
own, and the films to be filled in are not those of training. Scored are the missing pixels, noise included: squared
error of the mean, coverage of 90 % intervals. Peers: the mean of the training films, the last value seen, and the same
nets without a process (``kernel="white"``). The films in black and white, with a Bernoulli likelihood: negative
log-probability of the missing pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

import sciinfer as si
from sciinfer.gp.kernels import Kernel
from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.gp_vae import gp_vae
from sciinfer.models.gp_vae_model import GPVAE
from sciinfer.random import generator
from sciinfer.statespace.sites import Sites

from .harness import Row, time_pair, versions
from .protocol import single_thread

OPTIONS: dict[str, Any] = {"latent": 12, "self_masking": 0.3}
STEPS, TRAIN, TEST = 300, 400, 60
DIMS = ("series", "time", "row", "column")


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Three splits of the digits; the step at T = 2000; the exponent from 1e3 to 1e5."""
    single_thread()
    found = [digits(seed, tiny=tiny) for seed in range(1 if tiny else 3)]
    yield from _digit_rows(found)
    yield from _binary_rows([binary(seed, tiny=tiny) for seed in range(1 if tiny else 3)])
    yield _step_row(50 if tiny else 2000)
    yield _exponent_row((50, 100) if tiny else (1_000, 10_000, 100_000))


# -- digits ------------------------------------------------------------------------------------------------------------


class Film(NamedTuple):
    """Films to train on, films to fill in, and these without gaps."""

    train: xr.Dataset
    test: xr.Dataset
    truth: np.ndarray


def films(seed: int, train: int = TRAIN, test: int = TEST, missing: float = 0.6) -> Film:
    """Simulated with one seed, then cut."""
    options = {"seed": seed, "n_series": train + test}
    whole = si.open_dataset("rotating_digits", **options)["y"].transpose(*DIMS)
    holed = si.open_dataset("rotating_digits", missing=missing, **options)[["y"]]
    return Film(holed.isel(series=slice(train)), holed.isel(series=slice(train, None)), whole.values[train:])


def fills(film: Film) -> dict[str, np.ndarray]:
    """The mean of each pixel in training; the last value seen, and the mean before the first."""
    mean = np.broadcast_to(film.train["y"].mean(("series", "time")).values, film.truth.shape)
    last = film.test["y"].transpose(*DIMS).values.copy()
    for k in range(1, last.shape[1]):
        last[:, k] = np.where(np.isnan(last[:, k]), last[:, k - 1], last[:, k])
    return {"mean": mean, "last": np.where(np.isnan(last), mean, last)}


def impute(film: Film, *, seed: int = 0, steps: int = STEPS, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean of the signal, and ``[2, ...]`` ends of 90 % intervals of the data."""
    training = {"steps": steps}
    fitted = si.fit(film.train, "gp-vae", seed=seed, options=options, training=training, progress="silent")
    tree = fitted.predict(film.test, draws=100, seed=1)
    signal, data = (
        tree[group]["y"].stack(sample=("chain", "draw")).transpose("sample", *DIMS).values
        for group in ("posterior", "posterior_predictive")
    )
    return signal.mean(0), np.quantile(data, [0.05, 0.95], axis=0)


def digits(seed: int, *, tiny: bool = False) -> dict[str, float]:
    """Squared errors of everything on the missing pixels of one split, and the coverage of the model."""
    film = films(seed, *((8, 3) if tiny else (TRAIN, TEST)))
    steps = 2 if tiny else STEPS
    gone = film.test["y"].transpose(*DIMS).isnull().values
    means = fills(film)
    means["gp-vae"], ends = impute(film, seed=seed, steps=steps, **OPTIONS)
    means["white"], white = impute(film, seed=seed, steps=steps, **OPTIONS, kernel="white")
    errors = {name: float(((mean - film.truth)[gone] ** 2).mean()) for name, mean in means.items()}
    for name, (low, high) in {"coverage": ends, "coverage-white": white}.items():
        errors[name] = float(((low <= film.truth) & (film.truth <= high))[gone].mean())
    return errors


def _digit_rows(found: Sequence[dict[str, float]]) -> Iterable[Row]:
    scores = {name: [split[name] for split in found] for name in found[0]}
    for peer in ("mean", "last", "white"):
        gains = np.subtract(scores[peer], scores["gp-vae"])
        spread = f", sd {gains.std(ddof=1):.2g}" if len(gains) > 1 else ""
        yield Row(
            name=f"gp_vae/digits-mse-{peer}", ours=float(np.mean(scores["gp-vae"])), peer=float(np.mean(scores[peer])),
            unit="squared", goal=1.0, note=f"gain {gains.mean():.3g} in {len(found)} splits{spread}; noise alone .01",
            versions=versions(),
        )  # fmt: skip
    off = float(np.max(np.abs(np.subtract(scores["coverage"], 0.9))))
    shown = ", ".join(f"{value:.3f}" for value in scores["coverage"])
    white = ", ".join(f"{value:.3f}" for value in scores["coverage-white"])
    yield Row(
        name="gp_vae/digits-coverage-90", ours=off, peer=0.03, unit="largest distance from .9", goal=1.0,
        note=f"coverage {shown}; without a process {white}; peer is what is allowed", versions=versions(),
    )  # fmt: skip


def binary(seed: int, *, tiny: bool = False) -> dict[str, float]:
    """The same films as black and white: mean negative log-probability of the missing pixels."""
    film = films(seed, *((8, 3) if tiny else (TRAIN, TEST)))
    train, test = ((part > 0.5).where(part.notnull()) * 1.0 for part in (film.train, film.test))
    two = Film(train, test, (film.truth > 0.5) * 1.0)
    gone, steps = test["y"].transpose(*DIMS).isnull().values, 2 if tiny else STEPS
    chance = {"mean": fills(two)["mean"].clip(1e-3, 1 - 1e-3)}
    for name, kernel in {"gp-vae": "matern32", "white": "white"}.items():
        options = {**OPTIONS, "likelihood": "bernoulli", "kernel": kernel}
        chance[name] = impute(two, seed=seed, steps=steps, **options)[0].clip(1e-12, 1 - 1e-12)
    right = {name: np.where(two.truth > 0.5, p, 1 - p)[gone] for name, p in chance.items()}
    return {name: float(-np.log(p).mean()) for name, p in right.items()}


def _binary_rows(found: Sequence[dict[str, float]]) -> Iterable[Row]:
    scores = {name: [split[name] for split in found] for name in found[0]}
    for peer in ("mean", "white"):
        gains = np.subtract(scores[peer], scores["gp-vae"])
        yield Row(
            name=f"gp_vae/binary-digits-nll-{peer}", ours=float(np.mean(scores["gp-vae"])),
            peer=float(np.mean(scores[peer])), unit="nats", goal=1.0,
            note=f"gain {gains.min():.3g} to {gains.max():.3g} in {len(found)} splits", versions=versions(),
        )  # fmt: skip


# -- speed -------------------------------------------------------------------------------------------------------------


class DensePosterior(NamedTuple):
    """Moments ``[S, T, K]`` and ``[S, T, K, K]``, and the divergence ``[S]``."""

    mean: Tensor
    cov: Tensor
    divergence: Tensor

    def at_data(self) -> tuple[Tensor, Tensor]:
        """As the model asks for them."""
        return self.mean, self.cov


class DenseLatents(nn.Module):
    """The same posterior from kernel matrices: ``B = I + R K R`` by Cholesky, ``R = sqrt(J)``, for each latent.

    References:
        Rasmussen, Williams (2006), Gaussian processes for machine learning, algorithm 3.2.
    """

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(kernels)

    def condition(self, time: Tensor, potentials: Sites, query: Tensor) -> DensePosterior:
        """At the data's times only."""
        lag = time[:, :, None] - time[:, None]
        K = torch.stack([kernel.covariance(lag) for kernel in self.kernels if isinstance(kernel, Kernel)], 1)
        J, j = potentials.precision.mT, potentials.shift.mT
        root = J.sqrt()
        eye = torch.eye(K.shape[-1], dtype=K.dtype, device=K.device)
        L = torch.linalg.cholesky(eye + root[..., :, None] * K * root[..., None, :])
        A = torch.linalg.solve_triangular(L, root[..., :, None] * K, upper=False)
        variance = K.diagonal(dim1=-2, dim2=-1) - A.square().sum(-2)
        mean = (K @ j[..., None] - A.mT @ (A @ j[..., None]))[..., 0]
        log_z = 0.5 * (j * mean).sum((-2, -1)) - L.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1))
        log_t = (j * mean - 0.5 * J * (mean.square() + variance)).sum((-2, -1))
        return DensePosterior(mean.mT, torch.diag_embed(variance.mT), log_t - log_z)


def case(times: int, latent: int = 2, channels: int = 16) -> tuple[GPVAE, SeriesBatch]:
    """A model and one series at irregular times, a third of the entries missing."""
    axis = TimeAxis("t", "number", 0.0, 1.0)
    schema = Schema(axis, None, (Variable("y"),), tuple(Channel("y", (c,)) for c in range(channels)))
    model = gp_vae(schema, latent=latent, kernel="matern32(lengthscale=20)")
    if not isinstance(model, GPVAE):
        raise TypeError(type(model).__name__)
    g = generator(0, "series")
    t = torch.arange(times, dtype=torch.float64) + 0.5 * torch.rand(times, generator=g, dtype=torch.float64)
    y = torch.sin(t[:, None] / torch.linspace(5, 30, channels, dtype=torch.float64))
    y[torch.rand(y.shape, generator=g) < 1 / 3] = torch.nan
    return model, SeriesBatch.of([t], [y])


class Step:
    """Loss, gradient and one update of Adam."""

    def __init__(self, model: GPVAE, batch: SeriesBatch) -> None:
        self.model, self.batch = model, batch
        self.optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def __call__(self) -> float:
        self.optimiser.zero_grad()
        loss = self.model.loss(self.batch, generator=generator(0, "step")).value
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())


def dense(model: GPVAE) -> GPVAE:
    """The same model with dense latents."""
    model.latents = DenseLatents(model.latents.kernels)  # pyright: ignore[reportAttributeAccessIssue] - the peer
    return model


def _step_row(times: int) -> Row:
    ours, peer = Step(*case(times)), Step(dense(case(times)[0]), case(times)[1])
    mine, other = time_pair(ours, peer, 3)
    return Row(
        name=f"gp_vae/step-{times}", ours=mine * 1e3, peer=None if other is None else other * 1e3, unit="ms", goal=50.0,
        note="one training step, 2 latents, 16 channels; peer: the same nets over dense kernel matrices",
        versions=versions(),
    )  # fmt: skip


def _exponent_row(sizes: Sequence[int]) -> Row:
    spent: list[float] = []
    for size in sizes:
        step = Step(*case(size))
        step()
        start = time.perf_counter()
        step()
        spent.append(time.perf_counter() - start)
    slope = float(np.polyfit(np.log(sizes), np.log(spent), 1)[0])
    return Row(
        name="gp_vae/scaling-exponent", ours=slope, peer=1.1, unit="", goal=1.0,
        note=f"seconds of a step against times, {sizes[0]} to {sizes[-1]}; peer is the largest exponent allowed",
        versions=versions(),
    )  # fmt: skip
