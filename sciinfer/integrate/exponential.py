"""The exponential Euler step: a stiff linear part of the drift is solved exactly."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from .solver import DIAGONAL, Field, Solver

__entries__ = [
    {
        "kind": "solvers",
        "name": "exponential-euler",
        "target": "ExponentialEuler",
        "summary": "SDE, Ito: order of Euler-Maruyama, stable for any size of a given linear part of the drift",
        "references": (
            "Lord, Rougemont (2004), A numerical scheme for stochastic PDEs with Gevrey regularity",
            "Hochbruck, Ostermann (2010), Exponential integrators",
        ),
        "options": {
            "noise_type": "diagonal, additive or general",
            "linear": "A of f(t, z) = A z + rest: [d] for a diagonal, [d, d] for a matrix",
        },
    },
]


@final
class ExponentialEuler(Solver):
    """z' = z + phi(A dt) f(t, z) dt + noise,  phi(x) = (e^x - 1)/x.

    With r = f - A z held over the step this is e^{A dt} z + phi(A dt) r dt, exact where r is constant. Noise: for a
    diagonal A and diagonal noise, phi(2 A dt)^(1/2) g dW, which has the exact law of int e^{A (dt - s)} g dW; otherwise
    phi(A dt) g dW, the mean of that integral given dW.

    Args:
        noise_type: see :class:`~sciinfer.integrate.Solver`.
        linear: A, ``[d]`` or ``[d, d]``, in 1/time; the drift passed to ``sdeint`` is the whole f, A z included.

    Example:
        >>> import torch
        >>> from sciinfer.integrate import sdeint
        >>> rate = torch.tensor([-1e6], dtype=torch.float64)
        >>> z0, times = torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1.0])
        >>> scheme = ExponentialEuler(linear=rate)
        >>> out = sdeint(lambda t, z: rate * z, lambda t, z: 0.1 + 0 * z, z0, times, steps=4, noise=0, solver=scheme)
        >>> bool(out.z[-1].abs() < 1e-3)
        True
    """

    calculus = "ito"
    order = 0.5
    evaluations = 1
    forward_only = True

    def __init__(self, noise_type: str = DIAGONAL, *, linear: Tensor | None = None) -> None:
        super().__init__(noise_type)
        if linear is None:
            raise ConfigError(
                "exponential-euler needs the linear part of the drift",
                fix="pass solver=ExponentialEuler(linear=A), or use implicit-euler, which finds it by itself",
            )
        if linear.dim() not in (1, 2) or (linear.dim() == 2 and linear.shape[0] != linear.shape[1]):
            raise ShapeError(f"linear must be [d] or [d, d], got {tuple(linear.shape)}", variable="linear")
        self.linear = linear
        self._made: tuple[float, torch.dtype, Tensor, Tensor] | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """A."""
        return (self.linear,)

    def step(self, drift: Field, diffusion: Field, t: Tensor, z: Tensor, dt: float, dw: Tensor) -> Tensor:
        """One step; the factors are kept as long as dt stays the same and A needs no gradient."""
        if self.linear.shape[-1] != z.shape[-1]:
            raise ShapeError(
                f"linear has {self.linear.shape[-1]} dims, the state {z.shape[-1]}",
                variable="linear",
                fix="give A for the whole state; girsanov adds one dim to it, which needs a row of zeros",
            )
        move, spread = self._factors(dt, z)
        noise = self.product(diffusion(t, z), dw)
        if self.linear.dim() == 1:
            return z + move * drift(t, z) * dt + spread * noise
        return z + torch.matmul(drift(t, z) * dt + noise, move.mT)

    def _factors(self, dt: float, z: Tensor) -> tuple[Tensor, Tensor]:
        made = self._made
        if made is not None and made[:2] == (dt, z.dtype) and made[2].device == z.device:
            return made[2], made[3]
        scaled = self.linear.to(z) * dt
        if scaled.dim() == 1:
            move = _phi(scaled)
            spread = _phi(2.0 * scaled).sqrt() if self.noise_type == DIAGONAL else move
        else:
            move = spread = _phi_matrix(scaled)
        if not self.linear.requires_grad:
            self._made = (dt, z.dtype, move, spread)
        return move, spread


def _phi(x: Tensor) -> Tensor:
    # below the cube root of eps the series is as exact, and so is its derivative, which the quotient's is not
    small = x.abs() < torch.finfo(x.dtype).eps ** (1 / 3)
    safe = torch.where(small, torch.ones_like(x), x)
    return torch.where(small, 1.0 + x * (0.5 + x / 6.0), torch.expm1(safe) / safe)


def _phi_matrix(x: Tensor) -> Tensor:
    # exp([[x, 1], [0, 0]]) = [[e^x, phi(x)], [0, 1]], for singular x too
    d = len(x)
    eye, zero = torch.eye(d, dtype=x.dtype, device=x.device), torch.zeros_like(x)
    return torch.matrix_exp(torch.cat([torch.cat([x, eye], 1), torch.cat([zero, zero], 1)]))[:d, d:]
