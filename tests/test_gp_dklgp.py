"""Sparse inverse Cholesky posteriors: pattern, prior, bound, limits, other likelihoods."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciinfer.errors import ConfigError, DataError
from sciinfer.gp.spatial import DKLGP, DensePosterior, Matern, SparseGP, VecchiaGP, dense_log_likelihood
from sciinfer.gp.spatial import dklgp as module
from sciinfer.gp.spatial import dklgp_fit as blockwise
from sciinfer.gp.spatial.inputs import observed
from sciinfer.gp.spatial.pattern import dense_factor, local_factor, make_pattern, place_in
from sciinfer.likelihoods import Bernoulli, Gaussian, Poisson
from sciinfer.random import numpy_generator

F64 = torch.float64


def field(n=120, noise=0.05, lengthscale=0.2, seed=0):
    g = numpy_generator(seed, "dklgp-test")
    X = torch.as_tensor(g.uniform(size=(n, 2)))
    kernel = Matern(1.5, lengthscale)
    with torch.no_grad():
        y = torch.linalg.cholesky(kernel(X, X) + noise * torch.eye(n, dtype=F64)) @ torch.as_tensor(g.normal(size=n))
        truth = float(dense_log_likelihood(kernel, X, y, torch.full((n,), noise, dtype=F64)))
    return X, y, kernel, truth


def latent_kl(kernel, X, rho):
    """``KL(exact || sparse prior)``; its trace term is n, so that only the determinants are left."""
    with torch.no_grad():
        at = DKLGP(kernel, rho=rho)._setting(observed(X, torch.zeros(len(X))))
        L = dense_factor(at.pattern.columns, DKLGP(kernel, rho=rho)._prior(at))
        K = kernel(at.X, at.X)
        assert float((L.mT @ K @ L).trace()) == pytest.approx(len(X), rel=1e-8)
        return float(-L.diagonal().log().sum() - 0.5 * torch.logdet(K))


# ---- pattern


def test_columns_and_ancestors_are_what_they_say():
    X = numpy_generator(0, "pattern").uniform(size=(80, 2))
    pattern = make_pattern(X, 1.5)
    X = X[pattern.order.numpy()]
    distance = np.sqrt(((X[:, None] - X) ** 2).sum(-1))
    length = np.array([np.inf] + [distance[i, :i].min() for i in range(1, 80)])
    for i in (0, 1, 10, 79):
        column = {j for j in range(i) if distance[i, j] <= 1.5 * length[i]} | set(np.argsort(distance[i, :i])[:8])
        kept = pattern.columns[i][pattern.columns[i] >= 0].tolist()
        assert kept == [*sorted(column), i]
        ancestors = {j for j in range(i) if distance[i, j] <= 1.5 * length[j]} | column
        assert pattern.ancestors[i][pattern.ancestors[i] < 80].tolist() == [*sorted(ancestors), i]


def test_local_blocks_are_cut_out_of_the_dense_factor():
    pattern = make_pattern(numpy_generator(0, "pattern").uniform(size=(50, 2)), 1.5)
    values = torch.as_tensor(numpy_generator(1, "pattern").normal(size=pattern.columns.shape))
    V = dense_factor(pattern.columns, values)
    assert torch.equal(V, V.triu())
    rows = torch.tensor([3, 30, 49])
    sets = pattern.ancestors[rows]
    block, vector = local_factor(pattern.columns, values, sets), place_in(sets, pattern.columns[rows], values[rows])
    for b, i in enumerate(rows.tolist()):
        kept = sets[b][sets[b] < 50]
        assert torch.equal(block[b, : len(kept), : len(kept)], V[kept][:, kept])
        assert torch.equal(vector[b, : len(kept)], V[kept, i])


# ---- prior and bound


def test_the_sparse_prior_approaches_the_exact_one():
    X, _, kernel, _ = field()
    kl = [latent_kl(kernel, X, rho) for rho in (1.0, 2.0, 4.0, 40.0)]
    assert kl[0] > 3 * kl[1] > 9 * kl[2] > 0 and kl[3] < 1e-8


def test_the_bound_is_below_the_evidence_of_its_prior_and_approaches_the_exact_one():
    X, y, kernel, truth = field(80)
    gaps = []
    for rho in (1.0, 2.0, 3.0, 50.0):
        gp = DKLGP(kernel, 0.05, rho=rho)
        with torch.no_grad():
            at = gp._setting(observed(X, y))
            L = dense_factor(at.pattern.columns, gp._prior(at))
            spread = torch.linalg.inv(L @ L.mT) + 0.05 * torch.eye(80, dtype=F64)
            normal = torch.distributions.MultivariateNormal(torch.zeros(80, dtype=F64), spread)
            own = normal.log_prob(at.y[at.owner.argsort()])
        bound = float(gp.elbo(X, y))
        assert bound <= float(own) + 1e-9
        gaps.append(abs(bound - truth))
    assert gaps[0] > 1.0 > gaps[2] and gaps[3] < 1e-6


def test_posterior_converges_to_the_exact_one():
    X, y, kernel, _ = field(80)
    at = torch.cat([torch.as_tensor(numpy_generator(1, "at").uniform(size=(15, 2))), X[:2], X[:1]])
    dense = DensePosterior(kernel, X, y, torch.full((80,), 0.05, dtype=F64), torch.zeros((), dtype=F64))
    sd, errors = dense.variance(at).sqrt(), []
    for rho in (1.0, 2.0, 4.0, 50.0):
        post = DKLGP(kernel, 0.05, rho=rho).condition(X, y)
        errors.append(float(((post.mean(at) - dense.mean(at)).abs() / sd).max()))
    assert errors[3] < 1e-6 < errors[2] < 0.1 < errors[0]
    torch.testing.assert_close(post.variance(at), dense.variance(at), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(post.covariance(at), dense.covariance(at), rtol=0, atol=1e-6)
    draws = post.sample(at, 4000, seed=1)
    assert torch.equal(draws, post.sample(at, 4000, seed=1)) and torch.equal(draws[:, 15], draws[:, 17])
    correlation = (torch.cov(draws.mT) - dense.covariance(at)) / sd[:, None] / sd
    assert float(correlation.abs().max()) < 5 * (2 / 4000) ** 0.5
    assert float(((draws.mean(0) - dense.mean(at)) / sd).abs().max()) < 5 / 4000**0.5


def test_local_terms_agree_with_the_dense_ones(monkeypatch):
    X, y, kernel, _ = field(120)
    gp, at = DKLGP(kernel, 0.05, rho=2.0), X[:10] + 0.01
    bound, post = float(gp.elbo(X, y)), gp.condition(X, y)
    monkeypatch.setattr(module, "DENSE", 10)
    assert float(gp.elbo(X, y)) == pytest.approx(bound, abs=0.1)
    local = gp.condition(X, y)
    torch.testing.assert_close(local.mean(at), post.mean(at), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(local.variance(at), post.variance(at), rtol=0.01, atol=0)


def test_the_terms_of_some_points_add_up_to_the_whole(monkeypatch):
    X, y, kernel, _ = field(60)
    gp = DKLGP(kernel, 0.05, rho=2.0)
    monkeypatch.setattr(module, "DENSE", 10)
    with torch.no_grad():
        at = gp._setting(observed(X, y))
        q, total = gp._infer(at), 0.0
        for rows in torch.randperm(60, generator=torch.Generator().manual_seed(0)).split(7):
            L = gp._prior(at, rows)
            total += float(gp._terms(at, q, L, gp._solves(at, q, L, rows), rows))
    assert total == pytest.approx(float(gp.elbo(X, y)), rel=1e-10)


# ---- data that are not tidy, other likelihoods


def test_repeated_points_missing_values_and_no_value():
    X, y, kernel, _ = field(50)
    X, y = torch.cat([X, X[:20]]), torch.cat([y, y[:20] + 0.1])
    y[3] = torch.nan
    gp, kept = DKLGP(kernel, 0.05, mean=0.5, rho=50.0), ~y.isnan()
    dense = VecchiaGP(kernel, 0.05, mean=0.5, neighbours=100)
    assert gp.elbo(X, y).item() == pytest.approx(dense.log_likelihood(X, y).item(), abs=1e-5)
    torch.testing.assert_close(gp.condition(X, y).mean(X), dense.condition(X[kept], y[kept]).mean(X), rtol=0, atol=1e-6)
    nothing = torch.full_like(y, torch.nan)
    assert float(gp.elbo(X, nothing)) == 0.0
    prior = gp.condition(X, nothing)
    torch.testing.assert_close(prior.mean(X), torch.full_like(y, 0.5))
    torch.testing.assert_close(prior.variance(X), torch.ones_like(y))
    with pytest.raises(DataError, match="nothing to fit"):
        gp.fit(X, nothing)


@pytest.mark.parametrize("kind", [Poisson, Bernoulli])
def test_other_likelihoods_reach_the_dense_variational_posterior(kind):
    """With all points in every column: as good as inducing points at all of the data."""
    X, f, kernel, _ = field(50)
    likelihood = kind()
    y = likelihood.sample(f, torch.Generator().manual_seed(0))
    reference = SparseGP(kernel, likelihood=likelihood, inducing=50)
    full, sparse = (DKLGP(kernel, likelihood=likelihood, rho=rho) for rho in (50.0, 2.0))
    best = float(reference.elbo(X, y))
    assert float(full.elbo(X, y)) == pytest.approx(best, abs=1e-3)
    assert float(sparse.elbo(X, y)) == pytest.approx(best, abs=1.0)
    torch.testing.assert_close(full.condition(X, y).mean(X), reference.condition(X, y).mean(X), rtol=0, atol=1e-3)


def test_fit_finds_nearly_what_the_exact_likelihood_finds():
    X, y, _, _ = field(150)
    exact = VecchiaGP(Matern(1.5, 0.5, 2.0), 0.3, neighbours=150).fit(X, y)
    gp = DKLGP(Matern(1.5, 0.5, 2.0), 0.3, rho=2.0)
    fitted = gp.fit(X, y)
    assert fitted.report.converged and gp.report is None and "converged" in fitted.explain()
    torch.testing.assert_close(fitted.covariance.lengthscale, exact.covariance.lengthscale, rtol=0.15, atol=0)
    torch.testing.assert_close(fitted.likelihood.noise[0] ** 2, exact.noise, rtol=0.25, atol=0)


@pytest.mark.parametrize("kind", [Gaussian, Poisson])
def test_the_bound_found_block_by_block_has_an_exact_gradient(kind, monkeypatch):
    """Small blocks, moments away from their best: every path of the gradient counts."""
    X, f, kernel, _ = field(60)
    likelihood = kind()
    y = likelihood.sample(f, torch.Generator().manual_seed(0))
    gp = DKLGP(kernel, likelihood=likelihood, rho=1.5)
    monkeypatch.setattr(module, "DENSE", 10)
    monkeypatch.setattr(blockwise, "BLOCK", 17)
    at = gp._setting(observed(X, y))
    moments = tuple(factor * part for factor, part in zip((0.9, 1.1), gp._moments(at), strict=True))
    parameters = [parameter for _, parameter in gp.learned()]
    value, slopes = blockwise.blocked_bound(gp, at, moments, parameters)
    with torch.no_grad():
        whole = float(gp._elbo(at, gp._posterior(at, gp._sites(at, *moments))))
    assert value == pytest.approx(whole, rel=1e-12)
    for parameter, slope in zip(parameters, slopes, strict=True):
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter += step
            ends.append(blockwise.blocked_bound(gp, at, moments, parameters)[0])
            with torch.no_grad():
                parameter -= step
        assert float(slope.sum()) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


@pytest.mark.slow
def test_a_fit_of_more_points_than_are_treated_exactly_converges():
    """Kernel and noise come near those that made the data, and the fit says that it is done."""
    X, y, _, truth = field(1500, seed=3)
    fitted = DKLGP(Matern(1.5, 0.3, 1.5), 0.15, rho=1.5).fit(X, y)
    assert fitted.report.converged and fitted.report.objective > truth - 60
    assert float(fitted.covariance.lengthscale.detach()) == pytest.approx(0.2, rel=0.25)
    assert float(fitted.likelihood.noise.detach() ** 2) == pytest.approx(0.05, rel=0.25)


@pytest.mark.slow
def test_latent_divergence_of_900_points_falls_with_the_column():
    """Near those of plain nearest-neighbour conditioning: about 28 at 10, 4 at 20 and 1 at 30 neighbours."""
    X, _, kernel, _ = field(900)
    assert latent_kl(kernel, X, 2.0) < 40.0
    assert latent_kl(kernel, X, 4.0) < 4.0
    assert latent_kl(kernel, X, 2.0) > 4 * latent_kl(kernel, X, 4.0)


def test_errors():
    _, _, kernel, _ = field(10)
    with pytest.raises(ConfigError, match="rho"):
        DKLGP(kernel, rho=0.5)
    with pytest.raises(ConfigError, match="either"):
        DKLGP(kernel, 0.1, likelihood=Gaussian())
