"""Hidden Markov jump processes: likelihood by enumeration, bounds that are bounds, rates that come back."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import sciinfer.datasets as datasets
import torch
from scipy.linalg import expm
from support.model_walk import F64, SCHEMA, check_model, move, sample_batch, stream

import sciinfer as si
from sciinfer.errors import ConfigError, DataError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.neural_mjp import neural_mjp
from sciinfer.processes.jump_posterior import divergence_rate

OPTIONS = [
    ({}, "gaussian"),
    ({"likelihood": "student-t"}, "gaussian"),
    ({"likelihood": "poisson"}, "poisson"),
    ({"likelihood": "negative-binomial", "states": 2}, "poisson"),
    ({"likelihood": "bernoulli", "states": 2}, "bernoulli"),
    ({"levels": 8}, "poisson"),
    ({"inference": "amortised", "width": 8}, "gaussian"),
    ({"inference": "amortised", "width": 8, "likelihood": "poisson"}, "poisson"),
]


@pytest.mark.parametrize(("options", "likelihood"), OPTIONS)
def test_every_emission_and_inference(options, likelihood):
    check_model(lambda seed=0: neural_mjp(SCHEMA, seed=seed, **options), sample_batch(likelihood))


def _enumerated(model, time, values):
    """``log p(y)`` by the sum over all paths of states, missing entries left out."""
    Q, pi = model.process.rates().detach().numpy(), model.process.start().exp().detach().numpy()
    mean, sd = model.emission.mean().detach().numpy(), model.emission.likelihood.noise.detach().numpy()
    K, total = len(pi), 0.0
    for path in itertools.product(range(K), repeat=len(time)):
        p = pi[path[0]]
        for k, z in enumerate(path):
            if k:
                p *= expm(Q * (time[k] - time[k - 1]))[path[k - 1], z]
            seen = ~np.isnan(values[k])
            r = (values[k] - mean[z])[seen] / sd[seen]
            p *= np.prod(np.exp(-0.5 * r**2) / sd[seen] / math.sqrt(2 * math.pi))
        total += p
    return math.log(total)


def test_exact_likelihood_is_the_sum_over_all_paths():
    model = move(neural_mjp(SCHEMA, states=3))
    time = np.array([0.0, 0.3, 0.3, 1.7, 2.0])
    values = np.random.default_rng(0).standard_normal((5, 2))
    values[1, 0] = values[3, 1] = np.nan
    batch = SeriesBatch.of([torch.tensor(time)], [torch.tensor(values)])
    found = model.log_likelihood(batch)
    assert found.item() == pytest.approx(_enumerated(model, time, values), rel=1e-12)


def test_smoothed_probabilities_are_the_share_of_paths():
    model = move(neural_mjp(SCHEMA, states=2))
    time, values = np.array([0.0, 0.7, 1.1]), np.random.default_rng(1).standard_normal((3, 2))
    batch = SeriesBatch.of([torch.tensor(time)], [torch.tensor(values)])
    query = torch.tensor([[0.9, 0.0]], dtype=F64)
    with torch.no_grad():
        answer = model.predict(batch, query, draws=4000, generator=stream("smooth"))
    # a state at 0.9 pinned by an extra datum that only it can have made: p(z) = p(y, z) / p(y)
    Q, pi = model.process.rates().detach().numpy(), model.process.start().exp().detach().numpy()
    e = model.emission.log_prob(batch.values, batch.mask).exp().detach().numpy()
    alpha = (pi * e[0]) @ expm(Q * 0.7) * e[1] @ expm(Q * 0.2)
    beta = expm(Q * 0.2) @ e[2]
    expected = alpha * beta / (alpha * beta).sum()
    np.testing.assert_allclose(answer.latent[0, 0, 0], expected, rtol=1e-12)
    assert answer.latent.sum(-1) == pytest.approx(1.0, abs=1e-12)
    # the draws agree with the probabilities
    high = (answer.signal[:, 0, 0, 0] == answer.signal[:, 0, 0, 0].max()).double().mean().item()
    k = int(model.emission.mean()[:, 0].argmax())
    assert high == pytest.approx(expected[k], abs=4 * math.sqrt(expected[k] * (1 - expected[k]) / 4000))


def test_before_the_data_the_stationary_process_runs_backwards():
    model = move(neural_mjp(SCHEMA, states=3))
    batch = SeriesBatch.of([torch.tensor([0.0], dtype=F64)], [torch.tensor([[1.0, -1.0]], dtype=F64)])
    with torch.no_grad():
        answer = model.predict(batch, torch.tensor([[-60.0, 60.0]], dtype=F64), draws=2, generator=stream("far"))
        mu = model.process.stationary()
    torch.testing.assert_close(answer.latent[0, 0], mu.expand(2, 3), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mu @ model.process.rates(), torch.zeros(3, dtype=F64), rtol=0, atol=1e-12)
    # and the rates are those of these marginals, though the learned start is not the stationary one
    with torch.no_grad():
        model.process.log_start.copy_(torch.tensor([2.0, 0.0, -1.0]))
        t, d = torch.tensor([[-0.7]], dtype=F64), 1e-5
        near = torch.cat([t - d, t, t + d], 1)
        p = model.predict(batch, near, draws=1, generator=stream("before")).latent[0, 0]
        flux = p[1] @ model.posterior_rates(batch, t)[0, 0]
    assert float(flux.abs().max()) > 0.01
    torch.testing.assert_close((p[2] - p[0]) / (2 * d), flux, rtol=1e-6, atol=1e-8)


def test_long_gaps_lose_no_probability():
    process = neural_mjp(SCHEMA, states=3).float().process
    with torch.no_grad():
        P, mu = process.transition(torch.tensor([1e3, 1e6])), process.stationary()
    torch.testing.assert_close(P.sum(-1), torch.ones(2, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(P, mu.expand(2, 3, 3), rtol=1e-4, atol=0)


@pytest.mark.parametrize("inference", ["exact", "amortised"])
def test_path_divergence_is_the_integral_over_the_posterior_rates(inference):
    """``E int sum_j (q log(q/p) - q + p) dt`` along the master equation of the rates, by quadrature."""
    model = move(neural_mjp(SCHEMA, states=3, inference=inference, width=8), 0.3)
    time = torch.tensor([0.0, 0.8, 1.5], dtype=F64)
    batch = SeriesBatch.of([time], [torch.randn((3, 2), generator=stream("v"), dtype=F64)])
    nodes, weights = np.polynomial.legendre.leggauss(30)
    # forced jumps make the rates grow like one over the time left: nodes crowd at the end of each gap
    left = ((1 - nodes) / 2) ** 4
    share = weights / 2 * 4 * ((1 - nodes) / 2) ** 3
    at = np.concatenate([0.8 - 0.8 * left, 1.5 - 0.7 * left])
    weight = np.concatenate([0.8 * share, 0.7 * share])
    with torch.no_grad():
        rates = model.posterior_rates(batch, torch.tensor(at)[None])[0]
        cost = divergence_rate(model.process.rates(), rates)
        marginal = model.predict(batch, torch.tensor(at)[None], draws=1, generator=stream("p")).latent[0, 0]
        _, start, path = model.elbo_terms(batch, generator=None)
    assert path.item() == pytest.approx(((marginal * cost).sum(-1).numpy() * weight).sum(), rel=1e-9)
    assert start.item() > 0 and path.item() > 0
    # and the marginals solve the master equation of these rates
    with torch.no_grad():
        t, d = torch.tensor([[0.5]], dtype=F64), 1e-5
        near = torch.cat([t - d, t, t + d], 1)
        p = model.predict(batch, near, draws=1, generator=stream("p")).latent[0, 0]
        slope = (p[2] - p[0]) / (2 * d)
        flux = p[1] @ model.posterior_rates(batch, t)[0, 0]
    torch.testing.assert_close(slope, flux, rtol=1e-6, atol=1e-8)


def test_exact_potentials_make_the_bound_tight():
    model, batch = move(neural_mjp(SCHEMA, states=3)), sample_batch()
    fit, start, path = model.elbo_terms(batch, generator=None)
    torch.testing.assert_close(fit - start - path, model.log_likelihood(batch), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_is_a_bound(seed):
    model = move(neural_mjp(SCHEMA, inference="amortised", width=8, seed=seed), 0.5, seed)
    batch = sample_batch()
    with torch.no_grad():
        fit, start, path = model.elbo_terms(batch, generator=None)
        exact = model.log_likelihood(batch)
    assert bool((fit - start - path <= exact + 1e-9).all())
    assert bool((start >= -1e-12).all()) and bool((path >= -1e-12).all())
    assert bool((fit - start - path < exact - 1e-3).any())


def _train(model, batch, steps, rate, only=None):
    parameters = list(model.parameters()) if only is None else list(only.parameters())
    optimiser = torch.optim.Adam(parameters, lr=rate)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimiser.zero_grad()
        model.loss(batch, generator=stream("t")).value.backward()
        optimiser.step()
    return model


def _flicker(seed=0, **options):
    return datasets.open_dataset("jump_process", seed=seed, **options)


def _batch_of(ds):
    time, y = torch.tensor(ds["time"].values), torch.tensor(ds["y"].values)
    return SeriesBatch.of([time] * len(y), [row[:, None] for row in y])


@pytest.mark.slow
def test_the_bound_is_tight_after_training():
    batch = _batch_of(_flicker(n_series=4, n_times=20, duration=10.0, noise_sd=0.8))
    one = type(SCHEMA)(SCHEMA.time, SCHEMA.series, SCHEMA.variables[:1], SCHEMA.channels[:1])
    model = neural_mjp(one, inference="amortised", width=16)
    model.initialise(batch)
    before = _gap(model, batch)
    _train(model, batch, 80, 4e-2, only=model.amortised)
    after = _gap(model, batch)
    print(f"\nbound below the likelihood, nat per datum: {before:.5f} before, {after:.5f} after")
    assert 0 < after < min(0.01, 0.2 * before)


def _gap(model, batch):
    with torch.no_grad():
        fit, start, path = model.elbo_terms(batch, generator=None)
        return ((model.log_likelihood(batch) - (fit - start - path)).sum() / batch.observed).item()


def _fit(ds, **options):
    return si.fit(ds, "neural-mjp", options=options, training={"steps": 40}, progress="silent")


def test_fit_save_load_predict(tmp_path):
    ds = _flicker(n_series=3, n_times=15, duration=8.0, missing=0.2)
    for options in ({"states": 2}, {"states": 2, "inference": "amortised", "width": 6}):
        fitted = si.fit(ds, "neural-mjp", options=options, training={"steps": 3}, progress="silent")
        folder = tmp_path / str(len(options))
        fitted.save(folder)
        one, two = (f.predict(time=[-1.0, 3.3, 9.0], draws=5) for f in (fitted, si.load(folder)))
        assert (one["posterior_predictive"]["y"] == two["posterior_predictive"]["y"]).all()
        assert one["posterior"]["latent"].sizes["latent_dim"] == 2


def test_rates_and_levels_come_back():
    """Two states, 30 series of 80 times: each rate within 3 standard errors of a Poisson count of jumps."""
    rates, T = ((0.0, 0.5), (1.0, 0.0)), 30.0
    ds = _flicker(n_series=30, n_times=80, duration=T, rates=rates, levels=(-1.0, 1.0), noise_sd=0.5, missing=0.2)
    fitted = _fit(ds, states=2)
    found, scale = fitted.model.summary(), fitted.schema.time.scale
    jumps = 30 * T * (2 / 3) * 0.5
    for name, rate in (("rate[0->1]", 0.5), ("rate[1->0]", 1.0)):
        # half of the jumps are there and back between two times: their information is lost, hence the factor
        assert found[name] / scale == pytest.approx(rate, rel=3 * 1.5 / math.sqrt(jumps))
    levels = fitted.model.emission.mean()[:, 0].detach().numpy() * fitted.schema.scale[0] + fitted.schema.shift[0]
    np.testing.assert_allclose(levels, (-1.0, 1.0), atol=0.05)
    noise = fitted.model.emission.likelihood.noise.item() * fitted.schema.scale[0]
    assert noise == pytest.approx(0.5, rel=0.1)


def test_gaps_are_filled_better_than_by_simple_rules():
    ds = _flicker(n_series=12, n_times=60, duration=15.0, missing=0.4, truth=True)
    fitted = _fit(ds[["y"]], states=3)
    mean = fitted.predict(draws=200)["posterior"]["y"].mean(("chain", "draw"))
    gap = ds["y"].isnull()
    error = float(((mean - ds["truth_y"]) ** 2).where(gap).mean())
    rules = {
        "constant": ds["y"].mean(),
        "last": ds["y"].to_pandas().ffill(axis=1).to_xarray().to_dataarray("time").T.fillna(ds["y"].mean()),
        "linear": ds["y"].interpolate_na("time").fillna(ds["y"].mean()),
    }
    others = {name: float(((rule - ds["truth_y"]) ** 2).where(gap).mean()) for name, rule in rules.items()}
    assert error < 0.8 * min(others.values()), (error, others)


def test_categories_that_the_table_lacks_are_refused_after_training_too():
    model = neural_mjp(SCHEMA, levels=3)
    batch = SeriesBatch.of([torch.zeros(1, dtype=F64)], [torch.tensor([[1.0, 7.0]], dtype=F64)])
    with pytest.raises(DataError, match=r"levels are 0 \.\. 2"):
        model.log_likelihood(batch)
    with pytest.raises(DataError, match=r"levels are 0 \.\. 2"):
        model.predict(batch, batch.time[None], draws=1, generator=stream("x"))


def test_categories_keep_their_own_probabilities():
    rng = np.random.default_rng(0)
    ds = _flicker(n_series=30, n_times=60, rates=((0.0, 0.3), (0.3, 0.0)), levels=(0.0, 1.0), noise_sd=0.0)
    table = np.array([[0.7, 0.1, 0.2], [0.1, 0.8, 0.1]])
    state = ds["y"].values.astype(int)
    ds["y"][:] = (rng.random(state.shape)[..., None] > table.cumsum(1)[state]).sum(-1).astype(float)
    fitted = _fit(ds, states=2, levels=3)
    found = fitted.model.emission.logits.softmax(-1)[:, 0].detach().numpy()
    found = found[np.argsort(found[:, 1])]
    np.testing.assert_allclose(found, table, atol=0.06)
    values = fitted.predict(draws=5)["posterior_predictive"]["y"].values
    assert set(np.unique(np.round(values, 9))) <= {0.0, 1.0, 2.0}
    with pytest.raises(DataError, match=r"levels are 0 \.\. 1"):
        _fit(ds, states=2, levels=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"states": 1}, "states"),
        ({"likelihood": "ordinal"}, "gaussian"),
        ({"inference": "magic"}, "exact"),
        ({"levels": 1}, "levels"),
        ({"levels": 3, "likelihood": "poisson"}, "categorical"),
        ({"width": 0}, "width"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        neural_mjp(SCHEMA, **options)


def test_the_simulator_holds_its_states_for_exponential_times():
    ds = _flicker(
        n_series=400, n_times=200, duration=20.0, rates=((0.0, 0.5), (1.0, 0.0)), levels=(0.0, 1.0), noise_sd=0
    )
    late = ds["y"].isel(time=ds["time"] > 8).mean("time")
    assert float(late.mean()) == pytest.approx(1 / 3, abs=4 * float(late.std()) / 20)
    with pytest.raises(ConfigError, match="tables of numbers"):
        _flicker(rates=((0.0, 1.0), (1.0,)), levels=(0.0, 1.0))
    with pytest.raises(ConfigError, match="rates"):
        _flicker(rates=((0.0, -1.0), (1.0, 0.0)), levels=(0.0, 1.0))
