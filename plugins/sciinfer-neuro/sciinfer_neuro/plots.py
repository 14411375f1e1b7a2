"""Figures of spikes and rates: rasters, peri-stimulus histograms, tuning curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from sciinfer.errors import SchemaError, ShapeError
from sciinfer.plots.style import CYCLE, PALETTE, dress, heading, labelled, legend, new_axes

from .ragged import check_ragged, trial_index
from .rates import psth as psth_of
from .rates import tuning_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MANY = 20_000  # ticks; more are drawn as one image inside a vector figure


def raster(
    tree: xr.DataTree | xr.Dataset,
    *,
    var: str = "unit_index",
    ax: Axes | None = None,
    unit: int | None = None,
    trial: int = 0,
    events: str | None = None,
    title: str | None = None,
) -> Axes:
    """A tick per spike: all units of one trial, or all trials of one unit. Time outside a trial's window is shaded.

    Args:
        tree: ragged spikes, binned counts, or a result that holds them (as ``observed_data``).
        var: ``unit_index`` of ragged spikes, or a variable of counts (a tick in each bin with a spike).
        unit: position of a unit, whose trials are drawn; default the units of one trial.
        trial: position of that trial.
        events: name of a variable or coordinate ``(trial)``, in the trials' seconds, marked in each row.
        title: heading; default the label of the trial or unit.

    Returns:
        The axes.
    """
    ds = _holding(tree, var)
    time, row, window = _ragged_rows(ds, unit, trial) if "spike" in ds[var].dims else _binned_rows(ds, var, unit, trial)
    labels = ds["trial" if unit is not None else "unit"].values
    ax = ax or new_axes((7.6, float(np.clip(0.9 + 0.14 * len(labels), 2.2, 6.0))), purpose="the plot 'neuro/raster'")
    dress(ax, x="time (s)", y="trial" if unit is not None else "unit", grid="")
    _outside(ax, window, len(labels))
    ax.vlines(
        time, row - 0.4, row + 0.4, color=PALETTE["data"], linewidth=float(np.clip(2000 / (len(time) + 1), 0.5, 1.2)),
        rasterized=len(time) > _MANY,
    )  # fmt: skip
    _mark_events(ax, ds, events, unit, trial)
    _zero(ax, float(window.min()), float(window.max()))
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_xlim(float(window.min()), float(window.max()))
    _row_labels(ax, labels)
    name = f"trial {ds['trial'].values[trial]}" if unit is None else f"unit {ds['unit'].values[unit]}"
    heading(ax, name if title is None else title, pad=20.0 if events else 8.0)
    legend(ax)
    return ax


def psth(
    tree: xr.DataTree | xr.Dataset,
    *,
    var: str = "counts",
    ax: Axes | None = None,
    units: Sequence[int] | None = None,
    level: float = 0.95,
    title: str | None = None,
) -> Axes:
    """Mean rate over trials with its interval, one colour per unit.

    Args:
        tree: binned counts, or a result that holds them.
        var: the variable of counts.
        units: positions of at most six units; default the three with most spikes.
        level: probability of the interval.

    Returns:
        The axes.
    """
    ds = _holding(tree, var)
    found = psth_of(ds, var=var, level=level)
    chosen = _busiest(found["rate"], "time") if units is None else list(units)
    ax = ax or new_axes(purpose="the plot 'neuro/psth'")
    dress(ax, x=labelled("time", str(ds["time"].attrs.get("units", "s"))), y="firing rate (Hz)")
    _curves(ax, found, "time", chosen)
    _zero(ax, float(ds["time"].min()), float(ds["time"].max()))
    trials = ds.sizes.get("trial", 1)
    told = f"{trials} trial{'s' if trials != 1 else ''}, {100 * level:g} % intervals"
    heading(ax, told if title is None else title)
    legend(ax)
    return ax


def tuning(
    tree: xr.DataTree | xr.Dataset,
    *,
    var: str = "counts",
    ax: Axes | None = None,
    along: str = "position",
    units: Sequence[int] | None = None,
    bins: int | Sequence[float] = 20,
    level: float = 0.95,
    title: str | None = None,
) -> Axes:
    """Rate as a function of a covariate with its interval, and the time spent there at the bottom.

    Args:
        tree: binned counts with the covariate, or a result that holds them.
        var: the variable of counts. along: the covariate.
        units: positions of at most six units; default the three with most spikes.
        bins: number of bins, or their edges. level: probability of the interval.

    Returns:
        The axes.
    """
    ds = _holding(tree, var)
    found = tuning_curve(ds, along, bins=bins, var=var, level=level)
    chosen = _busiest(found["rate"], along) if units is None else list(units)
    ax = ax or new_axes(purpose="the plot 'neuro/tuning'")
    about = ds[along].attrs
    dress(ax, x=labelled(str(about.get("long_name") or along), about.get("units")), y="firing rate (Hz)")
    _occupancy(ax, found, along)
    _curves(ax, found, along, chosen)
    heading(ax, f"{100 * level:g} % intervals · time spent in grey" if title is None else title)
    legend(ax)
    return ax


def _holding(tree: Any, var: str) -> xr.Dataset:
    if isinstance(tree, xr.Dataset):
        places = [tree]
    else:
        names = ["observed_data", *(str(name) for name in tree.children if name != "observed_data")]
        places = [tree.to_dataset(), *(tree[name].to_dataset() for name in names if name in tree.children)]
    for ds in places:
        if var in ds.data_vars:
            return ds
    known = ", ".join(dict.fromkeys(str(name) for ds in places for name in ds.data_vars)) or "none"
    raise SchemaError("the data hold no such variable", variable=var, fix=f"variables there: {known}")


def _ragged_rows(ds: xr.Dataset, unit: int | None, trial: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times and rows of the ticks, and the window ``[rows, 2]`` of each row."""
    ds = check_ragged(ds)
    _check_position(ds, unit, trial)
    windows = np.stack([ds["start"].values, ds["stop"].values], axis=1)
    row, cell, time = trial_index(ds), ds["unit_index"].values, ds["time"].values
    if unit is None:
        trial = trial % ds.sizes["trial"]
        own = row == trial
        return time[own], cell[own].astype(float), np.repeat(windows[[trial]], ds.sizes["unit"], axis=0)
    own = cell == unit % ds.sizes["unit"]
    return time[own], row[own].astype(float), windows


def _binned_rows(ds: xr.Dataset, var: str, unit: int | None, trial: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not {"trial", "time", "unit"} <= set(map(str, ds[var].dims)):
        raise SchemaError("no counts with the dims trial, time, unit", variable=var, fix="make them with bin_spikes")
    _check_position(ds, unit, trial)
    picked = ds[var].isel(trial=trial) if unit is None else ds[var].isel(unit=unit)
    values = picked.transpose("unit" if unit is None else "trial", "time").values
    centre = ds["time"].values
    half = 0.5 * float(ds[var].attrs.get("bin_width", np.diff(centre).min() if len(centre) > 1 else 1.0))
    row, place = np.nonzero(np.nan_to_num(values) > 0)
    known = np.isfinite(values)
    first = np.where(known.any(axis=1), known.argmax(axis=1), 0)
    last = np.where(known.any(axis=1), known.shape[1] - 1 - known[:, ::-1].argmax(axis=1), 0)
    return centre[place], row.astype(float), np.stack([centre[first] - half, centre[last] + half], axis=1)


def _check_position(ds: xr.Dataset, unit: int | None, trial: int) -> None:
    for dim, index in (("unit", unit), ("trial", trial)):
        if index is not None and not -ds.sizes[dim] <= index < ds.sizes[dim]:
            raise ShapeError(f"there are {ds.sizes[dim]}", dim=dim, index=index, fix="count from 0")


def _outside(ax: Axes, window: np.ndarray, rows: int) -> None:
    low, high = window.min(), window.max()
    for start, stop in ((np.full(rows, low), window[:, 0]), (window[:, 1], np.full(rows, high))):
        some = stop > start
        if some.any():
            ax.barh(
                np.arange(rows)[some], (stop - start)[some], left=start[some], height=1.0, color=PALETTE["grid"],
                linewidth=0, zorder=0.5,
            )  # fmt: skip


def _mark_events(ax: Axes, ds: xr.Dataset, events: str | None, unit: int | None, trial: int) -> None:
    if events is None:
        return
    if events not in ds.variables or ds[events].dims != ("trial",):
        raise SchemaError("there are no such events", variable=events, fix="name a variable with the dim trial")
    times = np.asarray(ds[events].values, dtype=np.float64)
    label = str(ds[events].attrs.get("long_name") or events)
    if unit is None:
        ax.axvline(float(times[trial]), linewidth=1.2, color=PALETTE["truth"], label=label)
    else:
        rows = np.arange(len(times))
        ax.vlines(times, rows - 0.5, rows + 0.5, linewidth=1.6, zorder=3, color=PALETTE["truth"], label=label)


def _zero(ax: Axes, low: float, high: float) -> None:
    """Aligned data: a line at the event."""
    if low < 0 < high:
        ax.axvline(0.0, color=PALETTE["muted"], linewidth=0.9, linestyle=":", zorder=1)


def _row_labels(ax: Axes, labels: np.ndarray) -> None:
    step = max(int(np.ceil(len(labels) / 12)), 1)
    rows = np.arange(0, len(labels), step)
    ax.set_yticks(rows, [str(label) for label in labels[rows]])


def _busiest(rate: xr.DataArray, dim: str) -> list[int]:
    mean = np.nan_to_num(rate.mean(dim).values)
    return sorted(np.argsort(-mean, kind="stable")[:3].tolist())


def _curves(ax: Axes, found: xr.Dataset, dim: str, chosen: Sequence[int]) -> None:
    if len(chosen) > len(CYCLE) or not all(-found.sizes["unit"] <= i < found.sizes["unit"] for i in chosen):
        raise ShapeError(
            f"units {list(chosen)} of {found.sizes['unit']}", dim="unit", fix=f"choose at most {len(CYCLE)} positions"
        )
    x = found[dim].values
    for place, color in zip(chosen, CYCLE, strict=False):
        one = found.isel(unit=place)
        ax.fill_between(x, one["low"].values, one["high"].values, color=color, alpha=0.18, linewidth=0, zorder=1.5)
        ax.plot(x, one["rate"].values, color=color, linewidth=1.5, label=f"unit {one['unit'].item()}", zorder=3)
    ax.set_ylim(bottom=0.0)
    ax.margins(x=0)


def _occupancy(ax: Axes, found: xr.Dataset, along: str) -> None:
    time = found["occupancy"].values
    if time.max() > 0:
        x = found[along].values
        width = np.diff(x).min() if len(x) > 1 else 1.0
        ax.bar(
            x, 0.12 * time / time.max(), width=0.96 * width, color=PALETTE["rule"], alpha=0.7, linewidth=0, zorder=1,
            transform=ax.get_xaxis_transform(),
        )  # fmt: skip
