"""Posteriors with two modes, against a grid: particles and mixtures keep both, one Gaussian bridge does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from support.model_walk import F64, SCHEMA, check_model, sample_batch, stream

import sciinfer as si
from sciinfer.errors import BudgetError, ConfigError, SciInferWarning
from sciinfer.labelled.series import SeriesBatch
from sciinfer.likelihoods import Gaussian
from sciinfer.models.exact import ExactPathModel
from sciinfer.models.grids import pad_for
from sciinfer.models.latent_sde import latent_sde
from sciinfer.models.path_model import PathModel
from sciinfer.nets import LinearDecoder, ScanEncoder
from sciinfer.processes import StationaryLinear
from sciinfer.processes.matching import bridge_marginals
from sciinfer.processes.mixture_posterior import MixtureInferred, MixturePosterior, mixture_drift
from sciinfer.processes.neural import AnchoredSDE
from sciinfer.processes.particle_posterior import ParticlePosterior, Sight
from sciinfer.processes.posterior import BridgePosterior
from sciinfer.random import generator

RATE, SIGMA, NOISE, LENGTH = 2.0, 0.7, 0.25, 3.0


class Well(AnchoredSDE):
    """``dx = r (x - x^3) dt + s dW``, ``x(0) ~ N(0, 1)``."""

    dim = 1

    def __init__(self):
        super().__init__()
        self.linear = StationaryLinear(1, generator=generator(0, "well"))
        with torch.no_grad():
            self.linear.log_damping.fill_(math.log(SIGMA**2 - 1e-6))

    def drift(self, t, z):
        return RATE * (z - z**3)

    def diffusion(self, t, z):
        return torch.full_like(z, SIGMA)

    def initial(self):
        one = torch.ones(1, dtype=F64)
        return 0 * one, torch.diag(one)


def _reference(observations, at):
    """Density of ``x(at)`` given ``observations`` (time, value), and the log-evidence, on a grid: a birth-death chain
    whose stationary law is exactly the well's (exponential fitting), by matrix exponentials."""
    x = np.linspace(-2.4, 2.4, 241)
    dx, D = x[1] - x[0], SIGMA**2 / 2
    potential = RATE * (x**4 / 4 - x**2 / 2) / D
    up = D / dx**2 * np.exp(-0.5 * np.diff(potential))
    down = D / dx**2 * np.exp(0.5 * np.diff(potential))
    Q = np.diag(up, 1) + np.diag(down, -1)
    Q -= np.diag(Q.sum(1))
    prior = np.exp(-0.5 * x**2)
    prior /= prior.sum()

    def seen(y):
        return np.exp(-0.5 * ((y - x) / NOISE) ** 2) / NOISE / math.sqrt(2 * math.pi)

    (t0, y0), (t1, y1) = observations
    forward = (prior * seen(y0)) @ expm(Q * (at - t0))
    backward = expm(Q * (t1 - at)) @ seen(y1)
    joint = forward * backward
    return x, joint / joint.sum(), math.log(joint.sum())


def _batch(y0, y1):
    return SeriesBatch.of([torch.tensor([0.0, LENGTH], dtype=F64)], [torch.tensor([[y0], [y1]], dtype=F64)])


def _sight(noise=NOISE, guided=True):
    lik = Gaussian(1, noise=noise - 1e-4)
    one = torch.ones(1, 1, dtype=F64)

    def log_prob(z, values, mask):
        return lik.log_prob(values.expand_as(z), z, mask.expand_as(z)).detach()

    return Sight(log_prob, one, one[0] * 0, lik.noise.detach()) if guided else Sight(log_prob)


def _distance(draws, x, density):
    """Area between the distribution functions, the 1-Wasserstein distance."""
    own = (
        (np.sort(draws)[:, None] <= x).mean(0) if len(draws) < 500 else np.searchsorted(np.sort(draws), x) / len(draws)
    )
    return np.abs(own - density.cumsum()).sum() * (x[1] - x[0])


@pytest.mark.parametrize(
    ("y0", "y1", "guided"),
    [
        (0.15, 0.1, True),
        pytest.param(0.15, 0.1, False, marks=pytest.mark.slow),
        pytest.param(0.0, 0.0, False, marks=pytest.mark.slow),
        pytest.param(0.0, 0.0, True, marks=pytest.mark.slow),
    ],
)
def test_particles_keep_both_modes_with_their_masses(y0, y1, guided):
    x, density, evidence = _reference([(0.0, y0), (LENGTH, y1)], LENGTH / 2)
    smoother = ParticlePosterior(Well(), _sight(guided=guided), particles=300, step=0.03)
    query = torch.tensor([[LENGTH / 2, 0.0]], dtype=F64)
    runs = [
        smoother.sample(pad_for(_batch(y0, y1)), query, draws=300, generator=generator(seed, "p")) for seed in range(8)
    ]
    middle = np.stack([run.path[:, 0, 0, 0].numpy() for run in runs])
    right = (middle > 0).mean(1)
    expected = density[x > 0].sum() + 0.5 * density[x == 0].sum()
    assert 0.05 < expected < 0.95
    assert abs(right.mean() - expected) < 4 * right.std(ddof=1) / math.sqrt(8)
    assert _distance(middle.ravel(), x, density) < 0.06
    found = np.array([run.loglik.item() for run in runs])
    weights = np.exp(found - evidence)
    assert abs(weights.mean() - 1) < 4 * weights.std(ddof=1) / math.sqrt(8)
    assert all(20 < run.ess.item() <= 300 for run in runs)


def test_a_guide_helps_where_the_datum_is_precise():
    sight = [_sight(0.02, guided) for guided in (False, True)]
    query = torch.tensor([[1.0]], dtype=F64)
    plain, guided = (
        ParticlePosterior(Well(), s, particles=200, step=0.02).sample(
            pad_for(_batch(0.9, 1.1)), query, draws=10, generator=stream("guide")
        )
        for s in sight
    )
    assert guided.ess.item() > 1.5 * plain.ess.item()


def test_particles_agree_with_the_exact_smoother_of_a_linear_process():
    """Correlated draws at several times, missing entries and a time twice: mean and covariance within 4 SE."""
    linear = StationaryLinear(2, generator=generator(0, "linear"))

    class Linear(AnchoredSDE):
        dim = 2

        def __init__(self):
            super().__init__()
            self.linear = linear

        def drift(self, t, z):
            return z @ linear.drift_matrix.mT

        def diffusion(self, t, z):
            return linear.spread.sqrt().expand_as(z)

        def initial(self):
            return linear.initial()

    decoder, lik = LinearDecoder(2, 2, generator=generator(1, "d")), Gaussian(2, noise=0.4)
    query = torch.tensor([[1.0, 2.0, 0.5]], dtype=F64)
    time = torch.tensor([0.2, 0.7, 0.7, 1.6, 2.1], dtype=F64)
    with torch.no_grad():
        exact = ExactPathModel(linear, decoder, lik)
        values = exact.generate(time, draws=1, generator=stream("truth")).observation[0, 0]
        values[1, 0] = values[3, 1] = torch.nan
        batch = SeriesBatch.of([time], [values])
        bridge = exact.condition(batch, query)
        loglik = exact.log_likelihood(batch)

        def log_prob(z, values, mask):
            eta = decoder(z)
            return lik.log_prob(values.expand_as(eta), eta, mask.expand_as(eta))

        sight = Sight(log_prob, decoder.weight, decoder.bias, lik.noise)
        smoother = ParticlePosterior(Linear(), sight, particles=250, step=0.06)
        runs = [smoother.sample(pad_for(batch), query, draws=250, generator=generator(s, "l")) for s in range(8)]
    mean = torch.stack([run.path[:, 0].mean(0) for run in runs])
    expected = bridge.mean(bridge.at_query)[0]
    assert bool(((mean.mean(0) - expected).abs() < 4 * mean.std(0) / math.sqrt(8) + 0.01).all()), runs[0].ess
    spread = torch.stack([run.path[:, 0].std(0) for run in runs])
    exact_sd = bridge.cov(bridge.at_query)[0].diagonal(dim1=-2, dim2=-1).sqrt()
    assert bool(((spread.mean(0) - exact_sd).abs() < 4 * spread.std(0) / math.sqrt(8) + 0.02).all())
    ratio = torch.stack([(run.loglik - loglik).exp() for run in runs])
    assert abs(ratio.mean().item() - 1) < 4 * ratio.std().item() / math.sqrt(8) + 0.02


# --- mixtures of bridges --------------------------------------------------------------------------------------------


def _model(kind, components=2):
    prior, g = Well(), generator(0, "q")
    if kind == "mixture":
        q = MixturePosterior(prior, 16, components=components, inner=4, known_rows=True, generator=g)
    else:
        q = BridgePosterior(prior, 16, known_rows=True, generator=g)
    decoder = LinearDecoder(1, 1, generator=g)
    with torch.no_grad():
        decoder.weight.fill_(1.0)
    model = PathModel(
        prior, ScanEncoder(1, 16, generator=g), q, decoder, Gaussian(1, noise=NOISE - 1e-4), nodes=24, pairs=4
    )
    with torch.no_grad():
        q.tilted.matrix.fill_(-0.5)
    return model


def _train(model, batch, steps, rate=0.03):
    parameters = [*model.posterior.parameters(), *model.encoder.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=rate)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimiser.zero_grad()
        model.loss(batch, generator=generator(0, "train", step)).value.backward()
        optimiser.step()
    return _bound(model, batch)


@torch.no_grad()
def _bound(model, batch, repeats=200):
    """Mean of the stochastic bound: cubature is not exact for a cubic drift."""
    found = []
    for seed in range(repeats):
        fit, start, path = model.elbo_terms(batch, generator=generator(1, "bound", seed))
        found.append((fit - start - path).item())
    return float(np.mean(found))


def _between(draws):
    """How many draws lie near the wells for each near the ridge."""
    return (np.abs(np.abs(draws) - 1) < 0.3).sum() / (np.abs(draws) < 0.3).sum()


@pytest.mark.slow
@pytest.mark.parametrize(("y0", "y1"), [(0.0, 0.0), (0.12, 0.08)])
def test_a_mixture_keeps_both_modes_and_one_bridge_does_not(y0, y1):
    x, density, evidence = _reference([(0.0, y0), (LENGTH, y1)], LENGTH / 2)
    batch, n = _batch(y0, y1), 2000
    expected = density[x > 0].sum() + 0.5 * density[x == 0].sum()
    bounds, masses, distances, draws_of = {}, {}, {}, {}
    for kind in ("bridge", "mixture"):
        model = _model(kind)
        bounds[kind] = _train(model, batch, 400)
        with torch.no_grad():
            query = torch.tensor([[LENGTH / 2]], dtype=F64)
            draws = model.predict(batch, query, draws=n, generator=stream("draw")).latent[:, 0, 0, 0].numpy()
        masses[kind], distances[kind], draws_of[kind] = (draws > 0).mean(), _distance(draws, x, density), draws
    print(
        f"\nlog-evidence {evidence:.3f}, bounds {bounds}; P(x > 0) {expected:.3f}, {masses}; distance {distances};"
        f" wells over ridge { {k: round(_between(d), 2) for k, d in draws_of.items()} }"
    )
    # measured: one bridge 1.4 nats below the evidence, two 0.9; masses are those of the best bound, not of the truth
    assert evidence - 1.2 < bounds["mixture"] < evidence
    assert bounds["bridge"] < min(evidence - 1.2, bounds["mixture"] - 0.3)
    assert abs(masses["mixture"] - expected) < 0.12
    assert distances["mixture"] < 0.7 * distances["bridge"]
    assert _between(draws_of["mixture"]) > 1.5 * _between(draws_of["bridge"])


def test_a_mixture_of_one_is_the_bridge():
    """With one component and no potentials inside the gaps the bound and the marginals are those of the bridge."""
    one, bridge = _model("mixture", components=1), _model("bridge")
    q = one.posterior
    with torch.no_grad():
        q.between.layers[-1].bias.fill_(-60.0)
        q.centre.zero_()
        bridge.posterior.head.weight.copy_(q.head.weight)
        bridge.posterior.head.bias.copy_(q.head.bias)
        bridge.encoder.load_state_dict(one.encoder.state_dict())
        batch = _batch(0.3, -0.2)
        fits = [model.elbo_terms(batch, generator=None)[0] for model in (one, bridge)]
        torch.testing.assert_close(*fits, rtol=1e-8, atol=1e-8)
        padded = pad_for(batch)
        rows = one._rows(padded)
        found = one.posterior.infer_mixture(padded, one.encoder(padded), rows, nodes=8, generator=stream("n"))
        known = bridge.posterior.infer(padded, bridge.encoder(padded), rows, nodes=8, generator=stream("n"))
    torch.testing.assert_close(found.nodes.velocity, known.nodes.velocity, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.nodes.flow, known.nodes.flow, rtol=1e-7, atol=1e-9)


def test_the_drift_of_a_mixture_moves_its_marginals():
    """Fokker-Planck: ``d/dt q = -d/dx (f q) + 1/2 g^2 d^2/dx^2 q`` on a grid, between two potentials."""
    model, batch = _model("mixture", components=3), _batch(0.1, -0.2)
    x = torch.linspace(-2.5, 2.5, 2001, dtype=F64)
    t, dt, dx = 1.7, 1e-4, (x[1] - x[0]).item()
    with torch.no_grad():
        model.posterior.weigh.bias.copy_(torch.tensor([0.5, -0.3, 0.1], dtype=F64))
        padded = pad_for(batch)
        context, rows = model.encoder(padded), model._rows(padded)
        at = torch.tensor([[t - dt, t, t + dt]], dtype=F64)
        bridge = model.posterior.bridges(padded, context, rows, at)
        q = model.posterior.log_weights(padded, context)
        each = at.repeat_interleave(3, 0)
        tilted = model.posterior.tilted
        nodes = bridge_marginals(bridge, each, bridge.at_query, tilted.matrix, tilted.spread)
        found = MixtureInferred(q, nodes.mean, nodes.root, nodes, torch.ones(1, 3, dtype=F64))
        f = mixture_drift(model.process, found, x[:, None, None, None, None].expand(-1, 1, 1, 3, 1))[:, 0, 0, 1, 0]
        normal = torch.distributions.Normal(nodes.mean[..., 0], nodes.root[..., 0, 0])
        density = (q[0].exp()[:, None] * normal.log_prob(x[:, None, None]).exp()).sum(1)
    change = (density[:, 2] - density[:, 0]) / (2 * dt)
    flux = f * density[:, 1]
    expected = (
        -torch.gradient(flux, spacing=dx)[0]
        + 0.5 * SIGMA**2 * torch.gradient(torch.gradient(density[:, 1], spacing=dx)[0], spacing=dx)[0]
    )
    assert float(change.abs().max()) > 0.05
    torch.testing.assert_close(change[5:-5], expected[5:-5], rtol=0, atol=2e-4)


def test_draws_of_a_mixture_have_its_marginals_and_its_drift():
    """Draws at small steps agree in distribution with the mixture at every time, and move with the mixture's drift."""
    model, batch = _model("mixture"), _batch(0.0, 0.0)
    with torch.no_grad():
        padded = pad_for(batch)
        context, rows = model.encoder(padded), model._rows(padded)
        query = torch.linspace(0.3, 2.7, 9, dtype=F64)[None]
        z = model.posterior.sample(padded, context, rows, query, draws=4000, generator=stream("z"))[:, 0, :, 0]
        bridge = model.posterior.bridges(padded, context, rows, query)
        mean = bridge.mean(bridge.at_query)[..., 0]
        sd = bridge.cov(bridge.at_query)[..., 0, 0].sqrt()
        weight = model.posterior.log_weights(padded, context).exp()[0]
    first = (weight[:, None] * mean).sum(0)
    second = (weight[:, None] * (mean.square() + sd.square())).sum(0)
    assert bool((mean[0] - mean[1]).abs().max() > sd.max())
    assert bool(((z.mean(0) - first).abs() < 4 * (second - first.square()).sqrt() / math.sqrt(4000)).all())
    error = 4 * z.square().std(0) / math.sqrt(4000)
    assert bool(((z.square().mean(0) - second).abs() < error).all())


# --- as options of the latent SDE -----------------------------------------------------------------------------------

TINY = {"latent": 2, "hidden": 4, "width": 4}


@pytest.mark.parametrize(
    ("options", "likelihood"),
    [
        ({"posterior": "mixture"}, "gaussian"),
        ({"posterior": "mixture", "decoder": "mlp", "likelihood": "poisson"}, "poisson"),
        ({"particles": 30}, "gaussian"),
        ({"particles": 30, "decoder": "mlp", "likelihood": "bernoulli"}, "bernoulli"),
    ],
)
@pytest.mark.filterwarnings("ignore:the particle smoother:sciinfer.errors.SciInferWarning")
def test_every_check_of_a_model(options, likelihood):
    check_model(lambda seed=0: latent_sde(SCHEMA, seed=seed, **TINY, **options), sample_batch(likelihood, (4, 1)))


def test_fit_save_load_predict(tmp_path):
    ds = si.open_dataset("double_well", n_series=1, duration=1.5, dt=0.25)
    options = {"posterior": "mixture", "particles": 100, "latent": 1, "hidden": 4, "width": 4}
    fitted = si.fit(ds, options=options, training={"steps": 2}, progress="silent")
    fitted.save(tmp_path / "run")
    one, two = (f.predict(time=[0.6], draws=5) for f in (fitted, si.load(tmp_path / "run")))
    assert (one["posterior_predictive"]["y"] == two["posterior_predictive"]["y"]).all()


def test_few_particles_are_reported_and_endless_grids_refused():
    model = latent_sde(SCHEMA, particles=5, **TINY)
    batch = sample_batch(lengths=(8,))
    with pytest.warns(SciInferWarning, match="effective particles"):
        model.predict(batch, torch.ones(1, 1, dtype=F64), draws=2, generator=stream("few"))
    with pytest.raises(BudgetError, match="steps"):
        ParticlePosterior(Well(), _sight(), step=1e-6).sample(
            pad_for(_batch(0.0, 0.0)), torch.ones(1, 1, dtype=F64), draws=1, generator=stream("few")
        )


@pytest.mark.parametrize(
    "options", [{"posterior": "mixture", "inference": "simulated"}, {"components": 0}, {"particles": -1}]
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError):
        latent_sde(SCHEMA, **options)
