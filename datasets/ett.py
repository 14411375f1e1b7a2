"""Electricity transformer temperature, the hourly record of the first transformer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from .cards import described, read_card
from .fetch import Fetch

__entries__ = [
    {
        "kind": "datasets",
        "name": "ett",
        "target": "ett",
        "summary": "ETTh1: hourly oil temperature of a transformer and six power loads, 2016-2018",
        "source": "local",
        "dims": ("time",),
        "units": {"OT": "degC"},
        "license": "CC-BY-ND-4.0",
        "citation": (
            "Zhou, Zhang, Peng, Zhang, Li, Xiong, Zhang (2021), Informer: beyond efficient transformer for "
            "long sequence time-series forecasting"
        ),
        "sha256": "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
        "size": 2589657,
    },
]


def ett(*, fetch: Fetch | None = None) -> xr.Dataset:
    """Seven variables over ``time``: ``OT`` in degC, and high, middle and low loads without a stated unit.

    Args:
        fetch: where the file is looked for.

    Raises:
        ResourceError, ReadError: the file is absent or damaged.
    """
    card = read_card("ett")
    (path,) = (fetch or Fetch()).files(card)
    frame = pd.read_csv(path)
    time = pd.to_datetime(frame.pop("date"), format="%Y-%m-%d %H:%M:%S").to_numpy().astype("datetime64[ns]")
    variables = {str(name): ("time", column.to_numpy(dtype=np.float64, copy=True)) for name, column in frame.items()}
    return described(xr.Dataset(variables, coords={"time": time}), card)
