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
        origin: in the coordinate's own numbers, or whole nanoseconds since 1970.
        scale: length of a model time unit, in the coordinate's own numbers, or nanoseconds.
        units: the coordinate's ``units`` attribute, if it has one.
    """

    name: str
    kind: Kind
    origin: float
    scale: float
    units: str | None = None

    def to_model(self, time: np.ndarray) -> np.ndarray:
        """Model times (float64) of caller's times, NaN where a time is missing.

        Example:
            >>> TimeAxis("t", "number", 10.0, 2.0).to_model(np.array([10.0, 14.0]))
            array([0., 2.])
        """
        if self.kind == "datetime":
            stamps = np.asarray(time, dtype="datetime64[ns]")
            shifted = _nanoseconds_since(stamps, int(self.origin))
            return np.where(np.isnat(stamps), np.nan, shifted) / self.scale
        return (np.asarray(time, dtype=np.float64) - self.origin) / self.scale

    def from_model(self, time: np.ndarray) -> np.ndarray:
        """Caller's times of model times."""
        if self.kind == "datetime":
            return np.datetime64(int(self.origin), "ns") + np.round(time * self.scale).astype("timedelta64[ns]")
        return np.asarray(time, dtype=np.float64) * self.scale + self.origin

    def parse(self, time: Any) -> np.ndarray:
        """Check times that a caller asks for and return them as this axis's own type, in the caller's order.

        Raises:
            TimeError: of the other kind than the axis, not a list, missing or infinite.
        """
        values = self._dates(time) if self.kind == "datetime" else self._numbers(time)
        if values.ndim != 1:
            raise TimeError(
                f"the requested times have {values.ndim} dims", variable=self.name, fix="pass a flat list of times"
            )
        missing = np.isnat(values) if self.kind == "datetime" else ~np.isfinite(values)
        if missing.any():
            index = int(np.flatnonzero(missing)[0])
            raise TimeError(
                "a requested time is missing or infinite", variable=self.name, index=index, fix="drop or repair it"
            )
        return values

    def _dates(self, time: Any) -> np.ndarray:
        import pandas as pd

        from .stamps import to_nanoseconds

        values = time if isinstance(time, (pd.Index, pd.Series)) else np.atleast_1d(np.asarray(time))
        return to_nanoseconds(values, name=self.name)

    def _numbers(self, time: Any) -> np.ndarray:
        raw = np.atleast_1d(np.asarray(time))
        if raw.dtype.kind not in "fiu":
            raise TimeError(
                f"the data's times are numbers, the requested ones are {raw.dtype}",
                variable=self.name,
                fix="ask for numbers in the data's own time units",
            )
        return raw.astype(np.float64)

    def duration(self, value: Any) -> float:
        """A duration in model time units: a number in the coordinate's units (seconds for dates), or ``"365.25D"``.

        Raises:
            ConfigError: the text is no duration, or the coordinate has no known unit of time.

        Example:
            >>> TimeAxis("time", "datetime", 0.0, 86400e9).duration("7D")
            7.0
        """
        if not isinstance(value, str):
            return float(value) * (1e9 if self.kind == "datetime" else 1.0) / self.scale
        return self._seconds(value) * self._per_second() / self.scale

    @staticmethod
    def _seconds(text: str) -> float:
        import pandas as pd

        try:
            return pd.Timedelta(text).total_seconds()
        except ValueError as err:
            raise ConfigError(
                f"cannot read the duration {text!r}: {err}", fix='write "7D", "365.25D" or "12h"'
            ) from err

    def _per_second(self) -> float:
        """The coordinate's own numbers (nanoseconds for dates) in a second."""
        if self.kind == "datetime":
            return 1e9
        from .units import factor

        found = factor("s", self.units or "")
        if found is None:
            raise ConfigError(
                f"the times are numbers in {self.units or 'no units'}, so a duration must be a number as well",
                variable=self.name,
                fix="give a number in the data's own time units, or set the time's attrs['units']",
            )
        return found


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
        return replace(self, channels=tuple(replace(c, shift=float(a), scale=float(b)) for c, a, b in pairs))

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


def _nanoseconds_since(stamps: np.ndarray, origin: int) -> np.ndarray:
    # seconds and remainder apart: a difference of more than 292 years would wrap around in int64 nanoseconds
    seconds, rest = np.divmod(stamps.astype(np.int64), 10**9)
    return (seconds - origin // 10**9).astype(np.float64) * 1e9 + (rest - origin % 10**9)
