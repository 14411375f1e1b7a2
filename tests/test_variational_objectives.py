"""Objectives and families against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sciinfer.errors import ConfigError, NumericalError, ShapeError
from sciinfer.random import generator
from sciinfer.variational import (
    Blocks,
    Family,
    Flow,
    FullRank,
    Interval,
    LowRank,
    MeanField,
    Positive,
    Real,
    Simplex,
    dreg,
    fit_variational,
    frozen_log_prob,
    iwae,
    log_chi2,
)
from sciinfer.variational.fit import fixed_noise

RHO = 0.9
COVARIANCE = torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)
PRECISION = torch.linalg.inv(COVARIANCE)
LOG_Z = math.log(2 * math.pi) + 0.5 * float(torch.logdet(COVARIANCE))


def target(z: torch.Tensor) -> torch.Tensor:
    """A normalised correlated Gaussian."""
    return -0.5 * (z @ PRECISION * z).sum(-1) - LOG_Z


def test_reverse_kl_shrinks_to_one_minus_rho_squared() -> None:
    q = MeanField(2, scale=3.0, mean=torch.ones(2))
    fit = fit_variational(target, q, generator=generator(0))
    assert torch.allclose(q.covariance().diagonal(), torch.full((2,), 1 - RHO**2, dtype=torch.float64), atol=1e-6)
    assert fit.search.settled
    assert abs(fit.elbo - 0.5 * math.log(1 - RHO**2)) < 4 * fit.elbo_error  # -KL(q || p) in closed form


def test_a_mean_field_far_too_narrow_is_not_called_converged() -> None:
    rho = 0.99
    precision = torch.linalg.inv(torch.full((10, 10), rho, dtype=torch.float64) + (1 - rho) * torch.eye(10))
    fit = fit_variational(lambda z: -0.5 * (z @ precision * z).sum(-1), MeanField(10), generator=generator(0))
    assert fit.search.settled
    assert fit.khat > 0.7
    assert not fit.converged
    assert fit.label.startswith("not converged: k-hat")


def test_the_full_family_finds_a_gaussian_exactly() -> None:
    q = FullRank(2)
    fit = fit_variational(target, q, generator=generator(0))
    assert torch.allclose(q.covariance(), COVARIANCE, atol=1e-5)
    assert fit.converged
    assert abs(fit.elbo) < 1e-6  # the evidence of a normalised target is one
    assert fit.ess > 0.999 * len(fit.points)


def test_forward_kl_matches_the_marginals() -> None:
    q = MeanField(2, scale=1.5)
    fit_variational(
        target, q, generator=generator(0), objective="forward-kl", draws=2000, steps=150, rate=0.05, check_draws=100
    )
    assert torch.allclose(q.covariance().diagonal(), torch.ones(2, dtype=torch.float64), atol=0.05)


def test_forward_chi_squared_is_wider_than_both() -> None:
    """``(3 + sqrt(1 + 8 rho^2)) / 4``, by quasi-random draws of a proposal wider than p and q."""
    base = fixed_noise(2**14, 2, generator(0)) @ torch.linalg.cholesky(2 * COVARIANCE).mT
    proposal = -0.25 * (base @ PRECISION * base).sum(-1) - LOG_Z - math.log(2)
    q = MeanField(2, scale=1.5)

    def objective(log_density, family: Family, noise: torch.Tensor) -> torch.Tensor:
        return log_chi2(log_density(base), family.log_prob(base), proposal)

    fit_variational(target, q, generator=generator(0), objective=objective, optimiser="lbfgs", check_draws=100)
    wanted = (3 + math.sqrt(1 + 8 * RHO**2)) / 4
    assert abs(wanted - 1.43374) < 1e-5
    assert torch.allclose(q.covariance().diagonal(), torch.full((2,), wanted, dtype=torch.float64), rtol=3e-3)
    assert abs(float(objective(target, q, base).detach().exp()) - 2.88204) < 5e-3


def _slopes(kind: str, samples: int, replicates: int, g: torch.Generator) -> torch.Tensor:
    """Gradients with respect to the mean of ``q``, ``[replicates, 20]``: ``x | z ~ N(z, 1)``, ``q = N(b, 2/3)``."""
    model = generator(0, "snr-model")
    x = torch.randn(20, generator=model, dtype=torch.float64) * math.sqrt(2)
    optimum = 0.5 * x + 0.01 * torch.randn(20, generator=model, dtype=torch.float64)
    shift = optimum.expand(replicates, 20).clone().requires_grad_()
    z = shift + math.sqrt(2 / 3) * torch.randn(samples, replicates, 20, generator=g, dtype=torch.float64)
    log_q = -0.75 * (z - (shift.detach() if kind == "dreg" else shift)).square().sum(-1)
    log_w = -0.5 * z.square().sum(-1) - 0.5 * (x - z).square().sum(-1) - log_q
    found = dreg(log_w) if kind == "dreg" else iwae(log_w)
    return torch.autograd.grad(found.sum(), [shift])[0]


def _signal_to_noise(kind: str, samples: int, replicates: int) -> float:
    """``|mean| / sd`` of the gradient, root mean square over its entries; the error of the mean is taken out."""
    g = generator(0, "snr", kind, samples)
    slopes = torch.cat([_slopes(kind, samples, 500, g) for _ in range(replicates // 500)])
    noise = slopes.var(0).sum()
    return float(((slopes.mean(0).square().sum() - noise / len(slopes)) / noise).clamp(min=1e-12).sqrt())


def _growth(kind: str, replicates: int) -> float:
    """Log-log slope from 16 to 256 samples."""
    return math.log(_signal_to_noise(kind, 256, replicates) / _signal_to_noise(kind, 16, replicates)) / math.log(16)


def test_the_doubly_reparametrised_gradient_gets_better_with_more_samples() -> None:
    assert _growth("dreg", 500) >= 0.35


@pytest.mark.slow
def test_the_plain_gradient_gets_worse_with_more_samples() -> None:
    assert _growth("iwae", 40_000) <= -0.25


def test_dreg_has_the_gradient_of_iwae_in_the_mean() -> None:
    q, g = MeanField(1, mean=torch.tensor([0.5])), generator(0)
    noise = q.noise(200_000, g)
    total = []
    for frozen in (False, True):
        z, log_q = q.transport(noise)
        log_w = (-(z - 1).square().sum(-1) - (frozen_log_prob(q, z) if frozen else log_q)).reshape(4, -1)
        value = (dreg(log_w) if frozen else iwae(log_w)).mean()
        total.append(torch.cat([s.reshape(-1) for s in torch.autograd.grad(value, list(q.parameters()))]))
    assert torch.allclose(total[0], total[1], atol=0.006)
    assert total[0].abs().min() > 0.05


def test_a_tighter_bound() -> None:
    log_w = torch.randn(64, 500, generator=generator(0), dtype=torch.float64)
    bounds = [float(iwae(log_w[:k]).mean()) for k in (1, 4, 16, 64)]
    assert bounds == sorted(bounds)
    assert bounds[-1] < 0.5 + 0.02  # log E exp(N(0, 1))


FAMILIES = {
    "mean-field": lambda: MeanField(3, scale=0.5, mean=torch.arange(3.0)),
    "full": lambda: FullRank(3, covariance=torch.eye(3) + 0.5),
    "low-rank": lambda: LowRank(3, 2, scale=2.0),
    "nsf": lambda: Flow(3, "nsf", generator=generator(0), transforms=2, hidden=(8,)),
    "maf": lambda: Flow(3, "maf", generator=generator(0), transforms=2, hidden=(8,)),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_samples_what_it_says(name) -> None:
    q = FAMILIES[name]()
    with torch.no_grad():
        for i, p in enumerate(q.parameters()):  # away from the start, which hides mistakes
            p.add_(0.1 * torch.randn(p.shape, generator=generator(i), dtype=torch.float64))
    z, log_q = q.transport(q.noise(1000, generator(1)))
    assert torch.allclose(q.log_prob(z), log_q, atol=1e-8)
    # E_q[f r / q] = E_r[f] for a normal r inside q
    r = torch.distributions.MultivariateNormal(z.detach().mean(0), 0.5 * torch.cov(z.detach().T))
    weight = (r.log_prob(z) - log_q).exp().detach()
    assert abs(float(weight.mean()) - 1) < 4 * float(weight.std()) / 1000**0.5 + 0.02
    slopes = torch.autograd.grad(log_q.sum() + z.square().sum(), list(q.parameters()), allow_unused=True)
    assert any(s is not None and bool((s != 0).any()) for s in slopes)
    assert torch.equal(q.sample(5, generator(2)), q.sample(5, generator(2)))


@pytest.mark.parametrize("name", ["mean-field", "full", "low-rank"])
def test_gaussian_families_have_their_moments(name) -> None:
    q = FAMILIES[name]()
    z = q.sample(100_000, generator(3))
    assert torch.allclose(z.mean(0), q.mean, atol=0.05)
    assert torch.allclose(torch.cov(z.T), q.covariance(), atol=0.1)
    before = q.covariance().detach().clone(), q.log_prob(z[:5]).detach()
    with torch.no_grad():
        for p in q.parameters():
            p.mul_(1.1)
    changed = q.log_prob(z[:5]).detach()
    q.rebase()
    assert torch.allclose(q.log_prob(z[:5]), changed)
    assert before[0].shape == q.covariance().shape


def test_a_flow_leaves_the_global_state_alone_and_starts_alike() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Flow(2, generator=generator(0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(3)
    second = Flow(2, generator=generator(0))
    z = torch.zeros(1, 2, dtype=torch.float64)
    assert torch.equal(first.log_prob(z), second.log_prob(z))


@pytest.mark.slow
def test_a_flow_follows_a_banana_where_a_gaussian_cannot() -> None:
    def banana(z: torch.Tensor) -> torch.Tensor:  # evidence one
        bent = z[:, 1] - z[:, 0].square()
        return -0.5 * z[:, 0].square() - 0.5 * (bent / 0.3).square() - math.log(2 * math.pi * 0.3)

    gauss = fit_variational(banana, FullRank(2), generator=generator(0))
    flow = fit_variational(
        banana, Flow(2, generator=generator(0)), generator=generator(0), objective="landing", draws=128, steps=1500
    )
    assert not gauss.converged
    assert gauss.elbo < -0.5
    assert flow.elbo > -0.1
    assert flow.khat < 0.7, flow.label


TRANSFORMS = [(Real(), 3), (Positive(), 2), (Interval(-1.0, 3.0), 2), (Simplex(), 4)]


@pytest.mark.parametrize(("transform", "size"), TRANSFORMS)
def test_transforms_invert_and_know_their_volume(transform, size) -> None:
    u = torch.randn(5, transform.free(size), generator=generator(0), dtype=torch.float64)
    x = transform.constrain(u)
    assert x.shape == (5, size)
    assert torch.allclose(transform.unconstrain(x), u, atol=1e-10)
    for row in u:
        jacobian = torch.autograd.functional.jacobian(lambda v: transform.constrain(v)[: transform.free(size)], row)
        assert torch.allclose(transform.log_jacobian(row), torch.linalg.slogdet(jacobian)[1], atol=1e-10)  # type: ignore
    far = transform.log_jacobian(torch.full((1, transform.free(size)), 50.0, dtype=torch.float64))
    assert bool(far.isfinite().all())


def test_a_simplex_sums_to_one_and_dirichlet_integrates() -> None:
    x = Simplex().constrain(3 * torch.randn(50, 4, generator=generator(0), dtype=torch.float64))
    assert torch.allclose(x.sum(-1), torch.ones(50, dtype=torch.float64))
    blocks = Blocks({"p": (Simplex(), 3)})
    alpha = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)
    constant = torch.lgamma(alpha.sum()) - torch.lgamma(alpha).sum()
    density = blocks.density(lambda v: ((alpha - 1) * v["p"].log()).sum(-1) + constant)
    fit = fit_variational(density, FullRank(2), generator=generator(0))
    mean, error = fit.expect(lambda u: blocks.split(u)["p"])
    assert bool(((mean - alpha / 9).abs() < 4 * error).all())
    assert -0.1 < fit.elbo < 3 * fit.elbo_error  # the density is normalised: log evidence zero


def test_blocks_join_and_split() -> None:
    blocks = Blocks({"a": (Real(), 2), "s": (Positive(), 0), "p": (Simplex(), 3)})
    values = {k: torch.tensor(v).double() for k, v in {"a": [1.0, -1.0], "s": 2.0, "p": [0.25, 0.25, 0.5]}.items()}
    back = blocks.split(blocks.join(values))
    assert blocks.dim == 5
    assert all(torch.allclose(back[k], v.double()) for k, v in values.items())
    with pytest.raises(ShapeError):
        blocks.split(torch.zeros(4))
    with pytest.raises(Exception, match="positive"):
        blocks.join({**values, "s": torch.tensor(-1.0)})


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: MeanField(0), ConfigError),
        (lambda: MeanField(2, scale=-1.0), ConfigError),
        (lambda: MeanField(2, mean=torch.zeros(3)), ShapeError),
        (lambda: FullRank(2, covariance=-torch.eye(2)), NumericalError),
        (lambda: LowRank(3, 4), ConfigError),
        (lambda: Flow(1, generator=generator(0)), ConfigError),
        (lambda: Flow(2, "glow", generator=generator(0)), ConfigError),
        (lambda: fit_variational(target, MeanField(2), generator=generator(0), objective="best"), ConfigError),
        (lambda: fit_variational(target, MeanField(2), generator=generator(0), optimiser="sgd"), ConfigError),
        (
            lambda: fit_variational(target, MeanField(2), generator=generator(0), objective="dreg", optimiser="lbfgs"),
            ConfigError,
        ),
        (lambda: fit_variational(lambda z: z.sum() * 0, MeanField(2), generator=generator(0)), ShapeError),
        (lambda: fit_variational(lambda z: z.sum(-1) * np.nan, MeanField(2), generator=generator(0)), NumericalError),
        (lambda: Interval(1.0, 1.0), ConfigError),
    ],
)
def test_what_cannot_be_done_is_said(call, error) -> None:
    with pytest.raises(error):
        call()
