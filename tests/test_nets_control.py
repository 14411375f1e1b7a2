"""Controls and signatures against what they are defined to be."""

from __future__ import annotations

import pytest
import torch

from sciinfer.errors import ConfigError
from sciinfer.nets.control import CONTROLS, along, build_control
from sciinfer.nets.signature import (
    Signature,
    chen,
    control_path,
    inverse,
    log_signature,
    prefix_at,
    prefixes,
    straight,
    window,
)
from sciinfer.random import generator

F64 = torch.float64


def _data(seed=0, S=2, T=9, C=2, gaps=0.3):
    g = generator(seed, "control")
    time = torch.rand((S, T), generator=g, dtype=F64).mul(6).sort(dim=1).values
    values = torch.randn((S, T, C), generator=g, dtype=F64)
    mask = torch.rand((S, T, C), generator=g) > gaps
    mask[:, [0, -1]] = True  # the first and last rows are whole, so that the path moves between them only
    return time, values, mask


def test_linear_control_is_interpolation_of_each_channel_alone():
    import numpy as np

    time, values, mask = _data()
    t = torch.linspace(-1, 7, 33, dtype=F64).expand(2, 33)
    found = along(build_control(time, values, mask), t).value
    for s in range(2):
        for c in range(2):
            seen = mask[s, :, c]
            expected = np.interp(t[s], time[s][seen], values[s, :, c][seen])
            torch.testing.assert_close(found[s, :, c], torch.as_tensor(expected), rtol=1e-12, atol=1e-12)


def test_hermite_control_meets_the_data_with_backward_slopes():
    time = torch.tensor([[0.0, 1.0, 3.0, 4.5]], dtype=F64)
    values = torch.tensor([[[0.0], [2.0], [-1.0], [0.5]]], dtype=F64)
    control = build_control(time, values, torch.ones_like(values, dtype=torch.bool), "hermite")
    at = along(control, time)
    torch.testing.assert_close(at.value, values)
    h = 1e-6
    just_before = along(control, time[:, 1:3] - h)
    torch.testing.assert_close(just_before.slope[0, :, 0], torch.tensor([2.0, -1.5], dtype=F64), rtol=0, atol=1e-4)
    t = torch.linspace(0.05, 4.4, 40, dtype=F64)[None]
    numeric = (along(control, t + h).value - along(control, t - h).value) / (2 * h)
    torch.testing.assert_close(along(control, t).slope, numeric, rtol=1e-6, atol=1e-6)


def test_rectilinear_control_does_not_see_the_future():
    time, values, mask = _data()
    t = torch.linspace(-1, 7, 41, dtype=F64).expand(2, 41)
    changed = values.clone()
    changed[:, 5:] += 10.0
    before, after = (along(build_control(time, v, mask, "rectilinear"), t) for v in (values, changed))
    early = t < time[:, 5:6]
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[early], b[early])
    assert not torch.equal(before.value[~early], after.value[~early])
    none = t < time[:, :1]
    assert not before.value[none].any()


def test_proximity_tells_how_far_the_data_are():
    time = torch.tensor([[1.0, 3.0]], dtype=F64)
    values = torch.ones(1, 2, 1, dtype=F64)
    at = along(build_control(time, values, torch.ones(1, 2, 1, dtype=torch.bool)), torch.tensor([[0.0, 2.0, 3.0, 7.0]], dtype=F64))  # fmt: skip  # noqa: E501
    torch.testing.assert_close(at.past[0, :, 0], torch.tensor([0.0, 0.5, 1.0, 0.2], dtype=F64))
    torch.testing.assert_close(at.future[0, :, 0], torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=F64))


@pytest.mark.parametrize("kind", CONTROLS)
def test_what_lies_under_a_mask_is_not_read(kind):
    time, values, mask = _data(3)
    t = torch.linspace(0, 6, 20, dtype=F64).expand(2, 20)
    rubbish = torch.where(mask, values, torch.full_like(values, float("nan")))
    for a, b in zip(along(build_control(time, values, mask, kind), t), along(build_control(time, rubbish, mask, kind), t), strict=True):  # fmt: skip  # noqa: E501
        assert torch.equal(a, b)


def test_unknown_controls_are_named():
    with pytest.raises(ConfigError, match="rectilinear"):
        build_control(*_data(), kind="quintic")


def test_chen_inverse_and_logarithm():
    g = generator(1, "pieces")
    steps = torch.randn((1, 12, 3), generator=g, dtype=F64)
    all_of = prefixes(straight(steps))
    whole = straight(steps[:, 0])
    for k in range(1, 12):
        whole = chen(whole, straight(steps[:, k]))
    torch.testing.assert_close(all_of.two[:, -1], whole.two)
    # brute force: iterated sums of the same polyline
    brute = torch.zeros(3, 3, dtype=F64)
    for i in range(12):
        for j in range(12):
            share = 1.0 if i < j else 0.5 if i == j else 0.0
            brute += share * torch.outer(steps[0, i], steps[0, j])
    torch.testing.assert_close(whole.two[0], brute)
    nothing = chen(whole, inverse(whole))
    assert float(nothing.one.abs().max()) < 1e-12
    assert float(nothing.two.abs().max()) < 1e-11
    cut = window(Signature(all_of.one[:, 4], all_of.two[:, 4]), Signature(all_of.one[:, 9], all_of.two[:, 9]))
    torch.testing.assert_close(cut.two, prefixes(straight(steps[:, 4:9])).two[:, -1])
    area = log_signature(whole).two
    torch.testing.assert_close(area, -area.mT)
    # the exponential of the logarithm is the signature again
    torch.testing.assert_close(area + 0.5 * whole.one[..., :, None] * whole.one[..., None, :], whole.two)


@pytest.mark.parametrize("kind", CONTROLS)
def test_signatures_of_a_control_equal_those_of_a_fine_polyline(kind):
    time, values, mask = _data(2, S=1)
    control = build_control(time, values, mask, kind)
    path = control_path(control, mask)
    a, b = 0.3 * time[0, 0] + 0.7 * time[0, 2], 0.4 * time[0, 6] + 0.6 * time[0, 7]
    ends = torch.stack([a, b])[None]
    at = prefix_at(path, ends)
    found = window(Signature(at.one[:, 0], at.two[:, 0]), Signature(at.one[:, 1], at.two[:, 1]))
    inner = time[0][(time[0] > a) & (time[0] < b)]
    # just before and just at each datum, so that the jumps of the rectilinear path are corners of the polyline
    grid = torch.cat([torch.linspace(0, 1, 4001, dtype=F64) * (b - a) + a, inner, inner - 1e-12]).sort().values[None]
    value = along(control, grid).value
    rank = torch.searchsorted(time, grid, right=True)
    count = torch.nn.functional.pad(path.counted, (1, 0)).gather(1, rank)
    if kind != "rectilinear":
        import numpy as np

        count = torch.as_tensor(np.interp(grid[0], time[0], path.counted[0]))[None]
    x = torch.cat([grid[..., None], value, count[..., None]], dim=-1)
    fine = prefixes(straight(x.diff(dim=1)))
    torch.testing.assert_close(found.one, fine.one[:, -1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.two, fine.two[:, -1], rtol=1e-5, atol=1e-5)
