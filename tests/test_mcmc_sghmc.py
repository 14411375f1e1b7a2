"""Stochastic-gradient Hamiltonian Monte Carlo on targets whose moments are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciinfer.errors import ConfigError, NumericalError, ShapeError
from sciinfer.mcmc import sghmc, slope_of
from sciinfer.mcmc.sghmc import SGDraws
from sciinfer.random import generator

F64 = torch.float64
COV = torch.tensor([[1.0, 0.9 * 0.5], [0.9 * 0.5, 0.25]], dtype=F64)
MEAN = torch.tensor([3.0, -1.0], dtype=F64)


def gaussian(mean: Tensor, cov: Tensor):
    precision = torch.linalg.inv(cov)
    return slope_of(lambda z: -0.5 * ((z - mean) @ precision * (z - mean)).sum(-1))


def check_moments(found: SGDraws, mean: Tensor, cov: Tensor, errors: float = 4.0) -> None:
    """Means and all second moments within so many standard errors, chains taken as independent."""
    chains = len(found.draws)
    centred = found.draws - mean
    second = centred[..., :, None] * centred[..., None, :]
    for value, truth in ((found.draws.mean(1), mean), (second.mean(1), cov)):
        se = value.std(0) / math.sqrt(chains)
        assert bool(((value.mean(0) - truth).abs() < errors * se).all()), (value.mean(0), truth, se)
        assert bool((se < 0.06 * cov.diagonal().max()).all())  # the check says something


def test_moments_of_a_gaussian_within_four_standard_errors() -> None:
    mean, cov = MEAN, torch.diag(torch.tensor([1.0, 0.25], dtype=F64))
    start = mean.expand(200, 2)
    found = sghmc(gaussian(mean, cov), start, generator=generator(0, "g"), draws=400, burn=200, step=0.1)
    check_moments(found, mean, cov)


def test_moments_of_a_correlated_gaussian_within_four_standard_errors() -> None:
    scale = COV.diagonal().sqrt()
    start = MEAN.expand(200, 2)
    found = sghmc(gaussian(MEAN, COV), start, generator=generator(1, "g"), draws=600, burn=300, step=0.1, scale=scale)
    check_moments(found, MEAN, COV)


def noisy(slope, sd: float):
    def estimate(z: Tensor, g: torch.Generator) -> Tensor:
        return slope(z, g) + sd * torch.randn(z.shape, generator=g, dtype=z.dtype)

    return estimate


def test_known_noise_of_the_slopes_is_left_out() -> None:
    """With noise of variance 9 the draws are too wide unless it is accounted for."""
    target = gaussian(MEAN[:1], torch.ones(1, 1, dtype=F64))
    spread = []
    for noise in (0.0, 9.0):
        found = sghmc(
            noisy(target, 3.0), MEAN[:1].expand(200, 1), generator=generator(2, "g"), draws=800, burn=100, step=0.1,
            noise=noise,
        )  # fmt: skip
        spread.append(float(found.flat.var()))
    assert spread[0] > 1.3
    assert abs(spread[1] - 1.0) < 0.05


def test_the_scale_is_learnt_while_burning_in() -> None:
    cov = torch.diag(torch.tensor([100.0, 1e-4], dtype=F64))
    found = sghmc(
        gaussian(torch.zeros(2, dtype=F64), cov), torch.zeros(100, 2, dtype=F64), generator=generator(3, "g"),
        draws=500, burn=3000, step=0.15, adapt=True,
    )  # fmt: skip
    assert 1 / 3 < float(found.scale[0] / 10.0) < 3
    assert 1 / 3 < float(found.scale[1] / 0.01) < 3
    sd = found.flat.std(0)
    assert 0.9 < float(sd[0] / 10.0) < 1.1
    assert 0.9 < float(sd[1] / 0.01) < 1.1


def test_the_same_stream_gives_the_same_draws() -> None:
    first, again = (
        sghmc(gaussian(MEAN, COV), MEAN[None], generator=generator(4, "g"), draws=5, burn=3, thin=2, step=0.05)
        for _ in range(2)
    )
    assert torch.equal(first.draws, again.draws)
    assert first.draws.shape == (1, 5, 2)
    assert first.summary().mean.shape == (2,)


def test_refusals() -> None:
    target = gaussian(MEAN, COV)
    with pytest.raises(ShapeError):
        sghmc(target, MEAN, generator=generator(0))
    with pytest.raises(ConfigError):
        sghmc(target, MEAN[None], generator=generator(0), step=-1.0)
    with pytest.raises(NumericalError):
        sghmc(lambda z, g: z / 0, MEAN[None], generator=generator(0))
