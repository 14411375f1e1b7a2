"""Negative binomial, ordinal and point-process likelihoods beyond what every likelihood is asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import nbinom

from sciinfer.errors import ConfigError, DataError
from sciinfer.gp.approximate import ApproximateMarkovGP
from sciinfer.gp.kernels import Matern32
from sciinfer.likelihoods import NegativeBinomial, Ordinal, PointProcess, Poisson, point_process_rows
from sciinfer.random import generator

F64 = torch.float64


def test_negative_binomial_is_scipys():
    eta, y = torch.tensor([-1.0, 0.3, 4.0], dtype=F64), torch.tensor([0.0, 3.0, 200.0], dtype=F64)
    r, mean = 2.5, eta.exp()
    found = NegativeBinomial(1, dispersion=r).entry_log_prob(y, eta).detach()
    np.testing.assert_allclose(found, nbinom.logpmf(y, r, r / (r + mean)), rtol=1e-11)


def test_negative_binomial_with_large_dispersion_is_poisson():
    eta, y = torch.tensor([0.5, 1.0], dtype=F64), torch.tensor([3.0, 1.0], dtype=F64)
    near, far = NegativeBinomial(1, dispersion=1e7).entry_log_prob(y, eta).detach(), Poisson(1).entry_log_prob(y, eta)
    np.testing.assert_allclose(near, far, atol=1e-6)


def test_negative_binomial_stays_finite_far_out():
    eta = torch.tensor([-700.0, 700.0], dtype=F64, requires_grad=True)
    value = NegativeBinomial(1).entry_log_prob(torch.tensor([4.0, 0.0], dtype=F64), eta)
    (slope,) = torch.autograd.grad(value.sum(), eta)
    assert bool(value.isfinite().all()) and bool(slope.isfinite().all())


def test_grades_are_differences_of_logistic_functions():
    lik, eta = Ordinal(2, levels=4), torch.tensor([0.7, -1.1], dtype=F64)
    with torch.no_grad():
        lik.first.copy_(torch.tensor([-2.0, 0.0]))
        lik.log_gaps.copy_(torch.tensor([[0.3, -0.5], [0.1, 0.2]]))
        cuts = lik.cuts
        below = torch.cat([torch.zeros(2, 1), torch.sigmoid(cuts - eta[:, None]), torch.ones(2, 1)], 1)
        for grade in range(4):
            found = lik.entry_log_prob(torch.full((2,), float(grade), dtype=F64), eta).exp()
            torch.testing.assert_close(found, (below[:, grade + 1] - below[:, grade]).to(F64), rtol=1e-12, atol=1e-14)
        assert bool((cuts.diff(dim=1) > 0).all())


def test_two_grades_are_binary_and_fewer_are_refused():
    eta = torch.tensor([0.4], dtype=F64)
    lik = Ordinal(1, levels=2)
    torch.testing.assert_close(lik.mean(eta).detach(), torch.sigmoid(eta))
    with pytest.raises(ConfigError, match="levels"):
        Ordinal(1, levels=1)


def test_grades_far_out_are_finite():
    """A grade that the predictor makes very unlikely costs in proportion, never infinity."""
    eta = torch.tensor([60.0, -60.0], dtype=F64, requires_grad=True)
    value = Ordinal(1, levels=3).entry_log_prob(torch.tensor([0.0, 2.0], dtype=F64), eta)
    (slope,) = torch.autograd.grad(value.sum(), eta)
    torch.testing.assert_close(value.detach(), torch.tensor([-60.5, -60.5], dtype=F64), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slope, torch.tensor([-1.0, 1.0], dtype=F64))


def test_point_process_density():
    """``sum_i log rate(t_i) - int rate dt`` for a smooth rate, to quadrature precision."""
    rate = lambda t: np.exp(0.5 * np.sin(t) + 0.1 * t)  # noqa: E731
    events = [7.5, 0.3, 2.2, 2.2, 9.9]
    time, y = point_process_rows(events, 0.0, 10.0, nodes=6)
    eta = torch.log(torch.as_tensor(rate(time.numpy())))[:, None]
    found = float(PointProcess(1).log_prob(y, eta, y != 0).sum())
    expected = sum(math.log(rate(t)) for t in events) - quad(rate, 0, 10, epsabs=1e-12)[0]
    assert found == pytest.approx(expected, abs=1e-9)
    assert bool((time.diff() >= 0).all())


def test_point_process_is_normalised():
    """The total probability of 0, 1, 2, ... events of a rate that varies, by simulation-free integration over them."""
    rate, window = lambda t: np.exp(np.sin(2 * t)), (0.0, 2.0)
    lik, x = PointProcess(1), np.polynomial.legendre.leggauss(20)

    def density(events):
        time, y = point_process_rows(events, *window, nodes=8)
        return math.exp(float(lik.log_prob(y, torch.as_tensor(rate(time.numpy())).log()[:, None], y != 0).sum()))

    at, weight = 1.0 + x[0], x[1]
    none, one = density([]), sum(w * density([t]) for t, w in zip(at, weight, strict=True))
    two = (
        sum(v * w * density([s, t]) for s, v in zip(at, weight, strict=True) for t, w in zip(at, weight, strict=True))
        / 2
    )
    total = quad(rate, *window, epsabs=1e-12)[0]
    np.testing.assert_allclose([none, one, two], math.exp(-total) * np.array([1, total, total**2 / 2]), rtol=1e-8)


def test_events_outside_the_window_are_named():
    with pytest.raises(DataError, match="index 1"):
        point_process_rows([0.5, 1.5], 0.0, 1.0)


def test_masked_events_and_nodes_count_nothing():
    lik = PointProcess(1)
    y = torch.tensor([[math.nan], [1.0]], dtype=F64)
    eta = torch.tensor([[math.inf], [0.3]], dtype=F64, requires_grad=True)
    value = lik.log_prob(y, eta, torch.tensor([[False], [True]])).sum()
    (slope,) = torch.autograd.grad(value, eta)
    assert float(value.detach()) == pytest.approx(0.3)
    assert slope.flatten().tolist() == [0.0, 1.0]


def test_unbinned_events_are_the_limit_of_small_bins():
    """Posterior of the log-rate: point process against Poisson counts in 400 bins; bounds differ by n log(width)."""
    kernel = Matern32(lengthscale=3.0, variance=0.8)
    events = np.sort(10 * torch.rand(25, generator=generator(0, "events"), dtype=F64).numpy())
    exact = ApproximateMarkovGP(kernel, PointProcess(1), mean=0.5).condition(*point_process_rows(events, 0.0, 10.0))
    width = 10 / 400
    counts, edges = np.histogram(events, bins=400, range=(0.0, 10.0))
    middle = 0.5 * (edges[1:] + edges[:-1])
    binned = ApproximateMarkovGP(kernel, Poisson(1, exposure=width), mean=0.5).condition(middle, counts.astype(float))
    assert exact.converged
    at = [1.0, 5.0, 9.0, 12.0]
    np.testing.assert_allclose(exact.mean(at), binned.mean(at), atol=3e-3)
    np.testing.assert_allclose(exact.variance(at), binned.variance(at), atol=3e-3)
    shift = float(counts.sum()) * math.log(width)
    assert float(exact.fit.objective) == pytest.approx(float(binned.fit.objective) - shift, abs=0.05)
