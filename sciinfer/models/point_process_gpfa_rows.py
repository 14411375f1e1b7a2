"""Spike trains of ragged trials as rows of the exact engine: times, counts on them, and shares of the integral."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, ShapeError


class SpikeTrial(NamedTuple):
    """``events [n]`` ascending, ``neuron [n]`` of each, in the window ``[start, stop]``."""

    events: Tensor
    neuron: Tensor
    start: float
    stop: float


class SpikeRows(NamedTuple):
    """``sum y eta - w exp(eta)`` over rows is the log-likelihood of the trials.

    ``time [R, T]`` ascending, padding repeats the last; ``counts`` ``y [R, T, C]`` (may be fractions), ``weight``
    ``w [R, T]`` in units of time, ``mask [R, T, C]``: what has a site.
    """

    time: Tensor
    counts: Tensor
    weight: Tensor
    mask: Tensor


class Intensity:
    """The likelihood of :class:`SpikeRows`, ``y eta - w exp(eta)``.

    Args:
        weight: ``w``, broadcastable to the rows' ``[R, T, C]``.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def entry_log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """Entry by entry."""
        return y * eta - self._share(eta)

    def expected_log_prob(self, y: Tensor, mean: Tensor, variance: Tensor, mask: Tensor) -> Tensor:
        """Closed form, summed over channels."""
        entries = y * mean - self._share(mean + 0.5 * variance)
        return torch.where(mask, entries, torch.zeros_like(entries)).sum(-1)

    def _share(self, eta: Tensor) -> Tensor:
        # an event has no rate term: a large predictor there must not overflow into 0 * inf
        return self.weight * torch.where(self.weight > 0, eta, torch.zeros_like(eta)).exp()


def read_trials(trials: Sequence[Any], neurons: int, device: torch.device | None = None) -> list[SpikeTrial]:
    """Check and sort ``(events, neuron, start, stop)`` of each trial.

    Raises:
        DataError: no trial, an event outside its window, a neuron that does not exist. ShapeError: lengths differ.
    """
    if not trials:
        raise DataError("no trials", variable="trials", fix="pass a list of (events, neuron, start, stop)")
    return [_read(index, trial, neurons, device) for index, trial in enumerate(trials)]


def _read(index: int, trial: Any, neurons: int, device: torch.device | None) -> SpikeTrial:
    given, owner, start, stop = trial
    events = torch.as_tensor(given, dtype=torch.float64, device=device).detach().reshape(-1)
    neuron = torch.as_tensor(owner, device=device).detach().reshape(-1).to(torch.int64)
    if len(events) != len(neuron):
        raise ShapeError(f"{len(events)} events of {len(neuron)} neurons", index=index, fix="one neuron for each event")
    if not (math.isfinite(start) and math.isfinite(stop) and start < stop):
        raise DataError(f"the window [{start}, {stop}] is not one", index=index, fix="start < stop, both finite")
    bad = torch.nonzero(~((events >= start) & (events <= stop)))
    if len(bad):
        raise DataError(
            f"an event lies outside the window [{start}, {stop}]",
            variable="events",
            index=(index, int(bad[0])),
            fix="widen the window or drop the event",
        )
    if len(neuron) and not 0 <= int(neuron.min()) <= int(neuron.max()) < neurons:
        raise DataError(
            f"neurons are numbered from 0 to {neurons - 1}",
            variable="neuron",
            index=index,
            fix="renumber them or raise neurons",
        )
    order = torch.argsort(events, stable=True)
    return SpikeTrial(events[order], neuron[order], float(start), float(stop))


def node_rows(trials: Sequence[SpikeTrial], neurons: int, step: float) -> SpikeRows:
    """Rows at two Gauss-Legendre nodes of each panel of at most ``2 step``.

    The log-rate at an event is that of the cubic through the four nodes around it: an event becomes four fractions of
    a count. Errors are of fourth order in ``step`` as far as the paths are smooth; no event is moved.
    """
    return _padded([_node_row(trial, neurons, step) for trial in trials])


def _node_row(trial: SpikeTrial, neurons: int, step: float) -> SpikeRows:
    # two panels at least: a cubic takes four nodes
    panel = min(2 * step, 0.5 * (trial.stop - trial.start))
    time, weight = quadrature(trial, panel, 2)
    first = (torch.searchsorted(time, trial.events) - 2).clamp(0, len(time) - 4)
    index = first[:, None] + torch.arange(4, device=time.device)
    shares = _lagrange(trial.events, time[index])
    counts = time.new_zeros(len(time), neurons)
    counts.index_put_((index, trial.neuron[:, None].expand_as(index)), shares, accumulate=True)
    return SpikeRows(time, counts, weight, torch.ones_like(counts, dtype=torch.bool))


def _lagrange(at: Tensor, nodes: Tensor) -> Tensor:
    """Weights ``[n, k]`` by which the polynomial through ``nodes [n, k]`` is read at ``at [n]``."""
    apart = nodes[:, :, None] - nodes[:, None, :]
    away = (at[:, None] - nodes)[:, None, :].expand_as(apart)
    own = torch.eye(nodes.shape[1], dtype=torch.bool, device=nodes.device)
    return torch.where(own, 1.0, away / torch.where(own, 1.0, apart)).prod(-1)


def event_rows(trials: Sequence[SpikeTrial], neurons: int, step: float, nodes: int) -> SpikeRows:
    """Rows at every event and at Gauss-Legendre nodes of panels of at most ``step``: nothing is approximated but the
    integral, to order ``2 nodes``."""
    return _padded([_event_row(trial, neurons, step, nodes) for trial in trials])


def _event_row(trial: SpikeTrial, neurons: int, step: float, nodes: int) -> SpikeRows:
    at, weights = quadrature(trial, step, nodes)
    n = len(trial.events)
    time, order = torch.sort(torch.cat([trial.events, at]), stable=True)
    counts = time.new_zeros(len(time), neurons)
    counts[torch.arange(n, device=time.device), trial.neuron] = 1.0
    weight = torch.cat([torch.zeros_like(trial.events), weights])
    mask = (counts > 0) | (weight > 0)[:, None]
    return SpikeRows(time, counts[order], weight[order], mask[order])


def quadrature(trial: SpikeTrial, step: float, nodes: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights of the window, in panels of at most ``step``."""
    panels = max(1, math.ceil((trial.stop - trial.start) / step - 1e-9))
    half = 0.5 * (trial.stop - trial.start) / panels
    x, w = (torch.as_tensor(part).to(trial.events) for part in np.polynomial.legendre.leggauss(nodes))
    middle = trial.start + half * (2 * torch.arange(panels, dtype=x.dtype, device=x.device) + 1)
    return (middle[:, None] + half * x).reshape(-1), (half * w).repeat(panels)


def _padded(rows: Sequence[SpikeRows]) -> SpikeRows:
    longest = max(len(row.time) for row in rows)

    def pad(part: Tensor, value: float) -> Tensor:
        tail = part.new_full((longest - len(part), *part.shape[1:]), value)
        return torch.cat([part, tail])

    return SpikeRows(
        torch.stack([pad(row.time, float(row.time[-1])) for row in rows]),
        torch.stack([pad(row.counts, 0.0) for row in rows]),
        torch.stack([pad(row.weight, 0.0) for row in rows]),
        torch.stack([pad(row.mask, False) for row in rows]),
    )


def moment_start(rows: SpikeRows, latents: int, window: int) -> tuple[Tensor, Tensor]:
    """Loadings ``[C, K]`` and offsets ``[C]`` from the first two moments of counts in windows of ``window`` rows.

    For ``y ~ Poisson(w exp(eta))`` with Gaussian ``eta``, ``Cov[eta] = log(1 + (Cov[y] - diag E[y]) / E[y] E[y]^T)``;
    the loadings are its leading eigenvectors.

    References:
        Buesing, Macke, Sahani (2012), Spectral learning of linear dynamics from generalised-linear observations.
    """
    counts, weight = (_windows(part, window) for part in (rows.counts, rows.weight[..., None]))
    some = weight[:, 0] > 0.5 * weight.max()
    counts, weight = counts[some], weight[some]
    rate = (counts.sum(0) + 0.5) / weight.sum()
    deviation = counts / (weight * rate) - 1
    second = deviation.mT @ deviation / len(counts) - torch.diag((1 / (weight * rate)).mean(0))
    values, vectors = torch.linalg.eigh(second.clamp(min=-0.9, max=20.0).log1p())
    loading = vectors[:, -latents:].flip(1) * values[-latents:].flip(0).clamp(min=1e-2).sqrt()
    return loading, rate.log() - 0.5 * loading.square().sum(1)


def _windows(values: Tensor, window: int) -> Tensor:
    """Sums over stretches of ``window`` rows, ``[R, T, C]`` to ``[n, C]``."""
    short = -values.shape[1] % window
    values = torch.cat([values, values.new_zeros(len(values), short, values.shape[2])], 1)
    return values.unflatten(1, (-1, window)).sum(2).flatten(0, 1)
