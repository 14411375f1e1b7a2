"""Minimise a scalar of a module's parameters: L-BFGS for a deterministic one, Adam for a noisy one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import BudgetError, NumericalError
from ..nets.parameters import flatten, unflatten
from .target import FAILURES

#: what a failed point costs in a line search, in units of the value's own size
_WALL = 10.0
#: steps in a row without a finite loss before a stochastic search gives up
_PATIENCE = 20


class Search(NamedTuple):
    """``settled``: did the search stop because nothing improved; ``losses``: its values in order."""

    settled: bool
    message: str
    losses: tuple[float, ...]


class Clock:
    """A time limit in seconds; ``None`` is none."""

    def __init__(self, limit: float | None) -> None:
        self._start, self._limit = time.perf_counter(), math.inf if limit is None else limit

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def check(self, partial: Callable[[], object], what: str) -> None:
        """Raise :class:`BudgetError` with ``partial()`` once the limit has passed."""
        if self.elapsed > self._limit:
            raise BudgetError(
                f"{what} did not finish within {self._limit:g} s",
                fix="give it more time, or use err.details['partial']",
                details={"partial": partial(), "seconds": self.elapsed},
            )


def _gradient(loss: Callable[[], Tensor], parameters: Sequence[nn.Parameter]) -> tuple[float, np.ndarray]:
    try:
        value = loss()
        slopes = torch.autograd.grad(value, list(parameters))
    except FAILURES:
        return math.inf, np.zeros(0)
    return float(value.detach()), flatten(slopes)


def minimise_lbfgs(
    loss: Callable[[], Tensor], parameters: Sequence[nn.Parameter], *, steps: int, check: Callable[[], None]
) -> Search:
    """SciPy's L-BFGS-B; points where the loss is not finite are stepped back from.

    Raises:
        NumericalError: the loss is not finite at the start.
    """
    from scipy.optimize import minimize

    losses: list[float] = []

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        check()
        unflatten(x, parameters)
        value, slope = _gradient(loss, parameters)
        if math.isfinite(value) and np.isfinite(slope).all():
            losses.append(value)
            return value, slope
        if not losses:
            raise NumericalError(
                "the loss is not finite at the start",
                code="numerical/start",
                fix="start nearer, or with a smaller scale",
            )
        return max(losses) + _WALL * (1 + abs(losses[-1])), np.zeros_like(x)

    options = {"maxiter": steps, "maxfun": 2 * steps + 50, "maxcor": 20, "ftol": 1e-12, "gtol": 1e-6}
    found = minimize(objective, flatten(parameters), jac=True, method="L-BFGS-B", options=options)
    unflatten(found.x, parameters)
    return Search(bool(found.success), str(found.message), tuple(losses))


def minimise_adam(
    loss: Callable[[], Tensor],
    parameters: Sequence[nn.Parameter],
    *,
    steps: int,
    rate: float,
    check: Callable[[], None],
) -> Search:
    """Adam with a cosine-decayed rate; a step without a finite gradient is left out.

    It has settled when the mean loss of the last quarter is within two standard errors of that of the quarter before.

    Raises:
        NumericalError: 20 steps in a row were not finite.
    """
    x = flatten(parameters)
    first, second, done, failed = np.zeros_like(x), np.zeros_like(x), 0, 0
    losses: list[float] = []
    for step in range(steps):
        check()
        value, slope = _gradient(loss, parameters)
        if not (math.isfinite(value) and np.isfinite(slope).all()):
            failed += 1
            if failed >= _PATIENCE:
                raise NumericalError(f"the loss was not finite {failed} steps in a row", index=step, fix="lower rate")
            continue
        failed, done = 0, done + 1
        losses.append(value)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        size = rate * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
        x = x - size * (first / (1 - 0.9**done)) / (np.sqrt(second / (1 - 0.999**done)) + 1e-12)
        unflatten(x, parameters)
    return Search(*_settled(losses), tuple(losses))


def _settled(losses: list[float]) -> tuple[bool, str]:
    quarter = len(losses) // 4
    if quarter < 5:
        return False, "too few steps to tell"
    last, before = np.array(losses[-quarter:]), np.array(losses[-2 * quarter : -quarter])
    error = math.sqrt(last.var() / quarter + before.var() / quarter) + 1e-9 * (1 + abs(float(last.mean())))
    gain = float(before.mean() - last.mean())
    holds = gain < 2 * error
    return holds, "no gain over the last quarter" if holds else f"still gaining {gain:.3g} over the last quarter"
