"""State-space layers: against the matrices they stand for, in both modes, in pieces and whole."""

from __future__ import annotations

import math

import pytest
import torch

from sciinfer.nets.s4 import _smooth, convolve_states, regular_step
from sciinfer.nets.s5 import S5Layer, S5Stack, hippo_rates
from sciinfer.random import generator
from sciinfer.statespace import linear_recurrence

F64 = torch.float64


def _normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed, "x"), dtype=F64)


def _steps(S, T):
    return torch.rand(S, T, generator=generator(1, "steps"), dtype=F64) * 2


def test_rates_are_eigenvalues_of_the_normal_part_of_hippo():
    n = torch.arange(8, dtype=F64)
    root = (2 * n + 1).sqrt()
    legs = -torch.outer(root, root).tril(-1) - torch.diag(n + 1)
    normal = legs + 0.5 * torch.outer(root, root)
    values = torch.linalg.eigvals(normal)
    expected = values[values.imag > 0]
    expected = expected[expected.imag.argsort()]
    torch.testing.assert_close(hippo_rates(8), expected, rtol=1e-10, atol=1e-10)


def test_a_step_is_the_exact_solution_of_the_equation():
    layer = S5Layer(6, 4, generator=generator(0, "layer"))
    h, rows = _normal(1, 3, 6), torch.ones(1, 3, 1, dtype=F64)
    gaps = torch.tensor([[0.0, 0.7, 2.1]], dtype=F64)
    with torch.no_grad():
        _, x = layer(h, gaps, rows)
        u, _ = layer.drive(h, rows)
        lam = torch.complex(-layer.log_decay.exp(), layer.frequency)
        drive = torch.view_as_complex((u @ layer.into).unflatten(-1, (-1, 2)))[0]
        state = torch.zeros(4, dtype=torch.complex128)
        for k in range(3):
            # y' = L y + B u over one unit of rescaled time, from rest: the row's own part
            system = torch.zeros(5, 5, dtype=torch.complex128)
            system[:4, :4], system[:4, 4] = torch.diag(lam), drive[k]
            own = torch.stack([torch.linalg.matrix_exp(system * s)[i, 4] for i, s in enumerate(layer.log_step.exp())])
            state = torch.linalg.matrix_exp(torch.diag(lam * layer.log_step.exp()) * gaps[0, k]) @ state + own
            torch.testing.assert_close(x[0, k], state, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("T", [1, 2, 37, 500])
def test_convolution_equals_recurrence(T):
    stack = S5Stack(6, 5, 2, generator=generator(0, "stack"))
    h, rows = _normal(2, T, 6), torch.ones(2, T, 1, dtype=F64)
    rows[1, T // 2 :] = 0
    step = torch.full((2, T), 0.3, dtype=F64)
    step[:, 0] = 0
    by_scan, states = stack(h, step, rows)
    by_conv, spectra = stack(h, step, rows, None, torch.tensor(0.3, dtype=F64))
    torch.testing.assert_close(by_conv, by_scan, rtol=1e-8, atol=1e-8)
    for a, b in zip(spectra, states, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    for parameter in stack.parameters():
        one, other = (
            torch.autograd.grad(f.square().sum(), parameter, retain_graph=True)[0] for f in (by_conv, by_scan)
        )
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_convolution_of_states_is_the_sum_it_stands_for():
    rate, b = (
        torch.tensor([-0.1 + 2j, -3.0 - 1j], dtype=torch.complex128),
        torch.complex(_normal(1, 9, 2), _normal(1, 9, 2)),
    )
    h = torch.tensor(0.5, dtype=F64)
    found = convolve_states(rate, h, b)
    direct = torch.stack([sum((rate * 0.5 * (k - j)).exp() * b[0, j] for j in range(k + 1)) for k in range(9)])
    torch.testing.assert_close(found[0], direct, rtol=1e-12, atol=1e-12)
    gate = (rate * h).exp().expand(1, 9, 2)
    torch.testing.assert_close(found, linear_recurrence(gate.contiguous(), b), rtol=1e-12, atol=1e-12)


def test_a_row_that_is_not_there_changes_nothing():
    stack = S5Stack(6, 4, 2, generator=generator(0, "stack"))
    time = _steps(1, 7).cumsum(1)
    step = torch.cat([time[:, :1] * 0, time.diff(dim=1)], dim=1)
    h, rows = _normal(1, 7, 6), torch.ones(1, 7, 1, dtype=F64)
    rows[0, 3] = 0
    keep = [0, 1, 2, 4, 5, 6]
    step_kept = torch.cat([time[:, :1] * 0, time[:, keep].diff(dim=1)], dim=1)
    whole, x = stack(h, step, rows)
    less, w = stack(h[:, keep], step_kept, rows[:, keep])
    torch.testing.assert_close(whole[:, keep], less, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x[-1][:, keep], w[-1], rtol=1e-12, atol=1e-12)


def test_reading_in_pieces_equals_reading_at_once():
    stack = S5Stack(6, 4, 2, generator=generator(0, "stack"))
    h, rows, step = _normal(2, 8, 6), torch.ones(2, 8, 1, dtype=F64), _steps(2, 8)
    whole, _ = stack(h, step, rows)
    first, states = stack(h[:, :5], step[:, :5], rows[:, :5])
    rest, _ = stack(h[:, 5:], step[:, 5:], rows[:, 5:], tuple(x[:, -1] for x in states))
    torch.testing.assert_close(torch.cat([first, rest], dim=1), whole, rtol=1e-12, atol=1e-12)


def test_carrying_on_twice_is_carrying_on_once():
    stack = S5Stack(6, 4, 2, generator=generator(0, "stack"))
    x = torch.complex(_normal(3, 4), _normal(3, 4, seed=1))
    a, b = torch.tensor([0.1, 1.0, 9.0], dtype=F64), torch.tensor([3.0, 0.0, 1.0], dtype=F64)
    torch.testing.assert_close(stack.propagate(stack.propagate(x, a), b), stack.propagate(x, a + b))


def test_states_always_decay():
    layer = S5Layer(6, 4, generator=generator(0, "layer"))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(5 * _normal(*parameter.shape))
    assert bool((layer.gate(torch.tensor([0.01, 1.0, 1e6], dtype=F64)).abs() < 1).all())


def test_regular_times_are_recognised():
    time = torch.tensor([[0.0, 0.1, 0.2, 0.3], [5.0, 5.1, 5.2, 5.2]], dtype=F64)
    rows = torch.tensor([[True] * 4, [True] * 3 + [False]])
    assert float(regular_step(time, rows)) == pytest.approx(0.1, rel=1e-9)
    assert regular_step(time, torch.ones(2, 4, dtype=torch.bool)) is None
    assert regular_step(time + torch.tensor([0, 0, 1e-4, 0]), rows) is None
    assert regular_step(time[:, :1], rows[:, :1]) is None


def test_single_precision_takes_rounding_for_regular_but_not_jitter():
    number = torch.arange(5000, dtype=F64)
    every = torch.ones(1, 5000, dtype=torch.bool)
    for step in (0.1, 1.0, 1 / 3):
        time = (step * number).float()[None]
        assert float(regular_step(time, every)) == pytest.approx(step, rel=1e-4)
        jitter = 0.015 * step * torch.rand(5000, generator=generator(0, "jitter"), dtype=F64)
        assert regular_step((time.double() + jitter).float(), every) is None


@pytest.mark.parametrize("least", [1, 2, 7, 97, 1999, 19999, 65537])
def test_transform_lengths_have_small_factors_and_are_the_least_such(least):
    def smooth(n):
        for p in (2, 3, 5):
            while n % p == 0:
                n //= p
        return n == 1

    assert _smooth(least) == next(n for n in range(least, 2 * least + 1) if smooth(n))
    assert math.log2(_smooth(least)) < math.log2(least) + 1
