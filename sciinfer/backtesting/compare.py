"""Is one forecaster better than another? Paired differences over windows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..errors import DataError

#: below this many windows nothing is claimed
LEAST = 2
LEVEL = 0.05


class Difference(NamedTuple):
    """``mean`` of the differences, its standard error and the two-sided p-value (NaN where there is no claim)."""

    mean: float
    se: float
    p: float

    @property
    def verdict(self) -> str:
        """``wins``, ``ties`` or ``loses`` at 5 %; ``none`` where nothing can be said."""
        if not math.isfinite(self.p):
            return "none"
        if self.p >= LEVEL:
            return "ties"
        return "wins" if self.mean < 0 else "loses"


def diebold_mariano(difference: np.ndarray, lag: int = 0) -> Difference:
    r"""The Diebold-Mariano test on one mean loss difference per window.

    The long-run variance is :math:`\gamma_0 + 2\sum_{k \le L} (1 - k/(L+1))\gamma_k` (Bartlett weights, so never
    negative), corrected for few windows and referred to Student's t with W - 1 degrees of freedom.

    Args:
        difference: ``[W]`` in order of time, loss minus the reference's.
        lag: ``L``, windows that overlap the one before (0 where the step is a whole horizon).

    Returns:
        NaN for the error and p with fewer than two windows, or where all differences are equal.

    Raises:
        DataError: no differences, or some not finite.

    References:
        Diebold, Mariano (1995), Comparing predictive accuracy
        Harvey, Leybourne, Newbold (1997), Testing the equality of prediction mean squared errors

    Example:
        >>> found = diebold_mariano(np.array([-1.0, -1.2, -0.8, -1.1]))
        >>> found.verdict, round(found.p, 4)
        ('wins', 0.0012)
    """
    difference = np.asarray(difference, dtype=np.float64)
    count = len(difference)
    if not count or not np.isfinite(difference).all():
        raise DataError("loss differences must be finite numbers, one for each window", fix="leave out empty windows")
    mean = float(difference.mean())
    centred = difference - mean
    lag = min(lag, count - 1)
    long_run = float(centred @ centred) / count
    for k in range(1, lag + 1):
        long_run += 2 * (1 - k / (lag + 1)) * float(centred[k:] @ centred[:-k]) / count
    h = lag + 1
    shrink = (count + 1 - 2 * h + h * (h - 1) / count) / count
    # long overlaps of few windows leave nothing to judge by; rounding is no variance
    if count < LEAST or shrink <= 0 or long_run <= (1e-12 * (1 + abs(mean))) ** 2:
        return Difference(mean, math.nan, math.nan)
    se = math.sqrt(long_run / count / shrink)
    return Difference(mean, se, _two_sided(mean / se, count - 1))


def _two_sided(t: float, freedom: int) -> float:
    from scipy.stats import t as student

    return float(2 * student.sf(abs(t), freedom))
