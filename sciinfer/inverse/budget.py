"""How long a method may run, and the meter that it runs under."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from ..errors import BudgetError


class Budget(NamedTuple):
    """Limits of one solve; ``None`` = none.

    Args:
        seconds: wall time.
        evaluations: operator evaluations, forward and adjoint, each batch member counted.

    Example:
        >>> Budget(seconds=10.0).evaluations is None
        True
    """

    seconds: float | None = None
    evaluations: int | None = None


class Meter:
    """Counts evaluations and time against a budget."""

    def __init__(self, budget: Budget | None) -> None:
        self.budget = budget or Budget()
        self.start = time.perf_counter()
        self.nfe = 0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def spend(self, evaluations: int, partial: Any = None) -> None:
        """Count ``evaluations`` more; raise :class:`~sciinfer.errors.BudgetError` if that is over the budget."""
        limit = self.budget.evaluations
        if limit is not None and self.nfe + evaluations > limit:
            raise BudgetError(
                f"{self.nfe + evaluations} operator evaluations are needed, the budget is {limit}",
                fix="raise the budget's evaluations",
                details={"partial": partial, "nfe": self.nfe},
            )
        self.nfe += evaluations
        if self.budget.seconds is not None and self.seconds > self.budget.seconds:
            raise BudgetError(
                f"the time limit of {self.budget.seconds:g} s is over after {self.nfe} operator evaluations",
                fix="raise the budget's seconds, or coarsen the problem",
                details={"partial": partial, "nfe": self.nfe},
            )
