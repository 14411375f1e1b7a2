"""The two labelled layouts of series with their own times: CF contiguous ragged arrays, and NaN-padded rectangles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr


def contiguous_ragged(
    row_size: np.ndarray, time: np.ndarray, variables: Mapping[str, np.ndarray], series: np.ndarray | None = None
) -> xr.Dataset:
    """Series laid end to end (CF: contiguous ragged array of time series).

    Args:
        row_size: ``[S]`` rows of each series.
        time: ``[N]``, ascending within each series.
        variables: name to ``[N]``.
        series: ``[S]`` labels; default 0, 1, ...

    Example:
        >>> ds = contiguous_ragged(np.array([2, 1]), np.array([0.0, 1.0, 0.5]), {"y": np.zeros(3)})
        >>> ds["row_size"].attrs["sample_dimension"], ds["y"].dims
        ('obs', ('obs',))
    """
    labels = np.arange(len(row_size)) if series is None else series
    size = xr.Variable("series", np.asarray(row_size, dtype=np.int64), {"sample_dimension": "obs", "units": "1"})
    return xr.Dataset(
        {**{name: ("obs", values) for name, values in variables.items()}, "row_size": size},
        coords={"time": ("obs", time, {"axis": "T"}), "series": ("series", labels, {"cf_role": "timeseries_id"})},
        attrs={"featureType": "timeSeries"},
    )


def padded(row_size: np.ndarray, time: np.ndarray, variables: Mapping[str, np.ndarray]) -> xr.Dataset:
    """The same series as a rectangle ``(series, obs)``, NaN in time and values behind a series' end.

    Args:
        row_size: ``[S]`` rows of each series.
        time: ``[N]``.
        variables: name to ``[N]``.

    Example:
        >>> ds = padded(np.array([2, 1]), np.array([0.0, 1.0, 0.5]), {"y": np.ones(3)})
        >>> ds["y"].values.tolist()
        [[1.0, 1.0], [1.0, nan]]
    """
    width = int(max(row_size, default=0))
    inside = np.arange(width) < np.asarray(row_size)[:, None]

    def rectangle(values: np.ndarray) -> np.ndarray:
        out = np.full(inside.shape, np.nan)
        out[inside] = values
        return out

    return xr.Dataset(
        {name: (("series", "obs"), rectangle(values)) for name, values in variables.items()},
        coords={"time": (("series", "obs"), rectangle(time)), "series": np.arange(len(row_size))},
    )
