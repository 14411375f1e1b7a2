"""State-space models with low-rank information updates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, move, sample_batch, stream

import sciinfer as si
from sciinfer.diagnostics.baselines import constant, linear, persistence
from sciinfer.errors import BudgetError, ConfigError
from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.grids import pad_for
from sciinfer.models.xfads import xfads
from sciinfer.models.xfads_steps import Potentials, draw, smooth, updates
from sciinfer.random import generator, numpy_generator
from sciinfer.statespace import LinearGaussian, kalman_filter, kalman_smoother, whiten

F64 = torch.float64
TINY = {"latent": 2, "hidden": 6}


def _model(seed=0, scale=0.1, **options):
    return move(xfads(SCHEMA, seed=seed, **{**TINY, **options}), scale, seed)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dynamics": "linear", "latent": 3, "step": 0.3},
        {"decoder": "mlp", "likelihood": "poisson", "rank": 1},
    ],
)
def test_walk(options):
    def build(seed=0):
        return xfads(SCHEMA, seed=seed, **{**TINY, **options})

    check_model(build, sample_batch(options.get("likelihood", "gaussian")))


def test_fit_save_load_predict(tmp_path):
    t = np.linspace(0, 5, 10)
    counts = np.round(2 + 2 * np.sin(t + np.arange(2)[:, None]))
    counts[1, 4] = np.nan
    ds = xr.Dataset(
        {"n": (("series", "time"), counts), "x": (("series", "time"), np.cos(t + np.arange(2)[:, None]))},
        coords={"series": list("ab"), "time": t},
    )
    options = {**TINY, "likelihood": {"n": "poisson"}, "warmup": 0.5}
    fitted = si.fit(ds, model="xfads", options=options, training={"steps": 3}, progress="silent")
    fitted.save(tmp_path / "run")
    one, two = (f.predict(time=[2.2, 6.0], draws=3) for f in (fitted, si.load(tmp_path / "run")))
    xr.testing.assert_identical(one["posterior_predictive"].to_dataset(), two["posterior_predictive"].to_dataset())
    assert set(np.unique(one["posterior_predictive"]["n"].values % 1)) == {0.0}


def _problem(model, time):
    """The engine's transitions of a linear model, from its own flow."""
    process = model.process
    to = process.transitions(time)
    eye = torch.eye(process.dim, dtype=F64)
    zero = torch.zeros(1, len(time[0]), 2, process.dim, dtype=F64)
    A = torch.stack([process.advance(eye[:, None], to, k)[:, 0].mT for k in range(len(time[0]))])[None]
    Q = torch.diag_embed(to.Q)
    return LinearGaussian(A, Q, zero, zero[..., 0], process.start_mean[None], Q[:, 0])


def _messages(problem):
    """Information about each state in what comes after it, ``[T, d]`` and ``[T, d, d]``, by the backward filter."""
    A, Q, H, y = (part[0] for part in problem[:4])
    d, T = A.shape[-1], len(A)
    eye = torch.eye(d, dtype=F64)
    shift, precision = [torch.zeros(d, dtype=F64)], [torch.zeros(d, d, dtype=F64)]
    for k in range(T - 1, 0, -1):
        J, j = precision[-1] + H[k].mT @ H[k], shift[-1] + H[k].mT @ y[k]
        gain = torch.linalg.inv(eye + J @ Q[k])
        shift.append(A[k].mT @ gain @ j)
        precision.append(A[k].mT @ gain @ J @ A[k])
    return torch.stack(shift[::-1]), torch.stack(precision[::-1])


def _linear_case():
    """A linear Gaussian model, seven irregular rows of which one is doubled, and its exact potentials."""
    model = _model(dynamics="linear", latent=2, scale=0.4)
    g = generator(0, "y")
    time = torch.rand(1, 7, generator=g, dtype=F64).mul(4).sort().values
    y = torch.randn(1, 7, 2, generator=g, dtype=F64)
    mask = torch.ones_like(y, dtype=torch.bool)
    mask[0, 2, 1] = False
    precision = model.likelihood.noise.square().reciprocal().expand_as(y)
    H, white, jacobian = whiten(model.decoder.weight.expand(1, 7, 2, 2), y - model.decoder.bias, precision, mask)
    problem = _problem(model, time)._replace(H=H, y=white)
    later, future = _messages(problem)
    shift = later + (H.mT @ white[..., None])[0, ..., 0]
    factor = torch.linalg.cholesky(future + (H.mT @ H)[0] + 1e-14 * torch.eye(2, dtype=F64))
    return model, time, y, mask, problem, Potentials(shift[None], factor[None]), jacobian


@torch.no_grad()
def test_with_exact_potentials_the_linear_model_is_the_kalman_smoother():
    """Moments to 1e-8, and the bound is the evidence to 1e-8."""
    model, time, y, mask, problem, potentials, jacobian = _linear_case()
    filtered = kalman_filter(problem)
    exact = kalman_smoother(problem, filtered)
    found = smooth(model.process, time, potentials)
    torch.testing.assert_close(found.mean, exact.mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.cov, exact.cov, rtol=0, atol=1e-8)
    fit = model.likelihood.expected_log_prob(y, *model.decoder.moments(found.mean, found.cov), mask).sum()
    evidence = filtered.loglik + jacobian.sum(1)
    torch.testing.assert_close(fit - found.divergence, evidence, rtol=0, atol=1e-8)
    # and any other potentials give less
    other = Potentials(1.1 * potentials.shift, potentials.factor)
    worse = smooth(model.process, time, other)
    fit = model.likelihood.expected_log_prob(y, *model.decoder.moments(worse.mean, worse.cov), mask).sum()
    assert float(fit - worse.divergence) < float(evidence) - 1e-4


@torch.no_grad()
def test_draws_have_the_moments_of_the_smoother():
    """The joint of neighbours too: their covariance is the smoother's gain times the later covariance."""
    model, time, _, _, problem, potentials, _ = _linear_case()
    exact = kalman_smoother(problem, kalman_filter(problem))
    paths = draw(model.process, time, potentials, 20_000, generator(0, "draws"))[:, 0]
    error = (paths.mean(0) - exact.mean[0]).abs() / exact.cov[0].diagonal(dim1=-2, dim2=-1).sqrt()
    assert float(error.max()) < 5 / math.sqrt(20_000)
    away = paths - paths.mean(0)
    across = torch.einsum("ni,nj->ij", away[:, 2], away[:, 3]) / 20_000
    torch.testing.assert_close(across, exact.gain[0, 2] @ exact.cov[0, 3], rtol=0.1, atol=5e-3)


def test_updates_are_the_algebra_of_gaussians():
    """One step against dense inverses, divergence included; a rank below the dimension."""
    g = generator(0, "update")
    d, rank = 4, 2
    Q = torch.rand(1, 1, d, generator=g, dtype=F64) + 0.1
    B = torch.randn(1, 1, d, rank, generator=g, dtype=F64)
    k, phi = torch.randn(2, d, generator=g, dtype=F64)
    turn = updates(Q, Potentials(k[None, None], B))
    prior = torch.diag(Q[0, 0])
    S = torch.linalg.inv(torch.linalg.inv(prior) + B[0, 0] @ B[0, 0].mT)
    mean = S @ (phi / Q[0, 0] + k)
    root, move = turn.root[0, 0], turn.pull[0, 0] - turn.G[0, 0] @ phi
    torch.testing.assert_close(phi + root * move, mean)
    torch.testing.assert_close(root[:, None] * turn.N[0, 0] * root, S)
    normal = torch.distributions.MultivariateNormal
    exact = torch.distributions.kl_divergence(normal(mean, S), normal(phi, prior))
    torch.testing.assert_close(turn.constant[0, 0] + 0.5 * move.square().sum(), exact)


def test_a_noise_of_zero_moves_nothing():
    g = generator(0, "still")
    potentials = Potentials(
        torch.randn(1, 1, 3, generator=g, dtype=F64), torch.randn(1, 1, 3, 2, generator=g, dtype=F64)
    )
    turn = updates(torch.zeros(1, 1, 3, dtype=F64), potentials)
    assert not bool(turn.root.any() | turn.pull.any() | turn.G.any() | turn.constant.any())


def test_flow_is_linear_without_the_net_and_bounded_with_it():
    """Without a net the flow over a gap is one exponential; with one, a forecast of 1e3 model times stays put."""
    process = _model(dynamics="linear", scale=0.5).process
    to = process.transitions(torch.tensor([[0.0, 3.7]], dtype=F64))
    z = torch.randn(5, 1, 2, generator=generator(0, "z"), dtype=F64)
    expected = z @ torch.linalg.matrix_exp(3.7 * process.drift_matrix).mT
    torch.testing.assert_close(process.advance(z, to, 1), expected)
    wild = _model(scale=1.0).process
    to = wild.transitions(torch.tensor([[0.0, 1e3]], dtype=F64))
    with torch.no_grad():
        assert float(wild.advance(1e3 * z, to, 1).abs().max()) < 1e3
    with pytest.raises(BudgetError):
        wild.transitions(torch.tensor([[0.0, 1e9]], dtype=F64))


def test_small_gaps_follow_the_drift():
    process = _model(scale=0.5).process
    to = process.transitions(torch.tensor([[0.0, 1e-6]], dtype=F64))
    z = torch.randn(5, 1, 2, generator=generator(0, "z"), dtype=F64)
    slope = (process.advance(z, to, 1) - z) / 1e-6
    torch.testing.assert_close(slope, process.drift(torch.zeros(5), z), rtol=1e-4, atol=1e-5)
    spread = to.Q[0, 1] / 1e-6
    torch.testing.assert_close(spread, process.diffusion(torch.zeros(5), z)[0, 0].square(), rtol=1e-5, atol=0)


def test_updates_look_at_the_present_and_the_future_only():
    """A changed value moves the potentials of its row and of those before, never of those after."""
    model = _model(scale=0.5)
    t = torch.arange(6, dtype=F64)
    y = torch.randn(6, 2, generator=generator(0, "y"), dtype=F64)
    other = y.clone()
    other[3, 0] += 1.0
    one, two = (pad_for(SeriesBatch.of([t], [v])) for v in (y, other))
    found = [model.potentials(padded, padded.rows) for padded in (one, two)]
    moved = (found[0].shift - found[1].shift)[0].abs().amax(-1) > 1e-12
    assert moved.tolist() == [True, True, True, True, False, False]
    last = model.backward_encoder(one.time, model.local(one.values, one.mask, one.rows), one.rows)
    assert not bool(last.shift[0, -1].any() | last.factor[0, -1].any())


def test_masked_updates_change_the_bound_in_training_only():
    model = _model(mask_local=0.5, mask_backward=0.5)
    batch = sample_batch()
    with torch.no_grad():
        plain, left = (model.elbo_terms(batch, generator=g)[0].sum() for g in (None, stream("mask")))
    assert float((plain - left).abs()) > 1e-6
    model.eval()
    loss = model.loss(batch, generator=stream("mask"))
    fit, divergence = model.elbo_terms(batch, generator=None)
    torch.testing.assert_close(loss.value, -(fit - divergence).sum() / batch.observed)


@torch.no_grad()
def test_a_forecast_widens():
    model = _model()
    batch = sample_batch()
    ends = batch.time[batch.offsets[1:] - 1][:, None]
    answer = model.predict(batch, ends + torch.tensor([0.0, 1.0, 8.0]), draws=400, generator=stream("widen"))
    spread = answer.signal.var(0).mean((0, 2))
    assert float(spread[0]) < float(spread[1]) < float(spread[2])
    assert bool((answer.observation.var(0) > answer.signal.var(0)).all())


@pytest.mark.parametrize(
    "options",
    [{"dynamics": "cubic"}, {"decoder": "deep"}, {"latent": 0}, {"rank": 1.5}, {"mask_local": 2.0}, {"step": -1.0}],
)
def test_options_that_do_not_exist(options):
    with pytest.raises(ConfigError):
        xfads(SCHEMA, **options)


NEURONS = 12


def _spikes(n_series, seed):
    """Counts of neurons that follow a van der Pol oscillator: rates and counts ``[S, T, C]``."""
    ds = si.open_dataset("van_der_pol", n_series=n_series, duration=10.0, dt=0.25, noise_sd=0.0, sigma=0.1, seed=seed)
    weight = numpy_generator(0, "readout").normal(size=(NEURONS, 2)) * np.array([0.5, 0.3])
    rate = np.exp(ds["y"].values[:, 1:] @ weight.T + 0.3)
    return torch.as_tensor(rate), torch.as_tensor(numpy_generator(seed, "spikes").poisson(rate).astype(float))


@pytest.mark.slow
def test_it_learns_van_der_pol_from_counts():
    """Rates of held-out rows inside the data, and of the eight rows after it, of new series."""
    counts, (rate, new) = _spikes(64, 0)[1], _spikes(24, 1)
    t = torch.arange(counts.shape[1], dtype=F64)
    variable = tuple(Channel("n") for _ in range(NEURONS))
    schema = Schema(TimeAxis("t", "number", 0.0, 1.0), "series", (Variable("n"),), variable)
    model = xfads(schema, latent=2, likelihood="poisson", hidden=24)
    train = SeriesBatch.of([t] * 64, list(counts))
    model.initialise(train)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 200)
    for step in range(200):
        optimiser.zero_grad()
        chosen = torch.randperm(64, generator=generator(step, "batch"))[:32]
        model.loss(train.select(chosen), generator=generator(step, "loss")).value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        schedule.step()
    seen = torch.arange(28) % 3 != 2
    inside, after = torch.nonzero(~seen)[:, 0], torch.arange(28, 36)
    known = SeriesBatch.of([t[:28][seen]] * 24, list(new[:, :28][:, seen]))
    asked = torch.cat([inside, after])
    times = t[asked].expand(24, -1)
    with torch.no_grad():
        answer = model.predict(known, times, draws=200, generator=stream("test"))

    def errors(mean):
        miss = (mean - rate[:, asked]).square()
        return miss[:, : len(inside)].mean(), miss[:, len(inside) :].mean()

    others = [rule(known, times).mean for rule in (persistence, constant, linear)]
    others.append(counts.mean((0, 1)).expand_as(rate[:, asked]))
    best = [min(pair) for pair in zip(*map(errors, others), strict=True)]
    found = errors(answer.signal.mean(0))
    assert float(found[0]) < 0.6 * float(best[0])
    assert float(found[1]) < 0.8 * float(best[1])
    truth, draws = new[:, asked], answer.observation
    inner = (truth >= draws.quantile(0.05, 0)) & (truth <= draws.quantile(0.95, 0))
    # of integers an interval of 90 % holds at least that
    assert float(inner.to(F64).mean()) > 0.88


def test_a_channel_that_stands_still_starts_at_its_own_value():
    """Whole numbers alone do not make counts of a Gaussian channel."""
    time = torch.arange(6.0, dtype=F64)
    values = torch.stack([torch.zeros(6, dtype=F64), torch.full((6,), 3.0, dtype=F64), time.sin()], 1)
    schema = Schema(TimeAxis("t", "number", 0.0, 1.0), None, (Variable("a"),), tuple(Channel("a") for _ in range(3)))
    model = xfads(schema, **TINY)
    model.initialise(SeriesBatch.of([time], [values]))
    torch.testing.assert_close(model.decoder.bias[:2].detach(), torch.tensor([0.0, 3.0], dtype=F64))
