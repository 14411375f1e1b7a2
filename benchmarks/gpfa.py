"""Latents of many neurons from a fitted factor model, against elephant's ``GPFA.transform``.

The size of elephant's slow case: 1000 bins, 8 latents, 2 trials, 100 neurons; its ``transform`` solves for all bins and
latents at once and takes 109 s there. Ours goes from counts to posterior means and covariances, with Poisson noise.
Where ``SCIINFER_ELEPHANT_PYTHON`` names a Python that has elephant, both are also run here at a smaller size.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.gpfa import gpfa, poisson_gpfa
from sciinfer.models.gpfa_model import FactorModel
from sciinfer.models.gpfa_sites import SiteFactors
from sciinfer.random import generator

from .harness import Row, versions

ELEPHANT_SECONDS = 109.0
KERNEL = "matern32(lengthscale=30.0)"
_PEER = "SCIINFER_ELEPHANT_PYTHON"
#: run by the other Python: fits briefly, then times the second of two transforms
_SCRIPT = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import neo, numpy as np, quantities as pq
from elephant.gpfa import GPFA
counts, latents = np.load(sys.argv[1]), int(sys.argv[2])
trains, width = [], 20.0
for trial in counts:
    stop = len(trial) * width
    trains.append([neo.SpikeTrain(np.repeat(np.arange(len(y)) * width + 5.0, y) * pq.ms, t_stop=stop * pq.ms)
                   for y in trial.T])
model = GPFA(bin_size=width * pq.ms, x_dim=latents, em_max_iters=2)
model.fit(trains)
spent = []
for _ in range(2):
    start = time.perf_counter()
    model.transform(trains)
    spent.append(time.perf_counter() - start)
print(json.dumps(spent[-1]))
"""


def case(trials: int, bins: int, latents: int, neurons: int) -> tuple[SiteFactors, SeriesBatch]:
    """A model with known parameters and counts drawn from it, about 0.3 per bin and neuron."""
    g = generator(0, "counts")
    model = poisson_gpfa(_schema(neurons), latent=latents, kernel=KERNEL)
    if not isinstance(model, SiteFactors):
        raise TypeError(type(model).__name__)
    with torch.no_grad():
        model.decoder.weight.copy_(torch.randn(neurons, latents, generator=g, dtype=torch.float64) / latents**0.5)
        model.decoder.bias.fill_(-1.5)
        at = torch.arange(bins, dtype=torch.float64)
        counts = model.generate(at, draws=trials, generator=g).observation[:, 0]
        batch = SeriesBatch.of([at] * trials, list(counts))
    return model, batch


def _schema(neurons: int) -> Schema:
    channels = tuple(Channel("n", (c,)) for c in range(neurons))
    return Schema(TimeAxis("t", "number", 0.0, 1.0), "trial", (Variable("n"),), channels)


def _roots(batch: SeriesBatch, latents: int) -> FactorModel:
    """Gaussian noise on square roots, as elephant has it."""
    model = gpfa(_schema(batch.n_channels), latent=latents, kernel=KERNEL, transform="sqrt", start="kernel")
    model.initialise(batch)
    return model


def seconds(call: Callable[[], Any], repeats: int) -> float:
    call()
    spent: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def _cpu(call: Callable[[], Any]) -> float:
    """Seconds of processor time: what a busy machine does not change."""
    start = time.process_time()
    call()
    return time.process_time() - start


def exponent(sizes: Sequence[int]) -> float:
    """Slope of log seconds against log number of bins, least squares: 2 latents, 10 neurons, one trial."""
    spent = []
    for size in sizes:
        model, batch = case(1, size, 2, 10)
        spent.append(seconds(lambda m=model, b=batch: m.latent_moments(b), 1))
    return float(np.polyfit(np.log(sizes), np.log(spent), 1)[0])


def elephant_seconds(batch: SeriesBatch, latents: int) -> float | None:
    """Its ``transform`` on the same counts, or None where it is not there."""
    python = os.environ.get(_PEER)
    if not python:
        return None
    counts = batch.padded().values.numpy().astype(np.int64)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "counts.npy")
        np.save(path, counts)
        done = subprocess.run(
            [python, "-c", _SCRIPT, path, str(latents)], capture_output=True, text=True, timeout=900, check=False
        )
    return float(json.loads(done.stdout.strip().splitlines()[-1])) if done.returncode == 0 else None


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Goals: 100 times less than the 109 s; linear in time."""
    bins, latents, neurons = (40, 2, 5) if tiny else (1000, 8, 100)
    counts_model, batch = case(2, bins, latents, neurons)
    for kind, model in (("poisson", counts_model), ("sqrt", _roots(batch, latents))):
        yield Row(
            name=f"gpfa/{kind}-moments-{bins}x{latents}",
            ours=seconds(lambda m=model: m.latent_moments(batch), 1 if tiny else 3),
            peer=None if tiny else ELEPHANT_SECONDS,
            unit="s",
            goal=100.0,
            note=f"2 trials, 100 neurons, {_cpu(lambda m=model: m.latent_moments(batch)):.2f} s of CPU; peer: elephant "
            "1.2.1 GPFA.transform, measured before",
            versions=versions(),
        )
    yield _beside(tiny)
    sizes = (20, 40) if tiny else (1_000, 10_000, 100_000)
    yield Row(
        name="gpfa/scaling-exponent",
        ours=exponent(sizes),
        peer=None if tiny else 1.1,
        unit="",
        goal=1.0,
        note=f"seconds against bins, {sizes[0]} to {sizes[-1]}; peer is the largest exponent allowed",
        versions=versions(),
    )
    if not tiny:
        yield _cuda()


def _beside(tiny: bool) -> Row:
    bins, latents = (40, 2) if tiny else (500, 6)
    model, batch = case(2, bins, latents, 30)
    peer = None if tiny else elephant_seconds(batch, latents)
    cpu = _cpu(lambda: model.latent_moments(batch))
    note = f"both run here, 2 trials, 30 neurons; ours {cpu:.2f} s of CPU"
    return Row(
        name=f"gpfa/beside-elephant-{bins}x{latents}",
        ours=seconds(lambda: model.latent_moments(batch), 1 if tiny else 3),
        peer=peer,
        unit="s",
        goal=1.0,
        note=note if peer else f"peer is missing: {_PEER}=a Python with elephant",
        versions=versions(),
    )


def _cuda(bins: int = 100_000, latents: int = 16, neurons: int = 100) -> Row:
    """One pass from sites to posterior moments of a recording of ``bins`` bins."""
    name = f"gpfa/cuda-pass-{bins}x{latents}"
    if not torch.cuda.is_available():
        return Row(name=name, ours=float("nan"), peer=None, unit="s", note="skipped: no CUDA device", versions={})
    model, batch = case(1, 200, latents, neurons)
    model = model.to("cuda")
    at = torch.arange(bins, dtype=torch.float64, device="cuda")
    counts = batch.values.repeat(-(-bins // 200), 1)[:bins].to("cuda")
    long = SeriesBatch.of([at], [counts])

    def once() -> None:
        model.infer(long, max_passes=1)
        torch.cuda.synchronize()

    with torch.no_grad():
        spent = seconds(once, 3)
    peak = torch.cuda.max_memory_allocated() / 2**30
    return Row(name=name, ours=spent, peer=None, unit="s", note=f"peak {peak:.1f} GiB", versions=versions())
