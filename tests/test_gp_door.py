"""The one door to Gaussian processes, and the model behind the facade."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import sciinfer as si
from sciinfer.errors import ConfigError, StateError
from sciinfer.gp import (
    GP,
    RBF,
    IntegratedWiener,
    MarkovGP,
    Matern32,
    Separable,
    averages,
)

F64 = torch.float64
TIME = np.array([3.0, 0.2, 1.7, 1.7, 9.5, 4.1, 1.7, 6.6, 0.9])
Y = np.array([0.3, -1.1, 0.8, np.nan, 0.1, -0.4, 1.2, 0.9, 0.0])
AT = [5.0, 1.7, -1.0, 12.0, 3.0, 5.0]


def sampled(n: int = 150):
    time = np.sort(np.random.default_rng(3).uniform(0, 40, n))
    truth = MarkovGP(Matern32(2.0, 1.5), noise=0.1)
    f = truth.condition([], []).sample(time, 1, seed=5)[0].numpy()
    return time, f + 0.3 * np.random.default_rng(0).normal(size=n) + 4.0


def test_the_door_takes_the_line_the_dense_factor_or_vecchia():
    from sciinfer.gp.spatial import Matern

    line = GP(Matern32(2.0), noise=0.2)
    with pytest.raises(StateError):
        line.explain()
    value = line.log_likelihood(TIME, Y)
    assert value.item() == pytest.approx(MarkovGP(Matern32(2.0), noise=0.2).log_likelihood(TIME, Y).item(), rel=1e-14)
    assert line.explain().startswith("markov: inputs on a line")
    assert line.certify(TIME, Y) < 1e-9
    assert "nats of the dense log-likelihood" in line.explain()
    few = GP(Matern32(2.0), noise=0.2, way="dense")
    assert few.log_likelihood(TIME[:, None], Y).item() == pytest.approx(value.item(), rel=1e-10)
    plane, X = GP(Matern(1.5, 0.7), noise=0.1), np.random.default_rng(3).uniform(size=(40, 2))
    z = np.sin(5 * X).sum(1)
    assert plane.condition(X, z).mean(X[:3]).shape == (3,)
    assert plane.explain().startswith("dense: 40 points of 2 inputs")
    near = GP(Matern(1.5, 0.7), noise=0.1, way="vecchia", neighbours=20)
    exact = plane.log_likelihood(X, z).item()
    assert near.log_likelihood(X, z).item() == pytest.approx(exact, abs=0.5)
    assert near.certify(X, z) < 0.5
    assert near.explain().startswith("vecchia: asked for")


def test_the_door_fits_and_passes_gradients():
    time, y = sampled(80)
    for way in ("markov", "dense"):
        gp = GP(Matern32(1.0), noise=1.0, mean="constant", way=way)
        gp.log_likelihood(time, y).backward()
        assert all(p.grad is not None and bool((p.grad != 0).all()) for p in gp.parameters())
        fitted = gp.fit(time, y)
        assert fitted.report.converged
        assert "fit converged" in fitted.explain()
        assert fitted.log_likelihood(time, y).item() == pytest.approx(fitted.report.objective, rel=1e-9)
        assert gp.log_noise.item() == 0.0


def test_the_door_says_how_exact_a_fit_is():
    from sciinfer.gp.spatial import Matern

    X = np.random.default_rng(3).uniform(size=(60, 2))
    z = np.sin(5 * X).sum(1)
    near = GP(Matern(1.5, 0.7), noise=0.1, way="vecchia", neighbours=12).fit(X, z, iterations=20, rounds=1)
    assert near.explain().startswith("vecchia: asked for; 12 nearest predecessors; twice the neighbours change")
    assert near.certify(X, z) < 2.0
    noise = np.linspace(0.1, 0.3, len(TIME))
    each = GP(RBF(2.0), noise=noise, mean=0.3).fit(TIME, Y, iterations=5)
    alone = MarkovGP(each.kernel, noise=noise, mean=0.3).log_likelihood(TIME, Y).item()
    assert each.report.objective == pytest.approx(alone, rel=1e-12)
    assert "kernel approximated within" in each.explain()
    assert "on up to 200 points within" in each.explain()
    assert each.certify(TIME, Y) < 1e-9
    line = GP(IntegratedWiener(0.4), noise=0.1)
    assert math.isnan(line.certify(TIME, Y))
    assert line.explain().endswith("no dense form to compare with")
    exposed = GP(Matern32(), noise=0.1)
    assert math.isnan(exposed.certify(averages([0.0, 1.0], [2.0, 2.5]), [0.3, 0.1]))


def test_the_door_refuses_what_no_room_fits():
    from sciinfer.gp.spatial import Matern

    with pytest.raises(ConfigError, match="unknown back-end"):
        GP(Matern32(), way="exact")
    with pytest.raises(ConfigError, match="no state-space form"):
        GP(Matern(1.5), way="markov").log_likelihood(TIME, Y)
    with pytest.raises(ConfigError, match="MarkovGP"):
        GP(Separable(Matern32(2.0), [[1.0, 0.6], [0.6, 2.0]]))


def test_the_model_gp_through_the_facade(tmp_path):
    """Dates, durations and products in the kernel's text; the summed kernels come back as ``latent``."""
    months = pd.date_range("2000-01-01", periods=80, freq="30D")
    year = np.arange(80) * 30 / 365.25
    noise = 0.2 * np.random.default_rng(0).normal(size=80)
    data = xr.DataArray(3 * year + 2 * np.sin(2 * np.pi * year) + noise, {"time": months}, ["time"], "level")
    kernel = "integrated-wiener + matern32(lengthscale=3650D) * cosine(period=365.25D)"
    options = {"kernel": kernel, "noise": 0.1}
    fitted = si.fit(data, model="gp", options=options, training={"steps": 12}, progress="silent")
    ahead = pd.to_datetime(["2006-10-01", "2003-01-15"])
    tree = fitted.predict(time=ahead, draws=40)
    found = tree["posterior"]["level"].mean(("chain", "draw")).values
    at = np.array([(day - months[0]).days for day in ahead]) / 365.25
    np.testing.assert_allclose(found, 3 * at + 2 * np.sin(2 * np.pi * at), atol=0.5)
    parts = tree["posterior"]["latent"]
    assert parts.sizes["latent_dim"] == 2
    season = parts.isel(latent_dim=1).mean(("chain", "draw")).values / parts.isel(latent_dim=1).std().item()
    assert np.sign(season).tolist() == np.sign(np.sin(2 * np.pi * at)).tolist()
    fitted.save(tmp_path / "fit")
    again = si.load(tmp_path / "fit").predict(time=ahead, draws=40)
    np.testing.assert_array_equal(again["posterior"]["level"].values, tree["posterior"]["level"].values)


@pytest.mark.parametrize("options", [{"noise": -1.0}, {"latent": 3}, {"kernel": "matern32 * wiener"}])
def test_the_model_gp_names_a_bad_option(options):
    with pytest.raises(ConfigError, match=r"noise|no option|factor"):
        si.fit(si.open_dataset("nile"), model="gp", options=options, progress="silent")
