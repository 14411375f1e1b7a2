"""Shift and scale of each channel, from the observed training values."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence

import numpy as np

from ..errors import DataError, SciInferWarning
from .schema import Channel


def standardise(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation in two passes; a constant gets scale 1.

    Args:
        values: ``[n]`` observed values, at least one.

    Returns:
        ``(shift, scale)`` with ``scale > 0``.

    Example:
        >>> standardise(np.array([1.0, 3.0]))
        (2.0, 1.0)
    """
    low, high = float(values.min()), float(values.max())
    middle = low / 2 + high / 2  # the sum of two large numbers may overflow
    spread = max(high - middle, middle - low)
    if spread == 0.0 or not np.isfinite(spread):
        return low, 1.0
    unit = (values - middle) / spread  # in [-1, 1]: squares neither overflow nor vanish
    mean = float(unit.mean())
    scale = spread * float(np.sqrt(np.mean((unit - mean) ** 2)))
    return middle + spread * mean, scale


def scaled(
    channels: Sequence[Channel], values: np.ndarray, *, scale: bool, keep: Collection[str] = ()
) -> tuple[Channel, ...]:
    """Channels with their shift and scale.

    Args:
        channels: ``C`` channels.
        values: ``[N, C]`` in the caller's units, NaN = missing.
        scale: False keeps shift 0 and scale 1 (counts). keep: variables for which it is False.

    Raises:
        DataError: a channel without a single observed value.

    Example:
        >>> scaled([Channel("y")], np.array([[1.0], [np.nan], [3.0]]), scale=True)[0].shift
        2.0
    """
    out, constant = [], []
    for channel, column in zip(channels, values.T, strict=True):
        observed, wanted = column[~np.isnan(column)], scale and channel.variable not in keep
        if len(observed) == 0:
            raise DataError(
                f"every value of {channel.label or channel.variable!r} is missing, nothing can be learned of it",
                variable=channel.variable,
                index=channel.cell or None,
                code="data/all-missing",
                fix="drop it, e.g. variables=[...]",
            )
        shift, width = standardise(observed) if wanted else (0.0, 1.0)
        if wanted and observed.min() == observed.max():
            constant.append(channel.label or channel.variable)
        out.append(Channel(channel.variable, channel.cell, channel.label, channel.units, shift, width))
    if constant:
        warnings.warn(f"constant, so kept at scale 1: {', '.join(constant)}", SciInferWarning, stacklevel=3)
    return tuple(out)
