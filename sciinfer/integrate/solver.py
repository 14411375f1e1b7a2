"""What a solver of stochastic differential equations is: one step, and what is known about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError

#: ``f(t, z)``: t a scalar tensor, z ``[..., d]``
Field = Callable[[Tensor, Tensor], Tensor]

#: what a solver hands from step to step: the state, or a tuple of tensors
Carry = Any

DIAGONAL, ADDITIVE, GENERAL = "diagonal", "additive", "general"
NOISE_TYPES = (DIAGONAL, ADDITIVE, GENERAL)


class OdeReport(NamedTuple):
    """What an adaptive integration tells beside the states; ``...`` are the batch dims, each series on its own.

    ``evaluations [...]`` of the drift; ``steps``, ``rejected [...]``: accepted and refused ones; ``error [...]``: sum
    of the error estimates E h over the steps (asked for by ``error=True``); ``local_error [...]``: E of the step that
    holds the time ``probe``; ``event_time [...]`` (infinite where there was none) and ``event_state [..., d]``;
    ``dense(times [Q] or [..., Q])``: the state between the steps, ``[..., Q, d]``.
    """

    evaluations: Tensor
    steps: Tensor
    rejected: Tensor
    error: Tensor | None = None
    local_error: Tensor | None = None
    event_time: Tensor | None = None
    event_state: Tensor | None = None
    dense: Callable[[Tensor], Tensor] | None = None


class Trajectory(NamedTuple):
    """``z [T, ..., d]`` at the output times; ``nfe``: evaluations of the drift (the most of any series);
    ``report``: more, from an adaptive solver."""

    z: Tensor
    nfe: int
    report: OdeReport | None = None

    @property
    def error(self) -> Tensor | None:
        """``[...]``: sum of the solver's own error estimates, where it was asked for."""
        return None if self.report is None else self.report.error


class Solver(ABC):
    """One step of an SDE dz = f(t, z) dt + g(t, z) dW.

    Args:
        noise_type: ``"diagonal"``: g is ``[..., d]`` and component i depends on z_i alone; ``"additive"``: g is
            ``[..., d, m]`` and does not depend on z; ``"general"``: g is ``[..., d, m]``.

    A subclass is final; it states its calculus, its strong order and what a step costs. Instances hold no state but
    their options; a solver with memory keeps it in the carry (:meth:`begin`, :meth:`advance`, :meth:`state`).
    """

    #: ``"ito"`` or ``"stratonovich"``: the sense in which the noise term is understood
    calculus: ClassVar[str]
    #: strong order of convergence for diagonal noise
    order: ClassVar[float]
    #: drift evaluations of a step
    evaluations: int
    #: whether a step needs the space-time area of the noise: ``dw`` is then the pair ``[2, ..., m]`` of (dW, H)
    area: ClassVar[bool] = False
    #: drift evaluations before the first step
    starts: ClassVar[int] = 0
    #: drift evaluations that :meth:`embedded` adds to a step
    embeds: ClassVar[int] = 1
    #: whether time can only ascend
    forward_only: ClassVar[bool] = False
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

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the step depends on beside the fields."""
        return ()

    @abstractmethod
    def step(self, drift: Field, diffusion: Field, t: Tensor, z: Tensor, dt: float, dw: Tensor) -> Tensor:
        """The state at ``t + dt``.

        Args:
            drift, diffusion: f and g of ``(t, z)``.
            t: scalar tensor.
            z: ``[..., d]``.
            dt: size of the step, same unit as t.
            dw: ``[..., m]``, increment of the Brownian motion (m = d for diagonal noise); ``[2, ..., m]`` with its
                space-time area (:mod:`sciinfer.integrate.space_time`) for solvers that ask for it.

        Returns:
            ``[..., d]``.
        """

    def begin(self, drift: Field, diffusion: Field, t: Tensor, z: Tensor) -> Carry:
        """What is handed from step to step; the state itself, for a solver without memory."""
        return z

    def advance(self, drift: Field, diffusion: Field, t: Tensor, carry: Carry, dt: float, dw: Tensor) -> Carry:
        """One step of the carry."""
        return self.step(drift, diffusion, t, carry, dt, dw)

    def state(self, carry: Carry) -> Tensor:
        """``[..., d]``: the state in the carry."""
        return carry

    def embedded(
        self, drift: Field, diffusion: Field, t: Tensor, carry: Carry, dt: float, dw: Tensor
    ) -> tuple[Carry, Tensor]:
        """:meth:`advance`, and E ``[...]``: its distance to the Euler-Maruyama step, root mean square over d."""
        z, after = self.state(carry), self.advance(drift, diffusion, t, carry, dt, dw)
        low = z + drift(t, z) * dt + self.product(diffusion(t, z), dw[0] if self.area else dw)
        return after, rms(self.state(after) - low)

    def product(self, g: Tensor, dw: Tensor) -> Tensor:
        """``[..., d]``: g dW in the layout of the noise type."""
        if self.noise_type == DIAGONAL:
            return g * dw
        return torch.matmul(g, dw.unsqueeze(-1)).squeeze(-1)


def rms(difference: Tensor) -> Tensor:
    """``[...]``: root mean square over the last dim, with the gradient 0 where it is 0."""
    square = (difference * difference).mean(-1)
    zero = square == 0
    return torch.where(zero, square, torch.where(zero, torch.ones_like(square), square).sqrt())


class OdeSolver(ABC):
    """One step of an ODE dz/dt = f(t, z). A subclass is final; instances hold no state but their coefficients."""

    #: order of convergence
    order: int
    #: drift evaluations of a step
    evaluations: int

    @abstractmethod
    def step(self, drift: Field, t: Tensor, z: Tensor, dt: float) -> Tensor:
        """The state ``[..., d]`` at ``t + dt``."""
