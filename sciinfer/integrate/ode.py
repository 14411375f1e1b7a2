"""``odeint``: ordinary differential equations, fixed steps natively and adaptive ones by torchdiffeq."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..extend import registry
from .grid import StepGrid, step_grid
from .loop import run
from .sde import check_state
from .solver import Field, OdeSolver, Trajectory

_BLOCK = 512


def odeint(
    drift: Field,
    z0: Tensor,
    times: Tensor,
    *,
    steps: int | None = None,
    dt: float | None = None,
    solver: str | OdeSolver = "rk4",
    rtol: float = 1e-7,
    atol: float = 1e-9,
    max_steps: int = 100_000,
    check: bool = True,
) -> Trajectory:
    """Integrate dz/dt = f(t, z) from ``times[0]`` and report the state at ``times``; differentiable by backpropagation.

    Args:
        drift: ``f(t, z) -> [..., d]``; t is a scalar tensor.
        z0: ``[..., d]``, any leading batch dims, float32 or float64.
        times: ``[T]`` strictly monotone, any unit; z0 is the state at the first.
        steps, dt: number of steps over all times, or their longest size (fixed-step solvers).
        solver: ``"rk4"``, ``"heun"``, ``"euler"``, ``"rosenbrock"`` (implicit, for stiff equations),
            ``"torchdiffeq:METHOD"`` (``dopri5``, ...), or an object.
        rtol, atol: tolerances of adaptive solvers. Their step control looks at the whole batch at once.
        max_steps: budget of an adaptive solver between two output times.
        check: stop with an error when a state is not finite.

    Returns:
        ``z [T, ..., d]`` and the number of drift evaluations.

    Raises:
        NumericalError: a state is not finite, or an adaptive step shrinks to nothing.
        BudgetError: ``max_steps`` is used up, the sign of a stiff equation.

    Example:
        >>> import torch
        >>> path = odeint(lambda t, z: -z, torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1.0]), steps=20)
        >>> round(float(path.z[-1]), 6), path.nfe
        (0.367879, 80)
    """
    check_state(z0)
    if isinstance(solver, str) and ":" in solver:
        backend, _, method = solver.partition(":")
        adapter = registry().get("solvers", backend)
        return adapter(
            drift, z0, times, method=method, steps=steps, dt=dt, rtol=rtol, atol=atol, max_steps=max_steps, check=check
        )
    scheme, grid = _native(solver), step_grid(times, steps=steps, dt=dt)
    with torch.no_grad():
        slope = drift(grid.times[0].to(z0), z0)
    if slope.shape != z0.shape:
        raise ShapeError(f"drift returns shape {tuple(slope.shape)} for a state of {tuple(z0.shape)}", variable="drift")

    def advance(t: Tensor, z: Tensor, size: float, _: Tensor) -> Tensor:
        return scheme.step(drift, t, z, size)

    return Trajectory(
        run(advance, z0, grid, _silence(grid), check=check, what="drift"), grid.steps * scheme.evaluations
    )


def _native(solver: str | OdeSolver) -> OdeSolver:
    if isinstance(solver, OdeSolver):
        return solver
    found = registry().get("solvers", solver if "/" in solver else f"ode-{solver.removeprefix('ode-')}")
    if not isinstance(found, OdeSolver):
        raise ConfigError(f"solver {solver!r} is not for ordinary equations", fix="use rk4, heun, euler or rosenbrock")
    return found


def _silence(grid: StepGrid) -> Iterator[Tensor]:
    # the loop runs over blocks of noise: an equation without noise has empty ones
    for first in range(0, grid.steps, _BLOCK):
        yield torch.empty(min(_BLOCK, grid.steps - first), 0)
