"""The Bayesian last layer against linear regression, and the splines of flows against themselves."""

from __future__ import annotations

import math

import pytest
import torch

from sciinfer.errors import ConfigError, ShapeError
from sciinfer.gp.spatial.optimise import maximise
from sciinfer.nets.parameters import value_and_slopes
from sciinfer.random import generator
from sciinfer.variational import BayesianLastLayer, Flow

F64 = torch.float64


def data(n: int = 40):
    g = generator(0, "last layer")
    x = torch.linspace(-2, 2, n, dtype=F64)
    phi = torch.stack([torch.ones_like(x), x, x.sin(), (2 * x).cos()], 1)
    return phi, phi @ torch.randn(4, 2, generator=g, dtype=F64) + 0.3 * torch.randn(n, 2, generator=g, dtype=F64)


def evidence(phi, y, noise, prior_sd):
    """``sum_c log N(y_c; 0, v phi phi^T + s^2 I)``."""
    total = 0.0
    for column, sd in zip(y.mT, noise, strict=True):
        seen = ~column.isnan()
        K = prior_sd**2 * phi[seen] @ phi[seen].mT + sd**2 * torch.eye(int(seen.sum()), dtype=F64)
        total += float(torch.distributions.MultivariateNormal(torch.zeros(len(K), dtype=F64), K).log_prob(column[seen]))
    return total


def fitted(layer, phi, y):
    named = [(name, p) for name, p in layer.named_parameters() if p.requires_grad]
    report = maximise(
        named, lambda: value_and_slopes(layer.elbo(phi, y), [p for _, p in named]), iterations=2000, tolerance=1e-15
    )
    return report.objective


@pytest.mark.parametrize("missing", [False, True])
def test_known_noise_and_fixed_features_give_the_evidence_of_linear_regression(missing):
    phi, y = data()
    if missing:
        y[3:9, 0], y[20, 1] = math.nan, math.nan
    layer = BayesianLastLayer(4, 2, noise=0.3, prior_sd=1.5)
    layer.log_noise.requires_grad_(False)
    layer.log_prior_sd.requires_grad_(False)
    assert fitted(layer, phi, y) == pytest.approx(evidence(phi, y, (0.3, 0.3), 1.5), abs=1e-6)
    for c, column in enumerate(y.mT):
        seen = ~column.isnan()
        precision = phi[seen].mT @ phi[seen] / 0.09 + torch.eye(4, dtype=F64) / 1.5**2
        mean = torch.linalg.solve(precision, phi[seen].mT @ column[seen] / 0.09)
        torch.testing.assert_close(layer.mean[c].detach(), mean, rtol=0, atol=1e-4)
        spread = (phi @ torch.linalg.inv(precision) * phi).sum(1) + 0.09
        found = [part[:, c].detach() for part in layer.predict(phi)]
        torch.testing.assert_close(found[0], phi @ mean, rtol=0, atol=1e-4)
        torch.testing.assert_close(found[1], spread, rtol=1e-3, atol=0)


def test_learned_scales_are_those_of_largest_evidence():
    phi, y = data()
    layer = BayesianLastLayer(4, 2)
    best = fitted(layer, phi, y)
    noise, prior_sd = layer.log_noise.detach().exp(), float(layer.log_prior_sd.detach().exp())
    assert best == pytest.approx(evidence(phi, y, noise, prior_sd), abs=1e-5)
    for factor in (0.9, 1.1):
        assert evidence(phi, y, noise * factor, prior_sd) < best
        assert evidence(phi, y, noise, prior_sd * factor) < best


def test_batches_add_up_to_the_whole():
    phi, y = data()
    layer = BayesianLastLayer(4, 2)
    parts = [layer.elbo(phi[i : i + 10], y[i : i + 10], total=40) for i in range(0, 40, 10)]
    assert torch.stack(parts).mean().item() == pytest.approx(layer.elbo(phi, y).item(), rel=1e-12)
    with pytest.raises(ShapeError, match="y has shape"):
        layer.elbo(phi, y[:, :1])
    with pytest.raises(ConfigError):
        BayesianLastLayer(4, noise=0.0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-10), (torch.float32, 1e-4)])
def test_splines_invert_in_every_bin_on_the_edges_and_far_out(dtype, tolerance):
    """Rational-quadratic splines of random and of extreme shapes; 50 standard deviations lie outside the box."""
    from zuko.transforms import MonotonicRQSTransform

    g = generator(0, "splines")
    for size in (1.0, 4.0):
        widths, heights = (size * torch.randn(200, 8, generator=g, dtype=dtype) for _ in range(2))
        slopes = size * torch.randn(200, 7, generator=g, dtype=dtype)
        spline = MonotonicRQSTransform(widths, heights, slopes)
        edges = [-5.0, 5.0, -5.0 + 1e-6, 5.0 - 1e-6, 0.0, -50.0, 50.0]
        inner = 10 * torch.rand(40, generator=g, dtype=dtype) - 5
        for x in [*torch.tensor(edges, dtype=dtype), *inner]:
            at = x.expand(200)
            y, ladj = spline.call_and_ladj(at)
            back, reverse = spline.inv.call_and_ladj(y)
            # where a steep bin maps to next to nothing, x is known no better than y over the slope
            known = tolerance * torch.maximum(torch.ones_like(ladj), (-ladj).exp())
            assert bool(((back - at).abs() <= known).all())
            assert bool(y.isfinite().all())
            assert bool(((ladj + reverse).abs() <= 100 * known).all())


def test_a_spline_flow_undoes_itself():
    flow = Flow(3, "nsf", generator=generator(0, "flow"))
    noise = torch.randn(300, 3, generator=generator(1, "flow"), dtype=F64)
    noise = torch.cat([noise, 50 * noise[:20], torch.full((1, 3), 5.0, dtype=F64)])
    with torch.no_grad():
        z, log_q = flow.transport(noise)
        back = flow.flow().transform((z - flow.shift) * (-flow.log_scale).exp())
        torch.testing.assert_close(back, noise, rtol=0, atol=1e-10)
        torch.testing.assert_close(flow.log_prob(z), log_q, rtol=1e-9, atol=1e-8)
