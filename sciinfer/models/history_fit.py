"""The closed-form fit: ridge regressions of later rows on earlier ones, penalties chosen on held-out series."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..diagnostics.lead_error import fit_lead_error
from ..labelled.series import SeriesBatch
from .history_features import LEADS, WIDTH, features_of, lead_features

#: rows before which a series is asked about, folds of series, floating-point operations worth spending on sums
_DECAYS = 1 + len(LEADS)
_ORIGINS, _FOLDS, _WORK = 12, 4, 1.2e12
_FEWEST, _MOST = 3_000, 40_000
#: candidates: penalty of a channel's own features, of the other channels', of the random ones
OWN, CROSS, RANDOM = (0.1, 1.0, 10.0, 100.0), (3.0, 30.0, 300.0, 3e3, 3e4, 1e7), (10.0, 1e2, 1e3, 1e4, 1e7)
_SPREAD = (10.0, 300.0, 1e3)
#: the level is set where this share of the errors is within so many standard deviations: tails are heavier than normal
_COVERED, _NORMAL = 0.9, 1.6448536269514722
#: the log-variance stays this far about its mean; targets beyond this many deviations are cut
_LOW, _HIGH, _CUT = -8.0, 4.0, 10.0


class Fit(NamedTuple):
    """``anchor [C]``: share of the last value that stays; ``weight, spread [C, P, 5]``: of what is added to it, and of
    the log-variance; ``level [C]``: mean log-variance; ``noise [C]``: variance at the shortest leads."""

    anchor: Tensor
    weight: Tensor
    spread: Tensor
    level: Tensor
    noise: Tensor


class Pairs(NamedTuple):
    """Targets of one channel, ``[n]`` each: row of the table they are seen from, lead, value, last value, fold."""

    origin: Tensor
    lead: Tensor
    value: Tensor
    last: Tensor
    fold: Tensor


def origin_table(batch: SeriesBatch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Features at a few random rows of each series: ``[U, 9 C]``, their ``row [S, K]`` (0: none read) and time."""
    lengths = batch.lengths
    device = batch.time.device
    share = torch.rand(batch.n_series, _ORIGINS, generator=generator, dtype=torch.float64, device=device)
    share = (share + torch.arange(_ORIGINS, device=device)) / _ORIGINS
    row = (share * lengths.clamp(min=1)[:, None]).long()
    table, times = [], []
    for which in torch.arange(batch.n_series, device=device).split(128):
        padded = batch.select(which).padded()
        found = features_of(padded.time.double(), padded.values.double(), padded.mask)
        index = row[which]
        table.append(found.gather(1, index[..., None].expand(-1, -1, found.shape[2])).flatten(0, 1))
        times.append(padded.time.double().gather(1, (index - 1).clamp(min=0)))
    return torch.cat(table), row, torch.cat(times)


def pairs_of(
    batch: SeriesBatch, channel: int, table: Tensor, row: Tensor, times: Tensor, most: int, generator: torch.Generator
) -> Pairs:
    """Observed entries of a channel, each with one earlier origin of its series, nearer ones more often."""
    seen = batch.mask[:, channel].nonzero()[:, 0]
    if not len(seen):
        none = seen.double()
        return Pairs(seen, none, none, none, seen)
    repeats = max(1, min(6, -(-most // len(seen))))
    seen = seen.repeat(repeats)
    if len(seen) > most:
        seen = seen[torch.randperm(len(seen), generator=generator, device=seen.device)[:most]]
    series = batch.series_of_row[seen]
    position = seen - batch.offsets[series]
    distance = position[:, None] + 1 - row[series]
    gumbel = -(-torch.rand(distance.shape, generator=generator, dtype=torch.float64, device=seen.device).log()).log()
    score = torch.where(distance > 0, gumbel - distance.clamp(min=1).double().log(), -torch.inf)
    best = score.argmax(dim=1)
    fine = score.gather(1, best[:, None])[:, 0] > -torch.inf
    seen, series, best = seen[fine], series[fine], best[fine]
    has = row[series, best] > 0
    lead = torch.where(has, batch.time[seen].double() - times[series, best], 0.0)
    value = batch.values[seen, channel].double()
    # folds are blocks: neighbours may be windows of one record
    origin = series * row.shape[1] + best
    return Pairs(origin, lead, value, table[origin, WIDTH * channel + 1], series * _FOLDS // batch.n_series)


def fit_histories(
    batch: SeriesBatch, base: Callable[[Tensor], Tensor], table: Tensor, row: Tensor, times: Tensor, parts: int,
    generator: torch.Generator,
) -> Fit:  # fmt: skip
    """All channels, one after the other.

    Args:
        base: features ``[n, 9 C]`` to the ``parts`` columns of the regression, ``[n, P]``.
        table, row, times: of :func:`origin_table`.
    """
    channels = batch.n_channels
    columns = _DECAYS * parts
    most = int(min(max(_WORK / (channels * columns**2), _FEWEST), _MOST))
    expanded = base(table)
    found = []
    for channel in range(channels):
        pairs = pairs_of(batch, channel, table, row, times, most, generator)
        found.append(_fit_channel(expanded, pairs, channel, channels, parts))
    return Fit(*(torch.stack(part) for part in zip(*found, strict=True)))


def _fit_channel(base: Tensor, pairs: Pairs, channel: int, channels: int, parts: int) -> tuple[Tensor, ...]:
    columns = _DECAYS * parts
    if len(pairs.value) == 0:
        blank = torch.zeros(columns, dtype=torch.float64).view(parts, _DECAYS)
        return blank[0, 0], blank, blank, torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    design = (base[pairs.origin][..., None] * lead_features(pairs.lead)[:, None]).flatten(1)
    trust = _trust(pairs)
    anchor = _anchor(pairs, trust)
    target = (pairs.value - anchor * pairs.last).clamp(-_CUT, _CUT) * trust
    design = design * trust[:, None]
    sums = [_sums(design, target, pairs.fold == fold) for fold in range(_FOLDS)]
    penalty = _chosen(sums, design, target, pairs.fold, _groups(channel, channels, parts))
    gram, cross = _total(sums)
    weight = _solve(gram, cross, penalty)
    residual = torch.empty_like(target)
    for fold, (own, shift) in enumerate(sums):
        rows = pairs.fold == fold
        residual[rows] = target[rows] - design[rows] @ _solve(gram - own, cross - shift, penalty)
    residual = residual / trust
    spread, level = _log_variance(design, gram, residual, trust, _groups(channel, channels, parts))
    near = pairs.lead <= pairs.lead.quantile(0.1)
    noise = residual[near].square().mean()
    return anchor, weight.view(parts, _DECAYS), spread.view(parts, _DECAYS), level, noise


def _trust(pairs: Pairs) -> Tensor:
    """``[n]``: inverse of the size of a change over that lead, one in the mean: near rows are foretold more closely."""
    change = (pairs.value - pairs.last).square()
    variance = fit_lead_error(pairs.lead, change, slope=0.0, fallback=1.0).at(pairs.lead.clamp(min=1e-3))
    weight = 1 / variance.clamp(min=1e-3 * float(variance.mean()) + 1e-12)
    return (weight / weight.mean()).sqrt()


def _anchor(pairs: Pairs, trust: Tensor) -> Tensor:
    """Slope of values on last values: it also holds far out, where the features of the regression are cut."""
    last = pairs.last * trust
    return (last @ (pairs.value * trust) / (last @ last + 1.0)).clamp(0.0, 1.0)


def _groups(channel: int, channels: int, parts: int) -> Callable[[float, float, float], Tensor]:
    """Penalties by group of columns: constant, own features, those of other channels, random ones."""
    group = torch.full((parts,), 3)
    group[0] = 0
    group[1 : 1 + WIDTH * channels] = 2
    group[1 + WIDTH * channel : 1 + WIDTH * (channel + 1)] = 1

    def penalties(own: float, cross: float, random: float) -> Tensor:
        return torch.tensor([1e-3, own, cross, random], dtype=torch.float64)[group].repeat_interleave(_DECAYS)

    return penalties


def _sums(design: Tensor, target: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    part = design[rows]
    return part.mT @ part, part.mT @ target[rows]


def _total(sums: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    grams, crosses = zip(*sums, strict=True)
    return torch.stack(grams).sum(0), torch.stack(crosses).sum(0)


def _solve(gram: Tensor, cross: Tensor, penalty: Tensor) -> Tensor:
    # differences of sums leave round-off on the diagonal
    slack = 1e-10 * gram.diagonal().amax()
    return torch.cholesky_solve(cross[:, None], torch.linalg.cholesky(gram + (penalty + slack).diag()))[:, 0]


def _chosen(
    sums: list[tuple[Tensor, Tensor]], design: Tensor, target: Tensor, fold: Tensor, groups: Callable[..., Tensor]
) -> Tensor:
    """The penalties with the least squared error in the first fold, one group after the other."""
    gram, cross = _total(sums[1:])
    rows = fold == 0
    held, truth = design[rows], target[rows]

    def error(chosen: tuple[float, ...]) -> float:
        if not len(truth):
            return sum(-value for value in chosen)  # nothing to choose on: the strongest
        return float((held @ _solve(gram, cross, groups(*chosen)) - truth).square().mean())

    best = (10.0, 1e4, 1e4)
    for place, candidates in _turns():
        tried = [(*best[:place], value, *best[place + 1 :]) for value in candidates]
        best = min(tried, key=error)
    return groups(*best)


def _turns() -> Iterator[tuple[int, tuple[float, ...]]]:
    return itertools.chain([(1, CROSS), (2, RANDOM), (0, OWN)])


def _log_variance(
    design: Tensor, gram: Tensor, residual: Tensor, trust: Tensor, groups: Callable[..., Tensor]
) -> tuple[Tensor, Tensor]:
    """Weights of the log-variance about its level: a ridge regression of log squared residuals, then its level."""
    mean = residual.square().mean().clamp(min=1e-10)
    target = (residual.square() + 0.05 * mean).log()
    centre = target.mean()
    weight = _solve(gram, design.mT @ ((target - centre) * trust), groups(*_SPREAD))
    shape = (design @ weight / trust).clamp(_LOW, _HIGH)
    ratio = (residual.abs() / (0.5 * shape).exp()).quantile(_COVERED)
    level = 2 * (ratio / _NORMAL).clamp(min=1e-5).log()
    return weight, level


def log_variance(level: Tensor, found: Tensor) -> Tensor:
    """``level + found``, ``found`` kept within its bounds."""
    return level + found.clamp(_LOW, _HIGH)
