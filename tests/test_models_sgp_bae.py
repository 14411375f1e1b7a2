"""The sparse-GP Bayesian autoencoder: exact where it can be, kept draws, the shared checks, learning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, move, sample_batch
from support.model_walk import stream as fixed

import sciinfer as si
from sciinfer.errors import ConfigError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.sgp_bae import SGPBAE, sgp_bae
from sciinfer.models.sparse_gp_vae_core import gram
from sciinfer.random import numpy_generator

F64 = torch.float64
TINY = {"latent": 2, "inducing": 4, "start": 3, "burn": 4, "draws": 3, "thin": 1, "refine": 4}


@pytest.mark.parametrize("options", [{}, {"hidden": 3, "likelihood": "poisson"}])
def test_the_shared_checks(options: dict) -> None:
    batch = sample_batch(options.get("likelihood", "gaussian"))
    check_model(lambda seed=0: sgp_bae(SCHEMA, seed=seed, **TINY, **options), batch)


@torch.no_grad()
def test_with_known_parameters_it_is_the_exact_posterior_whatever_the_encoder_says() -> None:
    """One latent, linear decoder, Gaussian noise, an inducing point at every time: Gaussian-process regression."""
    t = torch.tensor([0.0, 0.7, 1.5, 3.0, 4.0], dtype=F64)
    y = torch.stack([t.sin(), -0.5 * t.sin() + 0.2], 1)
    model = sgp_bae(SCHEMA, latent=1, inducing=5, refine=60, noise=0.4)
    move(model, 0.3)  # the encoder knows nothing
    model.sparse.inducing.copy_(t[:, None])
    n, query = 8000, torch.tensor([[0.3, 2.0, 6.0]], dtype=F64)
    found = model.predict(SeriesBatch.of([t], [y]), query, draws=n, generator=fixed("p")).latent
    assert found is not None
    covariances, decoder = model.core.covariances, model.core.decoder
    K = gram(covariances, t[:, None], t[:, None])[0]
    k, prior = (
        gram(covariances, query[0, :, None], t[:, None])[0],
        gram(covariances, query[0, :, None], query[0, :, None])[0],
    )
    weight, noise = decoder.weight[:, 0], model.core.likelihood.noise  # type: ignore[union-attr]
    J = float((weight / noise).square().sum())
    shift = ((y - decoder.bias) * weight / noise.square()).sum(1)  # type: ignore[operator]
    inner = torch.linalg.inv(K + torch.eye(5, dtype=F64) / J)
    mean = k @ inner @ (shift / J)
    sd = (prior - k @ inner @ k.mT).diagonal().sqrt()
    assert float(((found[:, 0, :, 0].mean(0) - mean) / sd).abs().max()) < 4.5 / n**0.5 + 0.01
    assert float((found[:, 0, :, 0].std(0) / sd - 1).abs().max()) < 0.05


def waves(series: int = 8, rows: int = 24) -> tuple[xr.Dataset, np.ndarray, np.ndarray]:
    g = numpy_generator(0, "waves")
    time = np.sort(g.uniform(0, 20, rows))
    phase = g.uniform(0, 2 * np.pi, (series, 1))
    truth = np.stack([np.sin(time / 2 + phase), np.cos(time / 2 + phase)], -1)
    y = truth + 0.1 * g.normal(size=truth.shape)
    hidden = g.random(y.shape[:2]) < 0.3
    y[hidden] = np.nan
    coords = {"series": np.arange(series), "time": time}
    return xr.Dataset({"y": (("series", "time", "c"), y)}, coords=coords), truth, hidden


def test_fit_keeps_draws_saves_loads_and_predicts(tmp_path: Path) -> None:
    ds = waves(3, 8)[0]
    fitted = si.fit(ds, model="sgp-bae", options={**TINY, "batch": 2}, progress="silent")
    model = fitted.model
    assert isinstance(model, SGPBAE)
    assert int(model.count) == 3
    assert bool((model.draws.std(0) > 0).all())
    fitted.save(tmp_path / "m")
    again = si.load(tmp_path / "m")
    assert torch.equal(again.model.state_dict()["draws"], model.draws)
    ask = {"time": [0.5, 3.0, 30.0], "draws": 5}
    first, second = fitted.predict(**ask), again.predict(**ask)
    xr.testing.assert_identical(first["posterior"].to_dataset(), second["posterior"].to_dataset())


def test_a_prediction_leaves_the_weights_alone() -> None:
    model, batch = sgp_bae(SCHEMA, **TINY), sample_batch()
    model.initialise(batch)
    before = {name: part.clone() for name, part in model.state_dict().items()}
    with torch.no_grad():
        model.predict(batch, torch.zeros(3, 1, dtype=F64), draws=2, generator=fixed("p"))
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())


@pytest.mark.parametrize(("options", "says"), [({"burn": -1}, "burn"), ({"draws": 0}, "draws"), ({"step": 0}, "step")])
def test_wrong_options_are_refused(options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        sgp_bae(SCHEMA, **options)


@pytest.mark.slow
def test_it_learns() -> None:
    """Gaps are filled better than by a line between neighbours; intervals cover."""
    ds, truth, hidden = waves()
    fitted = si.fit(ds, model="sgp-bae", progress="silent")
    found = fitted.predict(draws=200)["posterior"]["y"].isel(chain=0)
    error = float(np.square(found.mean("draw").values - truth)[hidden].mean())
    line = ds["y"].interpolate_na("time", use_coordinate=True, fill_value="extrapolate").values
    assert error < min(0.5 * float(np.square(line - truth)[hidden].mean()), 0.05)
    low, high = found.quantile([0.05, 0.95], dim="draw").values
    assert 0.8 < float(((low <= truth) & (truth <= high))[hidden].mean()) < 0.99
    # the true noise is .1, of these rows .105 and .092; a chain four times as long has these means and deviations
    model = fitted.model
    assert isinstance(model, SGPBAE)
    noise = model.core.likelihood.noise.numpy() * fitted.schema.scale  # type: ignore[union-attr]
    assert bool((np.abs(noise - [0.102, 0.075]) < 3 * 0.011).all())
