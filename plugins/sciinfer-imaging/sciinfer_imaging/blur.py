"""The point-spread function is a Gaussian."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sciinfer.errors import ConfigError
from sciinfer.operators import Operator, Spec

_CUT = 4.0  # standard deviations at which the Gaussian is cut in dark mode


class GaussianBlur(Operator):
    r"""``A x = g * x`` with :math:`g_i \propto \exp(-i^2 / 2 s^2)` along each axis, total weight one.

    The blur is symmetric, hence it is its own adjoint, with both kinds of border.

    Args:
        shape: rows and columns.
        sd: ``s`` in pixels, one number or one for y and one for x.
        border: ``periodic`` (light that leaves on one side comes back on the other) or ``dark`` (it is lost).

    Raises:
        ConfigError: a width that is not positive, or an unknown border.

    Example:
        >>> bool((GaussianBlur((4, 4), sd=1.0)(torch.ones(4, 4)) - 1).abs().max() < 1e-6)
        True
    """

    self_check = False  # the conformance kit and the tests of this package check it
    gain: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        sd: float | tuple[float, float] = 1.0,
        border: Literal["periodic", "dark"] = "periodic",
    ) -> None:
        super().__init__()
        widths = (sd, sd) if isinstance(sd, (int, float)) else tuple(sd)
        if len(widths) != 2 or not all(math.isfinite(width) and width > 0 for width in widths):
            raise ConfigError(f"sd is {sd!r}, widths must be positive", variable="sd", fix="pass pixels, like sd=1.5")
        if border not in ("periodic", "dark"):
            raise ConfigError(f"border {border!r} is unknown", variable="border", fix="use 'periodic' or 'dark'")
        self.domain = self.range = Spec(("y", "x"), tuple(shape))
        self.linear = True
        dark = border == "dark"
        self._size = tuple(n + math.ceil(_CUT * s) if dark else n for n, s in zip(shape, widths, strict=True))
        rows, columns = (_spectrum(n, s, cut=dark) for n, s in zip(self._size, widths, strict=True))
        self.register_buffer("gain", rows[:, None] * columns[: self._size[1] // 2 + 1])

    def forward(self, x: Tensor) -> Tensor:
        """``[..., y, x]`` to ``[..., y, x]``."""
        self.domain.check(x)
        if not x.numel():
            return x
        spectrum = torch.fft.rfft2(x, s=self._size) * self.gain.to(x)
        return torch.fft.irfft2(spectrum, s=self._size)[..., : x.shape[-2], : x.shape[-1]]

    def adjoint(self, y: Tensor) -> Tensor:
        """The blur itself."""
        return self.forward(y)


def _spectrum(n: int, sd: float, *, cut: bool) -> Tensor:
    """Real transfer function of a unit-weight Gaussian on a ring of ``n`` pixels."""
    ring = torch.arange(n, dtype=torch.float64)
    distance = torch.minimum(ring, n - ring)
    weight = torch.exp(-0.5 * (distance / sd) ** 2)
    if cut:
        weight = torch.where(distance <= _CUT * sd, weight, torch.zeros_like(weight))
    return torch.fft.fft(weight / weight.sum()).real
