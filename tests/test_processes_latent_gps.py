"""Several latent Gaussian processes under Gaussian potentials, against dense linear algebra."""

from __future__ import annotations

import pytest
import torch

from sciinfer.errors import ConfigError
from sciinfer.gp.kernels import Matern32, Matern52, QuasiPeriodic
from sciinfer.processes import LatentGPs, condition_potentials
from sciinfer.random import generator
from sciinfer.statespace.sites import Sites

F64 = torch.float64


def case(T: int = 7) -> tuple[LatentGPs, torch.Tensor, Sites]:
    g = generator(0, "case")
    process = LatentGPs([Matern32(lengthscale=1.3), Matern52(lengthscale=0.6)])
    time = torch.rand(2, T, generator=g, dtype=F64).mul(4).sort(1).values
    time[:, 3] = time[:, 2]  # a time twice
    precision = torch.rand(2, T, 2, generator=g, dtype=F64).mul(3)
    precision[0, 1] = 0.0
    shift = torch.randn(2, T, 2, generator=g, dtype=F64) * (precision > 0)
    return process, time, Sites(precision, shift)


def dense(process: LatentGPs, time: torch.Tensor, sites: Sites) -> tuple[torch.Tensor, ...]:
    """Mean, covariance, log Z and divergence of one series with all latents stacked, ``[K T]``."""
    lag = time[:, None] - time
    K = torch.block_diag(*(kernel.covariance(lag) for kernel in process.kernels)).detach()
    J, j = sites.precision.mT.reshape(-1), sites.shift.mT.reshape(-1)
    inner = torch.eye(len(J), dtype=F64) + K * J
    cov = torch.linalg.solve(inner, K)
    mean = cov @ j
    log_z = 0.5 * j @ mean - 0.5 * torch.linalg.slogdet(inner)[1]
    log_t = j @ mean - 0.5 * (J * (mean.square() + cov.diagonal())).sum()
    return mean, cov, log_z, log_t - log_z


def test_posterior_normaliser_and_divergence_equal_dense_algebra() -> None:
    process, time, sites = case()
    path = condition_potentials(process, process.readout(), time, sites, time[:, :0])
    mean, cov = path.mean(path.bridge.at_data), path.cov(path.bridge.at_data)
    for s in range(2):
        m, V, log_z, divergence = dense(process, time[s], Sites(*(part[s] for part in sites)))
        torch.testing.assert_close(mean[s].mT.reshape(-1), m, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(cov[s].diagonal(dim1=-2, dim2=-1).mT.reshape(-1), V.diagonal(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(path.log_normaliser[s], log_z, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(path.divergence[s], divergence, rtol=1e-8, atol=1e-9)


def test_without_potentials_the_prior_comes_back() -> None:
    process, time, sites = case()
    nothing = Sites(*(torch.zeros_like(part) for part in sites))
    path = condition_potentials(process, process.readout(), time, nothing, time[:, :2] + 9)
    assert bool((path.divergence.abs() < 1e-10).all())
    assert bool((path.mean(path.bridge.at_query) == 0).all())
    torch.testing.assert_close(path.cov(path.bridge.at_query)[0, 0], torch.eye(2, dtype=F64), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_draws_have_the_moments_of_the_posterior() -> None:
    process, time, sites = case()
    path = condition_potentials(process, process.readout(), time, sites, time[:, :1] + 0.3)
    where = torch.cat([path.bridge.at_data, path.bridge.at_query], 1)
    draws = path.sample(20_000, generator(0, "draws"), where)
    spread = path.cov(where).diagonal(dim1=-2, dim2=-1).sqrt()
    error = (draws.mean(0) - path.mean(where)) / spread.clamp(min=1e-9)
    assert float(error.abs().max()) < 5.5 / 20_000**0.5
    assert float((draws.std(0) / spread - 1).abs().max()) < 0.03


def test_gradients_reach_potentials_and_kernels_and_agree_with_differences() -> None:
    process, time, sites = case(4)

    def value(precision: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        path = condition_potentials(process, process.readout(), time, Sites(precision, shift), time[:, :0])
        return path.divergence.sum()

    leaves = tuple((part + 0.1).requires_grad_() for part in sites)
    assert torch.autograd.gradcheck(value, leaves, eps=1e-6, atol=1e-5, rtol=1e-4)
    value(*leaves).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in process.parameters())


def test_a_kernel_of_several_states_is_read_where_it_begins() -> None:
    process = LatentGPs([Matern32(), QuasiPeriodic(2.0, 3.0), Matern32()])
    readout = process.readout()
    assert tuple(readout.shape) == (3, process.dim)
    start = process.kernels[0].state_dim
    assert bool((readout[1, :start] == 0).all())


def test_no_kernels_is_an_error() -> None:
    with pytest.raises(ConfigError):
        LatentGPs([])
