"""Simulation-free inference: divergences by quadrature against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from sciinfer.likelihoods import Gaussian
from sciinfer.processes import (
    HermiteKnots,
    LinearProcess,
    Marginals,
    NonlinearProcess,
    bridge_marginals,
    build_bridge,
    cubature,
    gap_nodes,
    gaussian_divergence,
    hermite_marginals,
    path_divergence,
)
from sciinfer.processes.hermite import gaps_of
from sciinfer.processes.matching import antithetic, random_nodes
from sciinfer.random import generator
from sciinfer.statespace import discretise, whiten

F64 = torch.float64
LOGLIK = -30.80470637763028


def _full(*values):
    return torch.tensor(values, dtype=F64)


class _Pull(NonlinearProcess):
    """``dz = -0.8 z dt + 1.2 dW``, stationary."""

    dim = 1

    def drift(self, t, z):
        return -0.8 * z

    def diffusion(self, t, z):
        return torch.full_like(z, 1.2)

    def initial(self):
        return _full(0.0), _full([0.9])


class _LinearPull(LinearProcess):
    """The same with its transition."""

    dim = 1

    def transition(self, dt):
        return discretise(_full([-0.8]), _full([1.44]), dt)

    def initial(self):
        return _full(0.0), _full([0.9])


def _case():
    """Fifty noisy observations after the start at zero, where nothing is seen."""
    i = torch.arange(1, 51, dtype=F64)
    t = 10 * (i / 50) ** 1.3
    y = torch.sin(1.7 * t) + 0.3 * torch.cos(5.1 * t)
    time, values = torch.cat([t[:1] * 0, t])[None], torch.cat([t[:1] * 0, y])[None, :, None]
    mask = torch.ones(1, 51, 1, dtype=torch.bool)
    mask[0, 0] = False
    likelihood = Gaussian(1)
    with torch.no_grad():
        likelihood.log_noise.fill_(math.log(0.3 - 1e-4))
    return time, values, mask, likelihood


def test_reference_elbo_of_the_exact_posterior_is_tight():
    time, values, mask, likelihood = _case()
    precision = torch.full((1, 51, 1), 1 / 0.09, dtype=F64)
    H, yw, log_jacobian = whiten(torch.ones(1, 51, 1, 1, dtype=F64), values, precision, mask)
    nodes, weights = gap_nodes(time, 16)
    bridge = build_bridge(_LinearPull(), time, H, yw, nodes)
    q = bridge_marginals(bridge, nodes, bridge.at_query, _full([-0.8]), _full(1.44))
    path = path_divergence(_Pull(), q, weights, cubature(1, yw)).item()
    mean, cov = bridge.mean(bridge.at_data), bridge.cov(bridge.at_data)
    start = gaussian_divergence(mean[:, 0], cov[:, 0], *_Pull().initial()).item()
    fit = likelihood.expected_log_prob(values, mean, cov[..., 0], mask).sum().item()
    assert fit == pytest.approx(-3.2633150231812347, abs=1e-8)
    assert start == pytest.approx(0.594448298795617, abs=1e-8)
    assert path == pytest.approx(26.94694305565337, abs=1e-8)
    assert fit - start - path == pytest.approx(LOGLIK, abs=1e-8)
    assert (bridge.loglik + log_jacobian.sum(1)).item() == pytest.approx(LOGLIK, rel=1e-12)


def test_reference_path_divergence_of_an_ornstein_uhlenbeck_from_brownian_motion():
    rate, scale, horizon = 0.7, 1.7, 2.0

    class Brownian(_Pull):
        def drift(self, t, z):
            return 0 * z

        def diffusion(self, t, z):
            return torch.full_like(z, scale)

    time, weights = gap_nodes(_full([0.0, horizon]), 20)
    variance = scale**2 * -torch.expm1(-2 * rate * time) / (2 * rate)
    growth = scale**2 * (-2 * rate * time).exp() / (2 * variance)
    blank = torch.zeros(1, 20, 1, dtype=F64)
    q = Marginals(time, blank, variance.sqrt()[..., None, None], blank, growth[..., None, None])
    found = path_divergence(Brownian(), q, weights, cubature(1, time)).item()
    assert found == pytest.approx(0.23260125782815225, abs=1e-8)


def _hermite_gap(iterations):
    """Nats between the log-likelihood and the ELBO of the best kinked Hermite posterior after so many iterations."""
    time, values, mask, likelihood = _case()
    parts = [torch.zeros(1, 51, 2, dtype=F64) for _ in range(3)]
    parts[0][..., 1] = -1.0
    for part in parts:
        part.requires_grad_()
    nodes, weights = gap_nodes(time, 6)
    gaps = gaps_of(time, nodes)

    def negative():
        q = hermite_marginals(HermiteKnots(time, *parts), gaps, nodes)
        path = path_divergence(_Pull(), q, weights, cubature(1, time))
        mean, log_sd = parts[0].chunk(2, -1)
        variance = (2 * log_sd).exp()
        start = gaussian_divergence(mean[:, 0], variance[:, 0, :, None], *_Pull().initial())
        return (path + start).sum() - likelihood.expected_log_prob(values, mean, variance, mask).sum()

    optimiser = torch.optim.LBFGS(
        parts, max_iter=iterations, history_size=50, line_search_fn="strong_wolfe", tolerance_change=1e-12
    )

    def closure():
        optimiser.zero_grad()
        loss = negative()
        loss.backward()
        return loss

    optimiser.step(closure)
    return LOGLIK + negative().item()


def test_trained_hermite_posterior_is_within_half_a_nat():
    assert 0.0 < _hermite_gap(400) < 0.5


@pytest.mark.slow
def test_trained_hermite_posterior_reaches_the_reference():
    """The family's own gap is 0.0995 nats."""
    assert _hermite_gap(6000) == pytest.approx(0.0995, abs=0.002)


def test_bridge_marginals_move_as_they_say():
    """``dm/dt = v`` and ``dS/dt = B S + S B^T``, by central differences in two dimensions."""
    g = generator(0, "bridge")
    F, D = torch.tensor([[-0.5, 1.0], [-1.0, -0.8]], dtype=F64), _full(0.7, 1.3)

    class Linear(LinearProcess):
        dim = 2

        def transition(self, dt):
            return discretise(F, torch.diag(D), dt)

        def initial(self):
            return _full(0.3, -0.2), torch.eye(2, dtype=F64)

    time = _full([0.0, 1.0, 2.5])
    H, y = torch.randn((1, 3, 2, 2), generator=g, dtype=F64), torch.randn((1, 3, 2), generator=g, dtype=F64)
    at, h = _full([0.3, 0.9, 1.7, 2.4, 3.0]), 1e-5
    query = torch.cat([at - h, at, at + h], 1)
    bridge = build_bridge(Linear(), time, H, y, query)
    before, now, after = bridge.at_query.chunk(3, 1)
    q = bridge_marginals(bridge, at, now, F, D)
    slope = (bridge.mean(after) - bridge.mean(before)) / (2 * h)
    torch.testing.assert_close(q.velocity, slope, rtol=1e-7, atol=1e-7)
    S = bridge.cov(now)
    change = (bridge.cov(after) - bridge.cov(before)) / (2 * h)
    torch.testing.assert_close(q.flow @ S + S @ q.flow.mT, change, rtol=1e-7, atol=1e-7)


def _knots():
    g = generator(0, "knots")
    return HermiteKnots(_full([0.0, 0.7, 2.0]), *(torch.randn((1, 3, 4), generator=g, dtype=F64) for _ in range(3)))


def test_hermite_pieces_meet_their_knots_with_one_sided_slopes():
    knots = _knots()
    for gap in (0, 1):
        ends = knots.time[:, gap : gap + 2]
        q = hermite_marginals(knots, torch.full((1, 2), gap), ends)
        mean, log_sd = knots.value[:, gap : gap + 2].chunk(2, -1)
        torch.testing.assert_close(q.mean, mean)
        torch.testing.assert_close(q.root.diagonal(dim1=-2, dim2=-1), log_sd.exp())
        slopes = torch.stack([knots.right[:, gap], knots.left[:, gap + 1]], 1)
        found = torch.cat([q.velocity, q.flow.diagonal(dim1=-2, dim2=-1)], -1)
        torch.testing.assert_close(found, slopes)


def test_hermite_pieces_move_as_they_say():
    knots, time = _knots(), _full([0.1, 0.5, 0.9, 1.8]).requires_grad_()
    q = hermite_marginals(knots, torch.tensor([[0, 0, 1, 1]]), time)
    for i in range(2):
        (slope,) = torch.autograd.grad(q.mean[..., i].sum(), time, retain_graph=True)
        torch.testing.assert_close(q.velocity[..., i], slope)
        (growth,) = torch.autograd.grad(q.root[..., i, i].log().sum(), time, retain_graph=True)
        torch.testing.assert_close(q.flow[..., i, i], growth)


class _Multiplicative(NonlinearProcess):
    """Noise that depends on every component; the drift is filled in by the test."""

    dim = 2
    additive = False

    def drift(self, t, z):
        # the drift that keeps N(0, I): 1/2 div(g g^T) - 1/2 g^2 z
        return 0.5 * self.spread_divergence(t, z) - 0.5 * self.diffusion(t, z).square() * z

    def diffusion(self, t, z):
        return 1.0 + 0.3 * torch.stack([z[..., 0].sin() * z[..., 1], z[..., 1].tanh() + z[..., 0].cos()], -1)

    def initial(self):
        return torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64)


def test_noise_that_depends_on_the_state_enters_by_its_divergence():
    process, z = _Multiplicative(), torch.randn((5, 2), generator=generator(0, "z"), dtype=F64)
    t, h = torch.zeros(5, dtype=F64), 1e-6
    found = process.spread_divergence(t, z)
    for i in range(2):
        shift = h * torch.eye(2, dtype=F64)[i]
        up, down = (process.diffusion(t, z + s)[..., i].square() for s in (shift, -shift))
        torch.testing.assert_close(found[..., i], (up - down) / (2 * h), rtol=1e-7, atol=1e-7)


def test_a_stationary_posterior_of_a_stationary_prior_costs_nothing():
    blank, eye = torch.zeros(1, 3, 2, dtype=F64), torch.eye(2, dtype=F64).expand(1, 3, 2, 2)
    time, weights = gap_nodes(_full([0.0, 1.0]), 3)
    points = torch.randn((7, 1, 3, 2), generator=generator(0, "points"), dtype=F64)
    q = Marginals(time, blank, eye, blank, 0 * eye)
    assert path_divergence(_Multiplicative(), q, weights, points).item() == pytest.approx(0.0, abs=1e-24)
    moved = q._replace(velocity=blank + 0.1)
    assert path_divergence(_Multiplicative(), moved, weights, points).item() > 1e-4


def test_gaussian_divergence_is_torchs():
    g = generator(0, "pairs")
    m = torch.randn((2, 4, 3), generator=g, dtype=F64)
    root = torch.randn((2, 4, 3, 3), generator=g, dtype=F64)
    S = root @ root.mT + 0.1 * torch.eye(3, dtype=F64)
    q, p = (torch.distributions.MultivariateNormal(m[i], S[i]) for i in range(2))
    expected = torch.distributions.kl_divergence(q, p)
    torch.testing.assert_close(gaussian_divergence(m[0], S[0], m[1], S[1]), expected)


@pytest.mark.parametrize("nodes", [1, 3, 16])
def test_nodes_integrate_polynomials_gap_by_gap(nodes):
    time = _full([0.0, 0.5, 0.5, 3.0])
    at, weights = gap_nodes(time, nodes)
    degree = 2 * nodes - 1
    exact = 3.0 ** (degree + 1) / (degree + 1)
    assert (weights * at**degree).sum().item() == pytest.approx(exact, rel=1e-12)
    assert not weights[0, nodes : 2 * nodes].any()


def test_random_nodes_are_stratified_and_unbiased():
    """Over the whole span of each series, short and long ones alike; a series of one time weighs nothing."""
    time, g = torch.tensor([[0.0, 0.2, 1.0], [2.0, 2.0, 2.0]], dtype=F64), generator(0, "nodes")
    estimates = []
    for _ in range(300):
        at, weights = random_nodes(time, 4, g)
        assert at.shape == weights.shape == (2, 4)
        assert ((at[0] * 4).floor() == torch.arange(4)).all()
        assert not weights[1].any()
        estimates.append((weights * at.exp())[0].sum())
    estimates = torch.stack(estimates)
    error = (estimates.mean() - math.expm1(1.0)).abs() / (estimates.std() / math.sqrt(300))
    assert error.item() < 4.9


def test_points_of_the_sphere_rule_and_mirrored_draws():
    points = cubature(3, torch.zeros(1, dtype=F64))[:, 0, 0]
    torch.testing.assert_close(points.mean(0), torch.zeros(3, dtype=F64))
    torch.testing.assert_close(points.mT @ points / 6, torch.eye(3, dtype=F64))
    draws = antithetic(2, (5, 3), generator(0, "x"), points)
    assert draws.shape == (4, 5, 3)
    assert torch.equal(draws[:2], -draws[2:])
