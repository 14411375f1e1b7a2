"""The few unit conversions that a change of data file needs; everything else is refused rather than guessed."""

from __future__ import annotations

import warnings

from ..errors import SciInferWarning, UnitsError

_TABLE: dict[str, dict[str, float]] = {
    "time": {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0},
    "length": {"mm": 1e-3, "cm": 1e-2, "m": 1.0, "km": 1e3},
    "temperature": {"K": 1.0},
    "mass": {"mg": 1e-6, "g": 1e-3, "kg": 1.0},
    "frequency": {"Hz": 1.0, "kHz": 1e3},
    "amount": {"umol": 1e-6, "mmol": 1e-3, "mol": 1.0},
}
_ALIASES = {
    "sec": "s", "second": "s", "seconds": "s", "minute": "min", "minutes": "min", "hr": "h", "hour": "h",
    "hours": "h", "day": "d", "days": "d", "µs": "us", "μs": "us", "meter": "m", "metre": "m", "meters": "m",
    "metres": "m", "kelvin": "K", "hertz": "Hz",
}  # fmt: skip


def factor(have: str, want: str) -> float | None:
    """What a number in ``have`` is multiplied by to be in ``want``; None where that is not known.

    Example:
        >>> factor("km", "m"), factor("Jy", "mag")
        (1000.0, None)
    """
    have, want = (_ALIASES.get(u.strip(), u.strip()) for u in (have, want))
    if have == want:
        return 1.0
    for table in _TABLE.values():
        if have in table and want in table:
            return table[have] / table[want]
    return None


def conversion(variable: str, have: str | None, want: str | None) -> float:
    """The factor from the data's units to the ones the model was fitted in.

    Args:
        variable: for messages.
        have: units of the data at hand, or None.
        want: units at fit time, or None (then nothing can be checked).

    Returns:
        A positive factor; 1 where either side has no units.

    Raises:
        UnitsError: both are given and no conversion is known.

    Example:
        >>> conversion("depth", "cm", "m")
        0.01
    """
    if want is None or have is None:
        return 1.0
    found = factor(have, want)
    if found is None:
        raise UnitsError(
            f"units are {have!r}, the model was fitted in {want!r}, and no conversion is known",
            variable=variable,
            fix=f"convert the values and set attrs['units'] = {want!r}",
        )
    return found


def warn_missing(names: list[str]) -> None:
    """One notice that units are assumed to be those of the fit."""
    if names:
        listed = ", ".join(repr(name) for name in names)
        warnings.warn(f"no units given for {listed}: assumed to be those of the fit", SciInferWarning, stacklevel=4)
