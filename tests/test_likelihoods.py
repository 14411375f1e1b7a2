"""Likelihoods: normalised, sampled as they say, expectations right, masks everywhere."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import chi2, norm, poisson
from scipy.stats import t as student

from sciinfer.extend import registry
from sciinfer.likelihoods import Bernoulli, Gaussian, NegativeBinomial, Ordinal, Poisson, StudentT
from sciinfer.random import generator

F64 = torch.float64
BUILD = {
    "gaussian": lambda: Gaussian(2, noise=0.4),
    "student-t": lambda: StudentT(2, noise=0.4, df=5.0),
    "poisson": lambda: Poisson(2, exposure=1.5),
    "bernoulli": lambda: Bernoulli(2),
    "negative-binomial": lambda: NegativeBinomial(2, dispersion=3.0),
    "ordinal": lambda: Ordinal(2, levels=4),
}
NAMES = list(BUILD)
MASKS = torch.tensor([[True, True], [True, False], [False, False]])


def _support(name):
    """Points that the observation may take: numbers, or None for the real line."""
    return {"poisson": range(400), "negative-binomial": range(400), "bernoulli": range(2), "ordinal": range(4)}.get(
        name
    )


def _density(lik, eta):
    """``p(y | eta)`` of the first channel as a plain function."""

    def density(y):
        pair = torch.tensor([float(y), 0.0], dtype=F64)
        return math.exp(float(lik.entry_log_prob(pair, torch.tensor([eta, 0.0], dtype=F64))[0].detach()))

    return density


def _y(name, *shape):
    g = generator(0, "y")
    raw = torch.randn(shape, generator=g, dtype=F64)
    counts, grades = raw.abs().mul(3).round(), raw.abs().mul(2).round().clamp(max=3)
    known = {"poisson": counts, "negative-binomial": counts, "bernoulli": (raw > 0).to(F64), "ordinal": grades}
    return known.get(name, raw)


def test_all_registered_ones_of_the_core_are_tested():
    assert sorted(n for n in registry().names("likelihoods") if "/" not in n) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("eta", [-2.0, 0.0, 1.3])
def test_density_is_normalised_and_has_the_mean(name, eta):
    lik, points = BUILD[name](), _support(name)
    density = _density(lik, eta)
    if points is None:
        total = quad(density, -np.inf, eta)[0] + quad(density, eta, np.inf)[0]
        mean = eta + quad(lambda u: u * (density(eta + u) - density(eta - u)), 0, np.inf)[0]
    else:
        total, mean = sum(map(density, points)), sum(y * density(y) for y in points)
    assert total == pytest.approx(1.0, abs=1e-8)
    assert mean == pytest.approx(float(lik.mean(torch.full((2,), eta, dtype=F64))[0].detach()), abs=1e-7)


def test_densities_are_scipys():
    y, eta = torch.tensor([0.7, -1.0], dtype=F64), torch.tensor([0.2, 0.1], dtype=F64)
    floor = 1e-4
    np.testing.assert_allclose(
        Gaussian(2, noise=0.4).entry_log_prob(y, eta).detach(), norm.logpdf(y, eta, 0.4 + floor), rtol=1e-12
    )
    np.testing.assert_allclose(
        StudentT(2, noise=0.4, df=5.0).entry_log_prob(y, eta).detach(),
        student.logpdf(y, 5.0, eta, 0.4 + floor),
        rtol=1e-12,
    )
    counts = torch.tensor([0.0, 7.0], dtype=F64)
    np.testing.assert_allclose(
        Poisson(2, exposure=1.5).entry_log_prob(counts, eta), poisson.logpmf(counts, 1.5 * eta.exp()), rtol=1e-12
    )


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_density(name):
    """Counts in bins against the integrals of the density (chi-squared, level 1e-6)."""
    lik, eta, n = BUILD[name](), 0.4, 20_000
    y = lik.sample(torch.full((n, 2), eta, dtype=F64), generator(3, "draws")).detach()[:, 0].numpy()
    density, points = _density(lik, eta), _support(name)
    if points is None:
        edges = eta + np.array([-1.2, -0.6, -0.3, -0.1, 0.1, 0.3, 0.6, 1.2])
        inside = [quad(density, a, b)[0] for a, b in itertools.pairwise(edges)]
        expected = [quad(density, -np.inf, edges[0])[0], *inside, quad(density, edges[-1], np.inf)[0]]
        found = np.bincount(np.searchsorted(edges, y), minlength=9)
    else:
        top = min(len(points) - 1, 6)
        expected = [density(k) for k in range(top)]
        expected.append(1 - sum(expected))
        found = np.bincount(np.minimum(y.astype(int), top), minlength=top + 1)
    expected = n * np.array(expected)
    assert ((found - expected) ** 2 / expected).sum() < chi2.isf(1e-6, len(expected) - 1)


@pytest.mark.parametrize("name", NAMES)
def test_samples_follow_the_generator_alone(name):
    lik, eta = BUILD[name](), torch.zeros(5, 2, dtype=F64)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    draws = [lik.sample(eta, generator(s, "same")).detach() for s in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variance", [0.0, 1e-4, 0.3])
def test_expected_log_density_is_the_integral(name, variance):
    lik = BUILD[name]()
    y = _y(name, 3, 2)
    mean = torch.tensor([[0.3, -0.2], [0.0, 1.0], [-1.0, 0.4]], dtype=F64)
    found = lik.expected_log_prob(y, mean, torch.full_like(mean, variance), MASKS)
    x, w = (torch.tensor(part) for part in np.polynomial.hermite_e.hermegauss(90))
    eta = mean[..., None] + math.sqrt(variance) * x
    entries = torch.stack([lik.entry_log_prob(y, eta[..., k]) for k in range(90)], -1)
    expected = ((entries * w).sum(-1) / math.sqrt(2 * math.pi) * MASKS).sum(-1)
    # Student's t is not a polynomial: 20 nodes against 90
    torch.testing.assert_close(found, expected, rtol=3e-4 if name == "student-t" else 1e-9, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_masked_entries_are_exactly_nothing_whatever_they_hold(name):
    """NaN, infinities and huge predictors under the mask reach neither value nor gradient."""
    lik, y, mask = BUILD[name](), _y(name, 3, 2), MASKS
    eta = torch.full((3, 2), 0.2, dtype=F64)
    clean = lik.log_prob(y, eta, mask), lik.expected_log_prob(y, eta, eta * 0 + 0.1, mask)
    for junk in (math.nan, math.inf, 1e6):
        dirty_y = torch.where(mask, y, torch.full_like(y, junk))
        dirty = torch.where(mask, eta, torch.full_like(y, junk)).requires_grad_()
        spread = torch.where(mask, eta * 0 + 0.1, torch.full_like(y, junk)).requires_grad_()
        found = lik.log_prob(dirty_y, dirty, mask), lik.expected_log_prob(dirty_y, dirty, spread, mask)
        for a, b in zip(found, clean, strict=True):
            assert torch.equal(a, b)
            assert float(a[2].detach()) == 0.0
        inputs = [dirty, spread, *lik.parameters()]
        for gradient in torch.autograd.grad(sum(part.sum() for part in found), inputs):
            assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_predictor_without_variance_has_a_finite_gradient(name):
    lik, y, mean = BUILD[name](), _y(name, 3, 2), torch.zeros(3, 2, dtype=F64)
    variance = torch.zeros(3, 2, dtype=F64, requires_grad=True)
    lik.expected_log_prob(y, mean, variance, MASKS).sum().backward()
    assert bool(torch.isfinite(variance.grad).all())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_finite_differences(name):
    lik, y = BUILD[name](), _y(name, 3, 2)
    eta = torch.tensor([[0.3, -0.2], [0.1, 1.0], [-1.0, 0.4]], dtype=F64, requires_grad=True)
    spread = torch.full((3, 2), 0.2, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda e: lik.log_prob(y, e, MASKS), eta)
    assert torch.autograd.gradcheck(lambda e, v: lik.expected_log_prob(y, e, v, MASKS), (eta, spread))


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_stays_single(name):
    lik = BUILD[name]().float()
    y, eta = _y(name, 3, 2).float(), torch.zeros(3, 2)
    assert lik.log_prob(y, eta, MASKS).dtype == torch.float32
    assert lik.expected_log_prob(y, eta, eta + 0.1, MASKS).dtype == torch.float32
    assert lik.sample(eta, generator(0, "x")).dtype == torch.float32
