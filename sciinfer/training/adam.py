"""Adam in a few lines: element-wise operations in a fixed order, state that is plain tensors, no compiler imported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Optimiser(Protocol):
    """What a checkpoint asks of an optimiser; those of ``torch.optim`` have it too."""

    def state_dict(self) -> dict[str, Any]:
        """All state as nested plain values and tensors."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over such a state."""
        ...


class Adam:
    """Adam: ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g^2``, ``p <- p - rate m^ / (sqrt(v^) + eps)``.

    ``m^ = m / (1 - b1^k)`` and ``v^`` likewise, with ``k`` the updates of that parameter. A parameter without a
    gradient is left alone. Importing ``torch.optim`` classes loads PyTorch's compiler (seconds); this does not.

    Args:
        parameters: real or complex (their parts are treated as separate numbers).
        betas: ``b1`` and ``b2``.
        eps: added to the root.

    References:
        Kingma and Ba (2015), Adam: a method for stochastic optimization.

    Example:
        >>> p = nn.Parameter(torch.ones(1)); p.grad = torch.full((1,), 3.0)
        >>> Adam([p]).step(0.1); round(p.item(), 6)
        0.9
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        self._parameters, self._betas, self._eps = list(parameters), betas, eps
        self._counts = [0] * len(self._parameters)
        self._first = [torch.zeros_like(_real(p)) for p in self._parameters]
        self._second = [torch.zeros_like(_real(p)) for p in self._parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update every parameter that has a gradient."""
        for index, parameter in enumerate(self._parameters):
            if parameter.grad is not None:
                self._counts[index] += 1
                self._update(index, _real(parameter), _real(parameter.grad), rate)

    def _update(self, index: int, parameter: Tensor, grad: Tensor, rate: float) -> None:
        (b1, b2), count = self._betas, self._counts[index]
        first = self._first[index].lerp_(grad, 1 - b1)
        second = self._second[index].mul_(b2).addcmul_(grad, grad, value=1 - b2)
        root = second.sqrt().div_(math.sqrt(1 - b2**count)).add_(self._eps)
        parameter.addcdiv_(first, root, value=-rate / (1 - b1**count))

    def state_dict(self) -> dict[str, Any]:
        """Counts and moments (not copied)."""
        return {"counts": list(self._counts), "first": list(self._first), "second": list(self._second)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy counts and moments into place.

        Raises:
            ValueError: they belong to other parameters.
        """
        if len(state_dict["counts"]) != len(self._parameters):
            raise ValueError(f"{len(state_dict['counts'])} parameters saved, {len(self._parameters)} here")
        self._counts = [int(count) for count in state_dict["counts"]]
        for mine, saved in zip(
            (*self._first, *self._second), (*state_dict["first"], *state_dict["second"]), strict=True
        ):
            if mine.shape != saved.shape:
                raise ValueError(f"a moment of shape {tuple(saved.shape)} saved, {tuple(mine.shape)} here")
            mine.copy_(saved)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
