"""L-BFGS over a module's parameters, with a report that says whether it converged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from ...errors import NumericalError
from ...nets.parameters import flatten, unflatten

#: logarithms stay this near their start, so that a line search never overflows
_REACH = 14.0


@dataclass(frozen=True)
class FitReport:
    """How a fit ended.

    Args:
        objective: the maximised value, nats. iterations, evaluations: spent. converged: what the optimiser says.
        message: its own words. gradient: largest absolute slope at the end.
    """

    objective: float
    iterations: int
    evaluations: int
    converged: bool
    message: str
    gradient: float

    @property
    def verdict(self) -> str:
        """``converged``, or ``not converged`` and why."""
        return "converged" if self.converged else f"not converged ({self.message})"


def maximise(
    named: Sequence[tuple[str, nn.Parameter]],
    value_and_slopes: Callable[[], tuple[float, Sequence[Tensor]]],
    *,
    iterations: int,
    tolerance: float = 1e-10,
) -> FitReport:
    """Move the parameters in place to a local maximum; a point that fails numerically counts as very bad.

    SciPy's optimiser: importing any of torch's loads its compiler.
    """
    from scipy.optimize import minimize

    parameters = [parameter for _, parameter in named]
    worst = [math.inf]

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        unflatten(x, parameters)
        try:
            value, slopes = value_and_slopes()
        except NumericalError:
            value, slopes = math.nan, []
        if not math.isfinite(value) or not all(bool(s.isfinite().all()) for s in slopes):
            return (1e10 if math.isinf(worst[0]) else worst[0] + abs(worst[0]) + 1e3), np.zeros_like(x)
        worst[0] = -value if math.isinf(worst[0]) else max(worst[0], -value)
        return -value, -flatten(slopes)

    start = flatten(parameters)
    found = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=_bounds(named),
        options={"maxiter": iterations, "maxcor": 20, "ftol": tolerance, "gtol": 1e-6},
    )
    unflatten(found.x, parameters)
    slope = float(np.abs(found.jac).max(initial=0.0))
    return FitReport(-float(found.fun), int(found.nit), int(found.nfev), bool(found.success), str(found.message), slope)


def _bounds(named: Sequence[tuple[str, nn.Parameter]]) -> list[tuple[float | None, float | None]]:
    bounds: list[tuple[float | None, float | None]] = []
    for name, parameter in named:
        logarithm = name.rsplit(".", 1)[-1].startswith("log_")
        for value in parameter.detach().reshape(-1).tolist():
            bounds.append((value - _REACH, value + _REACH) if logarithm else (None, None))
    return bounds
