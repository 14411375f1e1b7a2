"""Daily exchange rates of eight currencies."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .cards import described, read_card
from .fetch import Fetch

__entries__ = [
    {
        "kind": "datasets",
        "name": "exchange_rate",
        "target": "exchange_rate",
        "summary": "Daily exchange rates of eight currencies to the US dollar, 1990-2016",
        "source": "local",
        "dims": ("time", "country"),
        "units": {"rate": "USD", "time": "d"},
        "license": "none stated",
        "citation": (
            "Lai, Chang, Yang, Liu (2018), Modeling long- and short-term temporal patterns with deep neural networks"
        ),
        "sha256": "6a4fbb561dcdee43f071a83badbeec9223a335552278348656738b556f1c2e9d",
        "size": 177142,
    },
]

_COUNTRIES = ("AU", "UK", "CA", "CH", "CN", "JP", "NZ", "SG")


def exchange_rate(*, fetch: Fetch | None = None) -> xr.Dataset:
    """``rate(time, country)``: US dollars per unit of currency. Time counts records: the file holds no dates.

    Args:
        fetch: where the file is looked for.

    Raises:
        ResourceError, ReadError: the file is absent or damaged.
    """
    card = read_card("exchange_rate")
    (path,) = (fetch or Fetch()).files(card)
    rate = np.loadtxt(path, delimiter=",", dtype=np.float64, ndmin=2)
    ds = xr.Dataset(
        {"rate": (("time", "country"), rate)},
        coords={
            "time": (
                "time",
                np.arange(len(rate), dtype=np.float64),
                {"long_name": "trading day since the first record"},
            ),
            "country": list(_COUNTRIES),
        },
    )
    return described(ds, card)
