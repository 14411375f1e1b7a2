"""Gaussian processes in the plane: Vecchia against inducing points and against a dense Cholesky factor.

Accuracy rows: a Matern-3/2 field (length-scale 0.2, variance 1, noise 0.05) at uniform points of the unit square; nats
between each log-likelihood (or bound) and the dense one. Time rows: seconds of value and gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from sciinfer.gp.spatial import DKLGP, Matern, SparseGP, VecchiaGP, dense_log_likelihood
from sciinfer.gp.spatial.conditionals import blocks, condition_last
from sciinfer.gp.spatial.neighbours import nearest_before
from sciinfer.gp.spatial.ordering import maximin
from sciinfer.random import numpy_generator

from .harness import Row, time_pair, versions

NOISE = 0.05
NEAR, INDUCING = (5, 10, 20, 30), (30, 100, 200, 400)


def kernel() -> Matern:
    return Matern(1.5, 0.2)


def field(n: int) -> tuple[Tensor, Tensor]:
    """Points and a draw; the draw of many points is noise, which costs the same."""
    g = numpy_generator(0, "benchmark-vecchia", n)
    X = torch.as_tensor(g.uniform(size=(n, 2)))
    z = torch.as_tensor(g.normal(size=n))
    if n > 5000:
        return X, z
    with torch.no_grad():
        return X, torch.linalg.cholesky(kernel()(X, X) + NOISE * torch.eye(n, dtype=torch.float64)) @ z


def exact(X: Tensor, y: Tensor) -> Tensor:
    return dense_log_likelihood(kernel(), X, y, torch.full_like(y, NOISE))


def latent_divergence(X: Tensor, neighbours: int) -> float:
    """``KL(exact || Vecchia)`` of the noise-free field: half of what its log-determinant is too large."""
    points, k = X[torch.as_tensor(maximin(X.numpy())[0])], kernel()
    index = torch.as_tensor(nearest_before(points.numpy(), neighbours))
    with torch.no_grad():
        own = torch.cat([index, torch.arange(len(points))[:, None]], 1)
        given = condition_last(blocks(k, points, torch.zeros(len(points), dtype=torch.float64), own))
        return 0.5 * float(given.variance.log().sum() - torch.logdet(k(points, points)))


def accuracy(n: int) -> Iterable[Row]:
    """Ours against inducing points (gpytorch), each time with the next larger size of both."""
    X, y = field(n)
    with torch.no_grad():
        truth = float(exact(X, y))
        gaps = {m: abs(float(VecchiaGP(kernel(), NOISE, neighbours=m).log_likelihood(X, y)) - truth) for m in NEAR}
        bounds = {m: truth - float(SparseGP(kernel(), NOISE, inducing=min(m, n)).elbo(X, y)) for m in INDUCING}
    packages = versions("gpytorch")
    for near, inducing in zip(NEAR, INDUCING, strict=True):
        note = f"{near} neighbours; peer: {inducing} inducing points"
        goal = 10.0 if near == 20 else None
        name = f"vecchia/gap-{near}"
        yield Row(
            name=name, ours=gaps[near], peer=bounds[inducing], unit="nats", goal=goal, note=note, versions=packages
        )
    for rho in (2.0, 3.0):
        gap = abs(float(DKLGP(kernel(), NOISE, rho=rho).elbo(X, y)) - truth)
        note, peer = f"rho {rho:g}; peer: {INDUCING[-1]} inducing points", bounds[INDUCING[-1]]
        yield Row(name=f"vecchia/dklgp-gap-{rho:g}", ours=gap, peer=peer, unit="nats", note=note, versions=packages)
    for near in NEAR:
        value, name, note = latent_divergence(X, near), f"vecchia/latent-kl-{near}", "KL(exact || Vecchia)"
        yield Row(name=name, ours=value, peer=None, unit="nats", note=note, versions=versions())


def value_and_gradient(log_likelihood: Callable[[], Tensor]) -> Callable[[], None]:
    return lambda: log_likelihood().backward()


def seconds(n: int, peer: bool, goal: float | None) -> Row:
    X, y = field(n)
    gp = VecchiaGP(kernel(), NOISE, neighbours=20)
    ours = value_and_gradient(lambda: gp.log_likelihood(X, y))
    other = value_and_gradient(lambda: exact(X, y)) if peer else None
    mine, theirs = time_pair(ours, other, repeats=3)
    note = "20 neighbours, order and neighbours found anew; peer: dense factor" if peer else "20 neighbours"
    name = f"vecchia/value-and-gradient-{n}"
    return Row(name=name, ours=mine, peer=theirs, unit="s", goal=goal, note=note, versions=versions())


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Goals: 20 neighbours at least 10 times nearer than 200 inducing points; 10 times faster than dense at 4000."""
    yield from accuracy(450 if tiny else 900)
    for n, peer, goal in (
        ((300, True, None),) if tiny else ((900, True, None), (4000, True, 10.0), (100_000, False, None))
    ):
        yield seconds(n, peer, goal)
