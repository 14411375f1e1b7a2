"""Classical records that ship inside statsmodels."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import xarray as xr

from sciinfer.errors import SciInferWarning
from sciinfer.extend import require

from .cards import content_sha256, described, read_card

__entries__ = [
    {
        "kind": "datasets",
        "name": "co2",
        "target": "co2",
        "summary": "Weekly atmospheric CO2 at Mauna Loa, 1958-2001, with its 59 missing weeks",
        "source": "package",
        "dims": ("time",),
        "units": {"co2": "ppm"},
        "license": "public domain",
        "citation": (
            "Keeling, Whorf (2004), Atmospheric CO2 concentrations derived from flask air samples at sites "
            "in the SIO network"
        ),
        "sha256": "ea447929d16d905fd4dd90da3eac5ccfe7e0e833201d612d0b458e0d5b908075",
        "requires": ("statsmodels",),
        "extra": "datasets",
    },
    {
        "kind": "datasets",
        "name": "sunspots",
        "target": "sunspots",
        "summary": "Yearly sunspot number, 1700-2008",
        "source": "package",
        "dims": ("time",),
        "units": {"sunspots": "1"},
        "license": "public domain",
        "citation": "NOAA National Geophysical Data Center, yearly sunspot numbers",
        "sha256": "35a75d44b3c7f3a80d11cebc078f22dde9fc7a38f3a6b66ea56b069e91806eb1",
        "requires": ("statsmodels",),
        "extra": "datasets",
    },
    {
        "kind": "datasets",
        "name": "elnino",
        "target": "elnino",
        "summary": "Monthly sea surface temperature of the Nino 1+2 region, 1950-2010",
        "source": "package",
        "dims": ("time",),
        "units": {"temperature": "degC"},
        "license": "public domain",
        "citation": "NOAA Climate Prediction Center, ERSST.v3b, Nino 1+2",
        "sha256": "92ebd10cb5a6dedad74c45374e80463cb799347ca8fbbdf27c6b7ee1ae5515e5",
        "requires": ("statsmodels",),
        "extra": "datasets",
    },
    {
        "kind": "datasets",
        "name": "nile",
        "target": "nile",
        "summary": "Yearly discharge of the Nile at Aswan, 1871-1970, with the drop of 1898",
        "source": "package",
        "dims": ("time",),
        "units": {"discharge": "1e8 m3"},
        "license": "public domain",
        "citation": "Cobb (1978), The problem of the Nile: conditional solution to a changepoint problem",
        "sha256": "0deb683d450e43057d6ef0e60b1c9ec5a061f2e1fc82f450dde74f852171c9a7",
        "requires": ("statsmodels",),
        "extra": "datasets",
    },
]


def co2() -> xr.Dataset:
    """``co2(time)`` in ppm, weekly, NaN in the 59 weeks without a measurement.

    Example:
        >>> int(co2()["co2"].isnull().sum())
        59
    """
    frame = _table("co2")
    return _series("co2", "co2", frame.index.to_numpy(), frame["co2"])


def sunspots() -> xr.Dataset:
    """``sunspots(time)``, yearly means, dated the first of January.

    Example:
        >>> sunspots().sizes["time"]
        309
    """
    frame = _table("sunspots")
    return _series("sunspots", "sunspots", _years(frame["YEAR"]), frame["SUNACTIVITY"])


def elnino() -> xr.Dataset:
    """``temperature(time)`` in degC, monthly, dated the first of the month.

    Example:
        >>> elnino().sizes["time"]
        732
    """
    frame = _table("elnino").set_index("YEAR")
    first = np.datetime64(f"{int(frame.index[0])}-01", "M")
    months = first + np.arange(frame.size)
    return _series("elnino", "temperature", months, frame.to_numpy().ravel())


def nile() -> xr.Dataset:
    """``discharge(time)`` in 1e8 m3, yearly, dated the first of January.

    Example:
        >>> float(nile()["discharge"][0])
        1120.0
    """
    frame = _table("nile")
    return _series("nile", "discharge", _years(frame["year"]), frame["volume"])


def _table(name: str) -> Any:
    source = require(f"statsmodels.datasets.{name}", extra="datasets", purpose=f"the data set {name!r}")
    return source.load_pandas().data


def _years(values: Any) -> np.ndarray:
    return (np.asarray(values).astype(np.int64) - 1970).astype("datetime64[Y]")


def _series(name: str, variable: str, time: np.ndarray, values: Any) -> xr.Dataset:
    card = read_card(name)
    stored = np.array(values, dtype=np.float64)
    ds = xr.Dataset({variable: ("time", stored)}, coords={"time": time.astype("datetime64[ns]")})
    return described(checked_content(ds, card.sha256, name, "statsmodels"), card)


def checked_content(ds: xr.Dataset, expected: str, name: str, package: str) -> xr.Dataset:
    """``ds``, with a warning where the installed package holds other values than the card."""
    if content_sha256(ds) != expected:
        warnings.warn(
            f"data set {name!r}: the installed {package} holds other values than sciinfer was tested with "
            f"(expected sha256 {expected})",
            SciInferWarning,
            stacklevel=4,
        )
    return ds
