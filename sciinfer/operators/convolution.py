"""Convolution with a fixed kernel, by FFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from .base import Operator, Spec, as_values, spec

__entries__ = [
    {
        "kind": "operators",
        "name": "convolution",
        "target": "Convolution",
        "summary": "Convolution with a fixed kernel along all dims: circular, or its valid part.",
        "options": {
            "kernel": "array, one dim per dim of the signal",
            "shape": "sizes of the signal",
            "mode": "circular or valid",
        },
    }
]


class Convolution(Operator):
    r"""``(A x)_i = \sum_j k_j x_{i - j}`` by FFT, in O(n log n).

    Args:
        kernel: one dim per dim of the signal, at most as large. In mode ``circular`` its middle entry
            (``size // 2``) is the origin, so that a symmetric kernel does not shift.
        shape: sizes of the signal.
        mode: ``circular`` (periodic, same size) or ``valid`` (only where the kernel fits: ``n - k + 1``).
        dims: names of the dims.

    Example:
        >>> Convolution([1.0, 1.0], (4,), mode="valid")(torch.tensor([1.0, 2.0, 3.0, 4.0])).round()
        tensor([3., 5., 7.])
    """

    self_check = False
    kernel: Tensor

    def __init__(
        self,
        kernel: Any,
        shape: Sequence[int],
        mode: Literal["circular", "valid"] = "circular",
        dims: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        values = as_values(kernel)
        if values.ndim != len(shape) or any(k > n for k, n in zip(values.shape, shape, strict=True)):
            raise ShapeError(
                f"kernel {tuple(values.shape)} does not fit a signal {tuple(shape)}",
                variable="kernel",
                fix="one kernel dim per signal dim, at most as long",
            )
        if mode not in ("circular", "valid"):
            raise ConfigError(f"mode {mode!r} is unknown", variable="mode", fix="use 'circular' or 'valid'")
        self.register_buffer("kernel", values)
        self.mode, self.linear, self.domain = mode, True, spec(dims, shape)
        self._axes = tuple(range(-len(shape), 0))
        kept = tuple(n - k + 1 for n, k in zip(shape, values.shape, strict=True)) if mode == "valid" else tuple(shape)
        self.range = Spec(self.domain.dims, kept)
        self._start = tuple(k - 1 for k in values.shape) if mode == "valid" else (0,) * len(shape)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., *domain]`` to ``[..., *range]``."""
        self.domain.check(x)
        full = self._filter(x, conjugate=False)
        return full[(..., *(slice(first, None) for first in self._start))]

    def adjoint(self, y: Tensor) -> Tensor:
        """Correlation with the kernel; the invalid border is filled with zeros first."""
        self.range.check(y, what="adjoint input")
        padding = [part for first in reversed(self._start) for part in (first, 0)]
        return self._filter(torch.nn.functional.pad(y, padding), conjugate=True)

    def _filter(self, x: Tensor, *, conjugate: bool) -> Tensor:
        sizes = self.domain.concrete(0)
        if not x.numel():
            return x.new_zeros(*x.shape[: x.ndim - len(sizes)], *sizes)
        transfer = self._transfer(x)
        spectrum = torch.fft.rfftn(x, dim=self._axes) * (transfer.conj() if conjugate else transfer)
        return torch.fft.irfftn(spectrum, s=sizes, dim=self._axes)

    def _transfer(self, like: Tensor) -> Tensor:
        padded = like.new_zeros(self.domain.concrete(0))
        padded[tuple(slice(0, k) for k in self.kernel.shape)] = self.kernel.to(like)
        if self.mode == "circular":
            padded = padded.roll([-(k // 2) for k in self.kernel.shape], dims=self._axes)
        return torch.fft.rfftn(padded, dim=self._axes)
