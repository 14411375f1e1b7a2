"""Do the values lie where a likelihood allows them?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, DataError
from .frames import as_fitted
from .schema import Schema
from .values import numbers, where_bad


class _Check(NamedTuple):
    code: str
    what: str
    fix: str
    bad: Callable[[np.ndarray], np.ndarray]


CHECKS: dict[str, tuple[_Check, ...]] = {
    "real": (),
    "count": (
        _Check("negative-count", "a count is negative", "repair it or mask it with NaN", lambda y: y < 0),
        _Check("not-integer", "a count is not whole", "use a real-valued likelihood", lambda y: y != np.floor(y)),
    ),
    "binary": (_Check("not-binary", "a value is neither 0 nor 1", "recode it", lambda y: (y != 0) & (y != 1)),),
    "positive": (_Check("not-positive", "a value is not positive", "mask it with NaN", lambda y: y <= 0),),
}


def check_support(ds: Any, schema: Schema, support: str | Mapping[str, str]) -> None:
    """Refuse values outside the support of a likelihood; missing ones pass.

    Args:
        ds: the caller's data.
        schema: which variables count.
        support: ``"real"``, ``"count"`` (0, 1, 2, ...), ``"binary"`` (0 or 1) or ``"positive"`` (> 0);
            one for all variables, or for each by name (``"real"`` for one that is not named).

    Raises:
        DataError: with variable, dims and index of the first offending value, in the caller's own dims.
        ConfigError: no such support.

    Example:
        >>> import xarray as xr
        >>> from sciinfer.labelled import infer_schema
        >>> ds = xr.Dataset({"n": ("t", [1.0, 3.0])}, coords={"t": [0.0, 1.0]})
        >>> check_support(ds, infer_schema(ds), "count")
    """
    named = {spec.name: support for spec in schema.variables} if isinstance(support, str) else support
    if unknown := sorted(set(named.values()) - set(CHECKS)):
        raise ConfigError(f"there is no support {unknown[0]!r}", fix=f"one of {list(CHECKS)}")
    plain = as_fitted(ds, schema)
    for spec in schema.variables:
        var = plain[spec.name]
        values = numbers(var)
        for check in CHECKS[named.get(spec.name, "real")]:
            bad = check.bad(values) & ~np.isnan(values)
            if bad.any():
                place = where_bad(var, bad)
                shown = values[tuple(np.argwhere(bad)[0])]
                raise DataError(f"{check.what}: {shown:g}", **place, code=f"data/{check.code}", fix=check.fix)
