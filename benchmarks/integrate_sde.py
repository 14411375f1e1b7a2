"""Native SDE solvers and gradients against torchsde's, and against the barest loop that torch allows.

The same equation for all speeds: dz = -z dt + (0.1 + 0.1 z) dW on [0, 1], float32, no gradients. The bare loop draws
its noise with ``torch.randn`` and has none of what the native solver gives: no reproducible path, no refinement, no
checks.
Gradients: a small network as drift, the sum of squares at the end, float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
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


def native(z0: Tensor, steps: int, solver: str = "euler-maruyama") -> Callable[[], Any]:
    return lambda: sdeint(drift, diffusion, z0, TIMES.to(z0.device), steps=steps, noise=0, solver=solver)


def torchsde_run(z0: Tensor, steps: int, method: str = "euler") -> Callable[[], Any] | None:
    if not installed("torchsde"):
        return None
    import torchsde

    return lambda: torchsde.sdeint(Equation(), z0, TIMES.to(z0.device), method=method, dt=1.0 / steps)


def bare_loop(z0: Tensor, steps: int) -> Callable[[], Any]:
    dt, root, t = 1.0 / steps, math.sqrt(1.0 / steps), torch.tensor(0.0)

    def loop() -> Tensor:
        z = z0
        for _ in range(steps):
            z = z + drift(t, z) * dt + diffusion(t, z) * (torch.randn_like(z) * root)
        return z

    return loop


class Net(torch.nn.Module):
    """A drift of two layers; noise of a learned size, in the sense of Stratonovich."""

    noise_type, sde_type = "diagonal", "stratonovich"

    def __init__(self, dim: int, width: int = 64) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(dim, width), torch.nn.Softplus(), torch.nn.Linear(width, dim))
        self.size = torch.nn.Parameter(torch.full((dim,), 0.3))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.layers.parameters():
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))

    def f(self, t: Tensor, z: Tensor) -> Tensor:
        return self.layers(z) - z

    def g(self, t: Tensor, z: Tensor) -> Tensor:
        return self.size.expand_as(z)


def native_gradient(net: Net, z0: Tensor, steps: int, solver: str, gradient: str) -> Callable[[], Any]:
    def run() -> None:
        net.zero_grad()
        out = sdeint(net.f, net.g, z0, TIMES, steps=steps, noise=0, solver=solver, gradient=gradient)
        (out.z[-1] ** 2).sum().backward()

    return run


def torchsde_adjoint(net: Net, z0: Tensor, steps: int, method: str) -> Callable[[], Any] | None:
    if not installed("torchsde"):
        return None
    import torchsde

    reverse = "adjoint_reversible_heun" if method == "reversible_heun" else method

    def run() -> None:
        net.zero_grad()
        out = torchsde.sdeint_adjoint(net, z0, TIMES, method=method, adjoint_method=reverse, dt=1.0 / steps)
        (out[-1] ** 2).sum().backward()

    return run


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Goals: 6 times torchsde for Euler and SRK at three sizes; at most 3 times the bare loop; a tenth on a GPU."""
    yield from _speeds(tiny)
    yield from _gradients(tiny)
    yield _accelerator(tiny)


@torch.no_grad()  # entered anew whenever the generator goes on
def _speeds(tiny: bool) -> Iterable[Row]:
    for batch, dim, count in ((16, 4, 1000), (256, 16, 1000), (4096, 64, 50)):
        for solver, method in (("euler-maruyama", "euler"), ("srk", "srk")):
            z0, steps = torch.ones(min(batch, 16) if tiny else batch, dim), 20 if tiny else count
            yield timed_row(
                f"integrate_sde/torchsde-{method}-{batch}x{dim}-{steps}",
                native(z0, steps, solver),
                torchsde_run(z0, steps, method),
                repeats=1 if tiny else 5,
                goal=6.0,
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


def _gradients(tiny: bool) -> Iterable[Row]:
    net, z0, steps = Net(4), torch.ones(64, 4), 10 if tiny else 200
    for solver, method, gradient in (
        ("midpoint", "midpoint", "adjoint"),
        ("reversible-heun", "reversible_heun", "reversible"),
    ):
        yield timed_row(
            f"integrate_sde/torchsde-adjoint-{method}-64x4-{steps}",
            native_gradient(net, z0, steps, solver, gradient),
            torchsde_adjoint(net, z0, steps, method),
            repeats=1 if tiny else 3,
            goal=None,
            packages=("torchsde",),
        )


@torch.no_grad()
def _accelerator(tiny: bool) -> Row:
    """4096 paths of 10^5 steps; torchsde takes a fiftieth of the steps, and its time is multiplied."""
    away = torch.cuda.is_available()
    batch, steps, part = (4096, 100_000, 50) if away and not tiny else (64, 200, 1)
    z0 = torch.ones(batch, 4, device="cuda" if away else "cpu")

    def finished(call: Callable[[], Any] | None) -> Callable[[], Any] | None:
        def run() -> None:
            if call is not None:
                call()
            if away:
                torch.cuda.synchronize()

        return None if call is None else run

    ours = finished(native(z0, steps))
    row = timed_row(
        f"integrate_sde/cuda-{batch}x4-{steps}",
        ours or (lambda: None),
        finished(torchsde_run(z0, steps // part)),
        repeats=1 if tiny else 3,
        goal=10.0 if away else None,
        packages=("torchsde",),
    )
    note = f"torchsde: {steps // part} steps, times {part}" if away else "no CUDA device: a small case on the CPU"
    peer = None if row.peer is None else row.peer * part
    return replace(row, peer=peer, note=row.note or note)
