"""The posterior of a linear measurement of a mixture, against sums by hand and stored posteriors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import sciinfer as si
from sciinfer.diffusion import MixtureDenoiser, kernel_density
from sciinfer.errors import ConfigError
from sciinfer.inverse import Observation, condition_mixture, solve_exact
from sciinfer.random import generator

F64 = torch.float64


def stored(*parts: str) -> np.lib.npyio.NpzFile:
    folder = os.environ.get("SCIINFER_DATA")
    if not folder:
        pytest.skip("SCIINFER_DATA is not set: no stored posteriors")
    return np.load(Path(folder, "diffusion", *parts))


def small() -> tuple[MixtureDenoiser, Observation, Tensor]:
    g = torch.Generator().manual_seed(0)
    L = torch.randn(3, 2, 2, generator=g, dtype=F64)
    means, C = torch.randn(3, 2, generator=g, dtype=F64), L @ L.mT + 0.1 * torch.eye(2, dtype=F64)
    prior = MixtureDenoiser(torch.tensor([0.2, 0.5, 0.3], dtype=F64), means, C)
    return prior, Observation([[1.0, -0.5]], noise_sd=0.4), torch.tensor([0.7], dtype=F64)


def test_against_a_sum_over_a_grid() -> None:
    prior, observation, y = small()
    axis = torch.linspace(-9, 9, 901, dtype=F64)
    x = torch.cartesian_prod(axis, axis)
    logs = prior.log_prob(x) + observation.log_prob(y, x)
    weight = logs.softmax(0)
    mean = weight @ x
    found = solve_exact(prior, observation, y)
    torch.testing.assert_close(found.mean, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.variance, weight @ (x - mean).square(), rtol=1e-6, atol=1e-6)
    assert found.stats["log_evidence"] == pytest.approx(float(logs.logsumexp(0)) + 2 * np.log(18 / 900), abs=1e-6)


def test_draws_and_the_facade() -> None:
    prior, _, y = small()
    tree = si.solve(y, operator=[[1.0, -0.5]], noise=0.4, prior=prior, draws=4000)
    stats = tree["sample_stats"]
    draws = tree["posterior"]["signal"].isel(chain=0)
    error = abs(draws.mean("draw") - stats["mean"]) / stats["sd"]
    assert float(error.max()) < 5.5 / 4000**0.5
    assert tree.attrs["method"] == "exact"
    assert "mixture" in tree.attrs["reason"]


def test_one_covariance_for_all_equals_one_for_each() -> None:
    g = torch.Generator().manual_seed(1)
    L = torch.randn(4, 4, generator=g, dtype=F64)
    means, w, C = torch.randn(5, 4, generator=g, dtype=F64), torch.rand(5, generator=g, dtype=F64), L @ L.T
    one, each = MixtureDenoiser(w, means, C), MixtureDenoiser(w, means, C.expand(5, 4, 4))
    observation = Observation(torch.randn(2, 4, generator=g, dtype=F64), noise_sd=0.1)
    y = torch.tensor([0.3, float("nan")], dtype=F64)
    first, second = (condition_mixture(prior, observation, y) for prior in (one, each))
    assert first.missing == 1
    assert first.log_evidence == pytest.approx(second.log_evidence, abs=1e-9)
    u = torch.randn(3, 4, generator=g, dtype=F64)
    s = torch.tensor(0.5, dtype=F64)
    torch.testing.assert_close(first.posterior.denoise(u, s), second.posterior.denoise(u, s), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(one.log_prob(u), each.log_prob(u))


def test_a_long_signal_is_refused() -> None:
    prior = MixtureDenoiser(torch.ones(1, dtype=F64), torch.zeros(1, 3001, dtype=F64), 1.0)
    with pytest.raises(ConfigError, match="too long"):
        condition_mixture(prior, Observation(torch.ones(1, 3001, dtype=F64), noise_sd=1.0), [0.0])


def test_twenty_seven_mixtures() -> None:
    """25 unit Gaussians in 8, 80 and 800 dimensions, seen through 1, 2 and 4 numbers."""
    found = stored("gmm_benchmark", "gmm_instances_dev.npz")
    names = sorted({name.rsplit("_r", 1)[0] + "_r" + name.rsplit("_r", 1)[1][0] for name in found.files})
    assert len(names) == 27
    for name in names:
        A, y, sd = (torch.as_tensor(found[f"{name}_{key}"]).to(F64) for key in ("A", "y", "sigma_y"))
        d = A.shape[1]
        i, j = torch.meshgrid(torch.arange(-2, 3), torch.arange(-2, 3), indexing="ij")
        pair = 8 * torch.stack([i.flatten(), j.flatten()], 1).to(F64)
        prior = MixtureDenoiser(torch.as_tensor(found[f"{name}_prior_w"]).to(F64), pair.repeat(1, d // 2), 1.0)
        result = condition_mixture(prior, Observation(A, noise_sd=float(sd)), y)
        weights = torch.as_tensor(found[f"{name}_post_w"]).to(F64)
        torch.testing.assert_close(result.posterior.log_weights.exp(), weights, rtol=1e-6, atol=1e-9)
        means = torch.as_tensor(found[f"{name}_post_means"]).to(F64)
        torch.testing.assert_close(result.posterior.means, means, rtol=1e-6, atol=1e-6)
        assert result.log_evidence == pytest.approx(float(found[f"{name}_log_evidence"]), abs=1e-6)


DIGITS = [
    f"{task}_s{sd}" for sd in ("0.05", "0.2") for task in ("inpaint50", "sr2x2", "blur", "gauss8", "row_col_sums16")
]


@pytest.mark.slow
@pytest.mark.parametrize("task", DIGITS)
def test_digits(task: str) -> None:
    """1498 real digits as a kernel density: stored means, variances and evidences of held-out digits."""
    from sklearn.datasets import load_digits

    found = stored("digits_kde", "digits_kde_reference.npz")
    images = torch.as_tensor(load_digits().data, dtype=F64) / 16
    prior = kernel_density(images[torch.arange(len(images)) % 6 != 5], float(found["h"]))
    A, y = torch.as_tensor(found[f"{task}_A"]), torch.as_tensor(found[f"{task}_y"])
    observation = Observation(A, noise_sd=float(task.rsplit("s", 1)[1]))
    for row in range(4):
        result = solve_exact(prior, observation, y[row], draws=2, generator=generator(0, task))
        torch.testing.assert_close(result.mean, torch.as_tensor(found[f"{task}_mmse"][row]).to(F64), rtol=0, atol=1e-5)
        variance = torch.as_tensor(found[f"{task}_postvar"][row]).to(F64)
        torch.testing.assert_close(result.variance, variance, rtol=0, atol=1e-5)
        assert result.stats["log_evidence"] == pytest.approx(float(found[f"{task}_logev"][row]), abs=1e-6)
