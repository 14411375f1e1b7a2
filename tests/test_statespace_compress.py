"""Square observation rows: the same likelihood and posterior from fewer rows; and the subspace start."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciinfer.labelled.series import SeriesBatch
from sciinfer.likelihoods import Gaussian
from sciinfer.models import exact
from sciinfer.models.exact import ExactPathModel
from sciinfer.models.spectral_start import spectral_start
from sciinfer.nets import LinearDecoder
from sciinfer.processes import StationaryLinear
from sciinfer.random import generator
from sciinfer.statespace import compress_rows

F64 = torch.float64


def _model(d=3, C=9):
    g = generator(0, "m")
    return ExactPathModel(StationaryLinear(d, generator=g), LinearDecoder(d, C, generator=g), Gaussian(C, noise=0.4))


def _data(C=9, missing=0.2, rows=(7, 1, 12)):
    g = generator(1, "d")
    times = [torch.rand(n, generator=g, dtype=F64).mul(5).sort().values for n in rows]
    values = [torch.randn(n, C, generator=g, dtype=F64) for n in rows]
    for v in values:
        v[torch.rand(v.shape, generator=g) < missing] = float("nan")
    return SeriesBatch.of(times, values)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_the_likelihood_its_gradient_and_the_posterior_are_those_of_the_long_rows(monkeypatch, missing):
    model, batch = _model(), _data(missing=missing)
    query = torch.tensor([[0.5, 2.0, 9.0]], dtype=F64).expand(3, 3)
    seen = []
    real = exact.compress_rows

    def watched(*args):
        seen.append(real(*args))
        return seen[-1]

    monkeypatch.setattr(exact, "compress_rows", watched)
    short = model.log_likelihood(batch)
    slopes = torch.autograd.grad(short.sum(), list(model.parameters()))
    bridge = model.condition(batch, query)
    assert seen[0] is not None and seen[0].H.shape[-2:] == (3, 3)
    monkeypatch.setattr(exact, "compress_rows", lambda *args: None)
    full = model.log_likelihood(batch)
    torch.testing.assert_close(short, full, rtol=1e-12, atol=1e-10)
    for mine, other in zip(slopes, torch.autograd.grad(full.sum(), list(model.parameters())), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
    long = model.condition(batch, query)
    torch.testing.assert_close(bridge.mean(bridge.at_query), long.mean(long.at_query), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(bridge.cov(bridge.at_query), long.cov(long.at_query), rtol=1e-10, atol=1e-10)


def test_rows_that_do_not_fix_the_state_are_left_as_they_are():
    weight, y = torch.randn(4, 3, generator=generator(0, "w"), dtype=F64), torch.zeros(2, 4, dtype=F64)
    mask = torch.ones(2, 4, dtype=torch.bool)
    assert compress_rows(weight, y, mask) is not None
    mask[1, :2] = False  # two rows for three unknowns
    assert compress_rows(weight, y, mask) is None
    assert compress_rows(weight[:3], y[:, :3], mask[:, :3]) is None
    assert compress_rows(weight * torch.tensor([1.0, 1.0, 1e-9], dtype=F64), y, torch.ones_like(mask)) is None
    mask[1] = False  # nothing at all is no rows
    found = compress_rows(weight, y, mask)
    assert found is not None and not found.H[1].any() and found.constant[1] == 0


def test_single_precision_keeps_its_digits():
    """Two states that the rows hardly tell apart: their square form would lose what float32 has."""
    g = generator(3, "single")
    weight = torch.randn(9, 2, generator=g, dtype=F64) @ torch.tensor([[1.0, 1.0], [0.0, 2e-3]], dtype=F64)
    y, mask = torch.randn(1, 9, generator=g, dtype=F64), torch.ones(1, 9, dtype=torch.bool)
    exact, found = compress_rows(weight, y, mask), compress_rows(weight.float(), y.float(), mask)
    assert exact is not None
    assert found is None or (found.y.double() - exact.y).abs().max() < 1e-4


def test_a_search_that_fails_leaves_the_parameters(monkeypatch):
    from sciinfer.errors import NumericalError
    from sciinfer.models.linear_start import minimise_exactly

    model, calls = _model(), []
    before = [p.detach().clone() for p in model.parameters()]
    loss = model.loss

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) > 3:
            raise NumericalError("no")
        return loss(*args, **kwargs)

    monkeypatch.setattr(model, "loss", failing)
    assert minimise_exactly(model, _data(), 10) == float("inf")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def _oscillation(noise, seed=0, rows=300):
    rng = np.random.default_rng(seed)
    t = np.arange(rows, dtype=float)
    path = np.stack([np.cos(2 * np.pi * t / 23), np.sin(2 * np.pi * t / 23), np.cos(2 * np.pi * t / 71)], 1)
    y = path @ rng.normal(size=(3, 5)) + noise * rng.normal(size=(rows, 5)) + 2.0
    return SeriesBatch.of([torch.from_numpy(t)], [torch.from_numpy(y)])


def test_the_subspace_start_finds_periods():
    start = spectral_start(_oscillation(0.05), 4)
    F = start.skew - np.diag(start.spread) / 2
    turning = np.abs(np.linalg.eigvals(F).imag)
    periods = sorted(2 * np.pi / turning[turning > 1e-6])[::2]
    np.testing.assert_allclose(periods, [23, 71], rtol=0.01)


def test_the_subspace_start_is_stationary_and_near_the_data():
    batch = _oscillation(0.05)
    start = spectral_start(batch, 4)
    np.testing.assert_allclose(start.skew, -start.skew.T, atol=1e-12)
    assert (start.spread > 0).all()
    spread = start.weight @ start.weight.T
    np.testing.assert_allclose(np.diag(spread), batch.values.numpy().var(0), rtol=0.5)


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_too_few_data_give_no_start(rows):
    t = torch.arange(rows, dtype=F64)
    assert spectral_start(SeriesBatch.of([t], [t[:, None]]), 4) is None
    assert (
        spectral_start(SeriesBatch.of([t.repeat(40).sort().values], [torch.zeros(40 * rows, 2, dtype=F64)]), 2) is None
    )
