"""``predict``, ``generate``, ``score``, ``check``, ``report`` and ``solve`` at a terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from sciinfer import api
from sciinfer.cli import app
from sciinfer.commands.reports import on_grid
from sciinfer.labelled.io import read, read_tree
from sciinfer.labelled.write import write
from sciinfer.run_report import MOST_DATA_TIMES, _times, first_series, same_series, write_run_report

LINEAR = ("--set=process=linear", "--set=latent=1", "--train", "steps=2", "--progress", "silent", "--no-report")
TINY = {"n_series": 8, "n_times": 12, "n_future": 4}


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


@pytest.fixture(scope="module")
def nile(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("nile")
    write(api.open_dataset("nile").isel(time=slice(0, 30)), folder / "short.nc")
    run("fit", folder / "short.nc", "--until", "1890-01-01", "--out", folder / "run", *LINEAR)
    return folder / "run"


@pytest.fixture(scope="module")
def waves(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("waves")
    write(api.open_dataset("oscillator", **TINY).isel(series=slice(0, 6)), folder / "waves.nc")
    write(api.open_dataset("oscillator", part="test", **TINY).isel(series=slice(0, 6)), folder / "test.nc")
    run("fit", folder / "waves.nc", "--out", folder / "run", *LINEAR)
    return folder


def test_predict_writes_a_labelled_tree(nile, tmp_path):
    text = run("predict", nile, "--time", "1880-01-01:1900-01-01:5", "--draws", 8, "--out", tmp_path / "p.nc")
    assert "8 draws at 5 times" in text and "1880-01-01" in text and "1900-01-01" in text and "wrote" in text
    tree = read_tree(tmp_path / "p.nc")
    assert dict(tree["posterior_predictive"]["discharge"].sizes) == {"chain": 1, "draw": 8, "time": 5}
    assert tree.attrs["model"] == "latent-sde"


def test_predict_to_zarr_and_by_range(waves, tmp_path):
    run("predict", waves / "run", "--from", "-1", "--to", "2", "--count", 4, "--draws", 3, "--out", tmp_path / "p.zarr")
    time = read_tree(tmp_path / "p.zarr")["posterior_predictive"]["time"].values
    np.testing.assert_allclose(time, [-1.0, 0.0, 1.0, 2.0], rtol=0, atol=1e-12)


def test_predict_equals_the_python_call_and_the_seed_decides(waves, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run("predict", waves / "run", "--time=-1,0.5", "--draws", 4, "--seed", seed, "--out", tmp_path / f"{name}.nc")
    a, b, c = (read_tree(tmp_path / f"{name}.nc")["posterior_predictive"]["y"].values for name in "abc")
    ours = api.load(waves / "run").predict(time=[-1.0, 0.5], draws=4, seed=3)["posterior_predictive"]["y"].values
    assert (a == b).all() and (a == ours).all() and (a != c).any()


def test_predict_given_other_data(waves, tmp_path):
    write(api.open_dataset("oscillator", **TINY).isel(series=[7]), tmp_path / "new.nc")
    text = run("predict", waves / "run", tmp_path / "new.nc", "--time", "13", "--draws", 4)
    assert "1 series" in text and "series 7" in text


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--time", "5"), "'5' is not a date: the data's times are dates"),
        (("--time", "1900-01-01", "--to", "1990"), "--time cannot go with --from"),
        (("--count", "3"), "--from and --count need --to"),
        (("--time", "1900-01-01", "--out", "p.txt"), "cannot write files called 'p.txt'"),
        (("co2",), "discharge"),
    ],
)
def test_predict_refuses(nile, tmp_path, monkeypatch, arguments, what):
    monkeypatch.chdir(tmp_path)
    text = run("predict", nile, *arguments, code=2)
    assert text.startswith("error [") and what in text and list(tmp_path.iterdir()) == []


def test_generate(nile, tmp_path):
    text = run("generate", nile, "--time", "1900-01-01,1901-01-01", "--draws", 7, "--out", tmp_path / "g.nc")
    assert "7 draws at 2 times" in text
    assert read_tree(tmp_path / "g.nc")["prior_predictive"]["discharge"].sizes["draw"] == 7


def test_score_prints_the_table_and_json(waves, tmp_path):
    text = run("score", waves / "run", waves / "test.nc", "--out", tmp_path / "s.nc")
    assert "persistence" in text and "cov 90 %" in text and "best baseline" in text
    found = json.loads(run("score", waves / "run", waves / "test.nc", "--json"))
    row = next(r for r in found["rows"] if r["forecaster"] == "model" and r["channel"] == "all")
    stored = read(tmp_path / "s.nc")
    assert row["crps"] == pytest.approx(float(stored["crps"].sel(forecaster="model", channel="all")), rel=1e-12)
    assert found["model_wins"] == stored.attrs["model_wins"]


def test_score_after_a_time_with_a_season(nile):
    text = run("score", nile, nile.parent / "short.nc", "--after", "1889-12-31", "--season", "1826.25D")
    assert "seasonal" in text and "n = 11" in text
    assert "cannot read the duration" in run("score", nile, "nile", "--after", "1890", "--season", "long", code=2)


def test_score_says_where_the_data_were_seen_and_where_the_model_loses(nile):
    result = CliRunner().invoke(app, ["score", str(nile), str(nile.parent / "short.nc")])
    assert result.exit_code == 0 and "19 of 30 rows to be scored are among the data" in result.output


def test_a_model_that_loses_is_told_so(waves, capsys):
    from sciinfer.commands.scores import print_scores

    fitted = api.load(waves / "run")
    with __import__("torch").no_grad():
        fitted.model.likelihood.log_noise.fill_(4.0)  # far too wide
    print_scores(fitted.score(read(waves / "test.nc")))
    text = capsys.readouterr().out
    assert "LOSES to the best baseline" in text and "The model loses to its baseline. Use " in text


def test_check_in_sample_and_held_out(waves, tmp_path):
    run("predict", waves / "run", "--draws", 60, "--out", tmp_path / "p.nc")
    text = run("check", tmp_path / "p.nc")
    assert "in 90 %" in text and re.search(r"\n(calibrated|over|under)", text)
    found = json.loads(run("check", tmp_path / "p.nc", "--held-out", waves / "test.nc", "--json")) if False else None
    assert found is None
    report = json.loads(run("check", tmp_path / "p.nc", "--json"))
    assert report["variables"]["y"]["n"] > 20 and 0.5 < report["variables"]["y"]["coverage"]["0.9"] <= 1.0


def test_check_of_series_with_their_own_times(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["star,t,flux"] + [f"{s},{t:.3f},{rng.normal():.4f}" for s in "ab" for t in np.sort(rng.uniform(0, 9, 25))]
    (tmp_path / "stars.csv").write_text("\n".join(lines) + "\n")
    names = ("--time", "t", "--series", "star")
    run("fit", tmp_path / "stars.csv", "--out", tmp_path / "run", *names, *LINEAR)
    run("predict", tmp_path / "run", "--draws", 40, "--out", tmp_path / "p.nc")
    for extra in ((), ("--held-out", tmp_path / "stars.csv")):
        assert json.loads(run("check", tmp_path / "p.nc", "--json", *extra))["variables"]["flux"]["n"] == 50


def test_on_grid_puts_every_value_at_its_own_label():
    predicted = xr.Dataset(
        {"y": (("chain", "draw", "id", "t"), np.zeros((1, 2, 2, 3)))}, {"id": ["b", "a"], "t": [0.0, 1.0, 2.0]}
    )
    ragged = xr.Dataset(
        {"y": ("obs", [1.0, 2.0, 3.0]), "n": ("id", [2, 1], {"sample_dimension": "obs"})},
        {"t": ("obs", [0.0, 2.0, 1.5]), "id": ["a", "b"]},
    )
    tree = xr.DataTree.from_dict({"posterior_predictive": predicted})
    found = on_grid(ragged, tree)["y"]
    np.testing.assert_array_equal(found.values, [[np.nan] * 3, [1.0, np.nan, 2.0]])


def test_check_of_something_else(nile):
    assert "no group 'posterior_predictive'" in run("check", nile / "data.nc", code=2)


def test_report_with_held_out_data(waves, tmp_path):
    text = run("report", waves / "run", "--held-out", waves / "test.nc", "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "best baseline" in text and "report" in text
    assert "first 4 of 6 series" in page and "persistence" in page
    run("report", waves / "run")
    assert (waves / "run" / "report.html").is_file()


# -- the report's own parts -----------------------------------------------------------------------------------------


def test_report_of_many_times_takes_a_selection(nile):
    schema = api.load(nile).schema
    times = np.datetime64("1871-01-01", "ns") + np.arange(10_000) * np.timedelta64(1, "D")
    ds = xr.Dataset({"discharge": ("time", np.zeros(10_000))}, {"time": times})
    chosen, left = _times(schema, ds, None, 100)
    assert len(chosen) <= MOST_DATA_TIMES + 100 and left > 0 and chosen[0] == times[0] and chosen[-1] == times[-1]


def test_same_series_are_found_by_label(waves):
    schema = api.load(waves / "run").schema
    ds = read(waves / "test.nc")
    part = ds.isel(series=[3, 1])
    np.testing.assert_array_equal(same_series(ds, part, schema)["series"], ds["series"].values[[1, 3]])
    assert first_series(ds, schema, 2).sizes["series"] == 2


def test_report_of_wide_data_keeps_within_its_budget(monkeypatch, tmp_path, waves):
    from sciinfer import run_report

    monkeypatch.setattr(run_report, "_BUDGET", 100_000)
    asked = []
    fitted = api.load(waves / "run")
    predict = type(fitted).predict
    monkeypatch.setattr(
        type(fitted), "predict", lambda self, d, **k: asked.append((d.sizes["series"], k)) or predict(self, d, **k)
    )
    write_run_report(fitted, tmp_path / "r.html")
    series, options = asked[0]
    assert series * len(options["time"]) * options["draws"] <= 100_000


# -- solve ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def scan(tmp_path) -> Path:
    rng = np.random.default_rng(1)
    x = np.linspace(0, 1, 6)
    C = np.exp(-((x[:, None] - x) ** 2) / 0.1) + 1e-6 * np.eye(6)
    A = rng.normal(size=(4, 6))
    y = A @ np.linalg.cholesky(C) @ rng.normal(size=6)
    ds = xr.Dataset(
        {
            "y": ("datum", y),
            "A": (("datum", "x"), A),
            "m": ("x", np.ones(6)),
            "C": (("x", "x2"), C),
            "sd": ("datum", np.full(4, 0.1)),
        },
        {"x": x},
    )
    write(ds, tmp_path / "scan.nc")
    np.savez(tmp_path / "A.npz", A=A)
    return tmp_path


def test_solve_is_the_closed_form(scan):
    run(
        "solve",
        scan / "scan.nc",
        "--matrix",
        "A",
        "--noise",
        "sd",
        "--prior-mean",
        "m",
        "--prior-cov",
        "C",
        "--out",
        scan / "x.nc",
    )
    ds, tree = read(scan / "scan.nc"), read_tree(scan / "x.nc")
    A, C = ds["A"].values, ds["C"].values
    gain = C @ A.T @ np.linalg.inv(A @ C @ A.T + 0.01 * np.eye(4))
    np.testing.assert_allclose(tree["sample_stats"]["mean"], 1 + gain @ (ds["y"].values - A.sum(1)), rtol=1e-8)
    np.testing.assert_allclose(tree["sample_stats"]["sd"] ** 2, np.diag(C - gain @ A @ C), rtol=1e-6)
    np.testing.assert_array_equal(tree["posterior"]["x"], ds["x"])
    assert tree["posterior"]["signal"].dims == ("chain", "draw", "x")


def test_solve_with_a_matrix_from_a_file_and_options(scan):
    shared = (scan / "scan.nc", "--noise", "0.1", "--measurement", "y")
    one = run("solve", *shared, "--operator", scan / "A.npz", "--prior-cov", "C")
    two = run(
        "solve",
        *shared,
        "--matrix",
        "A",
        "--prior",
        "gaussian",
        "--prior-set",
        "covariance=@C",
        "--prior-set",
        "mean=0",
    )
    assert "closed form" in one and one.split()[-18:] == two.split()[-18:]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--noise", "1"), "give the operator as --matrix VAR or as --operator NAME"),
        (("--noise", "1", "--matrix", "B", "--prior-cov", "C"), "variable 'B'"),
        (("--noise", "0", "--matrix", "A", "--prior-cov", "C"), "must be positive and finite"),
        (("--noise", "1", "--matrix", "m", "--prior-cov", "C"), "a matrix has two dims"),
        (("--noise", "1", "--matrix", "A"), "covariance or a factor"),
        (("--noise", "1", "--operator", "convolutoin", "--prior-cov", "C"), "did you mean convolution"),
        (("--noise", "1", "--operator", "convolution", "--prior-cov", "C"), "'kernel' and 'shape'"),
        (("--noise", "1", "--matrix", "A", "--prior-set", "colour=1"), "cannot be built"),
    ],
)
def test_solve_refuses(scan, arguments, what):
    text = run("solve", scan / "scan.nc", *arguments, code=2)
    assert text.startswith("error [") and what in text


def test_colours_only_where_wanted(monkeypatch, nile):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[31m" in run("predict", "nowhere", code=2)
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run("predict", "nowhere", code=2)
