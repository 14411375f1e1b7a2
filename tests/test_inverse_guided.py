"""Moment matching: exact where the prior is Gaussian, in few evaluations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sciinfer.diffusion import (
    EDM,
    Counted,
    DPMSolver,
    ExactAncestral,
    GaussianDenoiser,
    MixtureDenoiser,
    Sampler,
    sample,
)
from sciinfer.diffusion.krylov import conjugate_gradients, gmres
from sciinfer.inverse.guided import Guided

F64 = torch.float64
INSTANCES = ("blockavg16", "rand32_lownoise", "rand64_highnoise")


def stored(name: str) -> dict[str, Any]:
    folder = os.environ.get("SCIINFER_DATA")
    if not folder:
        pytest.skip("SCIINFER_DATA is not set: no stored posteriors")
    text = (Path(folder) / "diffusion" / "linear_gaussian" / "linear_gaussian_dev.json").read_text()
    return json.loads(text)[name]


def tensor(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=F64)


def quality(draws: Tensor, case: dict[str, Any]) -> dict[str, float]:
    mean, cov, A, y = (tensor(case[key]) for key in ("post_mean", "post_cov", "A", "y"))
    away = draws.mean(0) - mean
    found = draws.T.cov()
    misfit = (draws @ A.T - y).square().sum(1) / case["sigma_y"] ** 2
    return {
        "mean": float((away @ torch.linalg.solve(cov, away) / len(mean)).sqrt()),
        "cov": float((found - cov).norm() / cov.norm()),
        "trace": float(found.trace() / cov.trace()),
        "chi2": float(misfit.mean() / len(y)),
    }


@pytest.mark.parametrize(("sampler", "steps"), [(DPMSolver(3), 64), (ExactAncestral(8), 16)], ids=["dpm", "ancestral"])
@pytest.mark.parametrize("name", INSTANCES)
@pytest.mark.slow
def test_linear_gaussian_posteriors(name: str, sampler: Sampler, steps: int) -> None:
    case = stored(name)
    d, A = case["d"], tensor(case["A"]) / case["sigma_y"]
    index = torch.arange(d)
    prior = GaussianDenoiser(tensor(case["prior_mean"]), tensor(case["corr"]) ** (index[:, None] - index).abs())
    counted = Counted(prior)
    guided = Guided(counted, lambda x: x @ A.T, lambda v: v @ A, tensor(case["y"]) / case["sigma_y"], tolerance=1e-6)
    n = 16_384 if name == "blockavg16" else 4096
    draws = sample(guided, sampler, EDM().ratios(steps), n)
    assert counted.evaluations <= 128
    found, cov = quality(draws, case), tensor(case["post_cov"])
    # what as many exact draws would give
    floor = float(((cov.trace() ** 2 / cov.square().sum() + 1) / n) ** 0.5)
    assert found["mean"] <= max(0.02, 2 * n**-0.5)
    assert found["cov"] <= max(0.035, 1.5 * floor)
    assert found["trace"] == pytest.approx(1.0, abs=0.02)
    assert found["chi2"] == pytest.approx(case["expected_chi2_per_obs"], abs=0.03)


def test_guided_mean_and_covariance_of_a_gaussian_are_those_of_the_posterior() -> None:
    g = torch.Generator().manual_seed(0)
    L = torch.randn(5, 5, generator=g, dtype=F64)
    C, A = L @ L.T, torch.randn(2, 5, generator=g, dtype=F64)
    b, u, s = torch.randn(2, generator=g, dtype=F64), torch.randn(3, 5, generator=g, dtype=F64), tensor(0.7)
    guided = Guided(GaussianDenoiser(torch.zeros(5, dtype=F64), C), lambda x: x @ A.T, lambda v: v @ A, b)
    mean, product = guided.with_covariance(u, s)
    cov = torch.linalg.inv(torch.linalg.inv(C) + A.T @ A + torch.eye(5, dtype=F64) / s**2)
    torch.testing.assert_close(mean, (A.T @ b + u / s**2) @ cov, rtol=1e-8, atol=1e-8)
    v = torch.randn(3, 5, generator=g, dtype=F64)
    torch.testing.assert_close(product(v), v @ cov, rtol=1e-7, atol=1e-8)


def test_each_sample_is_guided_on_its_own() -> None:
    g = torch.Generator().manual_seed(1)
    prior = MixtureDenoiser(torch.ones(4, dtype=F64), torch.randn(4, 3, generator=g, dtype=F64) * 3, 0.5)
    guided = Guided(prior, lambda x: x[:, :1] / 0.1, lambda v: torch.cat([v, 0 * v, 0 * v], 1) / 0.1, tensor([5.0]))
    u, s = torch.randn(6, 3, generator=g, dtype=F64), tensor(1.3)
    torch.testing.assert_close(guided.denoise(u[2:3], s), guided.denoise(u, s)[2:3], rtol=1e-10, atol=1e-10)


def test_gmres_solves_systems_that_are_not_symmetric_each_at_its_own_pace() -> None:
    g = torch.Generator().manual_seed(2)
    K = torch.eye(6, dtype=F64) + 0.5 * torch.randn(4, 6, 6, generator=g, dtype=F64)
    K[0] = torch.eye(6, dtype=F64)
    b = torch.randn(4, 6, generator=g, dtype=F64)
    b[1] = 0.0
    product = lambda v, rows=slice(None): (K[rows] @ v[..., None])[..., 0]  # noqa: E731
    found = gmres(product, b, tolerance=1e-12, limit=6)
    torch.testing.assert_close(found.x, torch.linalg.solve(K, b), rtol=1e-8, atol=1e-8)
    early = gmres(product, b, tolerance=0.3, limit=6).x
    alone = gmres(lambda v: product(v, slice(3, 4)), b[3:], tolerance=0.3, limit=6).x
    torch.testing.assert_close(early[3:], alone, rtol=1e-12, atol=1e-12)


def test_conjugate_gradients_row_by_row() -> None:
    g = torch.Generator().manual_seed(3)
    A = torch.randn(4, 6, 6, generator=g, dtype=F64)
    K, b = A @ A.mT + torch.eye(6, dtype=F64), torch.randn(4, 6, generator=g, dtype=F64)
    b[1] = 0.0
    product = lambda v, rows=slice(None): (K[rows] @ v[..., None])[..., 0]  # noqa: E731
    found = conjugate_gradients(product, b, tolerance=1e-12, limit=50)
    torch.testing.assert_close(found.x, torch.linalg.solve(K, b), rtol=1e-8, atol=1e-8)
    early = conjugate_gradients(product, b, tolerance=0.3, limit=6).x
    alone = conjugate_gradients(lambda v: product(v, slice(3, 4)), b[3:], tolerance=0.3, limit=6).x
    torch.testing.assert_close(early[3:], alone, rtol=1e-12, atol=1e-12)
