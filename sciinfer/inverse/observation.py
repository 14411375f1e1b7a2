"""What was measured: an operator, and Gaussian noise on its output."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, ShapeError
from ..operators import Operator, as_operator


class Observation:
    r""":math:`y = A(x) + \varepsilon`, :math:`\varepsilon_i \sim N(0, \sigma_i^2)`, where ``mask`` is True.

    Args:
        operator: an operator, or a matrix.
        noise_sd: a number, or one per datum (broadcast to the operator's range).
        variance: its square, instead.
        mask: True = measured; NaN in the data counts as not measured as well.

    Raises:
        DataError: a standard deviation is zero, negative, NaN or infinite: it would have infinite or no weight.

    Example:
        >>> obs = Observation([[1.0, 0.0]], noise_sd=0.5)
        >>> float(obs.log_prob(torch.tensor([1.0]), torch.tensor([1.0, 3.0])).exp()) > 0.79
        True
    """

    def __init__(self, operator: Any, noise_sd: Any = None, *, variance: Any = None, mask: Any = None) -> None:
        self.operator: Operator = as_operator(operator)
        if (noise_sd is None) == (variance is None):
            raise ConfigError("give noise_sd or variance, one of both", variable="noise_sd")
        name = "noise_sd" if variance is None else "variance"
        given = torch.as_tensor(noise_sd if variance is None else variance, dtype=torch.float64).clone()
        _check_positive(given, name)
        self.sd = given if variance is None else given.sqrt()
        self.mask = None if mask is None else torch.as_tensor(mask).clone()
        if self.mask is not None and self.mask.dtype != torch.bool:
            raise DataError(f"a mask must be boolean, got {self.mask.dtype}", variable="mask", fix="compare: y > 0")
        if self.operator.range.fixed:
            self.spread(self.operator.range.concrete(0))

    def spread(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Standard deviations and mask, both broadcast to ``shape``."""
        mask = torch.ones((), dtype=torch.bool) if self.mask is None else self.mask
        try:
            return self.sd.expand(shape), mask.expand(shape)
        except RuntimeError as err:
            raise ShapeError(
                f"noise of shape {tuple(self.sd.shape)} or mask of shape {tuple(mask.shape)} does not fit data {shape}",
                fix="give one number, or one per datum",
            ) from err

    def observed(self, y: Tensor, *, ndim: int | None = None) -> Tensor:
        """True where ``y`` was measured; an infinite datum raises."""
        shape = tuple(y.shape[y.ndim - (ndim or self.operator.range.ndim) :])
        seen = self.spread(shape)[1].to(y.device) & ~y.isnan()
        if bool((y.isinf() & seen).any()):
            place = tuple((y.isinf() & seen).nonzero()[0].tolist())
            raise DataError("value is infinite", variable="y", index=place, fix="mask it with NaN")
        return seen

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        """``log p(y | x)``: ``x [..., *domain]`` to ``[...]``; missing data do not count."""
        image = self.operator(x)
        self.operator.range.check(y, what="y")
        seen = self.observed(y)
        sd = self.spread(tuple(image.shape[image.ndim - self.operator.range.ndim :]))[0].to(image)
        z = (torch.where(seen, y, torch.zeros_like(y)).to(image) - image) / sd
        terms = -0.5 * z**2 - sd.log() - 0.5 * math.log(2 * math.pi)
        return (terms * seen).flatten(terms.ndim - self.operator.range.ndim).sum(-1)

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """One noisy measurement of each signal ``x [..., *domain]``."""
        image = self.operator(x)
        noise = torch.randn(image.shape, generator=generator, dtype=image.dtype, device=generator.device).to(
            image.device
        )
        return image + self.spread(tuple(image.shape[image.ndim - self.operator.range.ndim :]))[0].to(image) * noise


def _check_positive(values: Tensor, name: str) -> None:
    bad = ~(values.isfinite() & (values > 0))
    if bool(bad.any()):
        place = tuple(bad.nonzero()[0].tolist())
        raise DataError(
            f"noise is {float(values[place])}, it must be positive and finite",
            variable=name,
            index=place or None,
            code="data/noise",
            fix="give the instrument's error bar, or mask the datum",
        )
