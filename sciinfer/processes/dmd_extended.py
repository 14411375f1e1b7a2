"""Extended dynamic mode decomposition: a linear operator on chosen functions of the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from ..errors import ShapeError, StateError
from .dmd_rank import pairs_of, trajectories


class EDMD:
    r"""Operator ``K`` with ``psi(x[t + 1]) = K psi(x[t])`` by least squares over all pairs.

    Args:
        dictionary: ``[m, n] -> [m, N]``, the functions. ridge: penalty of the squared entries of ``K``.

    Attributes:
        operator: ``[N, N]``. eigenvalues: ``[N]``, largest first. state: ``[n, N]``, the state as a combination of the
        functions, by least squares.

    References:
        Williams, Kevrekidis, Rowley (2015), A data-driven approximation of the Koopman operator: extending DMD

    Example:
        >>> x = 0.5 ** torch.arange(6.0, dtype=torch.float64)[:, None]
        >>> EDMD(lambda x: torch.cat([x, x**2], 1)).fit(x).eigenvalues.real.round(decimals=6).tolist()
        [0.5, 0.25]
    """

    operator: Tensor
    eigenvalues: Tensor
    state: Tensor

    def __init__(self, dictionary: Callable[[Tensor], Tensor], *, ridge: float = 0.0) -> None:
        self.dictionary, self.ridge, self.fitted = dictionary, float(ridge), False

    def fit(self, x: Any) -> Self:
        """Estimate from snapshots ``[T, n]`` or a list of trajectories; no pair crosses them.

        Raises:
            ShapeError: the dictionary does not answer with ``[m, N]``. DataError: no complete pair.
        """
        pairs = pairs_of(trajectories(x), 1)
        now, later = self._lift(pairs.x), self._lift(pairs.y)
        self.operator = self._solve(now, later).mT
        self.state = self._solve(now, pairs.x.to(now.dtype)).mT
        values = torch.linalg.eigvals(self.operator)
        self.eigenvalues = values[torch.argsort(values.abs(), descending=True, stable=True)]
        self.fitted = True
        return self

    def predict(self, x: Any, steps: int) -> Tensor:
        """``[steps, n]`` after the last row of ``x``: powers of ``K``, not re-lifted: that would hide a wrong ``K``."""
        if not self.fitted:
            raise StateError("the operator is not estimated yet", fix="call fit first")
        z = self._lift(trajectories(x)[0][-1:])[0]
        found = []
        for _ in range(steps):
            z = self.operator @ z
            found.append(self.state @ z)
        return torch.stack(found) if found else trajectories(x)[0][:0]

    def _lift(self, x: Tensor) -> Tensor:
        lifted = self.dictionary(x)
        if lifted.ndim != 2 or len(lifted) != len(x):
            raise ShapeError(
                f"the dictionary made {tuple(lifted.shape)} of {tuple(x.shape)}", fix="return [rows, functions]"
            )
        return lifted

    def _solve(self, a: Tensor, b: Tensor) -> Tensor:
        if self.ridge:
            eye = torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
            return torch.linalg.solve(a.mH @ a + self.ridge * eye, a.mH @ b)
        return torch.linalg.pinv(a) @ b
