"""How gradients come back through an integration: the four values of ``gradient=``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from .adjoint import by_adjoint
from .checkpoints import by_checkpoints
from .problem import Problem, stacked
from .reversible_heun import ReversibleHeun

GRADIENTS = ("backprop", "checkpoint", "adjoint", "reversible")


def solve(
    problem: Problem, z0: Tensor, gradient: str, every: int | None, params: Sequence[Tensor] | None
) -> tuple[Tensor, Tensor | None]:
    """``[T, ..., d]``: the states at the output times, and ``[...]`` the summed error where the problem asks for it.

    Raises:
        ConfigError: an unknown gradient, or one that the solver or the other arguments exclude.
    """
    check_gradient(problem, gradient, every, params)
    if gradient in ("adjoint", "reversible") and torch.is_grad_enabled():
        return by_adjoint(problem, z0, params), None
    if gradient == "checkpoint" and torch.is_grad_enabled():
        return by_checkpoints(problem, z0, every or max(1, math.isqrt(problem.grid.steps)), params)
    carries = problem.walk(z0)
    return stacked(problem, carries), carries[-1][1] if problem.error else None


def check_gradient(problem: Problem, gradient: str, every: int | None, params: Sequence[Tensor] | None) -> None:
    """Refuse what cannot be done, before any work."""
    scheme, adjoint = problem.scheme, gradient in ("adjoint", "reversible")
    if gradient not in GRADIENTS:
        raise ConfigError(f"unknown gradient {gradient!r}", fix=f"one of {', '.join(GRADIENTS)}")
    if every is not None and (gradient != "checkpoint" or every < 1):
        raise ConfigError(f"checkpoint={every} does not go with gradient={gradient!r}", fix="use gradient='checkpoint'")
    if params is not None and gradient == "backprop":
        raise ConfigError(f"params is not needed for gradient={gradient!r}", fix="leave it out")
    if gradient == "reversible" and not isinstance(scheme, ReversibleHeun):
        raise ConfigError(
            f"{type(scheme).__name__} is not reversible", fix="use solver='reversible-heun', or gradient='adjoint'"
        )
    if problem.noise.jumps is not None and isinstance(scheme, ReversibleHeun):
        raise ConfigError("reversible-heun takes no jumps", fix="use solver='heun' or 'euler-maruyama'")
    if adjoint and problem.error:
        raise ConfigError(
            f"the summed error has no gradient={gradient!r}",
            fix="use gradient='checkpoint', or probe=TIME",
        )
