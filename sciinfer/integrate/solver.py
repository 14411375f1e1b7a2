"""What a solver of stochastic differential equations is: one step, and what is known about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError

#: ``f(t, z)``: t a scalar tensor, z ``[..., d]``
Field = Callable[[Tensor, Tensor], Tensor]

DIAGONAL, ADDITIVE, GENERAL = "diagonal", "additive", "general"
NOISE_TYPES = (DIAGONAL, ADDITIVE, GENERAL)


class Trajectory(NamedTuple):
    """``z [T, ..., d]`` at the output times; ``nfe``: evaluations of the drift."""

    z: Tensor
    nfe: int


class Solver(ABC):
    """One step of an SDE dz = f(t, z) dt + g(t, z) dW.

    Args:
        noise_type: ``"diagonal"``: g is ``[..., d]`` and component i depends on z_i alone; ``"additive"``: g is
            ``[..., d, m]`` and does not depend on z; ``"general"``: g is ``[..., d, m]``.

    A subclass is final; it states its calculus, its strong order and what a step costs. Instances hold no state.
    """

    #: ``"ito"`` or ``"stratonovich"``: the sense in which the noise term is understood
    calculus: ClassVar[str]
    #: strong order of convergence for diagonal noise
    order: ClassVar[float]
    #: drift evaluations of a step
    evaluations: ClassVar[int]
    #: noise types that the step is right for
    accepts: ClassVar[tuple[str, ...]] = NOISE_TYPES

    def __init__(self, noise_type: str = DIAGONAL) -> None:
        if noise_type not in NOISE_TYPES:
            raise ConfigError(f"unknown noise type {noise_type!r}", fix=f"one of {', '.join(NOISE_TYPES)}")
        if noise_type not in self.accepts:
            raise ConfigError(
                f"{type(self).__name__} does not take {noise_type} noise",
                fix=f"use one of {', '.join(self.accepts)}, or the solver euler-maruyama",
            )
        self.noise_type = noise_type

    @abstractmethod
    def step(self, drift: Field, diffusion: Field, t: Tensor, z: Tensor, dt: float, dw: Tensor) -> Tensor:
        """The state at ``t + dt``.

        Args:
            drift, diffusion: f and g of ``(t, z)``.
            t: scalar tensor.
            z: ``[..., d]``.
            dt: size of the step, same unit as t.
            dw: ``[..., m]``, increment of the Brownian motion (m = d for diagonal noise).

        Returns:
            ``[..., d]``.
        """

    def product(self, g: Tensor, dw: Tensor) -> Tensor:
        """``[..., d]``: g dW in the layout of the noise type."""
        if self.noise_type == DIAGONAL:
            return g * dw
        return torch.matmul(g, dw.unsqueeze(-1)).squeeze(-1)


class OdeSolver(ABC):
    """One step of an ODE dz/dt = f(t, z). A subclass is final; instances hold no state but their coefficients."""

    #: order of convergence
    order: int
    #: drift evaluations of a step
    evaluations: int

    @abstractmethod
    def step(self, drift: Field, t: Tensor, z: Tensor, dt: float) -> Tensor:
        """The state ``[..., d]`` at ``t + dt``."""
