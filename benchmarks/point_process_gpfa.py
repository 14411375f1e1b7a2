"""Factor analysis of unbinned spikes, at the size of the mouse GPe recordings that svGPFA documents.

50 ragged trials of 1 to 4 s and 18 neurons of 5 to 40 Hz, simulated from three Matérn-3/2 latents. svGPFA's
documentation gives 9,585 s for its fit of the real recordings (10 latents, 200 iterations, 9 inducing points a latent
and trial). The row of the bound compares, at our fitted parameters, our posterior with the best one of svGPFA's form:
9 inducing points, no correlation between latents, each trial's by L-BFGS.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from sciinfer.gp.kernels import Kernel
from sciinfer.gp.point_process_elbo import Inducing, Trial, point_process_elbo
from sciinfer.models.point_process_gpfa import PointProcessGPFA
from sciinfer.models.point_process_gpfa_rows import quadrature, read_trials
from sciinfer.random import numpy_generator

from .harness import Row, versions

SVGPFA_SECONDS = 9585.0
F64 = torch.float64
SpikeData = list[tuple[np.ndarray, np.ndarray, float, float]]


def simulate(trials: int, neurons: int, *, scales: tuple[float, ...] = (0.15, 0.3, 0.6), seed: int = 0) -> SpikeData:
    """Trials from Matérn-3/2 latents with these length-scales (seconds), rates constant over a millisecond."""
    g = numpy_generator(seed, "spikes")
    loading = 0.45 * g.normal(size=(neurons, len(scales)))
    offset = np.log(g.uniform(5, 40, neurons)) - 0.5 * (loading**2).sum(1)
    return [_trial(g.uniform(1, 4), loading, offset, scales, g) for _ in range(trials)]


def _trial(
    duration: float, loading: np.ndarray, offset: np.ndarray, scales: tuple[float, ...], g: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float, float]:
    coarse, fine = np.arange(0.0, duration + 0.01, 0.01), (np.arange(int(1000 * duration)) + 0.5) / 1000
    paths = []
    for scale in scales:
        a = np.sqrt(3) * np.abs(coarse[:, None] - coarse) / scale
        root = np.linalg.cholesky((1 + a) * np.exp(-a) + 1e-9 * np.eye(len(coarse)))
        paths.append(np.interp(fine, coarse, root @ g.normal(size=len(coarse))))
    counts = g.poisson(0.001 * np.exp(np.stack(paths, 1) @ loading.T + offset))
    bins, neuron = (np.repeat(part, counts[counts > 0]) for part in np.nonzero(counts))
    return (bins + g.uniform(size=len(bins))) / 1000, neuron, 0.0, duration


def inducing_bound(model: PointProcessGPFA, trials: SpikeData, points: int = 9, iterations: int = 300) -> Tensor:
    """The best bound ``[R]`` of svGPFA's form at the parameters of ``model``."""
    from scipy.optimize import minimize

    read, found = read_trials(trials, model.neurons), []
    loading, offset = model.loading.detach(), model.offset.detach()
    shape = (model.loading.shape[1], points, points + 1)
    start = np.concatenate([np.eye(points), np.zeros((points, 1))], 1) * np.ones(shape)
    for trial in read:
        at = torch.linspace(trial.start, trial.stop, points, dtype=F64)
        roots = [_root(kernel, at) for kernel in model.process.kernels]
        rule = Trial(trial.events, trial.neuron, *quadrature(trial, model.step, 4))

        def value(x: np.ndarray, at: Tensor = at, rule: Trial = rule, roots: list[Tensor] = roots):
            white = torch.as_tensor(x).reshape(shape).requires_grad_()
            latents = [_latent(k, at, r, w) for k, r, w in zip(model.process.kernels, roots, white, strict=True)]
            bound = point_process_elbo(rule, latents, loading, offset)
            (slope,) = torch.autograd.grad(bound, white)
            return -float(bound.detach()), -slope.numpy().ravel()

        best = minimize(value, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": iterations})
        found.append(-best.fun)
    return torch.as_tensor(np.array(found))


_JITTER = 1e-8


def _root(kernel: Kernel, at: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.linalg.cholesky(kernel.covariance(at[:, None] - at) + _JITTER * torch.eye(len(at), dtype=F64))


def _latent(kernel: Kernel, at: Tensor, root: Tensor, white: Tensor) -> Inducing:
    inner = root @ white[:, :-1].tril()
    lift = 1e-10 * torch.eye(len(at), dtype=F64)

    def covariance(lag: Tensor) -> Tensor:
        with torch.no_grad():
            return kernel.covariance(lag)

    return Inducing(covariance, at, root @ white[:, -1], inner @ inner.mT + lift, _JITTER)


def rows(*, tiny: bool) -> Iterable[Row]:
    """Seconds of the fit; bounds of the two posteriors, in nats above a homogeneous Poisson process."""
    data = simulate(3 if tiny else 50, 18)
    model, row = _fit(data, 3, tiny)
    yield row
    flat = homogeneous(data, 18)
    theirs = float(inducing_bound(model, data, iterations=5 if tiny else 300).sum()) - flat
    for sites in ("nodes", "events"):
        bound = float(model.elbo(data, sites=sites)) - flat
        yield Row(
            name=f"point_process_gpfa/bound/{sites}",
            ours=bound,
            peer=theirs,
            unit="nats",
            goal=None if tiny else 1.0,
            higher=True,
            note="nats above constant rates, in continuous time; peer: 9 inducing points, same parameters",
            versions=versions("numpy", "scipy"),
        )
    yield _fit(data, 10, tiny)[1]


def _fit(data: SpikeData, latents: int, tiny: bool) -> tuple[PointProcessGPFA, Row]:
    model = PointProcessGPFA(18, latents, "matern32(lengthscale=0.3)")
    begin = time.process_time()
    model = model.fit(data, iterations=2 if tiny else 30)
    spent = time.process_time() - begin
    row = Row(
        name=f"point_process_gpfa/fit/{latents}-latents",
        ours=spent,
        peer=SVGPFA_SECONDS,
        unit="s",
        goal=None if tiny else SVGPFA_SECONDS / 60,
        note="processor time; peer: svGPFA's documentation, real recordings of this size, 10 latents, another machine",
        versions=versions("numpy", "scipy"),
    )
    return model, row


def homogeneous(data: SpikeData, neurons: int) -> float:
    """Log-likelihood of constant rates."""
    counts = sum(np.bincount(neuron, minlength=neurons) for _, neuron, _, _ in data)
    total = sum(stop - start for _, _, start, stop in data)
    return float((counts * np.log(np.maximum(counts, 1e-300) / total) - counts).sum())
