"""Point-process factor analysis of unbinned spikes: rows, bounds, gradient, what a fit finds."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from sciinfer.errors import ConfigError, DataError, ShapeError
from sciinfer.gp.kernels import Matern12, Matern32
from sciinfer.models.point_process_gpfa import PointProcessGPFA, half_width
from sciinfer.models.point_process_gpfa_rows import event_rows, node_rows, quadrature, read_trials
from sciinfer.random import generator

bench = pytest.importorskip("benchmarks.point_process_gpfa", reason="benchmarks/ is part of a checkout")

F64 = torch.float64


def _model(neurons=4, latents=2, scale=0.4, seed=0, **more):
    model = PointProcessGPFA(neurons, latents, Matern32(lengthscale=scale), **more)
    g = generator(seed, "model")
    with torch.no_grad():
        model.loading.copy_(0.7 * torch.randn(neurons, latents, generator=g, dtype=F64))
        model.offset.copy_(2.0 + 0.3 * torch.randn(neurons, generator=g, dtype=F64))
    return model


def _trials(count=3, neurons=4):
    return bench.simulate(count, neurons)


def test_rows_keep_every_event_and_all_the_time():
    trials = read_trials(_trials(), 4)
    for rows in (node_rows(trials, 4, 0.05), event_rows(trials, 4, 0.05, 3)):
        assert bool((rows.time.diff(dim=1) >= 0).all())
        for r, trial in enumerate(trials):
            counts = torch.bincount(trial.neuron, minlength=4).to(F64)
            torch.testing.assert_close(rows.counts[r].sum(0), counts, rtol=1e-12, atol=1e-10)
            assert float(rows.weight[r].sum()) == pytest.approx(trial.stop - trial.start, rel=1e-12)
    # a cubic log-rate is read exactly at every event, however the nodes lie
    rows = node_rows(trials, 4, 0.05)
    cubic = lambda t: 1 - 2 * t + 0.7 * t**2 - 0.3 * t**3  # noqa: E731
    for r, trial in enumerate(trials):
        read = (rows.counts[r].sum(1) * cubic(rows.time[r])).sum()
        assert float(read) == pytest.approx(float(cubic(trial.events).sum()), rel=1e-9)


def test_without_latents_it_is_the_homogeneous_process():
    """A loading of zero: bound and likelihood are both ``sum n b - T exp(b)``."""
    trials, model = _trials(), _model()
    with torch.no_grad():
        model.loading.zero_()
    counts = sum(np.bincount(trial[1], minlength=4) for trial in trials)
    total = sum(trial[3] - trial[2] for trial in trials)
    b = model.offset.detach().numpy()
    for sites in ("nodes", "events"):
        assert float(model.elbo(trials, sites=sites)) == pytest.approx((counts * b).sum() - total * np.exp(b).sum())


def test_quadrature_of_the_bound_stands_still():
    """Four nodes a panel against ten on panels a fifth as long."""
    trials = _trials()
    posterior = _model().posterior(trials)
    assert posterior.converged
    fine = posterior.bound(quadrature=10, panel=posterior.model.step / 5)
    torch.testing.assert_close(posterior.bound(), fine, rtol=1e-7, atol=0)


def test_sites_at_nodes_tend_to_sites_at_events():
    """The bound rises as the nodes close up, to that with a potential at every spike."""
    trials = _trials()
    best = _model().posterior(trials, sites="events")
    assert best.converged
    top = float(best.bound(quadrature=8, panel=best.model.step / 4).sum())
    gaps = [top - float(_model(step=0.4 / k).elbo(trials)) for k in (2, 8, 24)]
    assert gaps[0] > gaps[1] > gaps[2] > -1e-3
    assert gaps[1] < 0.5
    assert gaps[2] < 0.01


def test_posterior_is_that_of_a_dense_gaussian_process():
    """At the fixed point ``mean = K W^T (counts - weight rate)`` over the rows, with the kernel's own matrix."""
    trials, model = _trials(1), _model()
    posterior = model.posterior(trials)
    rows = posterior.rows
    query = torch.linspace(-0.2, 2.0, 7, dtype=F64)
    mean = posterior.latent(query)[0][0]
    rate = posterior.rate(rows.time)[0]
    pull = (rows.counts[0] - rows.weight[0][:, None] * rate) @ model.loading.detach()
    for k, kernel in enumerate(model.process.kernels):
        gram = kernel.covariance(query[:, None] - rows.time[0]).detach()
        torch.testing.assert_close(mean[:, k], gram @ pull[:, k], rtol=0, atol=2e-4)


def test_higher_than_nine_inducing_points():
    """The yardstick's best form at the same parameters is never above ours; many points come near."""
    trials, model = _trials(1), _model()
    ours = model.posterior(trials, sites="events").bound()
    nine = bench.inducing_bound(model, trials, points=9, iterations=60)
    few = bench.inducing_bound(model, trials, points=4, iterations=60)
    assert bool((ours > nine - 1e-4).all())
    assert bool((nine > few + 0.1).all())


def test_gradient_of_the_fit_is_that_of_the_bound():
    trials, model = _trials(1), _model(tolerance=1e-13)
    rows = node_rows(read_trials(trials, 4), 4, model.step)
    value = model._objective(rows, None)[0].sum()
    named = dict(model.named_parameters())
    free = {name: p for name, p in named.items() if p.requires_grad}
    assert set(named) - set(free) == {f"process._kernels.{k}.log_variance" for k in range(2)}
    slopes = torch.autograd.grad(value, list(free.values()))
    for (_, parameter), slope in zip(free.items(), slopes, strict=True):
        place = (0,) * parameter.ndim
        found = []
        for sign in (1, -1):
            moved = copy.deepcopy(parameter.data)
            parameter.data[place] += sign * 1e-4
            found.append(float(model._objective(rows, None)[0].sum().detach()))
            parameter.data.copy_(moved)
        assert float(slope[place]) == pytest.approx((found[0] - found[1]) / 2e-4, rel=1e-4, abs=1e-4)


def test_a_trial_alone_equals_the_trial_among_others():
    trials, model = _trials(), _model()
    whole = model.posterior(trials)
    at = torch.linspace(0.0, 1.0, 5, dtype=F64)
    for r, trial in enumerate(trials):
        alone = model.posterior([trial])
        torch.testing.assert_close(alone.bound()[0], whole.bound()[r], rtol=1e-7, atol=1e-6)
        torch.testing.assert_close(alone.log_rate(at)[0][0], whole.log_rate(at)[0][r], rtol=1e-5, atol=1e-5)


def test_silent_trials_and_far_times():
    """A trial without spikes lowers the rates; far from every trial the prior is back."""
    model = _model()
    posterior = model.posterior([([], [], 0.0, 2.0), *_trials(1)])
    mean, variance = posterior.log_rate([1.0, 500.0])
    assert float(posterior.rate([1.0])[0].sum()) < float(model.offset.detach().exp().sum())
    torch.testing.assert_close(mean[:, 1], model.offset.detach().expand(2, 4), rtol=0, atol=1e-8)
    prior = model.loading.detach().square().sum(1).expand(2, 4)
    torch.testing.assert_close(variance[:, 1], prior, rtol=1e-8, atol=1e-8)


def test_draws_have_the_posterior_moments():
    posterior = _model().posterior(_trials(1))
    draws = posterior.sample([0.3, 0.9], 4000, seed=1)
    mean, variance = posterior.log_rate([0.3, 0.9])
    assert draws.shape == (4000, 1, 2, 4)
    assert bool(((draws.mean(0) - mean).abs() < 5 * (variance / 4000).sqrt()).all())
    torch.testing.assert_close(draws.var(0), variance, rtol=0.15, atol=0)


@pytest.mark.parametrize(
    ("trial", "error"),
    [
        (([0.5], [4], 0.0, 1.0), DataError),
        (([1.5], [0], 0.0, 1.0), DataError),
        (([0.5, 0.6], [0], 0.0, 1.0), ShapeError),
        (([], [], 1.0, 1.0), DataError),
    ],
)
def test_what_is_no_trial(trial, error):
    with pytest.raises(error):
        _model().posterior([trial])


def test_options_that_do_not_exist():
    with pytest.raises(ConfigError, match="latents"):
        PointProcessGPFA(2, 3)
    with pytest.raises(ConfigError, match="step"):
        PointProcessGPFA(2, 1, step=0.0)
    with pytest.raises(ConfigError, match="sites"):
        _model().posterior(_trials(1), sites="bins")
    with pytest.raises(DataError, match="no trials"):
        _model().fit([])


def test_half_width():
    assert half_width(Matern12(lengthscale=2.0)) == pytest.approx(2 * np.log(2), rel=0.06)


def test_quadrature_is_exact_for_polynomials():
    (trial,) = read_trials([([], [], -1.0, 2.0)], 1)
    at, weights = quadrature(trial, 1.1, 4)
    assert float((weights * at**7).sum()) == pytest.approx((2.0**8 - 1) / 8, rel=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to PyTorch")
def test_the_same_answer_on_a_cuda_device():
    here, trials = _model(), _trials(2)
    away = copy.deepcopy(here).to("cuda")
    for sites in ("nodes", "events"):
        found = away.elbo(trials, sites=sites)
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), here.elbo(trials, sites=sites), rtol=1e-8, atol=1e-6)
    rates = [model.posterior(trials).rate([0.2, 0.7]).cpu() for model in (here, away)]
    torch.testing.assert_close(rates[1], rates[0], rtol=1e-5, atol=1e-5)
    assert all(part.device.type == "cuda" for part in away.posterior(trials).rescaled_intervals())
    assert away.fit(trials, iterations=1).loading.device.type == "cuda"


@pytest.mark.slow
def test_a_fit_finds_what_made_the_spikes():
    """50 ragged trials of 18 neurons: length-scales, above the truth's own bound, rescaled intervals exponential."""
    trials = bench.simulate(50, 18)
    start = PointProcessGPFA(18, 3, "matern32(lengthscale=0.3)")
    model = start.fit(trials, iterations=30)
    found = sorted(float(kernel.lengthscale.detach()) for kernel in model.process.kernels)
    np.testing.assert_allclose(found, [0.15, 0.3, 0.6], rtol=0.2)
    posterior = model.posterior(trials)
    assert posterior.converged
    values = [kstest(part.numpy(), "expon").pvalue for part in posterior.rescaled_intervals()]
    # 18 tests: the least of them is not rejected at 5 %, Bonferroni
    assert min(values) > 0.05 / 18
    flat = PointProcessGPFA(18, 3, "matern32(lengthscale=0.3)")
    with torch.no_grad():
        counts = sum(np.bincount(trial[1], minlength=18) for trial in trials)
        flat.loading.zero_()
        flat.offset.copy_(torch.as_tensor(np.log(counts / sum(trial[3] for trial in trials))))
    rejected = flat.posterior(trials).rescaled_intervals()
    assert min(kstest(part.numpy(), "expon").pvalue for part in rejected) < 1e-10
    least = bench.inducing_bound(model, trials[:10], iterations=300)
    assert bool((model.posterior(trials[:10]).bound() > least).all())
