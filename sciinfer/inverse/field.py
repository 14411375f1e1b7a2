"""Stationary Gaussian fields on regular grids, diagonal in a Fourier or cosine basis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, ShapeError
from .prior import Gaussian

__entries__ = [
    {
        "kind": "priors",
        "name": "gaussian-field",
        "target": "GaussianField",
        "summary": "A Gaussian field on a regular grid, given by the standard deviation of each mode.",
        "options": {
            "amplitude": "standard deviation of each orthonormal mode, in the grid's shape",
            "boundary": "periodic (Fourier) or neumann (cosines)",
            "mean": "a number or an array",
        },
    }
]


Boundary = Literal["periodic", "neumann"]


class GaussianField(Gaussian):
    r""":math:`x = \mu + T^{-1}(a \odot T\xi)`, ``T`` the orthonormal transform; :math:`C = T^{-1} a^2 T`.

    Args:
        amplitude: ``[*shape]``, standard deviation of each orthonormal mode. For ``periodic`` the modes are those of
            ``torch.fft.fftn`` and the amplitude must be even (equal at ``k`` and ``-k``).
        boundary: ``periodic`` (Fourier basis) or ``neumann`` (type-II cosines: zero slope at the borders).
        mean: a number or ``[*shape]``.

    Example:
        >>> GaussianField(torch.ones(4), "periodic").variance()
        tensor([1., 1., 1., 1.], dtype=torch.float64)
    """

    def __init__(
        self, amplitude: Any, boundary: Literal["periodic", "neumann"] = "neumann", *, mean: Any = 0.0
    ) -> None:
        self.amplitude = torch.as_tensor(amplitude, dtype=torch.float64).clone()
        if boundary not in ("periodic", "neumann"):
            raise ConfigError(f"boundary {boundary!r} is unknown", fix="use 'periodic' or 'neumann'")
        if not bool((self.amplitude.isfinite() & (self.amplitude >= 0)).all()):
            raise DataError("amplitudes must be finite and not negative", variable="amplitude")
        self.boundary, self.shape = boundary, tuple(self.amplitude.shape)
        self.mean = torch.as_tensor(mean, dtype=torch.float64).expand(self.shape).clone()
        self.rank = self.size
        self._axes = tuple(range(-len(self.shape), 0))
        if boundary == "periodic":
            self._check_even()
        else:
            self._bases = [_cosines(n) for n in self.shape]

    def root(self, xi: Tensor) -> Tensor:
        """The symmetric square root of ``C`` times ``xi``."""
        return self._filter(xi.reshape(*xi.shape[:-1], *self.shape), self.amplitude)

    def apply(self, x: Tensor) -> Tensor:
        """``C x``."""
        return self._filter(x, self.amplitude**2)

    def variance(self) -> Tensor:
        """The diagonal of ``C``; constant for a periodic field."""
        power = self.amplitude**2
        if self.boundary == "periodic":
            return power.mean().expand(self.shape).clone()
        for axis, basis in zip(self._axes, self._bases, strict=True):
            power = (power.movedim(axis, -1) @ basis**2).movedim(-1, axis)
        return power

    def _filter(self, x: Tensor, gain: Tensor) -> Tensor:
        if self.boundary == "periodic":
            return torch.fft.ifftn(torch.fft.fftn(x, dim=self._axes) * gain.to(x), dim=self._axes).real
        for axis, basis in zip(self._axes, self._bases, strict=True):
            x = (x.movedim(axis, -1) @ basis.to(x).T).movedim(-1, axis)
        x = x * gain.to(x)
        for axis, basis in zip(self._axes, self._bases, strict=True):
            x = (x.movedim(axis, -1) @ basis.to(x)).movedim(-1, axis)
        return x

    def _check_even(self) -> None:
        mirrored = self.amplitude.flip(self._axes).roll([1] * len(self.shape), self._axes)
        if float((mirrored - self.amplitude).abs().max()) > 1e-10 * float(self.amplitude.max()):
            raise ShapeError(
                "the amplitude of a periodic field must be even: a[k] = a[-k]",
                variable="amplitude",
                fix="build it from abs(torch.fft.fftfreq(n))",
            )


def whittle_matern(shape: Sequence[int], *, alpha: float, tau: float, boundary: Boundary = "neumann") -> GaussianField:
    r"""The field with covariance :math:`\tau^{2\alpha-2}(-\Delta + \tau^2)^{-\alpha}` on the unit cube, zero mean mode.

    Args:
        shape: grid.
        alpha: smoothness.
        tau: inverse length scale, per unit of the cube.
        boundary: ``neumann`` or ``periodic``.

    Example:
        >>> whittle_matern((8,), alpha=2.0, tau=3.0).shape
        (8,)
    """
    period = math.pi if boundary == "neumann" else 2 * math.pi
    square = torch.zeros(tuple(shape), dtype=torch.float64)
    for axis, n in enumerate(shape):
        wave = torch.arange(n, dtype=torch.float64) if boundary == "neumann" else torch.fft.fftfreq(n, d=1 / n).double()
        square = square + ((period * wave) ** 2).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    amplitude = math.sqrt(math.prod(shape)) * tau ** (alpha - 1) * (square + tau**2) ** (-alpha / 2)
    amplitude[(0,) * len(shape)] = 0.0
    return GaussianField(amplitude, boundary)


def _cosines(n: int) -> Tensor:
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi * k * (2 * i + 1) / (2 * n)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis
