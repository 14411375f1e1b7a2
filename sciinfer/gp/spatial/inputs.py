"""Points and observations as they come in: checked, float64, rows without a value left out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError, DataError, ShapeError
from ...likelihoods import Gaussian, Likelihood
from ...likelihoods.gaussian import FLOOR
from ..kernels.base import positive

#: what a caller may pass for points or values
Values = Tensor | np.ndarray | list


class Observed(NamedTuple):
    """Rows that hold a value: ``X [n, d]``, ``y [n]``, ``rows [n]`` into the caller's arrays of length ``total``."""

    X: Tensor
    y: Tensor
    rows: Tensor
    total: int


def points(X: Values, name: str = "X", dims: int | None = None) -> Tensor:
    """Points ``[n, d]`` in float64; a vector is a column.

    Raises:
        ShapeError: not a matrix, or not ``dims`` columns. DataError: a coordinate is not finite.
    """
    values = _tensor(X, name)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] == 0 or (dims is not None and values.shape[1] != dims):
        raise ShapeError(
            f"points must be [n, {'d' if dims is None else dims}], got {list(values.shape)}",
            variable=name,
            fix="one row per point, one column per input",
        )
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        raise DataError(
            "a coordinate is not finite", variable=name, index=tuple(bad[0].tolist()), fix="leave that point out"
        )
    return values


def observed(X: Values, y: Values) -> Observed:
    """Checked rows with a value; NaN in ``y`` means missing.

    Raises:
        ShapeError: lengths differ. DataError: a value is infinite.
    """
    at, values = points(X), _tensor(y, "y")
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if values.ndim != 1 or len(values) != len(at):
        what = f"{len(at)} points but values of shape {list(values.shape)}"
        raise ShapeError(what, variable="y", fix="one per point")
    if values.isinf().any():
        index = int(values.isinf().nonzero()[0])
        raise DataError("value is infinite", variable="y", index=index, fix="mark a missing value with NaN")
    rows = (~values.isnan()).nonzero()[:, 0]
    return Observed(at[rows], values[rows], rows, len(values))


def check_count(name: str, value: int, least: int = 1) -> int:
    """``value`` if it is a whole number of at least ``least``.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number >= {least}, got {value!r}", fix=f"{name}={max(least, 1)}")
    return value


def _tensor(values: Values, name: str) -> Tensor:
    try:
        return torch.as_tensor(values).to(torch.float64)
    except (TypeError, ValueError, RuntimeError) as err:
        raise DataError(f"cannot be read as numbers: {err}", variable=name, fix="pass an array of numbers") from err


def likelihood_or_noise(likelihood: Likelihood | None, noise: float | None) -> Likelihood:
    """The likelihood, or Gaussian noise of variance ``noise`` (default 1).

    Raises:
        ConfigError: both were given, or the noise is not positive.
    """
    if likelihood is not None and noise is not None:
        raise ConfigError("pass either a likelihood or a noise variance", fix="leave out noise")
    if likelihood is not None:
        return likelihood
    sd = positive("noise", 1.0 if noise is None else noise) ** 0.5
    return Gaussian(1, noise=max(sd - FLOOR, 1e-3 * FLOOR))


def expected(likelihood: Likelihood, y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """``E[log p(y_i | f_i)] [n]`` under ``f_i ~ N(mean_i, variance_i)``."""
    column = y[:, None]
    return likelihood.expected_log_prob(column, mean[:, None], variance[:, None], torch.ones_like(column).bool())
