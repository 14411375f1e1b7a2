"""Autoencoders with a sparse Gaussian-process prior: exact limits, unbiased shares, the shared checks, learning."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, sample_batch
from torch import Tensor

import sciinfer as si
from sciinfer.errors import ConfigError, ShapeError
from sciinfer.gp.kernels import Matern32, Matern52
from sciinfer.gp.spatial import Matern, as_covariance
from sciinfer.likelihoods import Gaussian, JointLikelihood, Poisson
from sciinfer.models.sparse_gp_vae import nn_gp_vae, sparse_gp_vae
from sciinfer.models.sparse_gp_vae_core import RowBatch, RowGPVAE, gram, row_batch
from sciinfer.models.sparse_gp_vae_inducing import SparseGPVAE, inducing_points
from sciinfer.models.sparse_gp_vae_neighbours import NeighbourGPVAE
from sciinfer.processes import LatentGPs, condition_potentials
from sciinfer.processes.latent_gps import GaussianPath
from sciinfer.random import generator, numpy_generator
from sciinfer.statespace.sites import Sites

F64 = torch.float64
TINY = {"latent": 2, "hidden": 3}


def case(rows: int = 12) -> tuple[list, RowBatch]:
    """Two kernels of time; rows with a time twice, a missing entry, and a row without any."""
    g = generator(0, "case")
    t = torch.rand(rows, generator=g, dtype=F64).mul(6).sort().values
    t[3] = t[2]
    y = torch.randn(rows, 3, generator=g, dtype=F64)
    y[4], y[5, 0] = float("nan"), float("nan")
    return [Matern32(lengthscale=1.3), Matern52(lengthscale=0.7)], row_batch(t[:, None], y)


def exact(kernels: list, data: RowBatch, sites: Sites, query: Tensor | None = None) -> GaussianPath:
    """The engine's own posterior under the same potentials."""
    process, time = LatentGPs(kernels), data.x[..., 0]
    return condition_potentials(process, process.readout(), time, sites, time[:, :0] if query is None else query)


def everywhere(kernels: list, data: RowBatch) -> SparseGPVAE:
    """An inducing point at every distinct input."""
    at = data.x[0].unique(dim=0)
    covariances = [as_covariance(kernel) for kernel in kernels]
    model = SparseGPVAE(covariances, 3, inducing=len(at), inputs=1, generator=generator(0, "weights"))
    with torch.no_grad():
        model.inducing.copy_(at)
    return model


def neighbours(kernels: list, count: int, form: str) -> NeighbourGPVAE:
    covariances = [as_covariance(kernel) for kernel in kernels]
    return NeighbourGPVAE(covariances, 3, neighbours=count, posterior=form, generator=generator(0, "weights"))


# -- exact limits ----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("which", ["inducing", "neighbours"])
def test_all_points_give_the_bound_of_the_exact_gp_vae(which: str) -> None:
    kernels, data = case()
    model: RowGPVAE = everywhere(kernels, data) if which == "inducing" else neighbours(kernels, 11, "structured")
    sites = model.sites(data)
    mean, variance, divergence = model.posterior(data, sites)
    path = exact(kernels, data, sites)
    m, V = path.mean(path.bridge.at_data), path.cov(path.bridge.at_data)
    seen = data.rows
    torch.testing.assert_close(divergence, path.divergence, rtol=0, atol=1e-6)
    torch.testing.assert_close(mean[seen], m[seen], rtol=0, atol=1e-6)
    torch.testing.assert_close(variance[seen], V.diagonal(dim1=-2, dim2=-1)[seen], rtol=0, atol=1e-6)
    expected = model.expected(data, m, V.diagonal(dim1=-2, dim2=-1), None).sum(1) - path.divergence
    fit, kl = model.elbo(data)
    torch.testing.assert_close(fit - kl, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_fewer_inducing_points_say_less() -> None:
    kernels, data = case()
    full = everywhere(kernels, data)
    sites = full.sites(data)
    few = SparseGPVAE(full.covariances, 3, inducing=4, inputs=1, generator=generator(0, "weights"))
    few.place(data)
    variances = [float(model.posterior(data, sites)[1][data.rows].sum()) for model in (full, few)]
    assert variances[0] < variances[1]
    assert float(few.posterior(data, sites)[1].max()) <= 1 + 1e-12


@torch.no_grad()
@pytest.mark.parametrize("inputs", [1, 2])
def test_all_neighbours_give_the_exact_divergence_of_a_mean_field_posterior(inputs: int) -> None:
    g = generator(1, "plane")
    x, y = torch.randn(9, inputs, generator=g, dtype=F64), torch.randn(9, 2, generator=g, dtype=F64)
    covariances = [Matern(1.5, 0.8), Matern(0.5, 1.7)]
    model = NeighbourGPVAE(covariances, 2, neighbours=8, posterior="mean-field", generator=g)
    data = row_batch(x, y)
    mean, variance, divergence = model.posterior(data, model.sites(data))
    total = 0.0
    for k, K in enumerate(gram(covariances, x, x)):
        q = torch.distributions.MultivariateNormal(mean[0, :, k], torch.diag(variance[0, :, k]))
        p = torch.distributions.MultivariateNormal(torch.zeros(9, dtype=F64), K)
        total += float(torch.distributions.kl_divergence(q, p))
    assert float(divergence) == pytest.approx(total, abs=1e-8)


@torch.no_grad()
def test_markov_neighbours_are_exact_for_a_markov_prior() -> None:
    """One neighbour is all that an Ornstein-Uhlenbeck process needs."""
    from sciinfer.gp.kernels import Matern12

    _, data = case()
    kernels = [Matern12(lengthscale=1.3), Matern12(lengthscale=0.7)]
    model = neighbours(kernels, 1, "structured")
    sites = model.sites(data)
    divergence = model.posterior(data, sites)[2]
    torch.testing.assert_close(divergence, exact(kernels, data, sites).divergence, rtol=0, atol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("which", ["inducing", "neighbours"])
def test_draws_have_the_moments_of_the_exact_posterior(which: str) -> None:
    kernels, data = case()
    model: RowGPVAE = everywhere(kernels, data) if which == "inducing" else neighbours(kernels, 20, "structured")
    query = torch.tensor([[2.0, 7.0, 2.0, -1.0, float(data.x[0, 1, 0])]], dtype=F64)
    path = exact(kernels, data, model.sites(data), query)
    where = path.bridge.at_query
    n = 20_000
    found = model.latent(data, query[..., None], n, generator(0, "draws")).draws
    spread = path.cov(where).diagonal(dim1=-2, dim2=-1).sqrt()
    assert float(((found.mean(0) - path.mean(where)) / spread).abs().max()) < 5 / n**0.5
    assert float((found.std(0) / spread - 1).abs().max()) < 0.03
    assert torch.equal(found[:, :, 0], found[:, :, 2])
    # the two first points of the query are drawn jointly
    prior = path.sample(n, generator(1, "draws"), where)
    for k in range(2):
        ours, theirs = (torch.corrcoef(z[:, 0, [0, 3], k].mT)[0, 1] for z in (found, prior))
        assert abs(float(ours - theirs)) < 0.04


# -- shares of the rows ----------------------------------------------------------------------------------------------


def shared(which: str) -> tuple[RowGPVAE, RowBatch]:
    g = generator(2, "plane")
    x = torch.rand(24, 2, generator=g, dtype=F64)
    x[7] = x[3]  # a place twice
    y = torch.randn(24, 3, generator=g, dtype=F64)
    y[5], y[6, 1] = float("nan"), float("nan")
    covariances = [Matern(1.5, [0.3, 0.6]), Matern(2.5, 0.4)]
    if which == "inducing":
        model: RowGPVAE = SparseGPVAE(covariances, 3, inducing=6, inputs=2, generator=g)
        model.place(row_batch(x, y))
    else:
        model = NeighbourGPVAE(covariances, 3, neighbours=3, posterior=which, generator=g)
    return model, row_batch(x, y)


@torch.no_grad()
@pytest.mark.parametrize("which", ["inducing", "mean-field", "structured"])
def test_shares_of_the_rows_average_to_the_whole(which: str) -> None:
    model, data = shared(which)
    rows = data.rows[0].nonzero()[:, 0][torch.randperm(23, generator=generator(3))]
    # 23 rows: shares of 10, 10 and 3, weighted by their size
    parts = [(len(some), *model.part(data, some, None)) for some in rows.split(10)]
    fit = sum(n * part for n, part, _ in parts) / 23
    divergence = sum(n * part for n, _, part in parts) / 23
    whole_fit, whole_divergence = model.elbo(data)
    torch.testing.assert_close(fit, whole_fit.sum(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(divergence, whole_divergence.sum(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("which", ["inducing", "mean-field"])
def test_a_random_share_trains_every_parameter(which: str) -> None:
    model, data = shared(which)
    y = torch.where(data.mask, data.values, torch.full_like(data.values, float("nan")))[0]
    first, again = (model.loss(data.x[0], y, generator=generator(0, "loss"), batch=8).value for _ in range(2))
    assert torch.equal(first, again)
    first.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


@torch.no_grad()
@pytest.mark.parametrize("which", ["inducing", "mean-field", "structured"])
def test_a_row_without_values_equals_no_row(which: str) -> None:
    model, data = shared(which)
    kept = data.rows[0]
    less = RowBatch(*(part[:, kept] for part in data))
    for one, other in zip(model.elbo(data), model.elbo(less), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    query = torch.rand(1, 5, 2, generator=generator(4), dtype=F64)
    one, other = (model.latent(d, query, 3, generator(0, "p")).draws for d in (data, less))
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@torch.no_grad()
def test_inducing_points_are_centres_and_never_alike() -> None:
    x = torch.tensor([[0.0, 1.0], [0.1, 1.0], [5.0, 2.0], [5.1, 2.0]], dtype=F64)
    assert len(inducing_points(x, 7).unique(dim=0)) == 7
    assert len(inducing_points(x[:0], 3).unique(dim=0)) == 3
    centres = inducing_points(x, 2)
    torch.testing.assert_close(centres[centres[:, 0].argsort()], torch.tensor([[0.05, 1.0], [5.05, 2.0]], dtype=F64))


# -- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"inducing": 4}, {"inducing": 9, "kernel": "matern12 + cosine(period=3.0)", "hidden": 0, "latent": 1}]
)
def test_the_shared_checks_with_inducing_points(options: dict) -> None:
    check_model(lambda seed=0: sparse_gp_vae(SCHEMA, seed=seed, **{**TINY, **options}), sample_batch())


@pytest.mark.parametrize("options", [{}, {"posterior": "mean-field", "hidden": 0}])
def test_the_shared_checks_with_neighbours(options: dict) -> None:
    build = lambda seed=0: nn_gp_vae(SCHEMA, seed=seed, neighbours=3, **{**TINY, **options})  # noqa: E731
    check_model(build, sample_batch())


def test_the_shared_checks_with_counts() -> None:
    build = lambda seed=0: sparse_gp_vae(SCHEMA, seed=seed, inducing=4, likelihood="poisson", **TINY)  # noqa: E731
    check_model(build, sample_batch("poisson"))


@pytest.mark.parametrize("model", ["sparse-gp-vae", "nn-gp-vae"])
def test_fit_save_load_predict(tmp_path: Path, model: str) -> None:
    time = np.array([0.0, 0.4, 1.1, 2.0, 2.2, 3.1, 4.0])
    y = np.sin(time + np.arange(3)[:, None])
    y[1, 2] = np.nan
    ds = xr.Dataset({"y": (("series", "time"), y)}, coords={"time": time})
    fitted = si.fit(ds, model=model, options={"latent": 2}, training={"steps": 3}, progress="silent")
    fitted.save(tmp_path / "m")
    ask = {"time": [0.5, 3.0, 6.0], "draws": 4}
    first, again = fitted.predict(**ask), si.load(tmp_path / "m").predict(**ask)
    xr.testing.assert_identical(first["posterior"].to_dataset(), again["posterior"].to_dataset())
    assert "noise[0]" in fitted.summary()


@pytest.mark.parametrize(
    ("build", "options", "says"),
    [
        (sparse_gp_vae, {"inducing": 0}, "inducing"),
        (sparse_gp_vae, {"kernel": "integrated-wiener"}, "stationary"),
        (sparse_gp_vae, {"warmup": 2}, "warmup"),
        (nn_gp_vae, {"posterior": "exact"}, "posterior"),
        (nn_gp_vae, {"noise": 0}, "noise"),
    ],
)
def test_wrong_options_are_refused(build, options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build(SCHEMA, **options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError):
        row_batch(torch.zeros(3, 1), torch.zeros(2, 1))


# -- learning --------------------------------------------------------------------------------------------------------


def waves(series: int = 12, rows: int = 30, seed: int = 0) -> tuple[xr.Dataset, np.ndarray, np.ndarray]:
    """Noisy gappy waves of random phase in two channels; their true values at all times, which were hidden."""
    g = numpy_generator(seed, "waves")
    time = np.sort(g.uniform(0, 30, rows))
    phase = g.uniform(0, 2 * np.pi, (series, 1))
    truth = np.stack([np.sin(time / 2 + phase), np.cos(time / 2 + phase)], -1)
    y = truth + 0.1 * g.normal(size=truth.shape)
    hidden = g.random(y.shape[:2]) < 0.3
    y[hidden] = np.nan
    coords = {"series": np.arange(series), "time": time}
    return xr.Dataset({"y": (("series", "time", "c"), y)}, coords=coords), truth, hidden


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sparse-gp-vae", "nn-gp-vae"])
def test_it_learns(model: str) -> None:
    """Gaps are filled better than by a constant or a line between neighbours; intervals cover."""
    ds, truth, hidden = waves()
    fitted = si.fit(ds, model=model, progress="silent")
    found = fitted.predict(draws=200)["posterior"]["y"].isel(chain=0)
    error = float(np.square(found.mean("draw").values - truth)[hidden].mean())
    line = ds["y"].interpolate_na("time", use_coordinate=True, fill_value="extrapolate").values
    assert error < min(0.5 * float(np.square(line - truth)[hidden].mean()), 0.05)
    low, high = found.quantile([0.05, 0.95], dim="draw").values
    assert 0.8 < float(((low <= truth) & (truth <= high))[hidden].mean()) < 0.99


# -- metals in the soil of the Jura ----------------------------------------------------------------------------------

DATA = Path(os.environ.get("SCIINFER_DATA", "/nonexistent")) / "gpvae" / "jura"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="SCIINFER_DATA with gpvae/jura not set")


@needs_data
def test_the_baselines_of_the_jura() -> None:
    from benchmarks import jura

    assert jura.constant(jura.data()) == pytest.approx(0.5658, abs=1e-4)


@pytest.mark.slow
@needs_data
def test_cadmium_where_nickel_and_zinc_are_known() -> None:
    from benchmarks import jura

    known = jura.data()
    found = jura.autoencoder(known)
    assert found.error <= jura.GOAL
    assert 0.82 <= found.coverage <= 0.97  # of 100 places: two standard errors are .06
    assert jura.alone(known) == pytest.approx(jura.IGP, abs=0.02)


def test_counts_beside_real_values_start_at_their_log_rates() -> None:
    """Each channel is linked as its own likelihood asks, in the start and in the encoder."""
    law = JointLikelihood([Poisson(1), Gaussian(1)], [1, 1])
    covariances = [Matern(1.5), Matern(1.5)]
    model = SparseGPVAE(covariances, 2, inducing=4, inputs=1, likelihood=law, generator=generator(0, "weights"))
    x = torch.linspace(0, 5, 30, dtype=F64)[:, None]
    y = torch.cat([torch.full_like(x, 200.0) + x.round(), x.sin()], 1)
    model.start(row_batch(x, y))
    assert abs(float(model.decoder.bias[0].detach()) - math.log(202.5)) < 0.05
    read = model.encoder.features(y, torch.ones_like(y, dtype=torch.bool))
    torch.testing.assert_close(read[:, 0], y[:, 0].log1p())
    torch.testing.assert_close(read[:, 1], y[:, 1])
