"""Exact models against dense Gaussians, and the approximate one against the exact one."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chi2

from sciinfer.gp.kernels import parse_kernel
from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import SeriesBatch
from sciinfer.likelihoods import Gaussian
from sciinfer.models.exact import ExactPathModel
from sciinfer.models.latent_sde import latent_sde
from sciinfer.models.linear_start import fit_linear_start
from sciinfer.models.structural import StructuralModel
from sciinfer.nets import LinearDecoder
from sciinfer.processes import LinearProcess, StationaryLinear
from sciinfer.random import generator

F64 = torch.float64
NAN = float("nan")


def _batch(lengths=(6, 3), channels=2, seed=0, missing=True):
    g = generator(seed, "data")
    times = [torch.rand(n, generator=g, dtype=F64).mul(4).sort().values for n in lengths]
    values = [torch.randn((n, channels), generator=g, dtype=F64) for n in lengths]
    if missing and lengths[0] > 3:
        times[0][3], values[0][1, 0] = times[0][2], NAN  # a time twice, one channel missing
    return SeriesBatch.of(times, values)


def _exact(seed=0, dim=3, channels=2):
    g = generator(seed, "weights")
    model = ExactPathModel(
        StationaryLinear(dim, generator=g), LinearDecoder(dim, channels, generator=g), Gaussian(channels)
    )
    with torch.no_grad():
        model.decoder.bias.copy_(torch.randn(channels, generator=g, dtype=F64))
    return model


def _dense(cov, mean, noise, t, y, query):
    """Log-likelihood and moments of the function at ``query``; ``cov(a, b) [a, b, C, C]``, NaN in ``y`` = missing."""
    n, k, C = len(t), len(query), y.shape[1]
    joint = torch.cat([t, query])
    K = cov(joint).permute(0, 2, 1, 3).reshape((n + k) * C, (n + k) * C)
    seen = ~y.isnan().reshape(-1)
    rows = torch.nonzero(seen)[:, 0]
    residual = (y - mean).reshape(-1)[rows]
    S = K[rows][:, rows] + torch.diag(noise.square().repeat(n)[rows])
    cross = K[n * C :][:, rows]
    loglik = torch.distributions.MultivariateNormal(residual * 0, S).log_prob(residual)
    gain = torch.linalg.solve(S, cross.mT).mT
    found = mean.repeat(k) + gain @ residual
    return loglik, found.reshape(k, C), (K[n * C :, n * C :] - gain @ cross.mT).diagonal().reshape(k, C)


def _stationary_cov(model):
    W = model.decoder.weight

    def cov(t):
        A, _ = model.process.transition((t[:, None] - t[None]).abs().reshape(-1))
        A = A.reshape(len(t), len(t), *A.shape[1:])
        later = (t[:, None] >= t[None])[..., None, None]
        return W @ torch.where(later, A, A.mT) @ W.mT

    return cov


def _rows(batch, s):
    row = slice(int(batch.offsets[s]), int(batch.offsets[s + 1]))
    return batch.time[row], torch.where(batch.mask[row], batch.values[row], torch.tensor(NAN, dtype=F64))


QUERY = torch.tensor([3.0, -0.5, 1.3, 6.0], dtype=F64)


def test_linear_model_is_the_dense_gaussian():
    model, batch = _exact(), _batch()
    with torch.no_grad():
        loglik = model.log_likelihood(batch)
        answer = model.predict(batch, QUERY.expand(2, -1), draws=3, generator=generator(0, "x"))
        for s in range(2):
            t, y = _rows(batch, s)
            expected = _dense(_stationary_cov(model), model.decoder.bias, model.likelihood.noise, t, y, QUERY)
            torch.testing.assert_close(loglik[s], expected[0], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(answer.mean[s], expected[1], rtol=1e-9, atol=1e-10)
            variance = expected[2] + model.likelihood.noise.square()
            torch.testing.assert_close(answer.variance[s], variance, rtol=1e-9, atol=1e-10)
    assert model.loss(batch, generator=generator(0, "x")).value.item() == pytest.approx(
        -loglik.sum().item() / batch.observed, rel=1e-12
    )


def test_structural_model_is_the_dense_gaussian_channel_by_channel():
    kernel = parse_kernel("matern32(lengthscale=0.8) + constant(variance=0.5)")
    model, batch = StructuralModel(kernel, 2), _batch((6, 3, 0))
    with torch.no_grad():
        model.kernels[1].parts[0].log_lengthscale.add_(0.7)
        model.likelihood.log_noise[1] = math.log(0.1)
        loglik = model.log_likelihood(batch)
        answer = model.predict(batch, QUERY.expand(3, -1), draws=2, generator=generator(0, "x"))
        noise = model.likelihood.noise
        for s, c in ((0, 0), (0, 1), (1, 0), (1, 1)):
            t, y = _rows(batch, s)
            cov = lambda t, c=c: model.kernels[c].covariance(t[:, None] - t)[..., None, None]  # noqa: E731
            expected = _dense(cov, torch.zeros(1, dtype=F64), noise[c : c + 1], t, y[:, c : c + 1], QUERY)
            torch.testing.assert_close(loglik[s, c], expected[0], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(answer.mean[s, :, c], expected[1][:, 0], rtol=1e-9, atol=1e-10)
            variance = expected[2][:, 0] + noise[c].square()
            torch.testing.assert_close(answer.variance[s, :, c], variance, rtol=1e-9, atol=1e-10)
        # nothing observed: the prior
        assert not loglik[2].any()
        assert not answer.mean[2].any()
        torch.testing.assert_close(answer.variance[2], (1.5 + noise.square()).expand(4, 2), rtol=1e-10, atol=0)


def test_structural_parts_add_up_to_the_signal():
    model = StructuralModel(parse_kernel("integrated-wiener + seasonal(period=1.5) + matern12"), 1)
    batch = _batch((7, 2), channels=1)
    with torch.no_grad():
        answer = model.predict(batch, QUERY.expand(2, -1), draws=5, generator=generator(0, "x"))
    assert answer.latent.shape == (5, 2, 4, 3)
    torch.testing.assert_close(answer.latent.sum(-1), answer.signal[..., 0], rtol=1e-10, atol=1e-10)
    names = model.summary()
    assert {"noise[0]", "IntegratedWiener.rate[0]", "Matern12.lengthscale[0]"} <= set(names)


def test_large_data_are_trained_on_minibatches():
    model, time = StructuralModel(parse_kernel("matern12"), 1), torch.arange(50_001, dtype=F64)
    for count, expected in ((100, "lbfgs"), (50_001, "adam")):
        batch = SeriesBatch.of([time[:count]], [time[:count, None]])
        assert model.training_defaults(batch)["optimiser"] == expected


def test_exact_draws_have_the_exact_moments():
    """Given data, at times in any order (level 1e-6)."""
    model, batch, n = _exact(), _batch((6,)), 5000
    with torch.no_grad():
        answer = model.predict(batch, QUERY[None], draws=n, generator=generator(0, "x"))
    for draws, variance in (
        (answer.observation, answer.variance),
        (answer.signal, answer.variance - model.likelihood.noise.detach().square()),
    ):
        z = (draws - answer.mean) / variance.sqrt()
        assert n * z.mean(0).square().max().item() < chi2.isf(1e-6 / 8, 1)
        total = z.square().sum(0)
        assert chi2.isf(1 - 1e-6 / 8, n) < total.min().item()
        assert total.max().item() < chi2.isf(1e-6 / 8, n)


def test_prior_draws_have_the_prior_covariance():
    model, n = _exact(), 5000
    times = torch.tensor([0.0, 0.4, 0.4, 3.0], dtype=F64)
    with torch.no_grad():
        signal = model.generate(times, draws=n, generator=generator(0, "x")).signal[:, 0]
        expected = _stationary_cov(model)(times)[[0, 1, 3]][:, [0, 1, 3]].permute(0, 2, 1, 3).reshape(6, 6)
    x = (signal - model.decoder.bias.detach())[:, [0, 1, 3]].reshape(n, 6)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(expected), x.mT, upper=False).mT
    excess = white.mT @ white / n - torch.eye(6, dtype=F64)
    statistic = n * (excess.triu(1).square().sum() + excess.diagonal().square().sum() / 2)
    assert statistic.item() < chi2.isf(1e-6, 21)
    assert torch.allclose(signal[:, 1], signal[:, 2], atol=1e-9)


# -- the path model on a linear process ------------------------------------------------------------------------------

SCHEMA = Schema(
    time=TimeAxis("t", "number", 0.0, 1.0),
    series="series",
    variables=(Variable("a"), Variable("b")),
    channels=(Channel("a"), Channel("b")),
)


class _Prior(LinearProcess):
    """The linear part of a neural process, as an exact process."""

    def __init__(self, process):
        super().__init__()
        self.process, self.dim = process, process.dim

    def transition(self, dt):
        return self.process.linear.transition(dt)

    def initial(self):
        return self.process.initial()


def _pair(quiet=True, **options):
    """A path model whose drift is linear, potentials of the encoder off, and the exact model of the same prior."""
    model = latent_sde(SCHEMA, latent=2, width=8, hidden=4, **options)
    with torch.no_grad():
        model.process.start_mean.copy_(torch.tensor([0.3, -0.2]))
        model.process.log_start.copy_(torch.tensor([-0.4, 0.2]))
        if quiet and hasattr(model.posterior, "tilted"):
            model.posterior.head.weight.zero_()
            model.posterior.head.bias[2:] = -1e4
    return model, ExactPathModel(_Prior(model.process), model.decoder, model.likelihood)


def test_elbo_of_a_linear_process_is_the_log_likelihood():
    model, exact = _pair()
    batch = _batch((6, 3, 1))
    with torch.no_grad():
        fit, start, path = model.elbo_terms(batch, generator=None)
        loglik = exact.log_likelihood(batch)
    torch.testing.assert_close(fit - start - path, loglik, rtol=0, atol=1e-8)
    assert float(path.min()) >= 0
    assert float(start.min()) > 0


@pytest.mark.parametrize("posterior", ["bridge", "hermite"])
@pytest.mark.parametrize("seed", range(4))
def test_any_posterior_stays_below_the_log_likelihood(posterior, seed):
    """Also where one time is observed twice."""
    model, exact = _pair(quiet=False, posterior=posterior)
    batch, g = _batch((6, 3), seed=seed), generator(seed, "move")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("posterior", "encoder")):
                parameter.add_(0.4 * torch.randn(parameter.shape, generator=g, dtype=F64))
        fit, start, path = model.elbo_terms(batch, generator=None)
        assert bool((fit - start - path < exact.log_likelihood(batch) - 1e-6).all())


def test_random_nodes_give_an_unbiased_divergence():
    model, _ = _pair(quiet=False)
    batch = _batch()
    with torch.no_grad():
        model.posterior.head.bias.add_(0.7)
        expected = (torch.stack(model.elbo_terms(batch, generator=None)).sum(1)) / batch.observed
        model.nodes = 1
        losses = [model.loss(batch, generator=generator(i, "mc")) for i in range(225)]
    path = torch.stack([loss.terms["path"] for loss in losses])
    error = (path.mean() - expected[2]).abs() / (path.std() / 15)
    assert error.item() < 4.9
    assert losses[0].terms["fit"].item() == pytest.approx(expected[0].item(), rel=1e-12)


def test_simulated_elbo_agrees_with_the_quadrature():
    model, _ = _pair(quiet=False, inference="simulated")
    batch = _batch()
    with torch.no_grad():
        model.posterior.head.bias.add_(0.7)
        expected = torch.stack(model.elbo_terms(batch, generator=None)).sum(1) / batch.observed
        many = batch.select([0, 1] * 300)
        losses = [model.loss(many, generator=generator(i, "mc")).terms for i in range(12)]
    for k, name in enumerate(("fit", "start", "path")):
        values = torch.stack([loss[name] for loss in losses])
        # chance, and the step of the Euler scheme
        tolerance = 4.9 * values.std().item() / math.sqrt(12) + 0.02 * abs(expected[k].item())
        assert values.mean().item() == pytest.approx(expected[k].item(), abs=tolerance), name


def test_posterior_of_a_linear_process_is_the_exact_one():
    """Draws inside the data against the exact moments (level 1e-6); beyond it the Euler scheme takes over."""
    model, exact = _pair()
    batch, n = _batch((6,)), 5000
    first, last = batch.time[0], batch.time[-1]
    times = torch.stack([last, first, 0.4 * first + 0.6 * last])[None]
    with torch.no_grad():
        draws = model.predict(batch, times, draws=n, generator=generator(0, "x")).observation
        answer = exact.predict(batch, times, draws=1, generator=generator(0, "x"))
    z = (draws - answer.mean) / answer.variance.sqrt()
    assert n * z.mean(0).square().max().item() < chi2.isf(1e-6 / 6, 1)
    total = z.square().sum(0)
    assert chi2.isf(1 - 1e-6 / 6, n) < total.min().item()
    assert total.max().item() < chi2.isf(1e-6 / 6, n)


@pytest.mark.parametrize("lengths", [(0,), (5, 0)], ids=["alone", "beside another"])
@pytest.mark.parametrize("posterior", ["bridge", "hermite"])
def test_a_series_without_data_is_the_prior(posterior, lengths):
    """At the first time asked for; the encoder's parameters have no say (level 1e-6)."""
    model, _ = _pair(quiet=False, posterior=posterior)
    g, n = generator(0, "move"), 5000
    with torch.no_grad():
        for parameter in model.posterior.head.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=g, dtype=F64))
        times = torch.tensor([[2.5, 2.0]], dtype=F64).expand(len(lengths), 2)
        draws = model.predict(_batch(lengths, missing=False), times, draws=n, generator=generator(0, "x"))
        m0, P0 = model.process.initial()
        x = draws.latent[:, -1, 1] - m0
        terms = torch.stack(model.elbo_terms(_batch(lengths, missing=False), generator=None))[:, -1]
    assert not terms.any()
    white = x / P0.diagonal().sqrt()
    assert n * white.mean(0).square().sum().item() < chi2.isf(1e-6, 2)
    excess = white.mT @ white / n - torch.eye(2, dtype=F64)
    assert n * (excess[0, 1].square() + excess.diagonal().square().sum() / 2).item() < chi2.isf(1e-6, 3)


def test_linear_start_finds_a_good_start_without_global_randomness():
    g = generator(0, "teacher")
    teacher = _exact(seed=3, dim=2, channels=2)
    time = torch.arange(30, dtype=F64) * 0.7
    with torch.no_grad():
        values = teacher.generate(time, draws=3, generator=g).observation[:, 0]
    batch = SeriesBatch.of([time] * 3, list(values))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    found = []
    for _ in range(2):
        pupil = _exact(seed=9, dim=2, channels=2)
        fit_linear_start(pupil.process, pupil.decoder, pupil.likelihood, batch, seed=0, starts=2, short=5, long=12)
        found.append(pupil.log_likelihood(batch).sum().item())
    assert torch.equal(before, torch.get_rng_state())
    assert found[0] == found[1]
    # the maximum beats the truth on its own data, up to the few steps it was given
    assert found[0] > teacher.log_likelihood(batch).sum().item() - 5.0
