"""Against posterior collapse: the report, the check of the diffusion, the decoder that cannot ignore, relevance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.model_walk import SCHEMA, check_model, sample_batch

import sciinfer as si
from sciinfer.diagnostics.latent_use import latent_use
from sciinfer.errors import ConfigError, DataError, StateError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.latent_sde import latent_sde
from sciinfer.models.path_checks import quadratic_variation
from sciinfer.nets import InverseLipschitzDecoder
from sciinfer.random import generator

F64 = torch.float64


def test_use_of_gaussian_dimensions_in_closed_form():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(1, 4000, 3)) * np.sqrt([3.0, 1.0, 0.0])
    use = latent_use(data + rng.normal(size=(40, 4000, 3)))
    np.testing.assert_allclose(use.share, [0.75, 0.5, 0.0], atol=0.02)
    np.testing.assert_allclose(use.information, [0.5 * np.log(4), 0.5 * np.log(2), 0.0], atol=0.03)
    assert use.active.tolist() == [True, True, False]


def test_use_asks_for_draws_and_numbers():
    with pytest.raises(DataError, match="2 draws"):
        latent_use(np.zeros((1, 3, 2)))
    draws = np.zeros((3, 3, 2))
    draws[1, 1, 1] = np.nan
    with pytest.raises(DataError, match="finite"):
        latent_use(draws)


def _path_model(spread=1.0):
    model = latent_sde(SCHEMA, latent=2, hidden=4, width=4, noise=0.05)
    with torch.no_grad():
        model.process.linear.rotation.zero_()
        model.process.linear.log_damping.fill_(np.log(spread))
        model.decoder.weight.copy_(torch.eye(2))
        model.posterior.tilted.follow()
    return model


def _drawn_from(model, series=40, rows=8):
    times = torch.arange(rows, dtype=F64) * 0.5
    drawn = model.generate(times, draws=series, generator=generator(0, "data")).observation[:, 0]
    return SeriesBatch.of([times] * series, list(drawn))


def test_the_diffusion_of_the_data_gives_one_and_a_collapsed_one_more():
    model = _path_model()
    batch = _drawn_from(model)
    right = quadratic_variation(model, batch, generator=generator(0, "v"))
    np.testing.assert_allclose(right, [1.0, 1.0], atol=0.15)
    small = quadratic_variation(_path_model(0.05), batch, generator=generator(0, "v"))
    assert float(small.min()) > 3.0


def test_one_time_has_no_variation():
    batch = SeriesBatch.of([torch.zeros(1, dtype=F64)], [torch.zeros(1, 2, dtype=F64)])
    assert quadratic_variation(_path_model(), batch, generator=generator(0, "v")).isnan().all()


def test_no_two_states_look_alike_through_the_inverse_lipschitz_decoder():
    decoder = InverseLipschitzDecoder(3, 5, 16, generator=generator(0, "d"))
    with torch.no_grad():
        decoder.log_gain.fill_(1.0)
        decoder.log_scale.normal_(generator=generator(1, "d"))
    z = torch.randn(200, 3, generator=generator(2, "z"), dtype=F64) * 3
    apart, seen = (torch.cdist(x, x)[~torch.eye(200, dtype=torch.bool)] for x in (z, decoder(z).detach()))
    assert float((seen / apart).min()) >= 0.5
    with pytest.raises(ConfigError, match="channels"):
        InverseLipschitzDecoder(3, 2, 4, generator=generator(0, "d"))


@pytest.mark.parametrize("options", [{"decoder": "inverse-lipschitz"}, {"ard": True}])
def test_the_options_pass_the_walk(options):
    build = lambda seed=0: latent_sde(SCHEMA, seed=seed, latent=2, hidden=6, width=8, **options)  # noqa: E731
    check_model(build, sample_batch())


def test_relevance_needs_the_linear_decoder():
    with pytest.raises(ConfigError, match="ard"):
        latent_sde(SCHEMA, ard=True, decoder="mlp")


def _two_channels():
    t = np.arange(60.0)
    rng = np.random.default_rng(0)
    path = np.sin(t / 4)[:, None] * [1.0, -0.5] + 0.1 * rng.normal(size=(60, 2))
    return si.open_dataset, t, path


@pytest.mark.slow
def test_relevance_shrinks_what_is_not_needed():
    import xarray as xr

    _, t, path = _two_channels()
    ds = xr.Dataset({"a": ("time", path[:, 0]), "b": ("time", path[:, 1])}, coords={"time": t})
    sizes = {}
    for ard in (False, True):
        fitted = si.fit(ds, options={"latent": 5, "ard": ard, "hidden": 8}, training={"steps": 100, "validation": 0.0,
                        "learning_rate": 0.02}, progress="silent")  # fmt: skip
        sizes[ard] = fitted.model.decoder.weight.detach().norm(dim=0).sort().values
    assert float(sizes[True][:2].max()) < 0.5 * float(sizes[False][:2].max())


def test_the_report_of_a_fit():
    import xarray as xr

    _, t, path = _two_channels()
    ds = xr.Dataset({"a": ("time", path[:, 0]), "b": ("time", path[:, 1])}, coords={"time": t})
    fitted = si.fit(ds, options={"latent": 2, "hidden": 8}, training={"steps": 5}, progress="silent")
    report = fitted.latent_report(draws=20)
    assert set(report) == {"share", "information", "active", "quadratic_variation"}
    assert bool(report["active"].any())
    xr.testing.assert_identical(report, fitted.latent_report(draws=20))
    with pytest.raises(StateError, match="no latent path"):
        si.fit(ds, "s5", options={"width": 8}, training={"steps": 1}, progress="silent").latent_report()
