"""Exact Gaussian processes of time: Matérn-3/2, value and gradient, against goals in seconds and against peers.

Irregular times at twenty per unit of time, length-scale 0.8, signal variance 1.2, noise variance 0.12; the gradient is
that in all three. Rows named "goal" compare with a fixed number, shown in the place of a peer.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciinfer.gp.kernels import Matern32
from sciinfer.gp.markov import MarkovGP
from sciinfer.statespace import LinearGaussian, log_likelihood

from .harness import Row, installed, time_pair, timed_row, versions

THETA = (0.8, 1.2, 0.12)
GOAL = "the peer is the goal"


def data(count: int) -> tuple[Tensor, Tensor]:
    """Sorted uniform times and values of about the right size."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.uniform(0, 0.05 * count, count))
    y = np.sin(t) + 0.35 * rng.normal(size=count)
    return torch.as_tensor(t), torch.as_tensor(y)


def ours(count: int) -> Callable[[], Any]:
    """Value and gradient through the public door."""
    t, y = data(count)
    gp = MarkovGP(Matern32(*THETA[:2]), noise=THETA[2])

    def call() -> None:
        gp.zero_grad()
        gp.log_likelihood(t, y).backward()

    return call


def gpytorch_exact(count: int) -> Callable[[], Any] | None:
    """Dense Cholesky in double precision."""
    if not installed("gpytorch"):
        return None
    import gpytorch

    t, y = data(count)

    class Dense(gpytorch.models.ExactGP):
        def __init__(self, likelihood: Any) -> None:
            super().__init__(t, y, likelihood)
            self.mean_module = gpytorch.means.ZeroMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5))

        def forward(self, x: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    model = Dense(likelihood).double()
    model.covar_module.base_kernel.lengthscale, model.covar_module.outputscale, likelihood.noise = THETA
    bound = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    model.train()

    def call() -> None:
        model.zero_grad()
        with gpytorch.settings.fast_computations(False, False, False), gpytorch.settings.max_cholesky_size(10**6):
            bound(model(t), y).backward()

    return call


def tinygp_scan(count: int) -> Callable[[], Any] | None:
    """Quasi-separable algebra, compiled."""
    if not (installed("tinygp") and installed("jax")):
        return None
    import jax
    import jax.numpy as jnp
    from tinygp import GaussianProcess, kernels

    jax.config.update("jax_enable_x64", True)
    t, y = (x.numpy() for x in data(count))

    def value(theta: Any) -> Any:
        kernel = theta[1] * kernels.quasisep.Matern32(scale=theta[0])
        noise = theta[2] * jnp.ones(count)
        return GaussianProcess(kernel, t, diag=noise, assume_sorted=True).log_probability(y)

    call = jax.jit(jax.value_and_grad(value))
    theta = jnp.array(THETA)
    return lambda: jax.block_until_ready(call(theta))


def celerite2_scan(count: int) -> Callable[[], Any] | None:
    """Semi-separable Cholesky in C++ under JAX; its Matérn-3/2 is approximate."""
    if not (installed("celerite2") and installed("jax")):
        return None
    import celerite2.jax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    t, y = (x.numpy() for x in data(count))

    def value(theta: Any) -> Any:
        term = celerite2.jax.terms.Matern32Term(sigma=jnp.sqrt(theta[1]), rho=theta[0])
        gp = celerite2.jax.GaussianProcess(term)
        gp.compute(t, diag=theta[2] * jnp.ones(count), check_sorted=False)
        return gp.log_likelihood(y)

    call = jax.jit(jax.value_and_grad(value))
    theta = jnp.array(THETA)
    return lambda: jax.block_until_ready(call(theta))


def against(name: str, value: float, goal: float, unit: str, *packages: str) -> Row:
    """A row that compares with a fixed number; less is better."""
    return Row(name=name, ours=value, peer=goal, unit=unit, goal=1.0, note=GOAL, versions=versions(*packages))


def exponent(low: int, high: int, repeats: int) -> float:
    """Slope of log time in log N."""
    sizes = np.unique(np.geomspace(low, high, 4).astype(int))
    spent = [time_pair(ours(int(size)), None, repeats)[0] for size in sizes]
    return float(np.polyfit(np.log(sizes), np.log(spent), 1)[0])


_PEAK = """
import resource, sys
import torch
torch.set_num_threads(1)
from benchmarks.gp import ours
ours(int(sys.argv[1]))()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_gigabytes(count: int) -> float:
    """Largest resident memory of a process that computes one value and gradient."""
    done = subprocess.run([sys.executable, "-c", _PEAK, str(count)], capture_output=True, text=True, check=True)
    kilobytes = int(done.stdout) / (1024 if sys.platform == "darwin" else 1)
    return kilobytes * 1024 / 1e9


def regular(count: int) -> Callable[[], Any]:
    """Value on an equally spaced grid."""
    _, y = data(count)
    with torch.no_grad():
        kernel = Matern32(*THETA[:2])
        A, Q = kernel.transition(torch.full((1, count), 0.05, dtype=y.dtype))
        P0, h = kernel.initial()[None], kernel.readout() / math.sqrt(THETA[2])
    white = y[None, :, None] / math.sqrt(THETA[2])
    return lambda: log_likelihood(LinearGaussian(A, Q, h.expand(1, count, 1, 2), white, P0[..., 0] * 0, P0))


def cuda(batch: int, count: int) -> Iterable[Row]:
    """Seconds and gigabytes of one pass on a GPU; nothing without one."""
    if not torch.cuda.is_available():
        return
    rng = torch.Generator("cuda").manual_seed(0)
    step = 0.1 * torch.rand((batch, count), generator=rng, device="cuda", dtype=torch.float64)
    y = torch.randn((batch, count, 1), generator=rng, device="cuda", dtype=torch.float64)
    kernel = Matern32(*THETA[:2]).cuda()

    def call() -> None:
        kernel.zero_grad()
        A, Q = kernel.transition(step)
        P0, h = kernel.initial().expand(batch, 2, 2), kernel.readout() / math.sqrt(THETA[2])
        log_likelihood(LinearGaussian(A, Q, h.expand(batch, count, 1, 2), y, P0[..., 0] * 0, P0)).sum().backward()
        torch.cuda.synchronize()

    torch.cuda.reset_peak_memory_stats()
    seconds, _ = time_pair(call, None, 3)
    note = f"{torch.cuda.get_device_name()}, {torch.cuda.max_memory_allocated() / 1e9:.2f} GB"
    yield Row(name=f"gp/cuda-{batch}x{count}", ours=seconds, peer=None, unit="s", note=note, versions=versions())


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Goals: 0.15 s and 1.5 s, 1.5 GB, slope 1.1, 300 times gpytorch, twice tinygp."""
    torch.set_num_threads(1)
    small, large, dense = (200, 400, 100) if tiny else (100_000, 1_000_000, 4096)
    for count, goal in ((small, 0.15), (large, 1.5)):
        seconds, _ = time_pair(ours(count), None, 1 if tiny else 5)
        yield against(f"gp/goal-value-gradient-{count}", seconds, goal, "s")
    yield against("gp/goal-regular-value", time_pair(regular(large), None, 1 if tiny else 5)[0], 0.2, "s")
    if not tiny:  # neither says anything about small sizes
        yield against("gp/goal-exponent", exponent(1000, large, 3), 1.1, "slope")
        yield against("gp/goal-memory", peak_gigabytes(large), 1.5, "GB")
    yield timed_row(
        f"gp/gpytorch-cholesky-{dense}",
        ours(dense),
        gpytorch_exact(dense),
        repeats=1 if tiny else 3,
        goal=300.0,
        packages=("gpytorch",),
    )
    for count in (small, large):
        for name, peer, goal in (("tinygp", tinygp_scan, 2.0), ("celerite2", celerite2_scan, None)):
            row = timed_row(
                f"gp/{name}-{count}",
                ours(count),
                peer(count),
                repeats=1 if tiny else 3,
                goal=goal,
                packages=(name, "jax"),
            )
            # these peers are no part of the extra: JAX is large
            yield row if row.peer is not None else replace(row, note=f"peer is missing: pip install jax {name}")
    yield from cuda(4 if tiny else 64, 1000 if tiny else 100_000)
