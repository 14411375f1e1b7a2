"""Between a list of parameters and the one vector that optimisers and samplers outside torch work on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def flatten(tensors: Sequence[Tensor]) -> np.ndarray:
    """All entries as one float64 vector on the CPU."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).double().cpu().numpy()


def unflatten(x: np.ndarray, parameters: Sequence[Tensor]) -> None:
    """Write a flat vector into the parameters, in place.

    Example:
        >>> p = torch.zeros(2, 1); unflatten(np.array([1.0, 2.0]), [p]); p.tolist()
        [[1.0], [2.0]]
    """
    with torch.no_grad():
        parts = torch.as_tensor(x).split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.copy_(part.reshape(parameter.shape))


def value_and_slopes(value: Tensor, parameters: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
    """A scalar as a number, and its gradient; zeros for what it does not depend on."""
    found = torch.autograd.grad(value, list(parameters), allow_unused=True)
    slopes = [torch.zeros_like(p) if slope is None else slope for p, slope in zip(parameters, found, strict=True)]
    return float(value.detach()), slopes
