"""Structured variational autoencoders: one walk for all, what each bound is, segments, filling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, move, sample_batch, stream

import sciinfer as si
from sciinfer.errors import BudgetError, ConfigError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models import svae_start
from sciinfer.models.exact import ExactPathModel
from sciinfer.models.grids import pad_for
from sciinfer.models.svae import svae
from sciinfer.models.svae_recognition import hide_rows, principal_components
from sciinfer.models.svae_slds import step_grid

F64 = torch.float64
TINY = {"latent": 2, "hidden": 5, "states": 2}
CASES = {
    "lds": {},
    "lds-exact": {"decoder": "linear"},
    "lds-rank": {"rank": 1, "encoder": "scan", "hide": 0.3, "warmup": 0.5},
    "lds-poisson": {"likelihood": "poisson"},
    "hmm": {"prior": "hmm"},
    "hmm-encoder": {"prior": "hmm", "potentials": "encoder", "hide": 0.2},
    "slds": {"prior": "slds", "natural": 5, "rounds": 2},
    "slds-encoder": {"prior": "slds", "decoder": "mlp", "rank": 1, "natural": 2, "rounds": 1},
}


def _model(case="lds", seed=0, **more):
    return move(svae(SCHEMA, seed=seed, **{**TINY, **CASES[case], **more}), seed=seed)


@pytest.fixture
def short_start(monkeypatch):
    """Fewer tries of the regimes: what the starts are worth is tested where they are learned."""
    for name, value in {"_TRIES": 2, "_SWEEPS": 5, "_FIRST": 3}.items():
        monkeypatch.setattr(svae_start, name, value)


@pytest.mark.parametrize("case", CASES)
def test_walk(case, short_start):
    options = {**TINY, **CASES[case]}
    batch = sample_batch(options.get("likelihood", "gaussian"))
    check_model(lambda seed=0: svae(SCHEMA, seed=seed, **options), batch)


@pytest.mark.parametrize("case", ["lds", "hmm", "slds"])
def test_fit_save_load_predict(case, tmp_path, short_start):
    t = np.linspace(0, 5, 12)
    y = np.sin(3 * t + np.arange(2)[:, None]) + 0.1 * np.cos(17 * t)
    y[1, 4] = np.nan
    ds = xr.Dataset({"y": (("series", "time"), y)}, coords={"series": list("ab"), "time": t})
    options = {**TINY, **CASES[case]} | ({"natural": 2} if case == "slds" else {})
    fitted = si.fit(ds, model="svae", options=options, training={"steps": 3}, progress="silent")
    fitted.save(tmp_path / "run")
    one, two = (f.predict(time=[2.2, 6.0], draws=3) for f in (fitted, si.load(tmp_path / "run")))
    xr.testing.assert_identical(one["posterior_predictive"].to_dataset(), two["posterior_predictive"].to_dataset())
    assert all(np.isfinite(value) for value in fitted.model.summary().values())


# -- what each bound is --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_with_a_linear_decoder_the_bound_is_the_evidence():
    model, batch = _model("lds-exact"), sample_batch()
    fit, divergence = model.elbo_terms(batch, generator=None)
    exact = ExactPathModel(model.process, model.decoder, model.likelihood).log_likelihood(batch)
    torch.testing.assert_close(fit - divergence, exact, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_an_encoders_potentials_give_a_lower_bound_that_is_tight_at_the_likelihoods():
    """The emitted potentials of a row in which both channels are seen are set to the likelihood's own."""
    model = _model("lds-rank", decoder="linear", potentials="encoder", encoder="local", rank=0, hide=0.0)
    batch = SeriesBatch.of([torch.arange(6.0, dtype=F64)], [torch.randn(6, 2, generator=stream("y"), dtype=F64)])
    exact = ExactPathModel(model.process, model.decoder, model.likelihood).log_likelihood(batch)
    fit, divergence = model.elbo_terms(batch, generator=None)
    assert float(exact - (fit - divergence)) > 1e-2
    model.decoder.weight.copy_(torch.tensor([[1.3, 0.0], [0.0, -0.6]]))
    precision = (model.decoder.weight / model.likelihood.noise[:, None]).square().sum(0)
    model.reader.start(torch.linalg.inv(model.decoder.weight), model.decoder.bias, precision)
    last = model.reader.rows.direct.bias
    last[2:] = 6 * torch.atanh(precision.log() / 6)
    exact = ExactPathModel(model.process, model.decoder, model.likelihood).log_likelihood(batch)
    fit, divergence = model.elbo_terms(batch, generator=None)
    torch.testing.assert_close(fit - divergence, exact, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_bound_of_a_hidden_markov_chain():
    exact, batch = _model("hmm"), sample_batch()
    bound = lambda model: sum((1, -1, -1)[i] * x for i, x in enumerate(model.elbo_terms(batch, generator=None)))  # noqa: E731
    torch.testing.assert_close(bound(exact), exact.log_likelihood(batch), rtol=1e-9, atol=1e-9)
    emitted = _model("hmm-encoder")
    assert bool((bound(emitted) < emitted.log_likelihood(batch)).all())


@torch.no_grad()
def test_one_regime_is_a_linear_system_with_its_exact_likelihood():
    """Against one large Gaussian of every observed entry, on steps with gaps."""
    model = _model("slds", states=1)
    time = torch.tensor([0.0, 1.0, 4.0, 5.0], dtype=F64)
    y = torch.randn(4, 2, generator=stream("y"), dtype=F64)
    y[1, 0] = float("nan")
    fit, switching, moving = model.elbo_terms(SeriesBatch.of([time], [y]), generator=None)
    A, b, Q = (part[0] for part in model.process.laws())
    (m, P), W = model.process.initial(), model.decoder.weight
    means, covs = [m], [P]
    for _ in range(5):
        means.append(A @ means[-1] + b)
        covs.append(A @ covs[-1] @ A.mT + Q)
    places = [0, 1, 4, 5]
    K = torch.zeros(4, 2, 4, 2, dtype=F64)
    for i, p in enumerate(places):
        for j, q in enumerate(places[: i + 1]):
            K[i, :, j] = W @ torch.linalg.matrix_power(A, p - q) @ covs[q] @ W.mT
            K[j, :, i] = K[i, :, j].mT
    K = K.reshape(8, 8) + torch.diag(model.likelihood.noise.square().repeat(4))
    centre = torch.cat([W @ means[p] + model.decoder.bias for p in places])
    seen = ~y.flatten().isnan()
    law = torch.distributions.MultivariateNormal(centre[seen], K[seen][:, seen])
    torch.testing.assert_close((fit - switching - moving)[0], law.log_prob(y.flatten()[seen]), rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("case", ["lds", "hmm", "hmm-encoder", "slds", "slds-encoder"])
def test_without_data_the_answer_is_the_prior(case):
    model, n = _model(case, **({"rounds": 30} if case.startswith("slds") else {})), 1500
    blank = SeriesBatch.of([torch.tensor([0.0], dtype=F64)], [torch.full((1, 2), float("nan"), dtype=F64)])
    times = torch.tensor([0.0, 1.0, 2.0, 5.0], dtype=F64)
    terms = model.elbo_terms(blank, generator=None)
    torch.testing.assert_close(torch.stack(terms), torch.zeros(len(terms), 1, dtype=F64), rtol=0, atol=1e-9)
    answer = model.predict(blank, times[None], draws=n, generator=stream("a")).signal[:, 0]
    prior = model.generate(times, draws=n, generator=stream("b")).signal[:, 0]
    if case.startswith("hmm"):  # before the data a jump process is in its stationary law, which generate starts freely
        answer, prior = answer[:, -1:], prior[:, -1:]
    error = (answer.mean(0) - prior.mean(0)) / (prior.var(0) + answer.var(0)).sqrt() * n**0.5
    assert float(error.abs().max()) < 4.5
    ratio = answer.std(0) / prior.std(0)
    assert float((ratio - 1).abs().max()) < 0.15


@torch.no_grad()
def test_hidden_rows_are_hidden_from_the_reader_and_not_from_the_decoder():
    batch = sample_batch()
    padded = pad_for(batch)
    assert hide_rows(padded, 0.5, None) is padded
    some = hide_rows(padded, 0.5, stream("hide"))
    lost = padded.mask.any(-1) & ~some.mask.any(-1)
    assert bool(lost.any())
    assert torch.equal(some.mask, padded.mask & ~lost[..., None])
    model = _model(hide=0.999999)
    fit, divergence = model.elbo_terms(batch, generator=stream("terms"))
    torch.testing.assert_close(divergence, torch.zeros(3, dtype=F64), rtol=0, atol=1e-12)
    assert bool((fit < 0).all())
    J, j = model.potentials(some)
    assert not bool(J[lost].any() or j[lost].any())


# -- regimes and states --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_places_of_irregular_times():
    batch = SeriesBatch.of(
        [torch.tensor([3.0, 4.1, 4.2, 7.0], dtype=F64), torch.tensor([1.0], dtype=F64)],
        [torch.ones(4, 2, dtype=F64), torch.ones(1, 2, dtype=F64)],
    )
    padded = pad_for(batch)
    grid = step_grid(padded, 1.0, torch.tensor([[1.0, 9.0], [1.0, 1.2]], dtype=F64))
    assert grid.at_data.tolist() == [[2, 3, 3, 6], [0, 0, 0, 0]]
    assert grid.at_query.tolist() == [[0, 8], [0, 0]]
    assert grid.last.tolist() == [6, 0]
    assert grid.moves[0].tolist() == [False] + [True] * 6
    with pytest.raises(BudgetError, match="longer step"):
        step_grid(padded, 1e-9)


@torch.no_grad()
def test_durations_and_segments_have_their_shapes():
    batch = sample_batch()
    for case in ("hmm", "hmm-encoder", "slds", "slds-encoder"):
        model = _model(case)
        found = model.segments(batch)
        assert found.probability.shape == (3, 8, 2)
        torch.testing.assert_close(found.probability.sum(-1), torch.ones(3, 8, dtype=F64))
        assert found.likeliest.shape == found.time.shape == found.rows.shape == (3, 8)
        assert bool((model.durations() > 0).all())
    latent = model.predict(batch, torch.ones(3, 2, dtype=F64), draws=5, generator=stream("p")).latent
    assert latent.shape == (5, 3, 2, 4)
    assert bool((latent[..., 2:].sum(-1) == 1).all())


@pytest.mark.parametrize("case", ["lds", "slds"])
def test_a_forecast_widens(case):
    model, batch = _model(case), sample_batch(lengths=(8,))
    end = float(batch.time[-1])
    times = torch.tensor([[end, end + 2.0, end + 40.0]], dtype=F64)
    with torch.no_grad():
        spread = model.predict(batch, times, draws=400, generator=stream("p")).observation.std(0)[0]
    assert bool((spread[2] > spread[0]).all())


def test_components_are_those_of_the_data():
    g = stream("pca")
    W = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=F64)
    y = torch.randn(4000, 2, generator=g, dtype=F64) @ W.mT + 0.1 * torch.randn(4000, 3, generator=g, dtype=F64) + 3
    found, b, noise = principal_components(SeriesBatch.of([torch.arange(4000.0)], [y]), 2)
    torch.testing.assert_close(found @ found.mT, W @ W.mT, rtol=0, atol=0.2)
    torch.testing.assert_close(b, torch.full((3,), 3.0, dtype=F64), rtol=0, atol=0.15)
    assert float(noise.max()) < 0.2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prior": "gp"}, "lds, hmm, slds"),
        ({"decoder": "cnn"}, "mlp, linear"),
        ({"potentials": "none"}, "encoder, exact"),
        ({"potentials": "exact"}, "encoder"),
        ({"encoder": "cnn"}, "local"),
        ({"prior": "hmm", "states": 1}, "states"),
        ({"latent": 0}, "latent"),
        ({"rank": -1}, "rank"),
        ({"hide": 1.5}, "hide"),
        ({"step": 0}, "step"),
    ],
)
def test_options_that_make_no_sense(options, says):
    with pytest.raises(ConfigError, match=says):
        svae(SCHEMA, **options)
