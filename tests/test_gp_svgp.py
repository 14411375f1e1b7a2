"""Inducing points through gpytorch: bounds, limits and other likelihoods."""

from __future__ import annotations

import pytest
import torch

from sciinfer.errors import ConfigError, DataError
from sciinfer.gp.spatial import DensePosterior, Matern, SparseGP, SquaredExponential, dense_log_likelihood
from sciinfer.gp.spatial.svgp import _centres
from sciinfer.likelihoods import Bernoulli, Gaussian, Poisson
from sciinfer.random import numpy_generator

F64 = torch.float64


def field(n=120, noise=0.05, lengthscale=0.4):
    g = numpy_generator(0, "svgp-test")
    X = torch.as_tensor(g.uniform(size=(n, 2)))
    kernel = Matern(1.5, lengthscale)
    with torch.no_grad():
        y = torch.linalg.cholesky(kernel(X, X) + noise * torch.eye(n, dtype=F64)) @ torch.as_tensor(g.normal(size=n))
        truth = float(dense_log_likelihood(kernel, X, y, torch.full((n,), noise, dtype=F64)))
    return X, y, kernel, truth


def test_the_bound_rises_to_the_exact_value():
    X, y, kernel, truth = field()
    bounds = [float(SparseGP(kernel, 0.05, inducing=m).elbo(X, y)) for m in (10, 40, 120)]
    assert bounds[0] < bounds[1] < bounds[2] <= truth + 1e-6
    assert bounds[2] == pytest.approx(truth, abs=1e-3)
    assert truth - bounds[0] > 5.0


def test_titsias_bound_in_closed_form():
    """``log N(y; 0, Q + s2 I) - tr(K - Q) / (2 s2)`` at the same inducing points."""
    X, y, kernel, _ = field()
    gp = SparseGP(kernel, 0.05, inducing=15)
    with torch.no_grad():
        Z = _centres(kernel, X, 15)
        Kzz = kernel(Z, Z) + 1e-8 * torch.eye(15, dtype=F64)
        Q = kernel(X, Z) @ torch.linalg.solve(Kzz, kernel(Z, X))
        normal = torch.distributions.MultivariateNormal(torch.zeros_like(y), Q + 0.05 * torch.eye(len(y), dtype=F64))
        expected = normal.log_prob(y) - (kernel.variance_at(X).sum() - Q.trace()) / 0.1
    assert gp.elbo(X, y).item() == pytest.approx(float(expected), abs=1e-4)


def test_posterior_with_all_points_is_the_dense_one_and_draws_follow_it():
    X, y, kernel, _ = field(60)
    at = torch.cat([torch.as_tensor(numpy_generator(1, "at").uniform(size=(8, 2))), X[:2]])
    dense = DensePosterior(kernel, X, y, torch.full((60,), 0.05, dtype=F64), torch.zeros((), dtype=F64))
    post = SparseGP(kernel, 0.05, inducing=60).condition(X, y)
    torch.testing.assert_close(post.mean(at), dense.mean(at), rtol=0, atol=1e-5)
    torch.testing.assert_close(post.covariance(at), dense.covariance(at), rtol=0, atol=1e-5)
    torch.testing.assert_close(post.variance(at), post.covariance(at).diagonal(), rtol=1e-6, atol=1e-7)
    draws = post.sample(at, 4000, seed=2)
    assert torch.equal(draws, post.sample(at, 4000, seed=2))
    sd = dense.variance(at).sqrt()
    assert float(((torch.cov(draws.mT) - dense.covariance(at)) / sd[:, None] / sd).abs().max()) < 5 * (2 / 4000) ** 0.5


def test_inducing_points_are_spread_not_the_first_ones():
    X, _, kernel, _ = field()
    X = X[X[:, 0].argsort()]  # the first ones crowd one edge
    centres = _centres(kernel, X, 12)
    nearest = ((X[:, None] - centres) ** 2).sum(-1).min(1).values.max()
    first = ((X[:, None] - X[:12]) ** 2).sum(-1).min(1).values.max()
    assert float(nearest) < 0.2 * float(first)
    assert len(_centres(kernel, X[:3].repeat(4, 1), 12)) == 3


def test_fit_raises_the_bound_and_leaves_the_caller_alone():
    X, y, _, _ = field(100)
    start = SquaredExponential([0.5, 0.5], 2.0)
    gp = SparseGP(start, 0.3, inducing=15)
    fitted = gp.fit(X, y, iterations=10)
    assert fitted.report.objective > float(gp.elbo(X, y)) + 5.0
    assert fitted.report.objective == pytest.approx(float(fitted.elbo(X, y)), abs=1e-3)
    assert start.variance.item() == pytest.approx(2.0) and gp.report is None
    assert "lower bound" in fitted.explain()


@pytest.mark.parametrize("kind", [Poisson, Bernoulli])
def test_other_likelihoods_are_bounded_by_importance_sampling(kind):
    """With all points inducing, the ELBO lies just below ``log p(y)`` estimated from the posterior itself."""
    X, f, kernel, _ = field(25)
    likelihood = kind()
    g = torch.Generator().manual_seed(0)
    y = likelihood.sample(f, g)
    gp = SparseGP(kernel, likelihood=likelihood, inducing=25)
    elbo, post = float(gp.elbo(X, y)), gp.condition(X, y)
    with torch.no_grad():
        root = torch.linalg.cholesky(post.covariance(X) + 1e-9 * torch.eye(25, dtype=F64))
        q = torch.distributions.MultivariateNormal(post.mean(X), scale_tril=root)
        draws = post.mean(X) + torch.randn(4000, 25, generator=g, dtype=F64) @ root.mT
        prior = torch.distributions.MultivariateNormal(torch.zeros(25, dtype=F64), kernel(X, X))
        weights = likelihood.entry_log_prob(y, draws).sum(-1) + prior.log_prob(draws) - q.log_prob(draws)
        evidence = float(torch.logsumexp(weights, 0)) - torch.log(torch.tensor(4000.0)).item()
    assert evidence - 0.5 < elbo < evidence + 0.01


def test_missing_values_and_errors():
    X, y, kernel, _ = field(40)
    holes = y.clone()
    holes[::3] = torch.nan
    gp = SparseGP(kernel, 0.05, mean=1.0, inducing=10)
    assert gp.elbo(X, holes).item() == pytest.approx(gp.elbo(X[~holes.isnan()], y[~holes.isnan()]).item(), rel=1e-12)
    nothing = torch.full_like(y, torch.nan)
    prior = gp.condition(X, nothing)
    torch.testing.assert_close(prior.mean(X), torch.ones_like(y))
    torch.testing.assert_close(prior.variance(X), torch.ones_like(y), rtol=1e-6, atol=0)
    assert gp.elbo(X, nothing).item() == 0.0
    with pytest.raises(DataError, match="nothing to fit"):
        gp.fit(X, nothing)
    with pytest.raises(ConfigError, match="either"):
        SparseGP(kernel, 0.05, likelihood=Gaussian())
    with pytest.raises(ConfigError, match="inducing"):
        SparseGP(kernel, 0.05, inducing=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_slopes_at_a_distance_of_zero_are_finite_in_either_precision(nu, dtype):
    covariance = Matern(nu, lengthscale=[0.7, 1.3]).to(dtype)
    x = torch.tensor([[0.0, 1.0], [0.0, 1.0], [2.0, 0.5]], dtype=dtype, requires_grad=True)
    covariance(x, x).sum().backward()
    slopes = [x.grad, *(p.grad for p in covariance.parameters())]
    assert all(bool(slope.isfinite().all()) for slope in slopes)
