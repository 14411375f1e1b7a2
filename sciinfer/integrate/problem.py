"""One initial value problem with its noise: how a solver walks along it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .grid import StepGrid
from .loop import walk
from .noise import GridNoise
from .solver import Carry, Field, Solver


class Problem(NamedTuple):
    """Fields, solver, grid and noise of an integration; ``width``: components of the noise before those of the jumps.

    ``error``: the carry is ``(carry of the solver, sum of E h)``.
    """

    scheme: Solver
    drift: Field
    diffusion: Field
    grid: StepGrid
    noise: GridNoise
    width: int
    jump_size: Field | None = None
    error: bool = False
    check: bool = True
    what: str = "drift or diffusion"
    named: tuple[object, ...] = ()

    def begin(self, z0: Tensor) -> Carry:
        """The carry at the start."""
        carry = self.scheme.begin(self.drift, self.diffusion, self.grid.times[0].to(z0), z0)
        return (carry, z0.new_zeros(z0.shape[:-1])) if self.error else carry

    def state(self, carry: Carry) -> Tensor:
        """``[..., d]``."""
        return self.scheme.state(carry[0] if self.error else carry)

    def advance(self) -> Callable[[Tensor, Carry, float, Tensor], Carry]:
        """One step, ``(t, carry, dt, noise) -> carry``."""
        move, drift, diffusion = self._move(), self.drift, self.diffusion
        if self.noise.jumps is None:
            return lambda t, carry, dt, noise: move(drift, diffusion, t, carry, dt, noise)

        def leap(t: Tensor, carry: Carry, dt: float, noise: Tensor) -> Carry:
            carry = move(drift, diffusion, t, carry, dt, noise[..., : self.width])
            return self._jumped(t + dt, carry, noise[..., self.width :])

        return leap

    def walk(self, z0: Tensor) -> list[Carry]:
        """The carries at the output times; differentiable by backpropagation."""
        return walk(
            self.advance(),
            self.begin(z0),
            self.state,
            z0,
            self.grid,
            self.noise.blocks(),
            check=self.check,
            what=self.what,
            fields=self.fields,
        )[0]

    def trial(self, z: Tensor) -> list[Tensor]:
        """What the fields return at the first and the last time, and what the solver itself depends on."""
        ends = self.grid.times[[0, -1]].to(z.device, z.dtype).unbind()
        fields = [self.drift, self.diffusion] + ([] if self.jump_size is None else [self.jump_size])
        return [*(field(t, z) for field in fields for t in ends), *self.scheme.tensors]

    @property
    def fields(self) -> tuple[object, ...]:
        """The functions whose parameters an error may name."""
        given = self.named or (self.drift, self.diffusion)
        return given if self.jump_size is None else (*given, self.jump_size)

    @property
    def evaluations(self) -> int:
        """Evaluations of the drift."""
        scheme = self.scheme
        return scheme.starts + self.grid.steps * (scheme.evaluations + (scheme.embeds if self.error else 0))

    def _move(self) -> Callable[..., Carry]:
        scheme = self.scheme
        if not self.error:
            return scheme.advance

        def both(drift: Field, diffusion: Field, t: Tensor, carry: Carry, dt: float, dw: Tensor) -> Carry:
            after, error = scheme.embedded(drift, diffusion, t, carry[0], dt, dw)
            return after, carry[1] + error * abs(dt)

        return both

    def _jumped(self, t: Tensor, carry: Carry, leap: Tensor) -> Carry:
        leap = leap[0] if self.scheme.area else leap
        z = self.state(carry)
        z = z + (leap if self.jump_size is None else self.jump_size(t, z) * leap)
        return (z, carry[1]) if self.error else z


def stacked(problem: Problem, carries: list[Carry]) -> Tensor:
    """``[T, ..., d]``: the states of carries."""
    return torch.stack([problem.state(carry) for carry in carries])
