"""The linear baseline of whole trajectories: principal components and a ridge vector autoregression, rolled out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..labelled.series import SeriesBatch
from .forecast import Forecast
from .lead_error import fit_lead_error
from .per_channel import check_times, per_channel, second_moment, to_sd
from .segments import Channel, Query, channel_of, interpolate

COMPONENTS, RIDGES, ORDERS = (3, 8, 15, 50), (1.0, 10.0, 100.0, 1000.0), (1, 3)
#: largest share of missing entries, and fewest training series, at which a score shows this baseline unasked
_GAPPY, _FEWEST = 0.3, 8
_TOLERANCE = 1e-6
#: a rollout this many times the size of the data has blown up
_EXPLODED = 1e3


class Autoregression(NamedTuple):
    """``z_t = [1, z_(t-1), ..., z_(t-p)] @ weights`` for the components ``z = (y - centre) @ basis``.

    ``centre [C]``, ``basis [C, d]`` orthonormal, ``weights [1 + p d, d]``, ``order`` p.
    """

    centre: Tensor
    basis: Tensor
    weights: Tensor
    order: int

    def rollout(self, history: Tensor, steps: int) -> Tensor:
        """``[S, steps, C]`` after ``history [S, G, C]``; one shorter than the order starts with its first row."""
        z = (history - self.centre) @ self.basis
        z = torch.cat([z[:, :1].expand(-1, max(self.order - z.shape[1], 0), -1), z], dim=1)
        last = [z[:, -k] for k in range(1, self.order + 1)]
        path = []
        for _ in range(steps):
            last = [(self.weights[0] + torch.cat(last, dim=-1) @ self.weights[1:]), *last[:-1]]
            path.append(last[0])
        found = torch.stack(path, dim=1) @ self.basis.mT + self.centre
        limit = _EXPLODED * (1 + history.abs().max())
        return found.nan_to_num(nan=0.0).clamp(-limit, limit)


def pca_var(
    train: SeriesBatch,
    cond: SeriesBatch,
    times: Tensor,
    *,
    cutoff: float | None = None,
    step: float | None = None,
    components: Sequence[int] = COMPONENTS,
    ridges: Sequence[float] = RIDGES,
    orders: Sequence[int] = ORDERS,
) -> Forecast:
    """Ridge autoregression of the leading principal components, fitted on other series, rolled out from the history.

    Values are put on a grid of spacing ``step`` by linear interpolation of each channel. The settings are those with
    the least squared error after the cutoff in the last quarter of the training series, fitted to the others; the sd is
    that of these errors, by channel and lead time. The answer is then fitted to all training series.

    Args:
        train: whole series (history and future), model units.
        cond: histories of the series to forecast.
        times: ``[S, T]``, model time units; those before the cutoff are interpolated in the history.
        cutoff: time that ends the history; None: the last time in ``cond``.
        step: of the grid, model time units; None: the common step of the data.
        components, ridges, orders: settings to choose from; the ridge is in rows.

    Returns:
        mean and sd ``[S, T, C]``.

    Raises:
        ShapeError: channels or times do not fit. ConfigError: no common step, nothing after the cutoff, or fewer than
        two training series.

    References:
        Hoerl, Kennard (1970), Ridge regression: biased estimation for nonorthogonal problems

    Example:
        >>> t = torch.arange(12.0, dtype=torch.float64)
        >>> b = SeriesBatch.of([t] * 8, [(0.9**t * k)[:, None] for k in range(1, 9)])
        >>> answer = pca_var(b, b.keep(b.time < 6), torch.full((8, 1), 8.0), cutoff=5.0, ridges=[1e-6])
        >>> bool((answer.mean[:, 0, 0] - 0.9**8 * torch.arange(1, 9)).abs().max() < 1e-3)
        True
    """
    check_times(cond, times)
    if train.n_channels != cond.n_channels:
        raise ShapeError(f"training data have {train.n_channels} channels, conditioning data {cond.n_channels}")
    origin = float(cond.time.max()) if cutoff is None else float(cutoff)
    step = _step_or_raise(train) if step is None else float(step)
    past, future = train.keep(train.time <= origin), train.keep(train.time > origin)
    if future.observed == 0 or train.n_series < 2:
        raise ConfigError(
            f"{train.n_series} training series with {future.observed} entries after the cutoff {origin}",
            fix="pass several whole series, or an earlier cutoff",
        )
    grid = _Grid.of(train, origin, step)
    table, history = grid.table(train), grid.values(past)[:, : grid.known]
    settings = list(itertools.product(sorted({min(d, train.n_channels) for d in components}), ridges, orders))
    (leading, ridge, order), residual = _chosen(table, history, future, grid, settings)
    model = _Moments.of(table, order).solve(leading, ridge)
    cond = cond.keep(cond.time <= origin)
    mean = grid.forecast(model, cond, times.double())
    return Forecast(mean, _sd(residual, future, times.double(), origin))


def pca_var_applies(train: SeriesBatch, cutoff: float) -> bool:
    """Whether a score shows this baseline unasked: several series, one common step, few gaps.

    Example:
        >>> t = torch.arange(4.0)
        >>> b = SeriesBatch.of([t] * 9, [t[:, None]] * 9)
        >>> pca_var_applies(b, 2.0), pca_var_applies(b._replace(time=b.time**1.5), 2.0)
        (True, False)
    """
    if train.n_series < _FEWEST or not bool((train.time > cutoff).any()):
        return False
    step = common_step(train)
    if step is None:
        return False
    span = (float(train.time.max()) - float(train.time.min())) / step + 1
    return train.observed >= (1 - _GAPPY) * span * train.n_series * train.n_channels


def common_step(batch: SeriesBatch) -> float | None:
    """The step of which all differences of times are multiples, None where there is none."""
    distinct = batch.time.double().unique()
    gaps = distinct.diff()
    gaps = gaps[gaps > _TOLERANCE * (1 + distinct.abs().amax())] if len(distinct) else gaps
    if not len(gaps):
        return None
    step = float(gaps.min())
    off = (gaps / step - (gaps / step).round()).abs()
    return step if float(off.max()) < 1e-3 else None


class _Table(NamedTuple):
    """``values [S, G, C]`` on a grid; ``inside [S, G]``: between the first and the last datum of the series."""

    values: Tensor
    inside: Tensor

    def pick(self, series: Tensor) -> _Table:
        return _Table(self.values[series], self.inside[series])


class _Grid(NamedTuple):
    """``time [G]`` with the cutoff at row ``known - 1``."""

    time: Tensor
    known: int
    step: float

    @classmethod
    def of(cls, train: SeriesBatch, origin: float, step: float) -> _Grid:
        # the last row of the history is the last datum at or before the cutoff, from which the rollout counts
        seen = train.time[train.time <= origin].double()
        anchor = float(seen.max()) if len(seen) else origin
        before = round((anchor - float(train.time.min())) / step) if len(seen) else 0
        after = max(int(-(-(float(train.time.max()) - anchor) // step)), 1)
        k = torch.arange(-max(before, 0), after + 1, dtype=torch.float64)
        return cls(anchor + step * k, max(before, 0) + 1, step)

    def values(self, batch: SeriesBatch) -> Tensor:
        """``[S, G, C]``, linear between data, constant beyond them, 0 (the training mean) where there are none."""
        return per_channel(batch, self.time.expand(batch.n_series, -1), _interpolated).mean

    def table(self, batch: SeriesBatch) -> _Table:
        """Values, and which of them lie within the span of their series."""
        padded = batch.padded()
        first, last = padded.time[:, :1].double(), padded.time[:, -1:].double()
        slack = 0.01 * self.step
        inside = (self.time >= first - slack) & (self.time <= last + slack) & (batch.lengths > 0)[:, None]
        return _Table(self.values(batch), inside)

    def forecast(self, model: Autoregression, cond: SeriesBatch, times: Tensor) -> Tensor:
        """``[S, T, C]``: linear between the rows of the history and of the rollout."""
        history = self.values(cond)[:, : self.known]
        steps = max(int(torch.ceil((times.max() - self.time[self.known - 1]) / self.step - _TOLERANCE)), 1)
        path = torch.cat([history, model.rollout(history, steps)], dim=1)
        place = ((times - self.time[0]) / self.step).clamp(0.0, path.shape[1] - 1)
        low = place.floor().long().clamp(max=path.shape[1] - 2)
        pick = lambda row: path.gather(1, row[..., None].expand(-1, -1, path.shape[2]))  # noqa: E731
        return torch.lerp(pick(low), pick(low + 1), (place - low)[..., None])


def _interpolated(channel: Channel, query: Query) -> tuple[Tensor, Tensor]:
    found = interpolate(channel, query)
    return found, torch.ones_like(found)


def _step_or_raise(train: SeriesBatch) -> float:
    step = common_step(train)
    if step is None:
        raise ConfigError("the times of the series are no multiples of one step", fix="pass step=...")
    return step


class _Moments(NamedTuple):
    """Sums over the rows of a table from which every setting of one order is solved.

    ``centre [C]``, ``basis [C, C]`` in falling order, ``gram [1 + p C, 1 + p C]``, ``cross [1 + p C, C]``.
    """

    centre: Tensor
    basis: Tensor
    gram: Tensor
    cross: Tensor
    order: int

    @classmethod
    def of(cls, table: _Table, order: int) -> _Moments:
        rows = table.values[table.inside]
        centre = rows.mean(dim=0)
        basis = torch.linalg.eigh((rows - centre).mT @ (rows - centre)).eigenvectors.flip(1)
        z = (table.values - centre) @ basis
        order = min(order, z.shape[1] - 1)
        used = table.inside[:, order:] & table.inside[:, : z.shape[1] - order]
        lags = torch.cat([z[:, order - k : z.shape[1] - k][used] for k in range(1, order + 1)], dim=-1)
        design = torch.cat([torch.ones_like(lags[:, :1]), lags], dim=1)
        return cls(centre, basis, design.mT @ design, design.mT @ z[:, order:][used], order)

    def solve(self, components: int, ridge: float) -> Autoregression:
        """The leading components are a block of the sums."""
        lag = torch.arange(components) + len(self.centre) * torch.arange(self.order)[:, None]
        kept = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + lag.flatten()])
        penalty = torch.full((len(kept),), ridge, dtype=torch.float64)
        penalty[0] = 1e-9
        gram, cross = self.gram[kept][:, kept] + penalty.diag(), self.cross[kept, :components]
        weights = torch.linalg.lstsq(gram, cross).solution
        return Autoregression(self.centre, self.basis[:, :components], weights, self.order)


def _chosen(
    table: _Table, history: Tensor, future: SeriesBatch, grid: _Grid, settings: list[tuple[int, float, int]]
) -> tuple[tuple[int, float, int], Tensor]:
    """The setting with the least squared error in the last quarter of the series, and its errors there.

    A block, since neighbours may be windows of one record.

    The errors fill rows ``[N, C]`` of ``future``; NaN in the series that it was fitted to.
    """
    held = torch.arange(len(history)) >= len(history) - max(len(history) // 4, 1)
    rows = held[future.series_of_row]
    place = ((future.time[rows].double() - grid.time[grid.known - 1]) / grid.step - 1).round().long().clamp(min=0)
    series = (held.cumsum(0) - 1)[future.series_of_row[rows]]
    truth, mask = future.values[rows].double(), future.mask[rows]
    moments = {order: _Moments.of(table.pick(~held), order) for order in {setting[2] for setting in settings}}
    best, least = None, torch.inf
    for setting in settings:
        components, ridge, order = setting
        path = moments[order].solve(components, ridge).rollout(history[held], len(grid.time) - grid.known)
        error = path[series, place.clamp(max=path.shape[1] - 1)] - truth
        loss = float((error[mask] ** 2).mean()) if bool(mask.any()) else 0.0
        if loss < least:
            best, least = (setting, error), loss
    if best is None:
        raise ConfigError("there are no settings to choose from", fix="pass components, ridges and orders")
    residual = torch.full(future.values.shape, torch.nan, dtype=torch.float64)
    residual[rows] = torch.where(mask, best[1], torch.nan)
    return best[0], residual


def _sd(residual: Tensor, future: SeriesBatch, times: Tensor, origin: float) -> Tensor:
    """``[S, T, C]`` at ``times [S, T]`` from the errors ``[N, C]`` in the held-out series."""
    lead = (times - origin).clamp(min=0.0)
    ahead = future.time.double() - origin
    sd = torch.ones(*times.shape, residual.shape[1], dtype=torch.float64)
    for index in range(residual.shape[1]):
        known, channel = ~residual[:, index].isnan(), channel_of(future, index)
        if len(channel.time):
            squares = residual[known, index] ** 2
            error = fit_lead_error(ahead[known], squares, slope=1.0, fallback=second_moment(channel))
            sd[..., index] = to_sd(error.at(lead.clamp(min=1e-9)), channel)
    return sd
