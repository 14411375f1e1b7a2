"""Several modalities: shared and private latents, potentials that add, two forms of one posterior."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import check_model, move, stream, terms_of

import sciinfer as si
from sciinfer.errors import ConfigError, TimeError
from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.mm_gpvae import mm_gpvae
from sciinfer.random import generator

F64 = torch.float64
TINY = {"hidden": 5, "latent_shared": 1, "likelihood": {"n": "poisson"}}
SCHEMA = Schema(
    time=TimeAxis("t", "number", 0.0, 1.0),
    series="series",
    variables=(Variable("n", ("unit",), (2,)), Variable("y")),
    channels=(Channel("n", (0,)), Channel("n", (1,)), Channel("y")),
)


def _batch(lengths=(5, 1, 8), step=None):
    """Counts and a real channel, ragged, with gaps; on a grid of ``step`` or at any times."""
    g = generator(0, "data")
    times, values = [], []
    for n in lengths:
        t = torch.rand(n, generator=g, dtype=F64).mul(4).sort().values
        if step is not None:
            t = step * torch.arange(n, dtype=F64) + step * (n == 8)
        v = torch.cat(
            [
                torch.randn((n, 2), generator=g, dtype=F64).abs().mul(2).round(),
                torch.randn((n, 1), generator=g, dtype=F64),
            ],
            1,
        )
        if n > 3:
            t[2], v[1, 0], v[3, :2], v[0, 2] = t[1], torch.nan, torch.nan, torch.nan
        times.append(t)
        values.append(v)
    return SeriesBatch.of(times, values)


def _model(seed=0, **options):
    return move(mm_gpvae(SCHEMA, seed=seed, **{**TINY, **options}), seed=seed)


@pytest.mark.parametrize("kernel", ["matern32", "rbf(order=4)"])
def test_walk_in_time(kernel):
    check_model(lambda seed=0: mm_gpvae(SCHEMA, seed=seed, kernel=kernel, **TINY), _batch())


@pytest.mark.parametrize("kernel", ["matern12", "rbf"])
def test_walk_in_fourier_form(kernel):
    check_model(lambda seed=0: mm_gpvae(SCHEMA, seed=seed, kernel=kernel, form="fourier", **TINY), _batch(step=0.5))


@pytest.mark.parametrize("name", ["matern12", "matern32", "matern52"])
def test_both_forms_agree(name):
    """Matérn kernels are exact in both: bound, moments, predictions in law."""
    batch = _batch(step=0.5)
    forms = [_model(kernel=name, form=form) for form in ("time", "fourier")]
    one, two = (terms_of(model, batch) for model in forms)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
    blank = batch.time.new_zeros(3, 0)
    moments = [model.infer(batch.drop_empty().padded(), blank).moments() for model in forms]
    torch.testing.assert_close(moments[0], moments[1], rtol=0, atol=1e-6)


@torch.no_grad()
def test_rbf_forms_agree_to_the_truncation_of_the_state():
    batch, blank = _batch(step=0.5), torch.zeros(3, 0, dtype=F64)
    padded = batch.drop_empty().padded()
    worst = []
    for order in (4, 8, 12):
        forms = [_model(kernel=f"rbf(lengthscale=1.5, order={order})", form=form) for form in ("time", "fourier")]
        (m1, v1), (m2, v2) = (model.infer(padded, blank).moments() for model in forms)
        worst.append(max(float((m1 - m2).abs().max()), float((v1 - v2).abs().max())))
        # the mean also carries the size of the potentials
        scale = 1 + max(float(p.abs().sum(1).max()) for p in forms[0].potentials(padded))
        assert worst[-1] < scale * max(kernel.truncation() for kernel in forms[0].process.kernels)
    assert worst[0] > 10 * worst[1] > 100 * worst[2]


def test_the_divergence_is_that_of_the_dense_gaussians():
    model, batch = _model(kernel="matern32"), _batch((6,), step=0.5)
    padded = batch.padded()
    q, sites = model.infer(padded, padded.time[:, :0]), model.potentials(padded)
    lag, total = padded.time[0, :, None] - padded.time[0], 0.0
    mean, variance = q.moments()
    for k, kernel in enumerate(model.process.kernels):
        # a time that is there twice makes K singular: a little noise, the same for prior and posterior
        K = kernel.covariance(lag) + 1e-9 * torch.eye(len(lag), dtype=F64)
        C = torch.linalg.inv(torch.linalg.inv(K) + torch.diag(sites.precision[0, :, k]))
        m = C @ sites.shift[0, :, k]
        torch.testing.assert_close(mean[0, :, k], m, rtol=0, atol=1e-6)
        torch.testing.assert_close(variance[0, :, k], C.diagonal(), rtol=0, atol=1e-6)
        p, posterior = (torch.distributions.MultivariateNormal(a, b) for a, b in ((0 * m, K), (m, C)))
        total = total + torch.distributions.kl_divergence(posterior, p)
    torch.testing.assert_close(q.divergence[0], total, rtol=0, atol=1e-6)


def test_potentials_add_and_a_missing_modality_says_nothing():
    model, batch = _model(), _batch((6,), step=0.5)

    def sites(keep):
        mask = batch.mask & torch.tensor(keep)
        return model.potentials(batch._replace(mask=mask).padded())

    both, spikes, real, none = (
        sites(keep) for keep in ([True] * 3, [True, True, False], [False, False, True], [False] * 3)
    )
    for together, one, two, blank in zip(both, spikes, real, none, strict=True):
        torch.testing.assert_close(together, one + two, rtol=0, atol=1e-14)
        assert not blank.any()
        # shared, of n, of y: what a modality does not have, it does not touch
        assert not one[..., 2].any() and not two[..., 1].any()
    assert bool((both.precision[..., 0] >= torch.maximum(spikes.precision, real.precision)[..., 0]).all())
    assert model.names == ["shared[0]", "n[0]", "y[0]"]


@pytest.mark.parametrize("form", ["time", "fourier"])
def test_without_data_the_prior(form):
    model, batch = mm_gpvae(SCHEMA, form=form, kernel="rbf(lengthscale=1.5)", **TINY), _batch(step=0.5)
    blank = batch._replace(mask=torch.zeros_like(batch.mask))
    fit, divergence = model.elbo_terms(blank, generator=None)
    assert not fit.any() and float(divergence.abs().max().detach()) < 1e-12
    times = torch.tensor([[0.0, 1.0, 6.0]], dtype=F64).expand(3, 3)
    with torch.no_grad():
        z = model.predict(blank, times, draws=4000, generator=stream("z")).latent
        prior = model.generate(times[0], draws=4000, generator=stream("p")).latent
    for draws in (z[:, 0], prior[:, 0]):
        assert float(draws.mean(0).abs().max()) < 4.5 / 4000**0.5
        assert float((draws.square().mean(0) - 1).abs().max()) < 4.5 * (2 / 4000) ** 0.5
        lag = (draws[:, 0] * draws[:, 1]).mean(0)
        assert float((lag - np.exp(-0.5 / 1.5**2)).abs().max()) < 4.5 * (2 / 4000) ** 0.5


def test_a_modality_alone_gives_a_bound_too():
    """Hiding potentials changes q, not the model: every such bound lies below the best one, and all are heard at 0."""
    batch = _batch(step=0.5)
    model = _model(alone=1.0, decoder="linear")
    padded = batch.drop_empty().padded()
    heard = model._heard(padded, stream("heard"))
    assert heard.shape == (3, 2) and bool((heard.sum(1) == 1).all())
    # a series without one of the modalities is never left without a word
    only = batch._replace(mask=batch.mask & torch.tensor([False, False, True]))
    assert bool((model._heard(only.padded(), stream("heard"))[:, 1] == 1).all())
    sites, whole = model.potentials(padded, heard), model.potentials(padded)
    assert torch.equal(sites.precision[..., 1:], whole.precision[..., 1:])
    assert bool((sites.precision[..., 0] <= whole.precision[..., 0]).all())
    assert _model(alone=0.0)._heard(padded, stream("heard")) is None
    # once training is over, all are heard
    torch.testing.assert_close(
        model.eval().elbo_terms(batch, generator=stream("heard")), model.elbo_terms(batch, generator=None)
    )


def test_fourier_needs_an_even_grid():
    with pytest.raises(TimeError, match="even grid"):
        _model(form="fourier").elbo_terms(_batch((8,)), generator=None)


def test_the_start_finds_what_is_shared():
    """Before any training: linear modalities, canonical correlations."""
    ds, z = _linear(100)
    options = {"latent_shared": 1, "latent_private": {"a": 1, "b": 1}, "decoder": "linear"}
    fitted = si.fit(ds, model="mm-gpvae", options=options, training={"steps": 0}, progress="silent")
    found = fitted.predict(draws=10)["posterior"]["latent"].mean(("chain", "draw")).values
    for k in range(3):
        assert np.corrcoef(found[..., k].ravel(), z[..., k].ravel())[0, 1] ** 2 > 0.9
    # one modality from the other: what it shares, not what is its own
    tree = fitted.predict(ds.assign(b=ds["b"] * np.nan), draws=40)["posterior_predictive"]["b"]
    draws = tree.stack(d=("chain", "draw")).transpose("series", "time", "j", "d").values
    error = ds["b"].values - draws.mean(-1)
    # the true shared latent alone leaves this much
    cause, b = z[..., 0].reshape(-1, 1), ds["b"].values.reshape(-1, 7)
    floor = np.mean((b - cause @ np.linalg.lstsq(cause, b, rcond=None)[0]) ** 2)
    assert np.mean(error**2) < 1.1 * floor < 0.9 * np.var(b)


def _linear(n, T=20, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(T) * 1.0
    root = np.linalg.cholesky(np.exp(-0.5 * ((t[:, None] - t) / 3) ** 2) + 1e-8 * np.eye(T))
    z = np.einsum("ij,snj->sin", root, rng.standard_normal((n, 3, T)))
    A, B = rng.standard_normal((2, 6)), rng.standard_normal((2, 7))
    a = z[..., :2] @ A + 0.5 * rng.standard_normal((n, T, 6))
    b = z[..., [0, 2]] @ B + 0.5 * rng.standard_normal((n, T, 7))
    dims = ("series", "time")
    return xr.Dataset({"a": ((*dims, "i"), a), "b": ((*dims, "j"), b)}, coords={"time": t, "series": np.arange(n)}), z


def test_fit_save_load_predict(tmp_path):
    ds = _linear(3, 8)[0]
    ds["n"] = (("series", "time"), np.random.default_rng(1).poisson(2.0, (3, 8)).astype(float))
    ds["a"][1, 3] = np.nan
    options = {"latent_private": {"b": 0}, "hidden": 4, "likelihood": {"n": "poisson"}}
    fitted = si.fit(ds, model="mm-gpvae", options=options, training={"steps": 3}, progress="silent")
    fitted.save(tmp_path / "run")
    one, two = (f.predict(time=[2.2, 9.0], draws=3) for f in (fitted, si.load(tmp_path / "run")))
    xr.testing.assert_identical(one["posterior_predictive"].to_dataset(), two["posterior_predictive"].to_dataset())
    counts = one["posterior_predictive"]["n"].values
    assert (counts == counts.round()).all() and set(fitted.model.names) == {"shared[0]", "shared[1]", "a[0]", "n[0]"}
    assert "lengthscale[shared[0]]" in fitted.summary()


@pytest.mark.parametrize(
    ("options", "variable"),
    [
        ({"form": "space"}, "form"),
        ({"decoder": {"z": "mlp"}}, "decoder"),
        ({"decoder": "cnn"}, "decoder"),
        ({"latent_shared": -1}, "latent_shared"),
        ({"latent_private": {"z": 1}}, "latent_private"),
        ({"latent_shared": 0, "latent_private": {"n": 0}}, "latent_private"),
        ({"kernel": "sho"}, "kernel"),
        ({"kernel": "rbf(variance=2.0)"}, "kernel"),
        ({"hidden": 0}, "hidden"),
        ({"noise": -1.0}, "noise"),
        ({"warmup": 2.0}, "warmup"),
        ({"alone": -0.1}, "alone"),
        ({"likelihood": {"z": "poisson"}}, "likelihood"),
    ],
)
def test_bad_options_are_named(options, variable):
    with pytest.raises(ConfigError) as caught:
        mm_gpvae(SCHEMA, **options)
    assert caught.value.variable == variable


def test_one_variable_and_no_shared_latent_are_allowed():
    ds, _ = _linear(20, 8)
    for names, options in ((["a"], {}), (["a", "b"], {"latent_shared": 0, "latent_private": 2})):
        fitted = si.fit(ds[names], model="mm-gpvae", options=options, training={"steps": 2}, progress="silent")
        assert np.isfinite(fitted.history.loss).all()


@pytest.mark.slow
@pytest.mark.parametrize(("form", "kernel", "steps"), [("fourier", "rbf", 1200), ("time", "matern52", 1000)])
def test_shared_latent_is_found_better_from_both_modalities_than_from_either(form, kernel, steps):
    """Spikes and a turning digit; R2 on trials that were not trained on, affine map fitted to those that were."""
    pytest.importorskip("sklearn", reason="the digits ship inside scikit-learn")
    bench = pytest.importorskip("benchmarks.two_modalities", reason="benchmarks/ is part of a checkout")
    data = si.open_dataset("two_modalities", truth=True, **bench.SIZE)
    r2 = bench.measure(data, form=form, kernel=kernel, steps=steps).r2
    assert r2["both"] >= 0.9
    assert r2["both"] > max(r2["spikes"], r2["image"])
    assert min(r2["spikes"], r2["image"]) > 0.5
