"""Guided particles: evidence, modes and moments of known posteriors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sciinfer.diffusion import EDM, Denoiser, GaussianDenoiser, MixtureDenoiser
from sciinfer.errors import BudgetError, ConfigError
from sciinfer.inverse import Budget, GaussianPrior, Observation, condition_mixture, solve_smc
from sciinfer.inverse.denoisers import as_denoiser
from sciinfer.inverse.twisted import twisted_smc
from sciinfer.random import generator

F64 = torch.float64


def folder() -> Path:
    found = os.environ.get("SCIINFER_DATA")
    if not found:
        pytest.skip("SCIINFER_DATA is not set: no stored posteriors")
    return Path(found) / "diffusion"


def grid_of_modes(weights: Tensor, d: int) -> MixtureDenoiser:
    i, j = torch.meshgrid(torch.arange(-2, 3), torch.arange(-2, 3), indexing="ij")
    pair = 8 * torch.stack([i.flatten(), j.flatten()], 1).to(F64)
    return MixtureDenoiser(weights, pair.repeat(1, d // 2), 1.0)


@pytest.mark.parametrize("name", ["blockavg16", "rand32_lownoise"])
def test_all_weights_are_equal_for_a_gaussian(name: str) -> None:
    case = json.loads((folder() / "linear_gaussian" / "linear_gaussian_dev.json").read_text())[name]
    A, y = (torch.as_tensor(case[key], dtype=F64) for key in ("A", "y"))
    index = torch.arange(case["d"])
    C = torch.as_tensor(case["corr"], dtype=F64) ** (index[:, None] - index).abs()
    prior = GaussianDenoiser(torch.as_tensor(case["prior_mean"], dtype=F64), C)
    found = twisted_smc(
        prior, lambda x: x @ A.T / case["sigma_y"], y / case["sigma_y"], EDM(high=1000.0).ratios(6), particles=500
    )
    assert min(found.ess) > 0.99 * 500
    evidence = found.log_evidence - len(y) * np.log(case["sigma_y"])
    assert evidence == pytest.approx(case["log_evidence"], abs=0.01)


@pytest.mark.parametrize("d", [8, pytest.param(80, marks=pytest.mark.slow)])
def test_evidence_and_modes_of_stored_mixtures(d: int) -> None:
    stored = np.load(folder() / "gmm_benchmark" / "gmm_instances_dev.npz")
    for m in (1, 2, 4):
        for run in range(3 if d == 8 else 1):
            name = f"dev_dx{d}_dy{m}_r{run}"
            A, y, sd, weights = (
                torch.as_tensor(stored[f"{name}_{key}"]).to(F64) for key in ("A", "y", "sigma_y", "prior_w")
            )
            prior, observation = grid_of_modes(weights, d), Observation(A, noise_sd=float(sd))
            found = solve_smc(
                prior, observation, y, draws=4000, generator=generator(1, name), islands=2 if d == 8 else 1
            )
            assert found.stats["log_evidence"] == pytest.approx(float(stored[f"{name}_log_evidence"]), abs=0.1), name
            exact = condition_mixture(prior, observation, y).posterior
            share = exact.responsibilities(found.draws, torch.tensor(0.0, dtype=F64)).mean(0)
            assert float(0.5 * (share - exact.log_weights.exp()).abs().sum()) < 0.05, name


def test_the_error_falls_with_the_number_of_particles() -> None:
    weights = torch.rand(25, generator=torch.Generator().manual_seed(0), dtype=F64)
    prior = grid_of_modes(weights, 2)
    A, y = torch.tensor([[0.3, 0.7]], dtype=F64), torch.tensor([1.0], dtype=F64)
    exact = condition_mixture(prior, Observation(A, noise_sd=0.5), y).log_evidence
    errors = []
    for K in (64, 1024):
        runs = [
            twisted_smc(prior, lambda x: x @ A.T / 0.5, y / 0.5, EDM(0.05, 300.0).ratios(16), particles=K, seed=seed)
            for seed in range(24)
        ]
        found = torch.tensor([run.log_evidence for run in runs]) - np.log(0.5) - exact
        errors.append(float(found.square().mean().sqrt()))
    # sixteen times the particles: a quarter of the error, within the noise of 24 runs
    assert 0.12 < errors[1] / errors[0] < 0.45


def test_missing_data_and_seeds() -> None:
    prior = GaussianPrior(0.0, [[1.0, 0.5], [0.5, 2.0]])
    observation = Observation([[1.0, 0.0], [0.0, 1.0]], noise_sd=0.3)
    y = torch.tensor([0.4, float("nan")], dtype=F64)
    first, again, other = (
        solve_smc(prior, observation, y, draws=5, generator=generator(seed, "smc"), particles=200) for seed in (0, 0, 1)
    )
    assert torch.equal(first.draws, again.draws)
    assert not torch.equal(first.draws, other.draws)
    assert float(first.mean[1]) == pytest.approx(0.5 * 0.4 / 1.09, abs=0.25)


def test_what_it_cannot_do_is_said() -> None:
    class Opaque(Denoiser):
        shape = (2,)

        def denoise(self, u: Tensor, s: Tensor) -> Tensor:
            return u / (1 + s**2)

    observation = Observation([[1.0, 0.0]], noise_sd=0.3)
    with pytest.raises(ConfigError, match="density"):
        solve_smc(Opaque(), observation, [0.0])
    with pytest.raises(ConfigError, match="denoiser"):
        as_denoiser(object())
    with pytest.raises(ConfigError, match="particles"):
        solve_smc(GaussianPrior(0.0, [[1.0, 0.0], [0.0, 1.0]]), observation, [0.0], particles=0)
    with pytest.raises(BudgetError):
        solve_smc(GaussianPrior(0.0, [[1.0, 0.0], [0.0, 1.0]]), observation, [0.0], budget=Budget(seconds=0.0))
