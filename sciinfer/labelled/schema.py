"""What the columns mean: which axis is time, which is the series, what the channels are called and how they scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from ..errors import ConfigError, TimeError

Kind = Literal["number", "datetime"]


@dataclass(frozen=True)
class TimeAxis:
    """Caller's times to model times: ``(t - origin) / scale``.

    Datetimes are counted in integer nanoseconds before they become float64, so nothing is lost near the origin.

    Args:
        name: the time coordinate.
        kind: ``"number"`` or ``"datetime"``.
        origin: in the coordinate's own numbers, or nanoseconds since 1970.
        scale: length of a model time unit, in the coordinate's own numbers, or nanoseconds.
        units: the coordinate's ``units`` attribute, if it has one.
    """

    name: str
    kind: Kind
    origin: float
    scale: float
    units: str | None = None

    def to_model(self, time: np.ndarray) -> np.ndarray:
        """Model times (float64) of caller's times, NaN where a time is missing."""
        if self.kind == "datetime":
            stamps = np.asarray(time, dtype="datetime64[ns]")
            shifted = (stamps - np.datetime64(int(self.origin), "ns")).astype(np.float64)
            shifted[np.isnat(stamps)] = np.nan
            return shifted / self.scale
        return (np.asarray(time, dtype=np.float64) - self.origin) / self.scale

    def from_model(self, time: np.ndarray) -> np.ndarray:
        """Caller's times of model times."""
        if self.kind == "datetime":
            return np.datetime64(int(self.origin), "ns") + np.round(time * self.scale).astype("timedelta64[ns]")
        return np.asarray(time, dtype=np.float64) * self.scale + self.origin

    def parse(self, time: Any) -> np.ndarray:
        """Check times that a caller asks for and return them as this axis's own type."""
        if self.kind == "datetime":
            import pandas as pd

            try:
                index = pd.DatetimeIndex(np.atleast_1d(time))
            except (ValueError, TypeError) as err:
                raise TimeError(
                    f"cannot read the requested times as dates: {err}",
                    variable=self.name,
                    fix="pass datetimes or ISO strings",
                ) from err
            stamps = index.tz_convert("UTC").tz_localize(None) if index.tz is not None else index
            values = np.asarray(stamps.values, dtype="datetime64[ns]")
            missing = np.isnat(values)
        else:
            raw = np.atleast_1d(np.asarray(time))
            if raw.dtype.kind in "MOUSmc":
                raise TimeError(
                    f"the data's times are numbers, the requested ones are {raw.dtype}",
                    variable=self.name,
                    fix="ask for numbers in the data's own time units",
                )
            values = raw.astype(np.float64)
            missing = ~np.isfinite(values)
        if missing.any():
            index0 = int(np.flatnonzero(missing)[0])
            raise TimeError(
                "a requested time is missing or infinite", variable=self.name, index=index0, fix="drop or repair it"
            )
        return values

    def duration(self, value: Any) -> float:
        """A duration in model time units: a number in the coordinate's units, or a string like ``"365.25D"``.

        Example:
            >>> TimeAxis("time", "datetime", 0.0, 86400e9).duration("7D")
            7.0
        """
        if self.kind == "datetime":
            import pandas as pd

            try:
                return pd.Timedelta(value).value / self.scale if isinstance(value, str) else float(value) / self.scale * 1e9
            except ValueError as err:
                raise ConfigError(f"cannot read the duration {value!r}: {err}", fix='write "7D", "365.25D" or "12h"') from err
        return float(value) / self.scale


@dataclass(frozen=True)
class Channel:
    """One scalar channel: a variable, or one cell of its further dims. Model value = ``(y - shift) / scale``."""

    variable: str
    cell: tuple[int, ...] = ()
    label: str = ""
    units: str | None = None
    shift: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Variable:
    """A data variable: the dims besides series and time, with their sizes and coordinate labels, and its units."""

    name: str
    dims: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    labels: tuple[tuple[Any, ...], ...] = ()
    units: str | None = None


@dataclass(frozen=True)
class Schema:
    """All that is needed to take labels off and to put them back on. Plain data: it is saved with the model."""

    time: TimeAxis
    series: str | None
    variables: tuple[Variable, ...]
    channels: tuple[Channel, ...]
    layout: str = "grid"

    @property
    def n_channels(self) -> int:
        """Number of scalar channels."""
        return len(self.channels)

    @property
    def shift(self) -> np.ndarray:
        """``[C]`` offsets."""
        return np.array([channel.shift for channel in self.channels])

    @property
    def scale(self) -> np.ndarray:
        """``[C]`` scales."""
        return np.array([channel.scale for channel in self.channels])

    def rescaled(self, shift: Iterable[float], scale: Iterable[float]) -> Schema:
        """The same schema with other channel scalings."""
        pairs = zip(self.channels, shift, scale, strict=True)
        return replace(
            self, channels=tuple(replace(c, shift=float(a), scale=float(b)) for c, a, b in pairs)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a config file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schema:
        """The inverse of :meth:`to_dict`."""
        return cls(
            time=TimeAxis(**{"units": None, **data["time"]}),
            series=data.get("series"),
            variables=tuple(
                Variable(
                    name=v["name"],
                    dims=tuple(v["dims"]),
                    sizes=tuple(v["sizes"]),
                    labels=tuple(tuple(labels) for labels in v["labels"]),
                    units=v.get("units"),
                )
                for v in data["variables"]
            ),
            channels=tuple(Channel(**{"units": None, **c, "cell": tuple(c["cell"])}) for c in data["channels"]),
            layout=data["layout"],
        )
