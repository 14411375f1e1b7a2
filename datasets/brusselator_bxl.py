"""The published realisation of the sporadically observed Brusselator."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from .cards import described, read_card
from .fetch import Fetch
from .layouts import contiguous_ragged

__entries__ = [
    {
        "kind": "datasets",
        "name": "brusselator_bxl",
        "target": "brusselator_bxl",
        "summary": "BXLator: 1,000 sporadic series of a stochastic Brusselator, as published with GRU-ODE-Bayes",
        "source": "local",
        "dims": ("obs", "series"),
        "units": {"activator": "1", "inhibitor": "1", "time": "1"},
        "license": "MIT",
        "citation": (
            "De Brouwer, Simm, Arany, Moreau (2019), GRU-ODE-Bayes: continuous modeling of "
            "sporadically-observed time series"
        ),
        "sha256": "1dc8019125361e6b540c7ac79acd708f48d6ef3011d0b988b357e8004731ab57",
        "size": 1507684,
    },
]


def brusselator_bxl(*, fetch: Fetch | None = None) -> xr.Dataset:
    """``activator(obs)`` and ``inhibitor(obs)``, NaN where only the other was seen; ragged, sorted by series and time.

    Args:
        fetch: where the file is looked for.

    Raises:
        ResourceError, ReadError: the file is absent or damaged.
    """
    card = read_card("brusselator_bxl")
    (path,) = (fetch or Fetch()).files(card)
    frame = pd.read_csv(path).sort_values(["ID", "Time"], kind="stable")
    labels, row_size = np.unique(frame["ID"].to_numpy(dtype=np.int64), return_counts=True)
    variables = {
        name: np.where(frame[f"Mask_{k}"] > 0, frame[f"Value_{k}"], np.nan)
        for k, name in enumerate(("activator", "inhibitor"), start=1)
    }
    return described(contiguous_ragged(row_size, frame["Time"].to_numpy(copy=True), variables, labels), card)
