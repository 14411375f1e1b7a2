"""Which method suits a prior and an observation: exact where the structure allows."""

from __future__ import annotations

from typing import Any

from ..diffusion import Denoiser, MixtureDenoiser
from ..errors import ConfigError
from .observation import Observation
from .prior import Gaussian


def choose_method(prior: Any, observation: Observation) -> tuple[str, str]:
    """The method's registered name, and the reason in one sentence.

    Linear operator, Gaussian noise and a Gaussian prior or a mixture of Gaussians give ``exact``; a Gaussian prior and
    any other operator ``laplace``; a linear operator and a prior with a known density ``smc``.

    Raises:
        ConfigError: no registered method suits.

    Example:
        >>> from sciinfer.inverse import GaussianPrior
        >>> choose_method(GaussianPrior(0.0, [[1.0]]), Observation([[1.0]], noise_sd=1.0))[0]
        'exact'
    """
    linear, gaussian = observation.operator.linear, isinstance(prior, Gaussian)
    if linear and gaussian:
        return (
            "exact",
            "linear operator, Gaussian noise and Gaussian prior: the posterior is known in closed form",
        )
    if linear and isinstance(prior, MixtureDenoiser):
        return "exact", "linear operator, Gaussian noise, and a prior that is a mixture of Gaussians: closed form"
    if gaussian:
        return "laplace", "nonlinear operator with a Gaussian prior: the mode and the normal approximation around it"
    if linear and isinstance(prior, Denoiser) and prior.density:
        return "smc", "linear operator and a prior with a known density: guided particles, right in the limit of many"
    found = f"a {'linear' if linear else 'nonlinear'} operator with a prior of type {type(prior).__name__}"
    raise ConfigError(
        f"no method is registered for {found}",
        variable="method",
        fix="use a linear operator and a GaussianPrior, GaussianField or mixture, or name a plugin's method",
    )
