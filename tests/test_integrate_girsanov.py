"""Path divergences against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from sciinfer.errors import NumericalError
from sciinfer.integrate import BrownianPath, control, girsanov

F64 = torch.float64
# case E of the design notes: Ornstein-Uhlenbeck (0.7) against Brownian motion on [0, 2], whatever the noise level
EXACT = 0.23260125782815225
TIMES = torch.tensor([0.0, 1.0, 2.0], dtype=F64)


def exact(t, a=0.7):
    return a / 4 * (t - (1 - math.exp(-2 * a * t)) / (2 * a))


DIFFUSIONS = {
    "diagonal": lambda t, z: torch.full_like(z, 0.4),
    "additive": lambda t, z: torch.tensor([[0.4]], dtype=F64),
    "general": lambda t, z: torch.full((*z.shape, 1), 0.4, dtype=F64),
}


@pytest.mark.parametrize("solver", ["euler-maruyama", "heun"])
@pytest.mark.parametrize("noise_type", list(DIFFUSIONS))
def test_ornstein_uhlenbeck_against_brownian_motion(noise_type, solver):
    out = girsanov(
        lambda t, z: -0.7 * z, lambda t, z: 0 * z, DIFFUSIONS[noise_type], torch.zeros(4096, 1, dtype=F64), TIMES,
        steps=400, noise=1, solver=solver, noise_type=noise_type,
    )  # fmt: skip
    assert exact(2.0) == pytest.approx(EXACT, rel=1e-12)
    for k, t in enumerate((0.0, 1.0, 2.0)):
        sample = out.kl[k]
        assert abs(float(sample.mean()) - exact(t)) <= 4 * float(sample.std()) / 64


def test_wide_noise_uses_the_shortest_control():
    # two components driven by three noises: |u|^2 = d' (g g')^-1 d for a constant difference d
    g = torch.tensor([[1.0, 0.0, 1.0], [0.5, 2.0, 0.0]], dtype=F64)
    shift = torch.tensor([1.0, -2.0], dtype=F64)
    out = girsanov(
        lambda t, z: 0 * z + shift, lambda t, z: 0 * z, lambda t, z: g, torch.zeros(3, 2, dtype=F64), TIMES,
        steps=8, noise=0, noise_type="additive",
    )  # fmt: skip
    expected = 0.5 * 2.0 * shift @ torch.linalg.solve(g @ g.T, shift)
    assert torch.allclose(out.kl[-1], expected.expand(3), rtol=1e-12)


def test_control_inverts_a_square_diffusion():
    generator = torch.Generator().manual_seed(0)
    g, d = (torch.randn(size, dtype=F64, generator=generator) for size in ((5, 3, 3), (5, 3)))
    u = control(d, g, "general")
    assert torch.allclose((g @ u[..., None])[..., 0], d)


def test_the_path_is_the_posterior_path():
    from sciinfer.integrate import sdeint

    z0, g = torch.ones(6, 2, dtype=F64), lambda t, z: 0.2 + 0 * z
    for solver in ("euler-maruyama", "milstein", "heun"):
        both = girsanov(lambda t, z: -z, lambda t, z: 0 * z, g, z0, TIMES, steps=20, noise=4, solver=solver)
        plain = sdeint(lambda t, z: -z, g, z0, TIMES, steps=20, noise=4, solver=solver)
        assert torch.equal(both.z, plain.z) and both.nfe == plain.nfe


def test_divergence_is_zero_for_equal_drifts_and_differentiable():
    a = torch.tensor(0.7, dtype=F64, requires_grad=True)
    z0, path = torch.zeros(4096, 1, dtype=F64), BrownianPath(0, dim=1, t1=2.0, batch=4096)
    out = girsanov(lambda t, z: -a * z, lambda t, z: 0 * z, DIFFUSIONS["diagonal"], z0, TIMES, steps=256, noise=path)
    (slope,) = torch.autograd.grad(out.kl[-1].mean(), a)
    step = 1e-6
    assert float(slope) == pytest.approx((exact(2.0, 0.7 + step) - exact(2.0, 0.7 - step)) / (2 * step), rel=0.05)
    same = girsanov(lambda t, z: -z, lambda t, z: -z, DIFFUSIONS["diagonal"], z0, TIMES, steps=4, noise=0)
    assert float(same.kl.abs().max()) == 0.0


@pytest.mark.parametrize(("noise_type", "shape"), [("diagonal", (2,)), ("general", (2, 2))])
def test_noise_that_vanishes_is_named(noise_type, shape):
    with pytest.raises(NumericalError, match="diffusion") as caught:
        girsanov(
            lambda t, z: z + 1, lambda t, z: 0 * z, lambda t, z: torch.zeros(3, *shape, dtype=F64),
            torch.zeros(3, 2, dtype=F64), TIMES, steps=4, noise=0, noise_type=noise_type,
        )  # fmt: skip
    assert caught.value.index == 0
