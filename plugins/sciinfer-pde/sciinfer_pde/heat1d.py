"""The heat equation on a rod with both ends at zero."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sciinfer.errors import ConfigError
from sciinfer.operators import Operator, Spec

Scheme = Literal["spectral", "discrete", "euler"]


class Heat1D(Operator):
    r"""``u(0) -> u(t)`` of :math:`u_t = \kappa u_{xx}`, zero at both ends, on ``n`` inner nodes ``x_i = i L/(n+1)``.

    Every scheme is diagonal in the sine basis, hence symmetric: the operator is its own adjoint. Mode ``k`` decays by

    - ``spectral``: :math:`e^{-\kappa (k\pi/L)^2 t}`, the equation itself;
    - ``discrete``: :math:`e^{-\lambda_k t}`, :math:`\lambda_k = 4\kappa h^{-2}\sin^2(k\pi/2(n+1))`, 3-point stencil;
    - ``euler``: :math:`(1 + \lambda_k t/m)^{-m}`, the same stencil with ``m`` implicit Euler steps.

    Args:
        nodes: ``n``.
        time: ``t >= 0``.
        length: ``L``.
        diffusivity: ``kappa``.
        scheme: one of the three.
        steps: ``m``.

    References:
        LeVeque (2007), Finite Difference Methods for Ordinary and Partial Differential Equations, chapter 9.

    Example:
        >>> rod = Heat1D(3, time=0.1)
        >>> wave = torch.sin(torch.pi * torch.arange(1, 4, dtype=torch.float64) / 4)
        >>> round(float(rod(wave)[1] / wave[1]), 6) == round(math.exp(-math.pi**2 * 0.1), 6)
        True
    """

    self_check = False  # the conformance kit and the tests of this package check it
    basis: Tensor
    decay: Tensor

    def __init__(
        self,
        nodes: int,
        *,
        time: float,
        length: float = 1.0,
        diffusivity: float = 1.0,
        scheme: Scheme = "spectral",
        steps: int = 100,
    ) -> None:
        super().__init__()
        _check(nodes=nodes, length=length, diffusivity=diffusivity, steps=steps)
        if not (math.isfinite(time) and time >= 0):
            raise ConfigError(f"time is {time}, heat does not flow backwards", variable="time", fix="pass time >= 0")
        self.domain = self.range = Spec(("x",), (nodes,))
        self.linear = True
        k = torch.arange(1, nodes + 1, dtype=torch.float64)
        self.register_buffer("basis", math.sqrt(2 / (nodes + 1)) * torch.sin(math.pi * k[:, None] * k / (nodes + 1)))
        self.register_buffer("decay", _decay(k, nodes, time, length, diffusivity, scheme, steps))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., n]`` to ``[..., n]``."""
        self.domain.check(x)
        basis = self.basis.to(x)
        return ((x @ basis) * self.decay.to(x)) @ basis

    def adjoint(self, y: Tensor) -> Tensor:
        """The operator itself."""
        return self.forward(y)


def _check(**options: float) -> None:
    for name, value in options.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} is {value}, it must be positive", variable=name, fix=f"pass {name} > 0")


def _decay(k: Tensor, nodes: int, time: float, length: float, diffusivity: float, scheme: Scheme, steps: int) -> Tensor:
    if scheme == "spectral":
        return torch.exp(-diffusivity * (math.pi * k / length) ** 2 * time)
    rate = 4 * diffusivity * ((nodes + 1) / length) ** 2 * torch.sin(math.pi * k / (2 * (nodes + 1))) ** 2
    if scheme == "discrete":
        return torch.exp(-rate * time)
    if scheme == "euler":
        return (1 + rate * time / steps) ** (-steps)
    raise ConfigError(f"scheme {scheme!r} is unknown", variable="scheme", fix="use 'spectral', 'discrete' or 'euler'")
