"""Packages that only some readers need."""

from __future__ import annotations

from typing import Any

import numpy as np

from sciinfer.errors import DependencyError
from sciinfer.extend import require


def optional(module: str, extra: str) -> Any:
    """The module, or an error that tells how to install it with this plugin.

    Example:
        >>> optional("math", "nwb").pi > 3
        True
    """
    try:
        return require(module, extra="", purpose=f"sciinfer-neuro[{extra}]")
    except DependencyError as err:
        raise DependencyError(err.what, fix=f'pip install "sciinfer-neuro[{extra}]"') from err


def closed(stop: np.ndarray | float, last: np.ndarray | float) -> np.ndarray:
    """Ends of half-open windows ``[start, stop)`` for recordings that may hold a spike at their very end.

    Example:
        >>> bool(closed(1.0, 1.0) > 1.0), float(closed(2.0, 1.0))
        (True, 2.0)
    """
    stop, last = np.asarray(stop, dtype=np.float64), np.asarray(last, dtype=np.float64)
    return np.where(last == stop, np.nextafter(stop, np.inf), stop)
