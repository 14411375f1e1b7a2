"""A linear measurement in units of its noise, only measured data kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError, ShapeError
from .budget import Meter
from .observation import Observation


class LinearData(NamedTuple):
    """``b = A_w (x - at) + N(0, I)``.

    ``forward``: ``[k, *shape]`` to ``[k, m]``; ``adjoint``: ``[k, m]`` to ``[k, *shape]``; ``b [m]``; ``log_sd``: sum
    of log standard deviations; ``missing``: data that were not measured.
    """

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    b: Tensor
    log_sd: float
    missing: int


class Residual(NamedTuple):
    """``of(x) = (y - A(x)) / sd``, ``[k, *shape]`` to ``[k, m]``, for any operator; ``size`` is ``m``."""

    of: Callable[[Tensor], Tensor]
    size: int
    log_sd: float
    missing: int


class _Measured(NamedTuple):
    """Data, what the operator makes of the signal ``at``, the places that were measured and their deviations."""

    data: Tensor
    image: Tensor
    keep: Tensor
    sd: Tensor


def whiten(observation: Observation, y: Any, at: Tensor, meter: Meter) -> LinearData:
    """Data relative to the signal ``at [*shape]``, which also gives dtype and device.

    Raises:
        ConfigError: the operator is not linear. ShapeError: the data are not in its range. DataError: complex data.
    """
    op = observation.operator
    if not op.linear:
        raise ConfigError(
            f"this method needs a linear operator, {type(op).__name__} is not",
            variable="operator",
            fix="choose a method for nonlinear operators (for example 'laplace'), or linearise the operator",
        )
    found = _measured(observation, y, at, meter)
    data, keep, sd = found.data, found.keep, found.sd

    def forward(x: Tensor) -> Tensor:
        meter.spend(len(x))
        return op.forward(x).flatten(1)[:, keep] / sd

    def adjoint(v: Tensor) -> Tensor:
        meter.spend(len(v))
        filled = v.new_zeros(len(v), data.numel()).index_copy(1, keep, v / sd)
        return op.adjoint(filled.reshape(len(v), *data.shape))

    b = (data - found.image).flatten()[keep] / sd
    return LinearData(forward, adjoint, b, float(sd.log().sum()), data.numel() - len(keep))


def residual(observation: Observation, y: Any, at: Tensor, meter: Meter) -> Residual:
    """The misfit in units of the noise, as a function of the signal; ``at [*shape]`` gives dtype and device.

    Raises:
        ShapeError: the data are not in the operator's range. DataError: complex data.
    """
    found = _measured(observation, y, at, meter)
    data, keep, sd = found.data.flatten()[found.keep], found.keep, found.sd

    def of(x: Tensor) -> Tensor:
        meter.spend(len(x))
        return (data - observation.operator.forward(x).flatten(1)[:, keep]) / sd

    return Residual(of, len(keep), float(sd.log().sum()), found.data.numel() - len(keep))


def _measured(observation: Observation, y: Any, at: Tensor, meter: Meter) -> _Measured:
    op = observation.operator
    data = y if isinstance(y, Tensor) else torch.as_tensor(np.asarray(y))
    if data.is_complex():
        raise DataError("complex data are not supported", variable="y", fix="stack real and imaginary parts")
    data = data.detach().to(dtype=at.dtype, device=at.device)
    meter.spend(1)
    image = op.forward(at)
    if data.shape != image.shape:
        raise ShapeError(
            f"y has shape {tuple(data.shape)}, the operator gives {tuple(image.shape)} with dims {op.range.dims}",
            variable="y",
            fix="pass y in the operator's range",
        )
    keep = observation.observed(data, ndim=data.ndim).flatten().nonzero()[:, 0]
    sd = observation.spread(tuple(data.shape))[0].to(at).flatten()[keep]
    return _Measured(data, image, keep, sd)
