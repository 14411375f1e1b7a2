"""What the verbs promise: order of times, scores with baselines, provenance, resumption, exact solutions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr

import sciinfer as si
from sciinfer.api import resume
from sciinfer.errors import (
    BudgetError,
    CheckpointError,
    ConfigError,
    DataError,
    NameNotFoundError,
    SchemaError,
    ShapeError,
    StateError,
    TimeError,
)
from sciinfer.extend import registry
from sciinfer.extend.hookspecs import KINDS
from sciinfer.inverse import GaussianPrior
from sciinfer.labelled.hashing import data_hash
from sciinfer.operators import Identity

EXACT = {"process": "structural", "kernel": "matern12"}
SMALL = {"latent": 2, "hidden": 4, "width": 8, "decoder": "mlp"}


def _data(series=3, n=24, seed=0):
    g = np.random.default_rng(seed)
    t = np.linspace(0, 11.5, n)
    y = np.sin(t + np.arange(series)[:, None]) + 0.1 * g.normal(size=(series, n))
    y[0, 3] = np.nan
    labels = [f"s{k}" for k in range(series)]
    return xr.Dataset({"y": (("series", "time"), y)}, coords={"series": labels, "time": t})


@pytest.fixture(scope="module")
def exact():
    return si.fit(_data().isel(time=slice(0, 16)), options=EXACT, training={"steps": 8}, progress="silent")


@pytest.fixture(scope="module")
def neural():
    return si.fit(_data().isel(time=slice(0, 16)), options=SMALL, training={"steps": 3}, progress="silent")


@pytest.mark.parametrize("which", ["exact", "neural"])
def test_times_come_back_in_the_callers_order(which, request):
    fitted = request.getfixturevalue(which)
    asked = [9.0, -1.0, 3.3, 3.3, 0.5]
    a = fitted.predict(time=asked, draws=4)["posterior"]["y"]
    b = fitted.predict(time=sorted(asked), draws=4)["posterior"]["y"]
    np.testing.assert_array_equal(a["time"], asked)
    np.testing.assert_allclose(a.isel(time=[1, 4, 2, 3, 0]), b, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(a.isel(time=2), a.isel(time=3), rtol=1e-9, atol=1e-12)
    p = fitted.generate(time=[9.0, 1.0, 4.0], draws=4)["prior"]["y"]
    q = fitted.generate(time=[1.0, 4.0, 9.0], draws=4)["prior"]["y"]
    np.testing.assert_array_equal(p.isel(time=[1, 2, 0]), q)


def test_a_predicted_tree_is_complete(neural):
    tree = neural.predict(draws=3)
    assert set(tree.children) == {"posterior", "posterior_predictive", "observed_data", "sample_stats"}
    assert tree["posterior"]["latent"].dims == ("chain", "draw", "series", "time", "latent_dim")
    assert int(tree["sample_stats"]["missing"]) == 1
    assert int(tree["sample_stats"]["observations"]) == 47
    xr.testing.assert_identical(tree["observed_data"]["y"].drop_attrs(), neural.data["y"].drop_attrs())
    # signal is without noise, the predictive is not
    assert not np.allclose(tree["posterior"]["y"], tree["posterior_predictive"]["y"])


def test_answers_carry_their_provenance(neural):
    attrs = neural.predict(draws=2, seed=5).attrs
    assert attrs["sciinfer_version"] == si.__version__
    assert attrs["torch_version"] == torch.__version__
    assert (attrs["model"], attrs["seed"]) == ("latent-sde", 5)
    # everything is recorded, defaults too: a later release may have others
    recorded = json.loads(attrs["config"])["options"]
    assert {key: recorded[key] for key in SMALL} == SMALL
    assert set(recorded) == set(registry().entry("models", "latent-sde").options)
    assert attrs["data_sha256"] == data_hash(neural.data)
    other = _data(seed=1)
    assert neural.predict(other, draws=2).attrs["data_sha256"] == data_hash(other) != attrs["data_sha256"]


def test_new_series_and_single_series(exact):
    other = _data(series=5, seed=2).isel(time=slice(0, 7))
    tree = exact.predict(other, time=[1.0], draws=2)
    assert tree["posterior"]["series"].values.tolist() == other["series"].values.tolist()
    empty = xr.full_like(other, np.nan)
    prior = exact.predict(empty, time=[1.0, 2.0], draws=2)
    assert bool(np.isfinite(prior["posterior"]["y"]).all())


@pytest.mark.parametrize("which", ["exact", "neural"])
def test_score_table_has_the_model_the_baselines_and_their_noise(which, request):
    fitted, test = request.getfixturevalue(which), _data().isel(time=slice(16, None))
    scores = fitted.score(test, draws=16, season=6.3)
    names = scores["forecaster"].values.tolist()
    assert names[0] == "model"
    assert {"persistence", "constant", "linear", "seasonal_naive_drift"} <= set(names)
    assert scores["is_baseline"].values.tolist() == [False] + [True] * (len(names) - 1)
    for metric in ("crps", "rmse", "crps_se", "rmse_se"):
        assert bool((scores[metric] > 0).all()), metric
    assert scores.attrs["model_wins"] in ("wins", "ties", "loses")
    assert scores.attrs["model_name"] == "latent-sde"
    assert int(scores["n"].sel(channel="all")) == 24


def test_score_of_the_exact_model_beside_the_model(neural, exact):
    scores = neural.score(_data().isel(time=slice(16, None)), draws=8, references={"exact": exact.model})
    assert "exact" in scores["forecaster"].values
    assert not bool(scores["is_baseline"].sel(forecaster="exact"))


def test_score_after_a_time_is_conditioning_on_the_past_alone(exact):
    test = _data(seed=4)
    split = exact.score(test, after=8.0)
    early, late = test.sel(time=slice(None, 8.0)), test.sel(time=slice(8.01, None))
    given = exact.score(late, given=early)
    np.testing.assert_allclose(split["crps"].sel(forecaster="model"), given["crps"].sel(forecaster="model"), rtol=1e-9)
    with pytest.raises(ConfigError, match="not both"):
        exact.score(test, after=8.0, given=early)


def test_scores_match_series_by_label(exact):
    test = _data().isel(time=slice(16, None))
    a, b = exact.score(test), exact.score(test.isel(series=[2, 0, 1]))
    np.testing.assert_allclose(a["crps"].sel(forecaster="model"), b["crps"].sel(forecaster="model"), rtol=1e-9)
    with pytest.raises(SchemaError, match="no data to condition on"):
        exact.score(test.assign_coords(series=["s0", "s1", "new"]))
    with pytest.raises(DataError, match="nothing is observed"):
        exact.score(xr.full_like(test, np.nan))


def test_a_finished_fit_can_go_on_and_not_by_accident(tmp_path):
    training = {"steps": 4, "validation": 0.0, "schedule": "constant", "checkpoint_every": 2}
    data = _data().isel(time=slice(0, 8))
    whole = si.fit(data, options=SMALL, training={**training, "steps": 8}, progress="silent")
    part = si.fit(data, options=SMALL, training=training, out=tmp_path / "run", progress="silent")
    assert part.status == si.load(tmp_path / "run").status == "finished"
    with pytest.raises(StateError, match="finished"):
        resume(tmp_path / "run")
    more = resume(tmp_path / "run", training={"steps": 8}, progress="silent")
    assert len(more.history.loss) == 8
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, more.model.state_dict()[name]), name


def test_predictions_do_not_depend_on_how_series_are_chunked(exact, monkeypatch):
    whole = exact.predict(time=[12.0, 3.0], draws=5)
    mean = exact.score(_data().isel(time=slice(16, None)))
    monkeypatch.setattr("sciinfer.fitted._CHUNK", 1.0)
    parts = exact.predict(time=[12.0, 3.0], draws=5)
    assert parts["posterior"]["y"].shape == whole["posterior"]["y"].shape
    np.testing.assert_allclose(
        exact.score(_data().isel(time=slice(16, None)))["crps"].sel(forecaster="model"),
        mean["crps"].sel(forecaster="model"),
        rtol=1e-10,
    )


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda f: f.predict(draws=0), ConfigError, "positive integer"),
        (lambda f: f.predict(draws=True), ConfigError, "positive integer"),
        (lambda f: f.predict(draws=2.5), ConfigError, "positive integer"),
        (lambda f: f.predict(time=[], draws=1), TimeError, "no times"),
        (lambda f: f.predict(time=["2020-01-01"], draws=1), TimeError, "numbers"),
        (lambda f: f.predict(time=[np.nan], draws=1), TimeError, "missing"),
        (lambda f: f.predict(time=[1e12], draws=1), BudgetError, "nearer"),
        (lambda f: f.predict(draws=1, seed="x"), ConfigError, "seed"),
        (lambda f: f.predict(_data().rename(y="z"), draws=1), ShapeError, "z"),
        (lambda f: f.generate(time=[1.0], draws=-1), ConfigError, "positive integer"),
        (lambda f: f.plot(kind="band"), NameNotFoundError, "bands"),
    ],
)
def test_questions_that_make_no_sense(neural, call, error, says):
    with pytest.raises(error, match=says):
        call(neural)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"model": "latent-sd"}, NameNotFoundError, "latent-sde"),
        ({"options": {"layers": 3}}, ConfigError, "process, latent"),
        ({"options": {"likelihood": "gausian"}}, NameNotFoundError, "gaussian"),
        ({"training": {"step": 3}}, ConfigError, "steps"),
        ({"training": {"steps": -1}}, ConfigError, "steps"),
        ({"progress": "loud"}, ConfigError, "silent"),
        ({"seed": 1.5}, ConfigError, "seed"),
        ({"options": {"likelihood": "poisson"}}, DataError, "count"),
    ],
)
def test_fits_that_make_no_sense(options, error, says):
    with pytest.raises(error, match=says):
        si.fit(_data(), **{"options": SMALL, "training": {"steps": 1}, "progress": "silent", **options})


def test_another_optimiser_brings_its_own_settings():
    fitted = si.fit(_data(1, 8), options=SMALL, training={"optimiser": "lbfgs", "steps": 2}, progress="silent")
    assert fitted.training["batch_size"] is None
    assert fitted.training["learning_rate"] is None


def test_nothing_there_to_load(tmp_path):
    with pytest.raises(CheckpointError):
        si.load(tmp_path / "nothing")


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_list_of_names(kind):
    names = si.names(kind)
    assert names == sorted(set(names), key=lambda name: ("/" in name, name))
    for name in names:
        assert registry().entry(kind, name).summary


def test_an_unknown_kind_lists_the_kinds():
    with pytest.raises(NameNotFoundError, match="models"):
        si.names("model")
    with pytest.raises(NameNotFoundError, match="oscillator_gappy"):
        si.open_dataset("oscillator_gapy")


# -- solve -----------------------------------------------------------------------------------------------------------


def _problem():
    g = np.random.default_rng(0)
    A, L = g.normal(size=(3, 4)), g.normal(size=(4, 4))
    return A, g.normal(size=4), L @ L.T, np.array([0.1, 0.5, 0.3]), g.normal(size=3)


def test_solve_is_the_closed_form():
    A, mean, C, sd, y = _problem()
    tree = si.solve(y, operator=A, noise=sd, prior=GaussianPrior(mean, C), draws=4000, seed=3)
    K = A @ C @ A.T + np.diag(sd**2)
    gain = np.linalg.solve(K, A @ C).T
    np.testing.assert_allclose(tree["sample_stats"]["mean"], mean + gain @ (y - A @ mean), rtol=1e-9)
    cov = C - gain @ A @ C
    np.testing.assert_allclose(tree["sample_stats"]["sd"], np.sqrt(np.diag(cov)), rtol=1e-9)
    draws = tree["posterior"]["signal"]
    assert draws.dims[:2] == ("chain", "draw")
    z = (draws[0].values - tree["sample_stats"]["mean"].values) / tree["sample_stats"]["sd"].values
    assert np.abs(z.mean(0)).max() < 5 / np.sqrt(4000)
    np.testing.assert_allclose(np.cov(draws[0].values.T), cov, atol=0.12 * np.diag(cov).max())
    assert (tree.attrs["method"], tree.attrs["class"], tree.attrs["seed"]) == ("exact", "exact", 3)
    assert tree.attrs["reason"]


def test_solve_deletes_what_was_not_measured():
    A, mean, C, sd, y = _problem()
    y[1] = np.nan
    a = si.solve(y, operator=A, noise=sd, prior=GaussianPrior(mean, C), draws=2)
    b = si.solve(y[[0, 2]], operator=A[[0, 2]], noise=sd[[0, 2]], prior=GaussianPrior(mean, C), draws=2)
    np.testing.assert_allclose(a["sample_stats"]["mean"], b["sample_stats"]["mean"], rtol=1e-10)
    assert int(a["sample_stats"]["missing"]) == 1


def test_solve_keeps_labels_and_reads_dims_by_name():
    prior = GaussianPrior(np.zeros((2, 3)), np.eye(6))
    image = xr.DataArray(np.arange(6.0).reshape(2, 3), dims=("y", "x"), name="radiance", attrs={"units": "K"})
    kept = image.copy(deep=True)
    operator = Identity(("y", "x"), (2, 3))
    a = si.solve(image, operator=operator, noise=1.0, prior=prior, draws=2)
    b = si.solve(image.transpose("x", "y"), operator=operator, noise=1.0, prior=prior, draws=2)
    np.testing.assert_allclose(a["sample_stats"]["mean"], image / 2, rtol=1e-10)
    np.testing.assert_array_equal(a["sample_stats"]["mean"], b["sample_stats"]["mean"])
    assert a["posterior"]["signal"].dims == ("chain", "draw", "y", "x")
    assert a["observed_data"]["radiance"].attrs["units"] == "K"
    assert image.identical(kept)


def test_solve_same_seed_same_bits_and_errors():
    A, mean, C, sd, y = _problem()
    prior = GaussianPrior(mean, C)
    runs = [si.solve(y, operator=A, noise=sd, prior=prior, draws=3, seed=s)["posterior"]["signal"] for s in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    with pytest.raises(NameNotFoundError, match="exact"):
        si.solve(y, operator=A, noise=sd, prior=prior, method="exakt")
    with pytest.raises(ShapeError):
        si.solve(y[:2], operator=A, noise=0.1, prior=prior)
    with pytest.raises(DataError):
        si.solve(y, operator=A, noise=0.0, prior=prior)
