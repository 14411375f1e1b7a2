"""Cut and align: spikes around events, each on a clock of its own."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from sciinfer.errors import ConfigError, DataError, SciInferWarning, ShapeError

from .binned import bin_spikes
from .ragged import assemble, check_ragged
from .units import seconds

if TYPE_CHECKING:
    import pandas as pd


def align(
    spikes: xr.Dataset, events: ArrayLike | xr.DataArray, window: tuple[float, float], *, units: str | None = None
) -> xr.Dataset:
    """Spikes in ``[event + a, event + b)``, at times counted from the event.

    A window that reaches beyond its trial is cut there; the bins at the cut then have an exposure below 1.

    Args:
        spikes: ragged spikes.
        events: one time per trial, NaN where the trial has none; or, with one trial (a session), any number of times.
        window: ``(a, b)`` around the event, in the units of ``events``.
        units: of ``events`` and ``window``; default ``events.attrs["units"]``, else seconds.

    Returns:
        Ragged spikes, a trial per event. ``origin`` is the session time of the event.

    Raises:
        ShapeError: the number of events fits neither. DataError: no event has a spike window inside its trial.

    Example:
        >>> from sciinfer_neuro.ragged import ragged_spikes
        >>> around = align(ragged_spikes([0.9, 1.1, 5.2], [1, 1, 1], stop=6.0), [1.0, 5.0], (-0.5, 0.5))
        >>> around.time.values.round(3).tolist(), around.row_size.values.tolist()
        ([-0.1, 0.1, 0.2], [2, 1])
    """
    spikes = check_ragged(spikes)
    when = seconds(events, units, what="events")
    used = units or (str(events.attrs.get("units", "s")) if isinstance(events, xr.DataArray) else "s")
    before, after = (float(edge) for edge in seconds(list(window), used, what="window"))
    if not after > before:
        raise ConfigError(f"the window is ({before:g}, {after:g}) s", variable="window", fix="pass (a, b), a < b")
    source, labels = _sources(spikes, when)
    known = np.isfinite(when)
    low = np.maximum(when + before, spikes["start"].values[source])
    high = np.minimum(when + after, spikes["stop"].values[source])
    kept = known & (high > low)
    _tell_dropped(kept, known)
    return _extract(spikes, source[kept], low[kept], high[kept], when[kept], labels[kept])


def cut(spikes: xr.Dataset, windows: pd.DataFrame, *, units: str | None = None) -> xr.Dataset:
    """A session cut into trials, each on a clock that starts with it. Windows may overlap or leave gaps.

    Args:
        spikes: ragged spikes of one trial (the session).
        windows: columns ``start``, ``stop`` and, optionally, ``trial`` (labels); as of ``to_windows``.
        units: of the windows; default ``windows.attrs["units"]``, else seconds.

    Example:
        >>> import pandas as pd
        >>> from sciinfer_neuro.ragged import ragged_spikes
        >>> session = ragged_spikes([0.9, 1.1, 5.2], [1, 1, 1], stop=6.0)
        >>> cut(session, pd.DataFrame({"start": [1.0, 5.0], "stop": [2.0, 6.0]})).time.values.round(3).tolist()
        [0.1, 0.2]
    """
    spikes = check_ragged(spikes)
    if spikes.sizes["trial"] != 1:
        raise ShapeError("the spikes are in trials already", dim="trial", fix="cut a session; or use align")
    told = units or windows.attrs.get("units")
    low, high = (seconds(windows[name].to_numpy(), told, what=name) for name in ("start", "stop"))
    first, last = float(spikes["start"][0]), float(spikes["stop"][0])
    beyond = (low < first) | (high > last) | ~(high > low)
    if beyond.any():
        index = int(beyond.argmax())
        raise DataError(
            f"a window [{low[index]:g}, {high[index]:g}) s does not lie in the session [{first:g}, {last:g}) s",
            variable="windows",
            index=index,
            fix="clip it to the session, or drop it",
        )
    labels = windows["trial"].to_numpy() if "trial" in windows else np.arange(len(windows))
    labels = labels.astype(str) if labels.dtype.kind in "OU" else labels
    return _extract(spikes, np.zeros(len(low), int), low, high, low, labels)


def trial_tensor(
    spikes: xr.Dataset,
    events: ArrayLike | xr.DataArray,
    window: tuple[float, float],
    width: float,
    *,
    units: str | None = None,
) -> xr.Dataset:
    """Counts ``(trial, time, unit)`` around events: :func:`align`, then bins of ``width`` seconds from ``window[0]``.

    Example:
        >>> from sciinfer_neuro.ragged import ragged_spikes
        >>> session = ragged_spikes([0.9, 1.1, 5.2], [1, 1, 1], stop=6.0)
        >>> trial_tensor(session, [1.0, 5.0], (-0.5, 0.5), 0.5).counts.values[..., 0].tolist()
        [[1.0, 1.0], [0.0, 1.0]]
    """
    around = align(spikes, events, window, units=units)
    used = units or (str(events.attrs.get("units", "s")) if isinstance(events, xr.DataArray) else "s")
    before, after = (float(edge) for edge in seconds(list(window), used))
    return bin_spikes(around, width, start=before, stop=after)


def _sources(spikes: xr.Dataset, when: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The trial of each event, and the label of the new trial."""
    trials = spikes.sizes["trial"]
    if when.shape == (trials,) and trials > 1:
        return np.arange(trials), spikes["trial"].values
    if when.ndim == 1 and trials == 1:
        return np.zeros(len(when), int), np.arange(len(when))
    raise ShapeError(
        f"events have the shape {list(when.shape)}, there are {trials} trials", variable="events",
        fix="pass one event per trial (NaN = none), or any number for one session",
    )  # fmt: skip


def _tell_dropped(kept: np.ndarray, known: np.ndarray) -> None:
    if not kept.any():
        raise DataError(
            "no window around an event lies in its trial", variable="events", fix="check their units and clock"
        )
    if (~kept).any():
        outside = int((known & ~kept).sum())
        warnings.warn(
            f"{int((~kept).sum())} of {len(kept)} trials are dropped: {int((~known).sum())} without an event, "
            f"{outside} with a window outside the trial",
            SciInferWarning,
            stacklevel=3,
        )


def _extract(
    spikes: xr.Dataset, source: np.ndarray, low: np.ndarray, high: np.ndarray, zero: np.ndarray, labels: np.ndarray
) -> xr.Dataset:
    time = spikes["time"].values
    ends = np.cumsum(spikes["row_size"].values)
    starts = ends - spikes["row_size"].values
    spans = []
    for trial, a, b in zip(source, low, high, strict=True):
        own = time[starts[trial] : ends[trial]]  # sorted within a trial
        spans.append(starts[trial] + np.searchsorted(own, [a, b], side="left"))
    take = np.concatenate([np.arange(a, b) for a, b in spans]) if spans else np.zeros(0, int)
    row = np.repeat(np.arange(len(spans)), [b - a for a, b in spans])
    shifted = np.clip(time[take] - zero[row], (low - zero)[row], np.nextafter(high - zero, -np.inf)[row])  # rounding
    return assemble(
        shifted, spikes["unit_index"].values[take], row, low - zero, high - zero,
        spikes["origin"].values[source] + zero, spikes["unit"].values, labels,
    )  # fmt: skip
