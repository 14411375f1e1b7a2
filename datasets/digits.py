"""Handwritten digits, 8 x 8, that ship inside scikit-learn."""

from __future__ import annotations

import numpy as np
import xarray as xr

from sciinfer.extend import require

from .cards import described, read_card
from .statsmodels_series import checked_content

__entries__ = [
    {
        "kind": "datasets",
        "name": "digits",
        "target": "digits",
        "summary": "1797 handwritten digits of 8 x 8 pixels, grey levels 0 to 16",
        "source": "package",
        "dims": ("image", "y", "x"),
        "units": {"grey": "1"},
        "license": "CC-BY-4.0",
        "citation": "Alpaydin, Kaynak (1998), Optical recognition of handwritten digits",
        "sha256": "8d6ae9346cab5542604580f6761b1fd8fa54939795e3ba348632d83de927f96c",
        "requires": ("sklearn",),
        "extra": "datasets",
    },
]


def digits() -> xr.Dataset:
    """``grey(image, y, x)`` from 0 to 16, with the digit as coordinate ``label(image)``; ``y`` counts downwards.

    Example:
        >>> digits()["grey"].shape
        (1797, 8, 8)
    """
    card = read_card("digits")
    source = require("sklearn.datasets", extra="datasets", purpose="the data set 'digits'")
    bunch = source.load_digits()
    ds = xr.Dataset(
        {"grey": (("image", "y", "x"), np.array(bunch.images, dtype=np.float64))},
        coords={
            "image": np.arange(len(bunch.images)), "y": np.arange(8), "x": np.arange(8),
            "label": ("image", np.array(bunch.target, dtype=np.int64)),
        },
    )  # fmt: skip
    return described(checked_content(ds, card.sha256, "digits", "scikit-learn"), card)
