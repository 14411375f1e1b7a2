"""The models behind labelled fields: which one, its starting values, what is stored of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..extend import registry
from ..gp.dispatch import DENSE
from ..gp.spatial import DKLGP, Covariance, Matern, SparseGP, SquaredExponential, VecchiaGP
from ..gp.spatial.svgp import variational_process
from ..labelled.support import CHECKS
from ..likelihoods import Likelihood

if TYPE_CHECKING:
    from .field import FieldSpec

#: methods, what they are, and their options
METHODS = {
    "dense": ("one Cholesky factor, exact", ()),
    "vecchia": ("each value given its nearest predecessors", ("neighbours", "ordering")),
    "dkl": ("double-KL sparse inverse Cholesky", ("rho",)),
    "sparse": ("inducing points, a lower bound", ("inducing",)),
}
KERNELS = {"matern12": 0.5, "matern32": 1.5, "matern52": 2.5, "rbf": math.inf}
#: likelihoods with a scale in the units of the variable
SCALED = ("gaussian", "student-t")
_INDUCING = "inducing_points"


def choose_method(method: str, likelihood: str, count: int) -> str:
    """``auto`` by likelihood and number of values.

    Raises:
        ConfigError: no such method, or one that only takes Gaussian noise.

    Example:
        >>> choose_method("auto", "gaussian", 500), choose_method("auto", "poisson", 500)
        ('dense', 'dkl')
    """
    if method == "auto":
        return "dkl" if likelihood != "gaussian" else "dense" if count <= DENSE else "vecchia"
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}", variable="method", fix=f"one of: auto, {', '.join(METHODS)}")
    if likelihood != "gaussian" and method in ("dense", "vecchia"):
        raise ConfigError(f"{method} takes Gaussian noise only", variable="likelihood", fix='method="dkl" or "sparse"')
    return method


def scaling(likelihood: str, y: np.ndarray, variable: str) -> tuple[float, float]:
    """Shift and scale that bring real values to mean zero and spread one; none for counts and signs.

    Raises:
        DataError: a value outside the likelihood's support.
    """
    support = registry().get("likelihoods", likelihood).support
    for check in CHECKS[support]:
        if check.bad(y).any():
            shown = float(y[check.bad(y)][0])
            raise DataError(f"{check.what}: {shown:g}", variable=variable, code=f"data/{check.code}", fix=check.fix)
    if support != "real":
        return 0.0, 1.0
    spread = float(y.std())
    return float(y.mean()), spread if spread > 0 else 1.0


def build(spec: FieldSpec) -> Any:
    """The unfitted model of a spec, in model units.

    Raises:
        ConfigError: unknown kernel or option.
    """
    unknown = sorted(set(spec.options) - set(METHODS[spec.method][1]))
    if unknown:
        known = ", ".join(METHODS[spec.method][1]) or "none"
        raise ConfigError(f"{spec.method} has no option {', '.join(unknown)}", variable="options", fix=f"has: {known}")
    kernel, sd = _kernel(spec), spec.noise / spec.scale
    if spec.method == "dense":
        return VecchiaGP(kernel, sd**2, "constant", neighbours=2**31)
    if spec.method == "vecchia":
        return VecchiaGP(kernel, sd**2, "constant", **spec.options)
    approximate = DKLGP if spec.method == "dkl" else SparseGP
    if spec.likelihood == "gaussian":
        return approximate(kernel, sd**2, **spec.options)
    return approximate(kernel, mean=spec.level, likelihood=_likelihood(spec.likelihood, sd), **spec.options)


def predictor_level(likelihood: str, y: Tensor, steps: int = 30) -> float:
    """The best constant predictor of values ``y [n]`` (damped Newton)."""
    if likelihood in SCALED:
        return 0.0
    made, level = _likelihood(likelihood, 1.0), torch.zeros(1, dtype=torch.float64)
    for _ in range(steps):
        level.requires_grad_()
        value = made.entry_log_prob(y[:, None], level.expand(len(y), 1)).sum()
        (slope,) = torch.autograd.grad(value, level, create_graph=True)
        (bend,) = torch.autograd.grad(slope, level) if slope.requires_grad else (slope,)
        level = level.detach() + (slope.detach() / bend.abs().clamp(min=1e-9)).clamp(-1.0, 1.0)
    return float(level)


def state(gp: Any) -> dict[str, Tensor]:
    """What has to be stored of a fitted model: its parameters and, if it has them, the inducing points."""
    process = getattr(gp, "process", None)
    found = {name: p.detach().clone() for name, p in gp.named_parameters() if not name.startswith("process")}
    if process is not None:
        found[_INDUCING] = process.variational_strategy.inducing_points.detach().clone()
    return found


def restore(gp: Any, stored: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`state`, in place.

    Raises:
        KeyError: something is missing.
    """
    with torch.no_grad():
        for name, parameter in gp.named_parameters():
            parameter.copy_(stored[name])
    if _INDUCING in stored:
        gp.process = variational_process(gp.covariance, stored[_INDUCING])


def noise_sd(gp: Any) -> float | None:
    """Standard deviation (or scale) of the noise in model units, where there is one."""
    if isinstance(gp, VecchiaGP):
        return float(gp.noise.detach().sqrt())
    noise = getattr(gp.likelihood, "noise", None)
    return None if noise is None else float(noise.detach())


@torch.no_grad()
def observe(gp: Any, eta: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Expected and drawn observations for predictors ``eta [n, k]``, model units."""
    if isinstance(gp, VecchiaGP):
        noise = torch.randn(eta.shape, generator=generator, dtype=eta.dtype)
        return eta, eta + gp.noise.sqrt() * noise
    column = eta[..., None]
    return gp.likelihood.mean(column)[..., 0], gp.likelihood.sample(column, generator)[..., 0]


def _kernel(spec: FieldSpec) -> Covariance:
    if spec.kernel not in KERNELS:
        raise ConfigError(f"unknown kernel {spec.kernel!r}", variable="kernel", fix=f"one of: {', '.join(KERNELS)}")
    nu = KERNELS[spec.kernel]
    return SquaredExponential(spec.lengthscale) if math.isinf(nu) else Matern(nu, spec.lengthscale)


def _likelihood(name: str, sd: float) -> Likelihood:
    made = registry().get("likelihoods", name)
    return made(1, noise=sd) if name in SCALED else made(1)
