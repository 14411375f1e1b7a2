"""What every method here is given: a log-density of flat unconstrained vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..errors import NumericalError, SciInferError, ShapeError

#: ``log_density(z [n, d]) -> [n]``, unnormalised, in float64
LogDensity = Callable[[Tensor], Tensor]
#: what a log-density may raise far out, where a matrix loses its definiteness: no density there
FAILURES = (NumericalError, torch.linalg.LinAlgError)  # pyright: ignore[reportPrivateImportUsage]


def one_at_a_time(log_density: Callable[[Tensor], Tensor]) -> LogDensity:
    """A batched log-density from one that takes a single vector ``[d]``.

    Example:
        >>> one_at_a_time(lambda z: -z.square().sum())(torch.ones(3, 2)).tolist()
        [-2.0, -2.0, -2.0]
    """
    return lambda z: torch.stack([log_density(row) for row in z])


class Evaluator:
    """Counts evaluations, and answers with values and gradients in NumPy; what is not finite becomes ``-inf``.

    A log-density that raises a :class:`NumericalError` (a covariance that lost its definiteness far out) counts as
    ``-inf`` at every point of that call when it holds one point; a batch is then taken one point at a time.

    Args:
        log_density: ``[n, d] -> [n]``. device: where the points are put.
    """

    def __init__(self, log_density: LogDensity, *, device: str | torch.device = "cpu") -> None:
        self._log_density, self._device = log_density, device
        self.evaluations = 0

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``log p [n]`` and its gradient ``[n, d]`` at ``points [n, d]``."""
        self.evaluations += len(points)
        try:
            return self._batch(points)
        except FAILURES:
            if len(points) == 1:
                return np.full(1, -np.inf), np.zeros_like(points)
        pairs = [self._single(row) for row in points]
        return np.concatenate([p for p, _ in pairs]), np.concatenate([g for _, g in pairs])

    def _single(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            return self._batch(row[None])
        except FAILURES:
            return np.full(1, -np.inf), np.zeros_like(row[None])

    def _batch(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = torch.as_tensor(points, dtype=torch.float64).to(self._device).requires_grad_()
        value = checked(self._log_density(z), len(points))
        (slope,) = torch.autograd.grad(value.sum(), [z])
        v, g = value.detach().cpu().numpy().astype(float), slope.detach().cpu().numpy().astype(float)
        bad = ~(np.isfinite(v) & np.isfinite(g).all(axis=1))
        return np.where(bad, -np.inf, v), np.where(bad[:, None], 0.0, g)


def checked(value: Tensor, n: int) -> Tensor:
    """``value`` if it is one number for each of ``n`` points.

    Raises:
        ShapeError: it is not.
    """
    if value.shape != (n,):
        raise ShapeError(
            f"a log-density of {n} points must give {n} numbers, got shape {tuple(value.shape)}",
            fix="sum over the last dimension only, or wrap a one-point function in one_at_a_time",
        )
    return value


def values(log_density: LogDensity, z: Tensor) -> Tensor:
    """``log p [n]`` without a graph; NaN and failed points become ``-inf``."""
    with torch.no_grad():
        try:
            found = checked(log_density(z), len(z))
        except FAILURES:
            if len(z) == 1:
                return z.new_full((1,), -torch.inf)
            return torch.cat([values(log_density, row[None]) for row in z])
    return torch.where(found.isnan(), -torch.inf, found)


def not_finite(where: str) -> SciInferError:
    """The error for a start without support."""
    return NumericalError(
        f"the log-density or its gradient is not finite at {where}",
        code="numerical/start",
        fix="start inside the support, or pass other initial values",
    )
