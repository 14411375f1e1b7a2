"""The spectrum of a Koopman model with its uncertainty: observed information, readout and noise integrated out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ..labelled.schema import TimeAxis
from ..labelled.series import SeriesBatch
from ..nets.parameters import flatten, unflatten, value_and_slopes
from ..random import generator

if TYPE_CHECKING:
    from .koopman import Koopman

ModeTable = list[dict[str, Any]]
Array = np.ndarray
#: share of the posterior inside an interval
LEVEL = 0.95
#: parameters up to which the observed information is computed
MOST = 700
#: steps of its differences, and of a first look at how sharp they are
_STEP, _PROBE = 1e-4, 1e-7
#: standard deviations of weak normal priors on rates (logarithms) and on all else, which bound what the data leave open
#: (the phase of a mode, the damping of an undamped one); relative size of curvatures that differences resolve
_RATES, _REST, _SEEN = 5.0, 30.0, 1e-5
_UNITS = (("d", 86400e9), ("h", 3600e9), ("min", 60e9), ("s", 1e9))


class TimeUnit(NamedTuple):
    """``size``: model times in one of the caller's units of time; its ``name``."""

    size: float
    name: str


def time_unit(axis: TimeAxis) -> TimeUnit:
    """Days, hours, minutes or seconds for dates, by the typical step; the coordinate's own unit for numbers."""
    if axis.kind == "number":
        return TimeUnit(1.0 / axis.scale, axis.units or "")
    name, length = next(((n, u) for n, u in _UNITS if axis.scale >= 0.999 * u), _UNITS[-1])
    return TimeUnit(length / axis.scale, name)


def mode_table(model: Koopman, batch: SeriesBatch | None, unit: TimeUnit, level: float) -> ModeTable:
    """One mapping for each mode, slowest first; see :meth:`sciinfer.models.koopman.Koopman.spectrum`."""
    names, places = rate_places(model)
    cov = None if batch is None else rate_covariance(model, batch, places)
    deviation = {n: math.nan if cov is None else cov[k, k] ** 0.5 for k, n in enumerate(names)}
    quantile = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
    process, table = model.process, []
    damping, frequency = (x.detach().cpu().double().numpy() for x in (process.damping(), process.frequency()))
    free, unit_circle = process.spectrum == "free", process.get_buffer("unit").cpu().numpy()
    for place in range(process.dim):
        pair = frequency[place] > 0
        if pair and place % 2:
            continue
        turn = _log_interval(frequency[place], deviation.get(("frequency", place), 0.0), quantile)
        sd = 0.0 if unit_circle[place] else deviation[("damping", place)]
        decay = _interval(damping[place], sd, quantile) if free else _log_interval(damping[place], sd, quantile)
        row: dict[str, Any] = {"kind": "pair" if pair else "real", "unit": unit.name}
        _put(row, "frequency", [x * unit.size for x in turn])
        _put(row, "period", [_ratio(2 * math.pi, x * unit.size) for x in (turn[0], turn[2], turn[1])])
        _put(row, "damping", [x * unit.size for x in decay])
        _put(row, "half_life", [_ratio(math.log(2), x * unit.size) for x in (decay[0], decay[2], decay[1])])
        table.append(row)
    table.sort(key=lambda row: (row["damping"], row["frequency"]))
    return [{"mode": k, **row} for k, row in enumerate(table)]


def _put(row: dict[str, Any], name: str, values: list[float]) -> None:
    row[name], row[f"{name}_low"], row[f"{name}_high"] = (float(v) for v in values)


def _ratio(top: float, bottom: float) -> float:
    # what does not decay, or grows, has no finite half-life; nan stays nan
    return math.inf if bottom <= 0 else top / bottom


def _log_interval(value: float, deviation: float, quantile: float) -> tuple[float, float, float]:
    width = min(quantile * deviation, 700.0) if deviation == deviation else math.nan
    return value, value * math.exp(-width), value * math.exp(width)


def _interval(value: float, deviation: float, quantile: float) -> tuple[float, float, float]:
    return value, value - quantile * deviation, value + quantile * deviation


def rate_places(model: Koopman) -> tuple[list[tuple[str, int]], list[int]]:
    """Names ``(quantity, place)`` of the spectrum's free parameters and where they are in the flat vector."""
    process, starts, at = model.process, {}, 0
    for parameter in _trained(model):
        starts[id(parameter)] = at
        at += parameter.numel()
    turning = process.frequency().detach() > 0
    fixed = process.get_buffer("unit")
    names, places = [], []
    for place in range(process.dim):
        pair = bool(turning[place])
        if pair and place % 2:
            continue
        if not bool(fixed[place]):
            names.append(("damping", place))
            places.append(starts[id(process.raw_damping)] + place)
        if pair:
            names.append(("frequency", place))
            places.append(starts[id(process.log_frequency)] + place // 2)
    return names, places


def rate_covariance(model: Koopman, batch: SeriesBatch, places: list[int]) -> Array | None:
    """Posterior covariance of the spectrum's parameters, or None where there are too many parameters.

    ``(H_rr - H_ro H_oo^-1 H_or)^-1``, ``H`` the negative Hessian of the log posterior: differences of the
    exact score.

    NaN for what takes part in a direction in which the likelihood still rises: the fit is no maximum there.
    """
    parameters = _trained(model)
    start = flatten(parameters)
    if len(start) > MOST or not places or batch.observed == 0:
        return None
    H = _information(model, batch, start, places)
    weight = np.full(len(start), _REST**-2)
    weight[places] = _RATES**-2
    H[np.diag_indices(len(start))] += weight
    others = np.setdiff1d(np.arange(len(start)), places)
    cross, inner = H[places][:, others], H[others][:, others]
    values, axes = np.linalg.eigh(inner)
    # directions without information (phases, a size that one start tells) come out as round-off of either sign
    values = values.clip(max(_REST**-2, _SEEN * values.max(initial=0.0)))
    inner_cross = axes.T @ cross.T
    schur = H[places][:, places] - inner_cross.T @ (inner_cross / values[:, None])
    values, axes = np.linalg.eigh(0.5 * (schur + schur.T))
    cov = (axes / values.clip(_RATES**-2)) @ axes.T
    rising = (axes[:, values < -(_RATES**-2)] ** 2).sum(1) > 1e-2
    cov[rising], cov[:, rising] = math.nan, math.nan
    return cov


def _information(model: Koopman, batch: SeriesBatch, start: Array, places: list[int]) -> Array:
    """Negative Hessian of the log-likelihood by central differences of its score."""
    parameters, unused = _trained(model), generator(0, "unused")

    def score(x: Array) -> Array:
        unflatten(x, parameters)
        value = model.loss(batch, generator=unused).value * max(batch.observed, 1)
        return flatten(value_and_slopes(value, parameters)[1])

    def row(k: int, step: float) -> Array:
        shift = np.zeros(len(start))
        shift[k] = step
        return (score(start + shift) - score(start - shift)) / (2 * step)

    H = np.empty((len(start), len(start)))
    try:
        for k in range(len(start)):
            # a frequency may be known to a millionth: its step is a small part of its own deviation
            sharp = row(k, _PROBE)[k] if k in places else 0.0
            H[k] = row(k, min(_STEP, 0.03 / max(sharp, 1.0) ** 0.5))
    finally:
        unflatten(start, parameters)
    return 0.5 * (H + H.T)


def _trained(model: Koopman) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]
