"""Diffusion samplers on priors with exact denoisers: known errors, known distributions, independence of the batch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sciinfer.diffusion import (
    DEIS,
    EDM,
    ERSDE,
    SCHEDULES,
    AdaptiveSDE,
    Ancestral,
    Counted,
    Denoiser,
    DPMSolver,
    Euler,
    ExactAncestral,
    GaussianDenoiser,
    Heun,
    Langevin,
    MixtureDenoiser,
    PredictorCorrector,
    RowNoise,
    Sampler,
    UniPC,
    kernel_density,
    root_times,
    sample,
)
from sciinfer.errors import ConfigError, NumericalError

F64 = torch.float64
VARIANCES = (1e-4, 1e-2, 0.25, 1.0, 10.0)
#: relative error of the final standard deviation on the EDM ladder from the exact marginal
KNOWN = {
    ("euler", 18): (-0.2576, -0.1897, -0.1539, -0.1405, -0.1204),
    ("euler", 256): (-0.0374, -0.0141, -0.0111, -0.0100, -0.0085),
    ("heun", 18): (0.1630, 0.0902, 0.0553, 0.0448, 0.0317),
    ("heun", 64): (-0.0082, 0.0057, 0.0037, 0.0030, 0.0021),
    ("dpm", 18): (-0.0376, 0.0813, 0.0623, 0.0512, 0.0357),
    ("dpm", 32): (-0.0031, 0.0269, 0.0170, 0.0138, 0.0097),
    ("ancestral", 64): (-0.1550, -0.1090, -0.0885, -0.0808, -0.0693),
    ("ancestral", 1000): (-0.0292, -0.0078, -0.0061, -0.0055, -0.0047),
}
SAMPLERS: dict[str, Sampler] = {
    "euler": Euler(), "heun": Heun(), "dpm": DPMSolver(2), "dpm3": DPMSolver(3), "unipc": UniPC(2), "unipc3": UniPC(3),
    "deis": DEIS(), "er-sde": ERSDE(), "ancestral": Ancestral(), "exact-ancestral": ExactAncestral(),
    "adaptive": AdaptiveSDE(), "predictor-corrector": PredictorCorrector(DPMSolver(2)), "langevin": Langevin(),
}  # fmt: skip


def gaussian(variance: float, mean: float = 0.0) -> GaussianDenoiser:
    one = torch.ones(1, dtype=F64)
    return GaussianDenoiser(mean * one, variance * one[None])


class Still(RowNoise):
    """No noise, and a record of how often it was asked for."""

    def normal(self) -> Tensor:
        self.calls += 1
        return torch.zeros(len(self.keys), *self.shape, dtype=self.dtype)


def final_sd(sampler: Sampler, variance: float, steps: int) -> float:
    """Standard deviation after a linear recursion: gain of the start, and the noise of each step carried on."""
    ratios, prior = EDM().ratios(steps), gaussian(variance)
    if not sampler.stochastic:
        start = (variance + ratios[0] ** 2).sqrt().reshape(1, 1)
        return float(sampler.integrate(prior, start, ratios, Still(0, 1, (1,))))
    total = variance + float(ratios[0]) ** 2
    one, still = torch.ones(1, 1, dtype=F64), Still(0, 1, (1,))
    for s, below in itertools.pairwise(ratios):
        gain = float(sampler.step(prior, one, s, below, None, still)[0])
        total = gain**2 * total + float(below**2 * (1 - (below / s) ** 2))
    return math.sqrt(total)


@pytest.mark.parametrize(("name", "steps"), KNOWN)
def test_errors_on_gaussians_are_the_known_ones(name: str, steps: int) -> None:
    for variance, known in zip(VARIANCES, KNOWN[name, steps], strict=True):
        found = final_sd(SAMPLERS[name], variance, steps) / variance**0.5 - 1
        assert found == pytest.approx(known, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "least"), [("euler", 0.9), ("heun", 1.8), ("dpm", 1.8), ("deis", 1.8), ("unipc", 1.8)]
)
def test_orders(name: str, least: float) -> None:
    """Between two fixed ratios, where no last step of first order is in the way."""
    errors = []
    for steps in (64, 128):
        ratios = torch.logspace(1, -1, steps + 1, base=math.e, dtype=F64)
        end = SAMPLERS[name].integrate(gaussian(1.0), torch.ones(1, 1, dtype=F64), ratios, Still(0, 1, (1,)))
        exact = ((1 + ratios[-1] ** 2) / (1 + ratios[0] ** 2)).sqrt()
        errors.append(abs(float(end / exact) - 1))
    assert math.log2(errors[0] / errors[1]) > least


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["dpm3", "exact-ancestral"])
def test_every_schedule_gives_the_variance_within_two_percent_in_64_evaluations(schedule: str, name: str) -> None:
    prior, ratios = Counted(gaussian(0.25, 0.3)), SCHEDULES[schedule]().ratios(64)
    draws = sample(prior, SAMPLERS[name], ratios, 40_000, seed=1)
    assert prior.evaluations <= 64
    # 5 standard errors of the variance and of the mean on top
    assert float(draws.var()) == pytest.approx(0.25, rel=0.02 + 5 * (2 / 40_000) ** 0.5)
    assert float(draws.mean()) == pytest.approx(0.3, abs=5 * 0.5 / 200)


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n not in ("euler", "ancestral", "langevin")])
def test_two_modes_are_drawn_in_proportion(name: str) -> None:
    means = torch.tensor([[-2.0, 0.0], [2.0, 1.0]], dtype=F64)
    prior = MixtureDenoiser(torch.tensor([0.3, 0.7], dtype=F64), means, 0.09)
    draws = sample(prior, SAMPLERS[name], EDM(low=0.01).ratios(40), 1000, seed=2)
    right = float((draws[:, 0] > 0).double().mean())
    assert right == pytest.approx(0.7, abs=0.07)
    side = draws[draws[:, 0] > 0]
    assert float((side.mean(0) - means[1]).abs().max()) < 0.07
    assert float((side.std(0) / 0.3 - 1).abs().max()) < 0.1


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_draw_does_not_depend_on_the_batch(name: str) -> None:
    g = torch.Generator().manual_seed(0)
    prior = kernel_density(torch.randn(20, 2, 3, generator=g, dtype=F64), 0.3)
    keys = torch.arange(64)
    ratios = EDM().ratios(8)
    whole = sample(prior, SAMPLERS[name], ratios, 64, seed=3, keys=keys)
    assert whole.shape == (64, 2, 3)
    for part in (keys[5:6], keys[:16].flip(0)):
        torch.testing.assert_close(
            sample(prior, SAMPLERS[name], ratios, len(part), seed=3, keys=part), whole[part], rtol=1e-10, atol=1e-10
        )


def test_one_evaluation_a_step() -> None:
    for name, each in {"euler": 1, "dpm": 1, "dpm3": 1, "unipc": 1, "deis": 1, "er-sde": 1, "ancestral": 1}.items():
        prior = Counted(gaussian(1.0))
        sample(prior, SAMPLERS[name], EDM().ratios(16), 3)
        assert prior.evaluations == 16 * each, name


def test_what_is_not_a_number_is_said_with_evaluation_and_sample() -> None:
    class Broken(Denoiser):
        shape = (2,)

        def denoise(self, u: Tensor, s: Tensor) -> Tensor:
            return torch.where(torch.arange(len(u))[:, None] == 3, torch.nan, u) if float(s) < 1 else u

    with pytest.raises(NumericalError, match="evaluation") as caught:
        sample(Counted(Broken()), Euler(), EDM().ratios(16), 5)
    assert caught.value.index == 3


def test_krylov_root_against_a_dense_one() -> None:
    g = torch.Generator().manual_seed(1)
    A = torch.randn(4, 6, 6, generator=g, dtype=F64)
    C = A @ A.mT
    C[1] = 0.0
    z = torch.randn(4, 6, generator=g, dtype=F64)
    values, vectors = torch.linalg.eigh(C)
    dense = (vectors @ (values.clamp(min=0).sqrt()[..., None] * (vectors.mT @ z[..., None])))[..., 0]
    torch.testing.assert_close(root_times(lambda v: (C @ v[..., None])[..., 0], z, 6), dense, rtol=1e-8, atol=1e-8)


def test_exact_ancestral_is_exact_for_a_full_covariance_in_few_steps() -> None:
    g = torch.Generator().manual_seed(2)
    A = torch.randn(4, 4, generator=g, dtype=F64)
    C, mean = A @ A.mT + 0.01 * torch.eye(4, dtype=F64), torch.arange(4, dtype=F64)
    prior = GaussianDenoiser(mean, C)
    # the start is normal with the right variances but no correlations, which are forgotten at large noise
    draws = sample(prior, ExactAncestral(4), EDM(high=300.0).ratios(4), 40_000)
    assert float((draws.mean(0) - mean).abs().max() / C.diagonal().max().sqrt()) < 5 / 200
    assert float((draws.T.cov() - C).norm() / C.norm()) < 0.03


@pytest.mark.parametrize(
    "build",
    [
        lambda: DPMSolver(4), lambda: UniPC(1), lambda: DEIS(9), lambda: ExactAncestral(0), lambda: Langevin(0),
        lambda: AdaptiveSDE(absolute=0.0), lambda: EDM(low=2.0, high=1.0), lambda: EDM().ratios(0), lambda: EDM(rho=-1),
        lambda: Euler().integrate(gaussian(1.0), torch.ones(1, 1), torch.tensor([1.0, 2.0]), Still(0, 1, (1,))),
    ],
)  # fmt: skip
def test_bad_options_are_refused(build) -> None:
    with pytest.raises(ConfigError):
        build()


@pytest.mark.parametrize("name", SAMPLERS)
def test_single_precision_stays_single(name: str) -> None:
    prior = MixtureDenoiser(torch.ones(2), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 0.1)
    draws = sample(prior, SAMPLERS[name], EDM().ratios(10), 4, like=torch.zeros(()))
    assert draws.dtype == torch.float32
    assert bool(draws.isfinite().all())
