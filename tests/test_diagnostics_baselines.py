"""Baselines: hand-computed values, masks, ragged batches, honest spread."""

import math
import time

import pytest
import torch

from sciinfer.diagnostics import (
    BASELINES,
    linear,
    per_variable_linear,
    persistence,
    run_baselines,
    seasonal_naive_drift,
)
from sciinfer.diagnostics.lead_error import fit_lead_error
from sciinfer.diagnostics.segments import locate
from sciinfer.errors import ConfigError, NameNotFoundError, ShapeError, TimeError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.random import generator

NAN = float("nan")
ALL = list(BASELINES)


def batch_of(*series: tuple[list[float], list[list[float]]]) -> SeriesBatch:
    times = [torch.tensor(t, dtype=torch.float64) for t, _ in series]
    values = [torch.tensor(v, dtype=torch.float64).reshape(len(t), -1) for t, v in series]
    return SeriesBatch.of(times, values)


def ragged(seed: int = 0, n_series: int = 7, channels: int = 3) -> SeriesBatch:
    g = generator(seed, "ragged")
    times, values = [], []
    for length in torch.randint(1, 40, (n_series,), generator=g).tolist():
        times.append(torch.rand(length, generator=g, dtype=torch.float64).sort().values * 10)
        y = torch.randn(length, channels, generator=g, dtype=torch.float64).cumsum(0)
        y[torch.rand(length, channels, generator=g) < 0.4] = NAN
        values.append(y)
    return SeriesBatch.of(times, values)


def asked(batch: SeriesBatch, width: int = 9) -> torch.Tensor:
    g = generator(1, "asked")
    return torch.rand(batch.n_series, width, generator=g, dtype=torch.float64) * 16 - 3


def row(batch: SeriesBatch, name: str, times: list[float], season: float | None = None) -> list[float]:
    return BASELINES[name](batch, torch.tensor([times]).double(), season=season).mean[0, :, 0].tolist()


IRREGULAR = batch_of(([0.0, 1.0, 1.5, 4.0], [[2.0], [4.0], [NAN], [10.0]]))


def test_persistence_by_hand():
    assert row(IRREGULAR, "persistence", [-1.0, 0.0, 0.9, 1.0, 3.0, 4.0, 99.0]) == [2.0, 2.0, 2.0, 4.0, 4.0, 10.0, 10.0]


def test_constant_by_hand():
    assert row(IRREGULAR, "constant", [-1.0, 2.0, 9.0]) == pytest.approx([16 / 3] * 3)


def test_linear_by_hand():
    # least squares through (0, 2), (1, 4), (4, 10) is 2 + 2 t exactly
    assert row(IRREGULAR, "linear", [-1.0, 0.5, 2.5, 4.0, 6.0]) == pytest.approx([0.0, 3.0, 7.0, 10.0, 14.0])
    bent = batch_of(([0.0, 1.0, 2.0], [[0.0], [3.0], [0.0]]))
    assert row(bent, "linear", [0.5, 1.5, 5.0]) == pytest.approx([1.5, 1.5, 1.0])


def test_seasonal_with_drift_by_hand():
    y = [[1.0], [2.0], [3.0], [4.0], [2.0], [3.0], [4.0], [5.0]]
    batch = batch_of((list(map(float, range(8))), y))
    got = row(batch, "seasonal_naive_drift", [8.0, 9.0, 12.0, 15.0, -1.0, 3.5], season=4.0)
    assert got == pytest.approx([3.0, 4.0, 4.0, 7.0, 3.0, 3.0])


def test_seasonal_interpolates_between_irregular_times_and_is_exact_for_sine_plus_line():
    t = torch.linspace(0, 10, 801, dtype=torch.float64) ** 1.01
    batch = SeriesBatch.of([t], [(torch.sin(2 * math.pi * t) + 0.3 * t)[:, None]])
    future = torch.linspace(10.4, 13, 20, dtype=torch.float64)[None]
    got = seasonal_naive_drift(batch, future, season=1.0)
    truth = torch.sin(2 * math.pi * future) + 0.3 * future
    assert float((got.mean[..., 0] - truth).abs().max()) < 1e-3
    assert float(got.sd.max()) < 2e-3


def test_a_series_shorter_than_a_season_is_held():
    assert row(IRREGULAR, "seasonal_naive_drift", [-3.0, 2.5, 60.0], season=50.0) == pytest.approx([2.0, 7.0, 10.0])


def test_decimal_seasons_do_not_skip_a_cycle():
    t = torch.arange(36, dtype=torch.float64) * 0.1
    y = torch.arange(36, dtype=torch.float64) % 12
    future = torch.arange(36, 60, dtype=torch.float64) * 0.1
    got = seasonal_naive_drift(SeriesBatch.of([t], [y[:, None]]), future[None], season=1.2).mean[0, :, 0]
    torch.testing.assert_close(got, torch.arange(36, 60).double() % 12, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_a_channel_never_observed_is_the_training_mean_with_its_own_spread(name):
    batch = batch_of(([0.0, 1.0], [[3.0], [5.0]]), ([0.0, 1.0], [[NAN], [NAN]]))
    got = BASELINES[name](batch, torch.tensor([[2.0], [2.0]]), season=1.0)
    assert got.mean[1, 0, 0] == 0.0
    assert got.sd[1, 0, 0] == pytest.approx(math.sqrt(17.0))
    empty = BASELINES[name](batch_of(([0.0], [[NAN]])), torch.tensor([[2.0]]), season=1.0)
    assert (empty.mean.item(), empty.sd.item()) == (0.0, 1.0)


@pytest.mark.parametrize("name", ALL)
def test_the_mean_of_a_series_alone_equals_that_in_a_batch(name):
    batch = ragged()
    times = asked(batch)
    together = BASELINES[name](batch, times, season=2.0).mean
    alone = [BASELINES[name](batch.select([s]), times[s : s + 1], season=2.0).mean[0] for s in range(batch.n_series)]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_masked_equals_deleted_whatever_lies_under_the_mask(name):
    batch = ragged(channels=1)
    times = asked(batch)
    dirty = batch._replace(values=torch.where(batch.mask, batch.values, torch.tensor(1e6).double()))
    for got, want in zip(
        BASELINES[name](dirty, times, season=2.0),
        BASELINES[name](batch.drop_empty(), times, season=2.0),
        strict=True,
    ):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_order_of_times_does_not_matter_and_everything_is_finite(name):
    batch = ragged(seed=5)
    times = asked(batch)
    flip = torch.arange(times.shape[1] - 1, -1, -1)
    first, second = (BASELINES[name](batch, t, season=2.0) for t in (times, times[:, flip]))
    torch.testing.assert_close(first.mean[:, flip], second.mean, atol=0, rtol=0)
    assert bool(first.mean.isfinite().all()) and bool((first.sd > 0).all()) and bool(first.sd.isfinite().all())


@pytest.mark.parametrize("name", ALL)
def test_a_constant_series_is_forecast_with_a_small_positive_sd(name):
    batch = batch_of(([0.0, 1.0, 2.0, 3.0], [[5.0]] * 4))
    got = BASELINES[name](batch, torch.tensor([[1.5, 7.0]]), season=1.0)
    torch.testing.assert_close(got.mean, torch.full_like(got.mean, 5.0))
    assert bool(((got.sd > 0) & (got.sd < 0.1)).all())


@pytest.mark.parametrize("name", ALL)
def test_duplicate_times_and_single_rows_are_survived(name):
    batch = batch_of(([1.0, 1.0, 1.0], [[1.0], [2.0], [3.0]]), ([0.0], [[4.0]]))
    got = BASELINES[name](batch, torch.tensor([[1.0, 3.0], [0.0, 3.0]]), season=1.0)
    assert bool(got.mean.isfinite().all()) and bool((got.sd > 0).all())


def walks(n_series: int, n_times: int) -> torch.Tensor:
    return torch.randn(n_series, n_times, generator=generator(2, "walk"), dtype=torch.float64).cumsum(1)


def test_persistence_knows_the_spread_of_a_random_walk():
    y = walks(200, 60)
    t = torch.arange(60, dtype=torch.float64)
    batch = SeriesBatch.of([t[:40]] * 200, list(y[:, :40, None]))
    got = persistence(batch, t[40:].expand(200, -1))
    want = torch.arange(1, 21, dtype=torch.float64).sqrt()
    assert float((got.sd[0, :, 0] / want - 1).abs().max()) < 0.12
    inside = ((y[:, 40:] - got.mean[..., 0]).abs() < 1.645 * got.sd[..., 0]).double().mean()
    assert abs(float(inside) - 0.9) < 0.03


def test_linear_knows_the_spread_of_a_line_with_noise():
    g = generator(3, "line")
    t = torch.arange(40, dtype=torch.float64)
    y = torch.randn(200, 1, generator=g).double() * t + torch.randn(200, 40, generator=g).double()
    batch = SeriesBatch.of([t[:30]] * 200, list(y[:, :30, None]))
    got = linear(batch, t[30:].expand(200, -1))
    inside = ((y[:, 30:] - got.mean[..., 0]).abs() < 1.645 * got.sd[..., 0]).double().mean()
    assert abs(float(inside) - 0.9) < 0.03
    gaps = linear(batch, (t[:29] + 0.5).expand(200, -1))
    assert float(gaps.sd.min()) > 0.8


def test_spread_grows_beyond_the_longest_lead_tried():
    h = torch.arange(1.0, 65.0).repeat_interleave(30)
    error = fit_lead_error(h, h.clone(), slope=1.0, fallback=1.0)
    far = float(error.at(torch.tensor([640.0])))
    assert far == pytest.approx(640, rel=0.15)
    assert float(error.at(torch.tensor([1e-3]))) == pytest.approx(float(error.variance[0]))


def test_run_baselines_takes_the_seasonal_one_only_with_a_season():
    times = torch.tensor([[5.0]])
    assert list(run_baselines(IRREGULAR, times)) == ["persistence", "constant", "linear"]
    assert list(run_baselines(IRREGULAR, times, season=1.0)) == ALL
    with pytest.raises(NameNotFoundError, match="one of"):
        run_baselines(IRREGULAR, times, names=["naive"])


@pytest.mark.parametrize("name", ALL)
def test_bad_requests_are_named(name):
    with pytest.raises(ShapeError, match="1 series"):
        BASELINES[name](IRREGULAR, torch.zeros(3), season=1.0)
    with pytest.raises(TimeError, match="not finite") as caught:
        BASELINES[name](IRREGULAR, torch.tensor([[0.0, NAN]]), season=1.0)
    assert caught.value.index == (0, 1)


@pytest.mark.parametrize("season", [None, 0.0, -1.0, NAN])
def test_a_season_is_needed(season):
    with pytest.raises(ConfigError, match="season"):
        seasonal_naive_drift(IRREGULAR, torch.tensor([[5.0]]), season=season)


def test_locate_is_the_brute_force_answer():
    g = generator(4, "locate")
    pieces = [torch.randint(0, 6, (n,), generator=g).double().sort().values for n in (0, 1, 7, 3)]
    lengths = torch.tensor([len(p) for p in pieces])
    ends = lengths.cumsum(0)
    query = torch.arange(-1.0, 8.0, 0.5, dtype=torch.float64).expand(4, -1)
    got = locate(torch.cat(pieces), (ends - lengths)[:, None], ends[:, None], query)
    want = [[int((p <= q).sum()) - 1 for q in query[0]] for p in pieces]
    torch.testing.assert_close(got, torch.tensor(want) + (ends - lengths)[:, None])


def history_and_future(n: int = 400) -> tuple[SeriesBatch, torch.Tensor]:
    """Channel 0 halves towards its mean after the cutoff at 9.5; channel 1 is noise."""
    g = generator(6, "halving")
    t = torch.arange(12, dtype=torch.float64)
    level = 3 * torch.randn(n, 1, generator=g).double()
    y0 = torch.where(t > 9.5, 0.5 * level, level).expand(n, -1) + 0.1 * torch.randn(n, 12, generator=g).double()
    y = torch.stack([y0, torch.randn(n, 12, generator=g).double()], dim=-1)
    return SeriesBatch.of([t] * n, list(y)), y


def test_per_variable_linear_learns_from_the_training_series():
    batch, y = history_and_future()
    train, test = batch.select(list(range(300))), batch.select(list(range(300, 400)))
    got = per_variable_linear(train, test.keep(test.time < 9.5), torch.tensor([[10.0, 11.0]]).expand(100, -1))
    error = got.mean - y[300:, 10:]
    assert float(error[..., 0].std()) < 0.15 < 0.5 < float((y[300:, 9:10, 0] - y[300:, 10:, 0]).std())
    inside = (error.abs() < 1.645 * got.sd).double().mean((0, 1))
    assert float((inside - 0.9).abs().max()) < 0.08


def test_per_variable_linear_unseen_channels_alone_and_masked():
    batch, _ = history_and_future(60)
    hidden = batch.mask.clone()
    hidden[(batch.series_of_row < 9) & (batch.time < 9.5), 0] = False
    batch = batch._replace(mask=hidden, values=torch.where(hidden, batch.values, 1e6))
    cond, times = batch.keep(batch.time < 9.5), torch.tensor([[10.0, 11.0]]).expand(60, -1)
    got = per_variable_linear(batch, cond, times)
    assert bool(got.mean.isfinite().all()) and float(got.mean.abs().max()) < 20
    one = per_variable_linear(batch, cond.select([4]), times[:1])
    torch.testing.assert_close(got.mean[4:5], one.mean, atol=1e-10, rtol=0)
    with pytest.raises(ConfigError, match="cutoff"):
        per_variable_linear(batch, cond, times, cutoff=99.0)
    with pytest.raises(ShapeError, match="channels"):
        per_variable_linear(batch, cond._replace(values=cond.values[:, :1], mask=cond.mask[:, :1]), times)


def test_many_short_series_take_no_python_loop():
    g = generator(8, "many")
    n, length = 1500, 20
    t = torch.rand(n, length, generator=g).double().sort(1).values
    y = torch.randn(n, length, 4, generator=g).double()
    batch = SeriesBatch.of(list(t), list(y))
    began = time.perf_counter()
    run_baselines(batch, t + 1, season=0.3)
    assert time.perf_counter() - began < 10


def test_leads_that_differ_by_rounding_only_share_their_error() -> None:
    lead = torch.tensor([0.1 * 3, 0.3] * 300 + [0.6] * 300, dtype=torch.float64)
    assert lead[0] != lead[1]
    found = fit_lead_error(lead, torch.ones_like(lead), slope=0.0, fallback=1.0).at(lead)
    torch.testing.assert_close(found, torch.ones_like(lead))
