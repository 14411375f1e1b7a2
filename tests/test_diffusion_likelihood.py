"""The density of a diffusion prior by its probability flow, against closed forms and stored values."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from sciinfer.diffusion import GaussianDenoiser, MixtureDenoiser, kernel_density, log_prob
from sciinfer.errors import ConfigError

F64 = torch.float64


def case() -> tuple[MixtureDenoiser, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    A = torch.randn(3, 3, 3, generator=g, dtype=F64)
    prior = MixtureDenoiser(
        torch.tensor([0.2, 0.5, 0.3], dtype=F64),
        torch.randn(3, 3, generator=g, dtype=F64),
        A @ A.mT + 0.1 * torch.eye(3),
    )
    return prior, prior.sample(5, g)


def test_a_mixture_of_full_covariances() -> None:
    prior, x = case()
    torch.testing.assert_close(log_prob(prior, x[:2], tolerance=1e-6), prior.log_prob(x[:2]), rtol=0, atol=1e-3)


def test_a_gaussian() -> None:
    C = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=F64)
    prior, x = GaussianDenoiser(torch.ones(2, dtype=F64), C), torch.tensor([[0.3, -1.0], [2.0, 1.0]], dtype=F64)
    expected = torch.distributions.MultivariateNormal(prior.mean, C).log_prob(x)
    torch.testing.assert_close(log_prob(prior, x), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(prior.log_prob(x), expected, rtol=0, atol=1e-10)


def test_hutchinson_is_right_on_average() -> None:
    prior, x = case()
    many = log_prob(prior, x, divergence="hutchinson", probes=64, tolerance=1e-5)
    torch.testing.assert_close(many, prior.log_prob(x), rtol=0, atol=0.5)


def test_one_alone_equals_one_of_many() -> None:
    prior, x = case()
    alone, many = (log_prob(prior, part, tolerance=1e-4) for part in (x[2:3], x))
    torch.testing.assert_close(alone, many[2:3], rtol=1e-9, atol=1e-9)


def test_an_unknown_divergence_is_refused() -> None:
    prior, x = case()
    with pytest.raises(ConfigError):
        log_prob(prior, x, divergence="guess")


@pytest.mark.slow
def test_digits() -> None:
    """Kernel density of 1498 real digits; the exact density is a sum over them."""
    folder = os.environ.get("SCIINFER_DATA")
    if not folder:
        pytest.skip("SCIINFER_DATA is not set: no stored digits")
    from sklearn.datasets import load_digits

    stored = np.load(Path(folder) / "diffusion" / "digits_kde" / "digits_kde_reference.npz")
    images = torch.as_tensor(load_digits().images, dtype=F64) / 16
    held_out = torch.arange(len(images)) % 6 == 5
    train, test = images[~held_out], images[held_out]
    prior = kernel_density(train, 0.15)
    known = torch.as_tensor(stored["prior_logp_test"])
    torch.testing.assert_close(prior.log_prob(test), known, rtol=0, atol=1e-6)
    torch.testing.assert_close(log_prob(prior, test[:5], tolerance=1e-5), known[:5], rtol=0, atol=0.02)
