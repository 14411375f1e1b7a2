"""Gaussian sites against quadrature, brute-force optimisation, the exact engine and finite differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from sciinfer.errors import ConfigError
from sciinfer.gp.kernels import Matern12, Matern32
from sciinfer.likelihoods import Bernoulli, Gaussian, NegativeBinomial, Ordinal, Poisson, StudentT
from sciinfer.random import generator
from sciinfer.statespace import kalman_filter, whiten
from sciinfer.statespace.problem import LinearGaussian
from sciinfer.statespace.site_inference import infer_sites, site_objective
from sciinfer.statespace.site_rules import METHODS, make_data
from sciinfer.statespace.sites import SitePrior, Sites, condition_sites

F64 = torch.float64
TIMES = torch.tensor([0.0, 0.5, 1.7], dtype=F64)
CASES = {
    "poisson": (Poisson(1), [2.0, 0.0, 5.0]),
    "negative-binomial": (NegativeBinomial(1, dispersion=2.0), [2.0, 0.0, 5.0]),
    "bernoulli": (Bernoulli(1), [1.0, 0.0, 1.0]),
    "ordinal": (Ordinal(1, levels=4), [0.0, 3.0, 1.0]),
    "student-t": (StudentT(1, noise=0.5, df=4.0), [0.3, -2.0, 1.0]),
}
CONCAVE = [name for name in CASES if name != "student-t"]


def _prior(kernel, time, copies=1):
    grid = time.expand(copies, -1)
    step = torch.cat([torch.zeros_like(grid[:, :1]), grid.diff(dim=1)], dim=1)
    A, Q = kernel.transition(step)
    return SitePrior(A, Q, kernel.initial().expand(copies, *A.shape[-2:]), kernel.readout()[None])


def _data(likelihood, y, offset=0.0):
    y = torch.as_tensor(y, dtype=F64).reshape(1, -1, 1)
    return make_data(likelihood, y, ~y.isnan(), offset)


def _covariance(kernel, time=TIMES):
    return kernel.covariance(time[:, None] - time).detach()


def _quadrature(likelihood, y, kernel):
    """Log evidence, posterior means and variances by a product rule in the prior's own coordinates."""
    x, w = np.polynomial.hermite_e.hermegauss(30)
    root = torch.linalg.cholesky(_covariance(kernel))
    f = torch.tensor(list(itertools.product(x, repeat=3)), dtype=F64) @ root.mT
    weights = torch.tensor([math.prod(part) for part in itertools.product(w / math.sqrt(2 * math.pi), repeat=3)])
    y = torch.tensor(y, dtype=F64).expand_as(f)
    each = [likelihood.entry_log_prob(y[:, i : i + 1], f[:, i : i + 1])[:, 0] for i in range(3)]
    mass = weights * torch.stack(each).sum(0).detach().exp()
    mean = (mass[:, None] * f).sum(0) / mass.sum()
    return float(mass.sum().log()), mean, (mass[:, None] * (f - mean).square()).sum(0) / mass.sum()


def _best_elbo(likelihood, y, kernel):
    """The ELBO over all Gaussians, maximised directly over the mean and a Cholesky factor."""
    K, y = _covariance(kernel), torch.tensor(y, dtype=F64)[:, None]
    root, at = torch.linalg.cholesky(K), torch.tril_indices(3, 3)

    def objective(x):
        free = torch.tensor(x, dtype=F64, requires_grad=True)
        L = torch.zeros(3, 3, dtype=F64).index_put((at[0], at[1]), free[3:])
        mean, factor = root @ free[:3], root @ L
        expected = likelihood.expected_log_prob(y, mean[:, None], factor.square().sum(1)[:, None], y == y).sum()
        kl = 0.5 * (L.square().sum() + free[:3].square().sum() - 3) - L.diagonal().abs().log().sum()
        (slope,) = torch.autograd.grad(kl - expected, free)
        return float((kl - expected).detach()), slope.numpy()

    start = np.concatenate([np.zeros(3), torch.eye(3)[at[0], at[1]].numpy() * 0.7])
    found = minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    return -found.fun


@pytest.mark.parametrize("name", CASES)
def test_evidence_and_moments_against_quadrature(name):
    """EP is nearest; the ELBO is below; Laplace is the roughest: tolerances are those of the approximations."""
    likelihood, y = CASES[name]
    kernel = Matern32(lengthscale=1.5, variance=1.2)
    log_z, mean, variance = _quadrature(likelihood, y, kernel)
    found = {m: infer_sites(_prior(kernel, TIMES), _data(likelihood, y), method=m) for m in METHODS}
    assert all(bool(fit.converged.all()) for fit in found.values())
    assert log_z - 0.06 < float(found["cvi"].objective) < log_z
    assert float(found["ep"].objective) == pytest.approx(log_z, abs=0.015 if name == "student-t" else 0.005)
    assert float(found["laplace"].objective) == pytest.approx(log_z, abs=0.4 if name == "student-t" else 0.05)
    ep, slack = found["ep"].marginals, 0.04 if name == "student-t" else 0.006
    np.testing.assert_allclose(ep.mean.flatten(), mean, atol=slack)
    np.testing.assert_allclose(ep.variance.flatten(), variance, atol=slack)


@pytest.mark.parametrize("name", CONCAVE)
def test_variational_sites_are_the_best_gaussian(name):
    likelihood, y = CASES[name]
    kernel = Matern32(lengthscale=1.5, variance=1.2)
    found = infer_sites(_prior(kernel, TIMES), _data(likelihood, y), tolerance=1e-12)
    assert float(found.objective) == pytest.approx(_best_elbo(likelihood, y, kernel), abs=1e-8)


def test_variational_sites_of_a_heavy_tail_are_near_the_best_gaussian_and_below():
    likelihood, y = CASES["student-t"]
    kernel = Matern32(lengthscale=1.5, variance=1.2)
    found = float(infer_sites(_prior(kernel, TIMES), _data(likelihood, y)).objective)
    best = _best_elbo(likelihood, y, kernel)
    assert best - 0.01 < found <= best + 1e-8


@pytest.mark.parametrize("name", CONCAVE)
def test_laplace_is_at_the_mode(name):
    likelihood, y = CASES[name]
    kernel = Matern32(lengthscale=1.5, variance=1.2)
    mode = infer_sites(_prior(kernel, TIMES), _data(likelihood, y), method="laplace").marginals.mean[0, :, 0]
    free = mode.clone().requires_grad_()
    log_p = likelihood.entry_log_prob(torch.tensor(y, dtype=F64)[:, None], free[:, None]).sum()
    log_p = log_p - 0.5 * free @ torch.linalg.solve(_covariance(kernel), free)
    (slope,) = torch.autograd.grad(log_p, free)
    assert float(slope.abs().max()) < 1e-5


@pytest.mark.parametrize("name", CONCAVE)
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_expectation_propagation_of_one_datum_is_exact(name, power):
    """One observation: EP's evidence and moments are the integral's, for any power-one EP."""
    likelihood, y = CASES[name][0], CASES[name][1][:1]
    kernel, one = Matern12(lengthscale=1.0, variance=0.8), TIMES[:1]
    fit = infer_sites(_prior(kernel, one), _data(likelihood, y), method="ep", power=power, tolerance=1e-13)
    x, w = np.polynomial.hermite_e.hermegauss(80)
    f = torch.tensor(x)[:, None] * math.sqrt(0.8)
    mass = torch.tensor(w / w.sum()) * likelihood.entry_log_prob(torch.full_like(f, y[0]), f)[:, 0].detach().exp()
    mean = (mass * f[:, 0]).sum() / mass.sum()
    if power == 1.0:
        assert float(fit.objective) == pytest.approx(float(mass.sum().log()), abs=1e-8)
        assert float(fit.marginals.mean) == pytest.approx(float(mean), abs=1e-6)
    else:  # a fraction of a site is not exact, but lies between the bound and the evidence
        elbo = float(infer_sites(_prior(kernel, one), _data(likelihood, y)).objective)
        assert elbo < float(fit.objective) < float(mass.sum().log())


@pytest.mark.parametrize("method", METHODS)
def test_gaussian_noise_gives_the_exact_engine(method):
    kernel, noise = Matern32(lengthscale=0.9, variance=2.0), Gaussian(1, noise=0.4)
    time = torch.linspace(0, 6, 20, dtype=F64)
    y = torch.sin(time)
    y[4] = math.nan
    prior, data = _prior(kernel, time), _data(noise, y)
    fit = infer_sites(prior, data, method=method)
    precision = noise.noise.square().reciprocal().expand_as(data.y)
    rows = prior.readout.expand(1, 20, 1, 2)
    H, white, jacobian = whiten(rows, data.y, precision, data.mask)
    problem = LinearGaussian(prior.A, prior.Q, H, white, prior.P0[..., 0] * 0, prior.P0)
    exact = kalman_filter(problem).loglik + jacobian.sum(1)
    torch.testing.assert_close(fit.objective, exact.detach(), rtol=1e-9, atol=1e-9)


def _several(copies=3, length=12, channels=5):
    """Counts on two shared latents, irregular times, scattered gaps."""
    g = generator(4, "several")
    time = torch.rand(copies, length, generator=g, dtype=F64).mul(9).sort(1).values
    parts = [Matern32(lengthscale=1.0), Matern12(lengthscale=2.0)]
    step = torch.cat([torch.zeros_like(time[:, :1]), time.diff(dim=1)], dim=1)
    pairs = [part.transition(step) for part in parts]
    A, Q = (torch.zeros(copies, length, 3, 3, dtype=F64) for _ in range(2))
    for big, which in ((A, 0), (Q, 1)):
        big[..., :2, :2], big[..., 2:, 2:] = pairs[0][which].detach(), pairs[1][which].detach()
    P0 = torch.block_diag(*(part.initial().detach() for part in parts)).expand(copies, 3, 3)
    G = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=F64)
    W = torch.randn(channels, 2, generator=g, dtype=F64)
    y = torch.poisson(torch.full((copies, length, channels), 1.5, dtype=F64), generator=g)
    mask = torch.rand(y.shape, generator=g) > 0.3
    mask[:, 3] = False
    return SitePrior(A, Q, P0, G, W), make_data(Poisson(channels), y, mask, 0.3)


@pytest.mark.parametrize("method", METHODS)
def test_many_channels_on_few_latents_equal_one_row_for_each_channel(method):
    prior, data = _several()
    plain = prior._replace(readout=prior.loading @ prior.readout, loading=None)
    a, b = (infer_sites(p, data, method=method) for p in (prior, plain))
    torch.testing.assert_close(a.objective, b.objective, rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(a.marginals.mean, b.marginals.mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(a.marginals.variance, b.marginals.variance, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_series_do_not_influence_each_other(method):
    prior, data = _several()
    whole = infer_sites(prior, data, method=method)
    for s in range(3):
        pick = slice(s, s + 1)
        part = prior._replace(A=prior.A[pick], Q=prior.Q[pick], P0=prior.P0[pick])
        alone = infer_sites(part, data._replace(y=data.y[pick], mask=data.mask[pick]), method=method)
        torch.testing.assert_close(alone.objective, whole.objective[pick], rtol=1e-11, atol=1e-10)
        torch.testing.assert_close(alone.marginals.mean, whole.marginals.mean[pick], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_seen_gives_the_prior(method):
    kernel = Matern32(lengthscale=1.0, variance=1.7)
    fit = infer_sites(_prior(kernel, TIMES), _data(Poisson(1), [math.nan] * 3), method=method)
    assert float(fit.objective.abs()) < 1e-12
    assert float(fit.marginals.mean.abs().max()) == 0.0
    torch.testing.assert_close(fit.marginals.variance, torch.full_like(fit.marginals.variance, 1.7))


@pytest.mark.parametrize("method", METHODS)
def test_a_masked_entry_is_a_deleted_one(method):
    kernel, kept = Matern32(lengthscale=1.0, variance=1.7), torch.tensor([0, 1, 3, 4])
    time = torch.tensor([0.0, 0.4, 0.9, 1.5, 4.0], dtype=F64)
    y = torch.tensor([1.0, 3.0, math.nan, 0.0, 2.0], dtype=F64)
    full = infer_sites(_prior(kernel, time), _data(Poisson(1), y), method=method)
    less = infer_sites(_prior(kernel, time[kept]), _data(Poisson(1), y[kept]), method=method)
    torch.testing.assert_close(full.objective, less.objective, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(full.marginals.mean[:, kept], less.marginals.mean, rtol=1e-9, atol=1e-10)


GRADIENTS = [("poisson", m) for m in METHODS] + [("negative-binomial", "cvi")]
REST = [pytest.param(n, m, marks=pytest.mark.slow) for n in CONCAVE for m in METHODS if (n, m) not in GRADIENTS]


@pytest.mark.parametrize(("name", "method"), [*GRADIENTS, *REST])
def test_gradients_are_finite_differences(name, method):
    """In the kernel, the offset and the likelihood; NaN in the data reaches none of them."""
    likelihood, y = CASES[name]
    kernel, offset = Matern32(lengthscale=1.5, variance=1.2), torch.tensor([0.2], dtype=F64, requires_grad=True)
    y = [*y, math.nan]
    time = torch.cat([TIMES, TIMES[-1:] + 1])

    def value():
        prior, data = _prior(kernel, time), _data(likelihood, y, offset)
        fit = infer_sites(prior, data, method=method, tolerance=1e-13)
        return site_objective(prior, data, fit, method=method).sum()

    parameters = [*kernel.parameters(), offset, *likelihood.parameters()]
    slopes = torch.autograd.grad(value(), parameters, materialize_grads=True)
    for parameter, slope in zip(parameters, slopes, strict=True):
        for i in range(parameter.numel()):
            with torch.no_grad():
                flat = parameter.view(-1)
                found = []
                for move in (1e-4, -2e-4):
                    flat[i] += move
                    found.append(float(value()))
                flat[i] += 1e-4
            assert float(slope.reshape(-1)[i]) == pytest.approx((found[0] - found[1]) / 2e-4, rel=1e-5, abs=1e-6)


def test_gradient_in_the_loading():
    prior, data = _several(copies=2, length=6)
    W = prior.loading.clone().requires_grad_()

    def value(loading):
        with_loading = prior._replace(loading=loading)
        fit = infer_sites(with_loading, data, tolerance=1e-13)
        return site_objective(with_loading, data, fit).sum()

    (slope,) = torch.autograd.grad(value(W), W)
    for c, k in ((0, 0), (2, 1)):
        shift = torch.zeros_like(W)
        shift[c, k] = 1e-4
        with torch.no_grad():
            fd = float(value(W + shift) - value(W - shift)) / 2e-4
        assert float(slope[c, k]) == pytest.approx(fd, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("method", ["cvi", "laplace"])
def test_a_wild_model_converges_where_full_steps_overflow(method):
    """A loading several times too large and counts of hundreds."""
    prior, data = _several()
    prior, data = prior._replace(loading=4 * prior.loading), data._replace(y=data.y * 100)
    start = infer_sites(prior, data, method=method, max_passes=1)
    fit = infer_sites(prior, data, method=method)
    assert bool(fit.converged.all())
    assert bool((fit.objective > start.objective).all())
    assert float(fit.objective.min()) > -1e5


@pytest.mark.parametrize("method", ["cvi", "laplace"])
def test_a_bad_start_is_walked_back_from(method):
    """From almost no information, where the first full steps would make the objective worse."""
    prior, data = _several()
    prior, data = prior._replace(loading=2 * prior.loading), data._replace(y=data.y * 20)
    good = infer_sites(prior, data, method=method)
    zero = torch.zeros_like(data.y)
    start = Sites(torch.full_like(zero, 1e-4) * data.mask, zero)
    found = infer_sites(prior, data, method=method, start=start, max_passes=300)
    assert bool(found.converged.all())
    assert found.passes > good.passes
    torch.testing.assert_close(found.objective, good.objective, rtol=1e-8, atol=1e-6)


def test_the_normaliser_is_the_integral_of_the_sites():
    """Two tied times, one datum without a site: against the dense Gaussian integral."""
    kernel, time = Matern32(lengthscale=1.0), torch.tensor([0.0, 1.0, 1.0, 2.5], dtype=F64)
    sites = Sites(
        torch.tensor([2.0, 0.5, 3.0, 0.0]).to(F64)[None, :, None],
        torch.tensor([1.0, -2.0, 0.3, 0.0]).to(F64)[None, :, None],
    )
    found = condition_sites(_prior(kernel, time), sites)
    K, P, s = _covariance(kernel, time), sites.precision.flatten(), sites.shift.flatten()
    grown = torch.eye(4, dtype=F64) + K * P
    cov = torch.linalg.solve(grown, K)
    torch.testing.assert_close(found.variance.flatten().detach(), cov.diagonal(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.mean.flatten().detach(), cov @ s, rtol=1e-10, atol=1e-12)
    expected = 0.5 * s @ cov @ s - 0.5 * torch.logdet(grown)
    assert float(found.log_normaliser.detach()) == pytest.approx(float(expected), abs=1e-10)


def test_unknown_methods_are_refused():
    with pytest.raises(ConfigError, match="cvi"):
        infer_sites(_prior(Matern12(), TIMES), _data(Poisson(1), [1.0, 1.0, 1.0]), method="mcmc")
