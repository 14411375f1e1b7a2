"""Hyper-posterior of a Gaussian process on its collapsed likelihood."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from sciinfer.errors import ConfigError, NumericalError
from sciinfer.gp.bayesian import HalfNormal, LogNormal, Normal, default_priors, sample_hyperparameters
from sciinfer.random import generator


@pytest.mark.parametrize("prior", [LogNormal(2.0, 0.7), HalfNormal(1.5), Normal(1.0, 2.0)])
def test_priors_integrate_to_one(prior) -> None:
    raw = torch.linspace(-25, 25, 100_001, dtype=torch.float64)
    assert abs(float(torch.trapezoid(prior.log_prob(raw).exp(), raw)) - 1) < 1e-6


def test_a_conjugate_posterior() -> None:
    """``y_i ~ N(mu, 1)``, ``mu ~ N(0, 2^2)``: mean and variance in closed form; the parameter is put back."""
    y = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    mu = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    found = sample_hyperparameters(
        lambda: -0.5 * (y - mu).square().sum(), [mu], [Normal(0.0, 2.0)], generator=generator(0), draws=250, warmup=100
    )
    variance = 1 / (3 + 0.25)
    s = found.summary()
    assert abs(s.mean[0] - variance * 7) < 4 * s.mcse[0]
    assert abs(s.sd[0] / math.sqrt(variance) - 1) < 0.15
    assert mu.item() == 0.3
    seen = [mu.item() for _ in found.visit(5, generator(1))]
    assert len(set(seen)) == 5
    assert mu.item() == 0.3


def test_the_starts_and_priors_are_checked() -> None:
    p = nn.Parameter(torch.zeros((), dtype=torch.float64))
    with pytest.raises(ConfigError, match="priors"):
        sample_hyperparameters(lambda: p, [p], [], generator=generator(0))
    with pytest.raises(NumericalError, match="present values"):
        sample_hyperparameters(lambda: p * math.nan, [p], [Normal(0.0, 1.0)], generator=generator(0))
    with pytest.raises(ConfigError):
        LogNormal(-1.0)
    assert p.item() == 0.0


def _series(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    t = np.sort(rng.uniform(0, 20, n))
    K = np.exp(-np.abs(t[:, None] - t[None]) / 2.0) + 0.1 * np.eye(n)
    return torch.as_tensor(t), torch.as_tensor(np.linalg.cholesky(K) @ rng.normal(size=n))


@pytest.mark.slow
def test_hyper_posterior_against_a_grid() -> None:
    """Two parameters, integrated on a grid with the dense likelihood."""
    t, y = _series(30)
    lag, eye = (t[:, None] - t[None]).abs(), 0.1 * torch.eye(30, dtype=torch.float64)
    length, variance = (nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in range(2))

    def collapsed() -> torch.Tensor:
        root = torch.linalg.cholesky(variance.exp() * torch.exp(-lag / length.exp()) + eye)
        white = torch.linalg.solve_triangular(root, y[:, None], upper=False)
        return -0.5 * white.square().sum() - root.diagonal().log().sum()

    priors = [LogNormal(1.0, 1.0), HalfNormal(2.0)]
    found = sample_hyperparameters(
        collapsed, [length, variance], priors, generator=generator(0), draws=250, warmup=100, chains=2
    )
    u = torch.linspace(-2.5, 3.5, 61, dtype=torch.float64)
    grid = torch.cartesian_prod(u, u)
    K = grid[:, 1].exp()[:, None, None] * torch.exp(-lag / grid[:, 0].exp()[:, None, None]) + eye
    root = torch.linalg.cholesky(K)
    white = torch.linalg.solve_triangular(root, y.expand(len(grid), -1)[..., None], upper=False)[..., 0]
    log_p = -0.5 * white.square().sum(-1) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_p = log_p + priors[0].log_prob(grid[:, 0]) + priors[1].log_prob(grid[:, 1])
    weight = torch.softmax(log_p, 0)
    wanted = (weight[:, None] * grid).sum(0)
    spread = ((weight[:, None] * (grid - wanted).square()).sum(0)).sqrt()
    raw = found.chains.summary()
    assert (np.abs(raw.mean - wanted.numpy()) < 4 * raw.mcse + 1e-3).all()
    assert (np.abs(raw.sd / spread.numpy() - 1) < 0.15).all()
    assert found.chains.divergences <= 2


def test_default_priors_sit_on_the_present_values() -> None:
    from sciinfer.gp.kernels import Matern12
    from sciinfer.gp.markov import MarkovGP

    gp = MarkovGP(Matern12(lengthscale=3.0, variance=0.5), noise=0.2, mean="constant")
    priors = default_priors(gp)
    medians = sorted(round(p.median, 6) for p in priors if isinstance(p, LogNormal))
    assert medians == [0.2, 0.5, 3.0]
    assert sum(isinstance(p, Normal) for p in priors) == 1
