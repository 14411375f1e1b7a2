"""Native Euler-Maruyama against torchsde's, and against the barest loop that torch allows.

The same equation for all: dz = -z dt + (0.1 + 0.1 z) dW on [0, 1], float32, no gradients. The bare loop draws its noise
with ``torch.randn`` and has none of what the native solver gives: no reproducible path, no refinement, no checks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sciinfer.integrate import sdeint

from .harness import Row, installed, timed_row

TIMES = torch.tensor([0.0, 1.0])


def drift(t: Tensor, z: Tensor) -> Tensor:
    return -z


def diffusion(t: Tensor, z: Tensor) -> Tensor:
    return 0.1 + 0.1 * z


class Equation(torch.nn.Module):
    """The same equation as torchsde wants it."""

    noise_type, sde_type = "diagonal", "ito"

    def f(self, t: Tensor, z: Tensor) -> Tensor:
        return drift(t, z)

    def g(self, t: Tensor, z: Tensor) -> Tensor:
        return diffusion(t, z)


def native(z0: Tensor, steps: int) -> Callable[[], Any]:
    return lambda: sdeint(drift, diffusion, z0, TIMES, steps=steps, noise=0)


def torchsde_euler(z0: Tensor, steps: int) -> Callable[[], Any] | None:
    if not installed("torchsde"):
        return None
    import torchsde

    return lambda: torchsde.sdeint(Equation(), z0, TIMES, method="euler", dt=1.0 / steps)


def bare_loop(z0: Tensor, steps: int) -> Callable[[], Any]:
    dt, root, t = 1.0 / steps, math.sqrt(1.0 / steps), torch.tensor(0.0)

    def loop() -> Tensor:
        z = z0
        for _ in range(steps):
            z = z + drift(t, z) * dt + diffusion(t, z) * (torch.randn_like(z) * root)
        return z

    return loop


@torch.no_grad()  # entered anew whenever the generator goes on
def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Goals: at least 6 times torchsde at 256 x 16, at most 3 times the bare loop at 256 x 4."""
    for batch, dim, goal in ((16, 4, None), (256, 16, 6.0)):
        z0, steps = torch.ones(batch, dim), 20 if tiny else 1000
        yield timed_row(
            f"integrate_sde/torchsde-euler-{batch}x{dim}-{steps}",
            native(z0, steps),
            torchsde_euler(z0, steps),
            repeats=1 if tiny else 7,
            goal=goal,
            packages=("torchsde",),
        )
    for dtype in (torch.float64, torch.float32):
        z0, steps = torch.ones(256, 4, dtype=dtype), 20 if tiny else 200
        yield timed_row(
            f"integrate_sde/bare-loop-256x4-{steps}-{str(dtype).removeprefix('torch.')}",
            native(z0, steps),
            bare_loop(z0, steps),
            repeats=1 if tiny else 15,
            goal=1 / 3,
            packages=(),
        )
