"""GP-VAE: potentials of encoders in an exact posterior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, move, sample_batch, stream, terms_of

import sciinfer as si
from sciinfer.errors import ConfigError
from sciinfer.gp.kernels import Matern12, Matern32, Matern52, Periodic, Sum
from sciinfer.labelled.schema import Channel, Variable
from sciinfer.labelled.series import SeriesBatch
from sciinfer.likelihoods import Gaussian
from sciinfer.models.exact import ExactPathModel
from sciinfer.models.gp_vae import gp_vae
from sciinfer.models.gp_vae_model import GPVAE
from sciinfer.models.gp_vae_prior import IndependentLatents, White, latent_kernels
from sciinfer.nets import LinearDecoder
from sciinfer.processes import LatentGPs, condition_potentials
from sciinfer.random import generator
from sciinfer.statespace.sites import Sites

F64 = torch.float64
TINY = {"latent": 2, "hidden": 6, "width": 4}


def build(seed=0, **options) -> GPVAE:
    model = gp_vae(SCHEMA, seed=seed, **{**TINY, **options})
    assert isinstance(model, GPVAE)
    return model


# -- the contract ------------------------------------------------------------------------------------------------------

WALKS = {
    "pointwise": {},
    "linear-decoder": {"decoder": "linear"},
    "two-modalities": {"likelihood": {"a": "poisson"}, "decoder": {"b": "linear"}},
    "kernels": {"kernel": "matern52; hida-matern(lengthscale=2, period=3)", "learn_variance": True},
    "exact": {"encoder": "exact", "decoder": "linear"},
    "scan": {"encoder": "scan"},
}


@pytest.mark.parametrize("options", WALKS.values(), ids=WALKS.keys())
def test_walk(options):
    likelihood = "poisson" if "likelihood" in options else "gaussian"
    check_model(lambda seed=0: build(seed, **options), sample_batch(likelihood))


def test_walk_white_and_self_masked():
    model = build(kernel="white", self_masking=0.4)
    check_model(lambda seed=0: build(seed, kernel="white", likelihood="bernoulli"), sample_batch("bernoulli"))
    with_hidden, again = (model.loss(sample_batch(), generator=stream("loss")).value for _ in range(2))
    assert torch.equal(with_hidden, again)
    assert not torch.equal(with_hidden, model.eval().loss(sample_batch(), generator=stream("loss")).value)


# -- what is exact -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_exact_potentials_make_the_bound_the_likelihood():
    model = move(build(encoder="exact", decoder="linear", kernel="matern32; matern52"), 0.3)
    assert isinstance(model.decoder, LinearDecoder)
    assert isinstance(model.likelihood, Gaussian)
    process = LatentGPs(model.latents.kernels)
    of_states = LinearDecoder(process.dim, 2, generator=stream("unused"))
    of_states.weight.copy_(model.decoder.weight @ process.readout())
    of_states.bias.copy_(model.decoder.bias)
    reference = ExactPathModel(process, of_states, model.likelihood)
    batch = sample_batch()
    fit, divergence = model.elbo_terms(batch, generator=None)
    torch.testing.assert_close(fit - divergence, reference.log_likelihood(batch), rtol=0, atol=1e-8)
    times = torch.tensor([[9.0, 0.5, 2.0]], dtype=F64).expand(3, 3)
    ours, theirs = (m.predict(batch, times, draws=2, generator=stream("p")) for m in (model, reference))
    torch.testing.assert_close(ours.mean, theirs.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.variance, theirs.variance, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_an_encoder_with_the_exact_sites_reaches_the_likelihood():
    """One latent: the sites are diagonal, so that a pointwise encoder can be exact."""
    model = build(latent=1, decoder="linear", noise=0.4)
    exact = build(latent=1, decoder="linear", noise=0.4, encoder="exact")
    exact.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("encoder")})
    decoder, noise = model.decoder, model.likelihood.noise

    class Known(torch.nn.Module):
        def forward(self, padded):
            precision = noise.square().reciprocal() * padded.mask
            W = decoder.weight
            return Sites(precision @ W.square(), (precision * (padded.values - decoder.bias)) @ W)

    model.encoder = Known()
    ours, theirs = (m.elbo_terms(sample_batch(), generator=None) for m in (model, exact))
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-9, atol=1e-9)


def dense_bound(model: GPVAE, time: torch.Tensor, sites: Sites) -> torch.Tensor:
    """KL of one series by dense algebra, one latent after the other."""
    total = torch.zeros((), dtype=F64)
    for k, kernel in enumerate(model.latents.kernels):
        K = kernel.covariance(time[:, None] - time)
        J, j = sites.precision[:, k], sites.shift[:, k]
        inner = torch.eye(len(J), dtype=F64) + K * J
        V = torch.linalg.solve(inner, K)
        m = V @ j
        log_z = 0.5 * j @ m - 0.5 * torch.linalg.slogdet(inner)[1]
        total = total + j @ m - 0.5 * (J * (m.square() + V.diagonal())).sum() - log_z
    return total


@torch.no_grad()
def test_divergence_equals_dense_algebra():
    model = move(build(kernel="matern52; matern32(lengthscale=0.7) * cosine(period=2)"))
    batch = sample_batch()
    _, divergence = model.elbo_terms(batch, generator=None)
    for s in range(batch.n_series):
        padded = batch.select([s]).drop_empty().padded()
        sites = model.encoder(padded)
        expected = dense_bound(model, padded.time[0], Sites(sites.precision[0], sites.shift[0]))
        torch.testing.assert_close(divergence[s], expected, rtol=1e-8, atol=1e-9)


@torch.no_grad()
def test_lanes_equal_the_joint_process():
    kernels = [Matern52(0.8), Matern12(2.0), Matern32(1.5), Matern12(0.5)]
    g = generator(0, "case")
    time = torch.rand(2, 6, generator=g, dtype=F64).sort(1).values * 4
    sites = Sites(*(torch.rand(2, 6, 4, generator=g, dtype=F64) for _ in range(2)))
    query = torch.tensor([[5.0, 1.0, -1.0]], dtype=F64).expand(2, 3)
    joint = LatentGPs(kernels)
    path = condition_potentials(joint, joint.readout(), time, sites, query)
    q = IndependentLatents(kernels).condition(time, sites, query)
    for (mean, cov), at in ((q.at_data(), path.bridge.at_data), (q.at_query(), path.bridge.at_query)):
        torch.testing.assert_close(mean, path.mean(at), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(cov, path.cov(at), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.divergence, path.divergence, rtol=1e-8, atol=1e-9)
    drawn = q.sample(4000, generator(0, "draws"))
    error = (drawn.mean(0) - q.at_query()[0]) / q.at_query()[1].diagonal(dim1=-2, dim2=-1).sqrt()
    assert float(error.abs().max()) < 4.5 / 4000**0.5


# -- what is missing ---------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["pointwise", "scan", "exact"])
def test_a_series_without_data_is_the_prior(encoder):
    model = move(build(encoder=encoder, decoder="linear"))
    batch = sample_batch()
    blank = batch._replace(values=torch.zeros_like(batch.values), mask=torch.zeros_like(batch.mask))
    fit, divergence = model.elbo_terms(blank, generator=None)
    assert float(fit.abs().max()) == 0
    assert float(divergence.abs().max()) < 1e-12
    times = torch.tensor([[0.5, 2.0]], dtype=F64).expand(3, 2)
    mean, cov = model.posterior(blank.drop_empty().padded(), times).at_query()
    assert bool((mean == 0).all())
    prior = torch.diag(torch.stack([kernel.initial()[0, 0] for kernel in model.latents.kernels]))
    torch.testing.assert_close(cov, prior.expand_as(cov), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_a_missing_modality_adds_nothing_and_modalities_add():
    model = move(build())
    padded = sample_batch().drop_empty().padded()
    whole = model.encoder(padded)
    halves = []
    for channel in range(2):
        mask = padded.mask.clone()
        mask[..., 1 - channel] = False
        halves.append(model.encoder(padded._replace(mask=mask, values=padded.values * mask)))
    for total, one, other in zip(whole, *halves, strict=True):
        torch.testing.assert_close(total, one + other, rtol=1e-12, atol=1e-12)
    assert bool((whole.precision >= 0).all())
    assert bool((halves[0].precision[~padded.mask[..., 0]] == 0).all())


def test_missing_entries_leave_no_nan_in_gradients():
    model = build()
    batch = sample_batch()
    holes = batch._replace(values=torch.where(batch.mask, batch.values, torch.full_like(batch.values, float("nan"))))
    model.loss(holes, generator=stream("loss")).value.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@torch.no_grad()
def test_a_forecast_widens_and_draws_cohere():
    model = build(decoder="linear", encoder="exact")
    batch = SeriesBatch.of([torch.arange(5, dtype=F64)], [torch.randn(5, 2, generator=stream("y"), dtype=F64)])
    answer = model.predict(batch, torch.tensor([[3.0, 4.5, 30.0]], dtype=F64), draws=500, generator=stream("p"))
    assert answer.variance is not None
    assert answer.latent is not None
    assert bool((answer.variance[0].diff(dim=0) > 0).all())
    close = model.predict(batch, torch.tensor([[30.0, 30.001]], dtype=F64), draws=20, generator=stream("p")).latent
    assert close is not None
    assert float((close[:, 0, 0] - close[:, 0, 1]).abs().max()) < 0.05


# -- kernels and options -----------------------------------------------------------------------------------------------


def test_variances_are_one_and_frozen_unless_asked():
    kernels, free = latent_kernels("matern32(variance=3) + periodic(period=2); matern12(lengthscale=2)", 2)
    for kernel in kernels:
        h = kernel.readout()
        assert float((h @ kernel.initial() @ h).detach()) == pytest.approx(1, abs=1e-12)
        frozen = {name for name, p in kernel.named_parameters() if not p.requires_grad}
        assert frozen
        assert all(name.endswith("log_variance") for name in frozen)
    assert free == [True, False]
    (kept,), _ = latent_kernels("matern32(variance=3)", 1, learn_variance=True)
    assert float(kept.initial()[0, 0].detach()) == pytest.approx(3)
    (held,), _ = latent_kernels("matern32", 1, learn=False)
    assert not any(p.requires_grad for p in held.parameters())
    assert isinstance(Sum(Matern12(), Periodic(1.0)) + White(), Sum)


def test_open_length_scales_start_over_the_range_of_the_data():
    model = build(kernel="matern32; matern32(lengthscale=7); matern32; matern32", latent=4)
    times = [torch.linspace(0, 20, 41, dtype=F64), torch.linspace(0, 5, 11, dtype=F64)]
    model.initialise(SeriesBatch.of(times, [torch.ones(len(t), 2, dtype=F64) for t in times]))
    found = [value for name, value in model.summary().items() if name.startswith("lengthscale")]
    np.testing.assert_allclose(found, [10.0, 7.0, 10.0**0.5, 1.0], rtol=1e-9)
    assert float(model.decoder(torch.zeros(4, dtype=F64)).detach().mean()) == pytest.approx(1.0)


@torch.no_grad()
def test_it_starts_at_the_principal_components():
    """With orthogonal columns and one noise the starting potentials are the exact ones: the bound is tight."""
    g = generator(0, "components")
    Q = torch.linalg.qr(torch.randn(6, 2, generator=g, dtype=F64))[0]
    z = torch.randn(4000, 2, generator=g, dtype=F64)
    y = z @ (Q * torch.tensor([3.0, 1.5], dtype=F64)).mT + 0.5 + 0.4 * torch.randn(4000, 6, generator=g, dtype=F64)
    names = tuple(Channel("y", (c,)) for c in range(6))
    schema = replace(SCHEMA, variables=(Variable("y"),), channels=names)
    batch = SeriesBatch.of(list(torch.arange(4000, dtype=F64).reshape(400, 10)), list(y.reshape(400, 10, 6)))
    bounds = []
    for encoder in ("pointwise", "exact"):
        model = gp_vae(schema, latent=2, decoder="linear", encoder=encoder, kernel="white")
        model.initialise(batch)
        fit, divergence = model.elbo_terms(batch, generator=None)
        bounds.append(float((fit - divergence).sum() / 24_000))
    halves = gp_vae(replace(schema, variables=(Variable("y"), Variable("x")), channels=(*names[:5], Channel("x"))))
    halves.initialise(batch)
    assert isinstance(halves, GPVAE)
    sites = halves.encoder(batch.padded())
    assert float(sites.precision.min()) > 0
    assert float(sites.shift.abs().max()) < 500
    cov = (Q * torch.tensor([9.0, 2.25], dtype=F64)) @ Q.mT + 0.16 * torch.eye(6, dtype=F64)
    best = torch.distributions.MultivariateNormal(torch.full((6,), 0.5, dtype=F64), cov).log_prob(y).mean() / 6
    assert bounds[1] == pytest.approx(float(best), abs=0.01)
    assert bounds[0] == pytest.approx(bounds[1], abs=0.01)


@torch.no_grad()
def test_binary_channels_start_at_components_too():
    """The bound at the start is already above independent channels at their means."""
    g = generator(0, "binary")
    z = torch.randn(60, 10, 1, generator=g, dtype=F64)
    y = (z * torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0], dtype=F64) > 0.2).to(F64)
    channels = tuple(Channel("y", (c,)) for c in range(6))
    schema = replace(SCHEMA, variables=(Variable("y"),), channels=channels)
    batch = SeriesBatch.of([torch.arange(10, dtype=F64)] * 60, list(y))
    model = gp_vae(schema, latent=1, likelihood="bernoulli", kernel="white")
    model.initialise(batch)
    fit, divergence = model.elbo_terms(batch, generator=None)
    p = batch.values.mean(0)
    alone = (batch.values * p.log() + (1 - batch.values) * (1 - p).log()).sum()
    assert float((fit - divergence).sum()) > 0.9 * float(alone)


def test_bad_options_are_named():
    for options in (
        {"kernel": ["matern32"] * 3},
        {"kernel": "wiener"},
        {"kernel": 32},
        {"encoder": "conv"},
        {"encoder": "exact"},
        {"decoder": {"c": "linear"}},
        {"decoder": "conv"},
        {"beta": 0.0},
        {"self_masking": 1.5},
        {"hidden": 0},
    ):
        with pytest.raises(ConfigError) as caught:
            build(**options)
        assert caught.value.variable == next(iter(options)), options


def test_fit_save_load_predict(tmp_path):
    t = np.array([0.0, 0.4, 1.0, 1.1, 2.7, 3.0, 4.2, 5.0])
    y = np.sin(t[:, None] + np.arange(3)) + np.zeros((2, 1, 1))
    y[1, 4], y[0, 2, 1] = np.nan, np.nan
    counts = np.round(np.exp(y[..., :1]))
    ds = xr.Dataset(
        {"y": (("series", "time", "c"), y), "n": (("series", "time", "u"), counts)},
        coords={"series": list("ab"), "time": t},
    )
    options = {"latent": 2, "hidden": 4, "likelihood": {"n": "poisson"}, "kernel": ["matern12", "matern32"]}
    fitted = si.fit(ds, model="gp-vae", options=options, training={"steps": 3}, progress="silent")
    fitted.save(tmp_path / "run")
    one, two = (f.predict(time=[2.2, 6.0], draws=3) for f in (fitted, si.load(tmp_path / "run")))
    xr.testing.assert_identical(one["posterior_predictive"].to_dataset(), two["posterior_predictive"].to_dataset())
    assert (one["posterior_predictive"]["n"].values >= 0).all()


@torch.no_grad()
def test_the_sampled_bound_is_the_deterministic_one_on_average():
    model = move(build(pairs=4000))
    fit, _ = model.elbo_terms(sample_batch(), generator=stream("draws"))
    # the cubature is of third degree: near, not equal
    torch.testing.assert_close(fit, terms_of(model, sample_batch())[:, 0], rtol=0.03, atol=0.03)
