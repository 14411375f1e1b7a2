"""Fine dust at 36 Beijing stations, and the entries that the imputation benchmark hides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from sciinfer.errors import ConfigError

from .cards import described, read_card
from .fetch import Fetch

__entries__ = [
    {
        "kind": "datasets",
        "name": "aqi36",
        "target": "aqi36",
        "summary": "Hourly PM2.5 at 36 Beijing stations for a year, real gaps and a benchmark's hidden entries",
        "source": "local",
        "dims": ("time", "station"),
        "units": {"pm25": "ug m-3", "latitude": "degrees_north", "longitude": "degrees_east"},
        "license": "none stated (research data)",
        "citation": "Yi, Zheng, Zhang, Li (2016), ST-MVL: filling missing values in geo-sensory time series data",
        "sha256": "8f77b738ae4c50621705a308e606e6229564ad7ad20358986bd6031355f0ab5f",
        "size": 2121865,
        "options": {"part": "observed (what a method may see), heldout (what it is scored on) or ground (both)"},
    },
]


def aqi36(*, part: str = "observed", fetch: Fetch | None = None) -> xr.Dataset:
    """``pm25(time, station)`` in ug m-3, local time, NaN where missing.

    The benchmark scores ``heldout`` in March, June, September and December only (20,434 entries) and trains on the
    other months; ``heldout`` holds every month.

    Args:
        part: ``"observed"``, ``"heldout"`` (measured, but hidden from ``observed``) or ``"ground"`` (all measured).
        fetch: where the files are looked for.

    Raises:
        ConfigError: an unknown part.
        ResourceError, ReadError: a file is absent or damaged.
    """
    if part not in ("observed", "heldout", "ground"):
        raise ConfigError(f"option part is {part!r}", variable="part", fix="observed, heldout or ground")
    card = read_card("aqi36")
    ground_path, missing_path, place_path = (fetch or Fetch()).files(card)
    ground = _hours(ground_path)
    seen = ground if part == "ground" else _hours(missing_path)
    values = ground.where(seen.isna()) if part == "heldout" else seen
    place = pd.read_csv(place_path, dtype={"sensor_id": str}).set_index("sensor_id").loc[list(values.columns)]
    ds = xr.Dataset(
        {"pm25": (("time", "station"), values.to_numpy(dtype=np.float64, copy=True))},
        coords={
            "time": values.index.to_numpy().astype("datetime64[ns]"), "station": list(values.columns),
            "latitude": ("station", place["latitude"].to_numpy(copy=True)),
            "longitude": ("station", place["longitude"].to_numpy(copy=True)),
        },
        attrs={"part": part, "time_zone": "Asia/Shanghai"},
    )  # fmt: skip
    return described(ds, card)


def _hours(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, index_col="datetime")
    frame.index = pd.to_datetime(frame.index, format="%Y/%m/%d %H:%M:%S")
    return frame.astype(np.float64)
