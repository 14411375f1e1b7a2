"""How MarkovGP learns: the maximum, and the posterior of its parameters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sciinfer.errors import ConfigError
from sciinfer.gp import (
    RBF,
    SHO,
    Constant,
    Cosine,
    IntegratedWiener,
    Linear,
    MarkovGP,
    Matern12,
    Matern32,
    Matern52,
    MixedPosterior,
    Periodic,
    Seasonal,
    Separable,
    Wiener,
    averages,
)
from sciinfer.gp.short import SHORT as SHORTEST
from sciinfer.gp.short import short_likelihood

F64 = torch.float64
TIME = np.array([3.0, 0.2, 1.7, 1.7, 9.5, 4.1, 1.7, 6.6, 0.9])
Y = np.array([0.3, -1.1, 0.8, np.nan, 0.1, -0.4, 1.2, 0.9, 0.0])
AT = [5.0, 1.7, -1.0, 12.0, 3.0, 5.0]


def sampled(n: int = 150):
    time = np.sort(np.random.default_rng(3).uniform(0, 40, n))
    truth = MarkovGP(Matern32(2.0, 1.5), noise=0.1)
    f = truth.condition([], []).sample(time, 1, seed=5)[0].numpy()
    return time, f + 0.3 * np.random.default_rng(0).normal(size=n) + 4.0


def test_a_fit_finds_the_maximum_says_so_and_leaves_its_start_alone():
    time, y = sampled()
    gp = MarkovGP(Matern32(1.0, 1.0), noise=1.0, mean="constant")
    fitted = gp.fit(time, y)
    assert gp.report is None
    assert gp.noise.item() == pytest.approx(1.0)
    assert fitted.report.converged
    assert fitted.report.objective == pytest.approx(fitted.log_likelihood(time, y).item(), rel=1e-12)
    slopes = torch.autograd.grad(fitted.log_likelihood(time, y), [p for p in fitted.parameters() if p.requires_grad])
    assert max(float(s.abs().max()) for s in slopes) < 0.02
    assert fitted.kernel.lengthscale.item() == pytest.approx(2.0, rel=0.5)
    assert fitted.noise.item() == pytest.approx(0.09, rel=0.4)
    assert "converged" in fitted.explain()


def test_more_starts_are_never_worse():
    time, y = sampled(60)
    gp = MarkovGP(SHO(40.0, 1.0), noise=1.0, mean="constant")
    one, three = gp.fit(time, y, iterations=30), gp.fit(time, y, iterations=30, starts=3)
    assert three.report.objective >= one.report.objective - 1e-9
    assert gp.fit(time, y, iterations=2).report.converged is False


def test_a_mixture_of_posteriors_has_the_moments_of_its_draws():
    parts = [MarkovGP(Matern32(scale), noise=0.2).condition(TIME, Y) for scale in (0.5, 2.0, 5.0)]
    mixed, n = MixedPosterior(parts), 30_000
    draws, mean, cov = mixed.sample(AT, n, seed=4), mixed.mean(AT), mixed.covariance(AT)
    torch.testing.assert_close(mixed.variance(AT), cov.diagonal())
    assert float(((draws.mean(0) - mean).abs() / (cov.diagonal() / n).sqrt()).max()) < 4.5
    torch.testing.assert_close(torch.cov(draws.mT), cov, rtol=0, atol=0.05)
    assert bool((mixed.variance(AT) > torch.stack([p.variance(AT) for p in parts]).mean(0)).all())
    # neighbouring draws come from different parts: the order says nothing
    assert abs(float(torch.corrcoef(torch.stack([draws[1:, 0], draws[:-1, 0]]))[0, 1])) < 0.03


def test_options_of_a_sampler_need_the_sampler():
    gp = MarkovGP(Matern12(), noise=0.1)
    with pytest.raises(ConfigError, match="no option draws"):
        gp.fit(TIME, Y, draws=10)
    with pytest.raises(ConfigError, match="prior for log_period"):
        gp.fit(TIME, Y, method="hmc", priors={"log_period": None})


@pytest.mark.slow
def test_the_hyper_posterior_is_that_of_a_grid():
    gp = MarkovGP(Matern12(2.0, 1.0), noise=np.full(len(TIME), 0.2))
    fitted = gp.fit(TIME, Y, method="hmc", draws=400, warmup=150, chains=2, seed=1)
    axis = torch.linspace(-4, 4, 33, dtype=F64)
    table = torch.empty(33, 33, dtype=F64)
    with torch.no_grad():
        for i, a in enumerate(axis):
            for j, b in enumerate(axis):
                gp.kernel.log_lengthscale.copy_(a + math.log(2.0))
                gp.kernel.log_variance.copy_(b)
                table[i, j] = gp.log_likelihood(TIME, Y) - 0.5 * (a**2 + b**2)
    weight = (table - table.max()).exp() / (table - table.max()).exp().sum()
    means = [float((weight.sum(1) * axis).sum()) + math.log(2.0), float((weight.sum(0) * axis).sum())]
    found = fitted.hyper.chains.summary()
    assert list(found.mean) == pytest.approx(means, abs=4 * max(found.mcse))
    assert [fitted.kernel.log_lengthscale.item(), fitted.kernel.log_variance.item()] == pytest.approx(list(found.mean))
    post = fitted.condition(TIME, Y)
    assert len(post.parts) == 32
    assert post.sample(AT, 5).shape == (5, len(AT))


# -- short series ----------------------------------------------------------------------------------------------------

SHORT = {
    "matern52": lambda: Matern52(1.7, 2.0),
    "periodic + wiener": lambda: Periodic(4.0, 1.2, harmonics=3) + Wiener(0.4, 2.0),
    "trend + season": lambda: IntegratedWiener(0.1, 40.0, 4.0) + Seasonal(3.0, harmonics=2) + Matern12(0.3, 0.2),
    "product": lambda: Matern32(2.0) * Cosine(5.0, 0.3) + Linear(0.4) + Constant(2.0),
    "rbf": lambda: RBF(1.5, 2.0, order=6),
}


@pytest.mark.parametrize("start", [None, -2.0])
@pytest.mark.parametrize("name", SHORT)
def test_the_short_factor_is_the_engine(name, start):
    """Values to 1e-9 and slopes to 1e-8, with ties, holes and several series."""
    gp = MarkovGP(SHORT[name](), noise=0.2, mean="constant", start=start)
    rows = [gp._rows(TIME, Y), gp._rows(TIME[:4] + 0.3, Y[:4]), gp._rows(TIME, np.full(9, np.nan))]
    quick, parameters = short_likelihood(gp, rows), [p for p in gp.parameters() if p.requires_grad]
    found = [quick(), gp.loglik_of(rows, [0, 1, 2]).sum()]
    assert found[0].item() == pytest.approx(found[1].item(), abs=1e-9)
    slopes = [torch.autograd.grad(value, parameters) for value in found]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_the_short_factor_knows_its_limits():
    """Little noise: the engine answers. Long series, several outputs, averages, a named back-end: never."""
    gp = MarkovGP(Matern52(50.0, 1e6), noise=1e-6)
    rows = [gp._rows(TIME[:3], Y[:3])]
    assert short_likelihood(gp, rows)().item() == gp.loglik_of(rows, [0])[0].item()
    noise = np.linspace(0.1, 0.5, len(TIME))
    each = MarkovGP(Matern52(2.0), noise=noise)
    rows = [each._rows(TIME, Y)]
    assert short_likelihood(each, rows)().item() == pytest.approx(each.log_likelihood(TIME, Y).item(), abs=1e-10)
    long = np.arange(1.0 + SHORTEST)
    named = MarkovGP(Matern12(), backend="scan")
    two = MarkovGP(Separable(Matern12(), [[1.0, 0.0], [0.0, 1.0]]))
    assert short_likelihood(each, [each._rows(long, long)]) is None
    assert short_likelihood(each, [each._rows(averages([0.0], [1.0]), [1.0])]) is None
    assert short_likelihood(named, [named._rows(TIME, Y)]) is None
    assert short_likelihood(two, [two._rows([0.0], [[1.0, 2.0]])]) is None


def test_nuts_through_the_process_is_quadrature():
    """One parameter: mean and deviation of its posterior on a fine grid."""
    time, y = sampled(60)
    gp = MarkovGP(Matern32(2.0, 1.5), noise=np.full(60, 0.1), mean=4.0)
    gp.kernel.log_variance.requires_grad_(False)
    fitted = gp.fit(time, y, method="hmc", draws=150, warmup=60, chains=1, paths=1, seed=0)
    axis = torch.linspace(-1.5, 1.5, 241, dtype=F64)
    table = torch.empty_like(axis)
    with torch.no_grad():
        for i, shift in enumerate(axis):
            gp.kernel.log_lengthscale.copy_(shift + math.log(2.0))
            table[i] = gp.log_likelihood(time, y) - 0.5 * shift**2
    weight = torch.softmax(table, 0)
    mean = float((weight * axis).sum())
    sd = float((weight * (axis - mean).square()).sum().sqrt())
    found = fitted.hyper.chains.summary()
    assert float(found.mcse[0]) < 0.2 * sd
    assert float(found.mean[0]) - math.log(2.0) == pytest.approx(mean, abs=4 * float(found.mcse[0]))
    assert float(found.sd[0]) == pytest.approx(sd, rel=0.25)
