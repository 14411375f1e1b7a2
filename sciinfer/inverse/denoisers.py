"""The denoiser of whatever stands as a prior."""

from __future__ import annotations

from typing import Any

import torch

from ..diffusion import Denoiser, GaussianDenoiser
from ..errors import ConfigError
from .prior import Gaussian


def as_denoiser(prior: Any) -> Denoiser:
    """A denoiser as it is; that of a Gaussian prior in closed form.

    Raises:
        ConfigError: the prior has none.

    Example:
        >>> from sciinfer.inverse import GaussianPrior
        >>> as_denoiser(GaussianPrior(0.0, [[1.0]])).shape
        (1,)
    """
    if isinstance(prior, Denoiser):
        return prior
    if isinstance(prior, Gaussian):
        eye = torch.eye(prior.size, dtype=prior.mean.dtype, device=prior.mean.device)
        return GaussianDenoiser(prior.mean, prior.apply(eye.reshape(prior.size, *prior.shape)).flatten(1))
    raise ConfigError(
        f"a prior of type {type(prior).__name__} has no denoiser",
        variable="prior",
        fix="pass a Gaussian prior, a mixture or a denoiser",
    )
