"""``sdeint``: stochastic differential equations, with the noise given as a path or as a seed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, ShapeError
from ..extend import registry
from .brownian import BrownianPath
from .grid import StepGrid, step_grid
from .loop import run
from .solver import DIAGONAL, Field, Solver, Trajectory

Noise = BrownianPath | int | torch.Generator


def sdeint(
    drift: Field,
    diffusion: Field,
    z0: Tensor,
    times: Tensor,
    *,
    steps: int | None = None,
    dt: float | None = None,
    noise: Noise,
    solver: str | Solver = "euler-maruyama",
    noise_type: str = DIAGONAL,
    keys: Tensor | None = None,
    check: bool = True,
) -> Trajectory:
    """Integrate dz = f(t, z) dt + g(t, z) dW from ``times[0]`` and report the state at ``times``.

    Differentiable by backpropagation through the steps, in everything that f, g and z0 depend on.

    Args:
        drift: ``f(t, z) -> [..., d]``; t is a scalar tensor.
        diffusion: ``g(t, z)``: ``[..., d]`` for diagonal noise, ``[..., d, m]`` otherwise. See :class:`Solver`.
        z0: ``[..., d]``, any leading batch dims, float32 or float64.
        times: ``[T]`` strictly monotone, any unit; z0 is the state at the first.
        steps, dt: number of steps over all times, or their longest size; the grid meets every output time
            (:func:`sciinfer.integrate.step_grid`).
        noise: a seed, a generator that a seed is drawn from, or a :class:`BrownianPath` with the batch dims of z0. A
            seed makes a path whose cells suit the grid: the same path when the steps are halved. For one path on
            unrelated grids, pass the path.
        solver: ``"euler-maruyama"``, ``"milstein"`` (Ito), ``"heun"`` (Stratonovich), ``"torchsde:METHOD"``, or object.
        noise_type: ``"diagonal"``, ``"additive"`` or ``"general"`` (ignored for a solver object).
        keys: int64 with the batch dims of z0, the identity of each path made from a seed (default 0, 1, 2, ...).
        check: stop with an error when a state is not finite.

    Returns:
        ``z [T, ..., d]`` and the number of drift evaluations.

    Raises:
        NumericalError: a state is not finite: time, norm, first bad series; the last good state in ``details``.
        ShapeError, TimeError, ConfigError: unusable arguments.

    References: Kloeden, Platen (1992), Numerical solution of stochastic differential equations.

    Example:
        >>> import torch
        >>> z0 = torch.ones(8, 2, dtype=torch.float64)
        >>> path = sdeint(lambda t, z: -z, lambda t, z: 0.1 + 0 * z, z0, torch.linspace(0, 1, 5), steps=64, noise=0)
        >>> path.z.shape, path.nfe
        (torch.Size([5, 8, 2]), 64)
    """
    check_state(z0)
    grid = step_grid(times, steps=steps, dt=dt)
    if isinstance(solver, str) and ":" in solver:
        backend, _, method = solver.partition(":")
        adapter = registry().get("solvers", backend)
        return adapter(
            drift, diffusion, z0, grid, noise=noise, method=method, noise_type=noise_type, keys=keys, check=check
        )
    scheme = native(solver, noise_type)
    width = noise_width(drift, diffusion, grid.times[0].to(z0), z0, scheme.noise_type)
    path = path_for(noise, grid, z0, width, keys)

    def advance(t: Tensor, z: Tensor, size: float, dw: Tensor) -> Tensor:
        return scheme.step(drift, diffusion, t, z, size, dw)

    z = run(advance, z0, grid, blocks_of(path, grid, made=path is not noise), check=check)
    return Trajectory(z, grid.steps * scheme.evaluations)


def native(solver: str | Solver, noise_type: str) -> Solver:
    """The solver object behind a name; an object is returned as it is."""
    if isinstance(solver, Solver):
        return solver
    found = registry().get("solvers", solver)
    if not (isinstance(found, type) and issubclass(found, Solver)):
        raise ConfigError(
            f"solver {solver!r} is not for stochastic equations", fix="use euler-maruyama, milstein or heun"
        )
    return found(noise_type)


def path_for(noise: Noise, grid: StepGrid, z0: Tensor, width: int, keys: Tensor | None) -> BrownianPath:
    """The path that ``noise`` stands for, checked against the batch of ``z0`` and the width of the noise."""
    if isinstance(noise, torch.Generator):
        noise = int(torch.randint(2**62, (), generator=noise, device=noise.device))
    if isinstance(noise, BrownianPath):
        wanted = (*z0.shape[:-1], width)
        if tuple(noise.shape) != wanted:
            raise ShapeError(f"the path has shape {tuple(noise.shape)}, the state needs {wanted}", variable="noise")
        if noise.dtype != z0.dtype:
            raise ConfigError(
                f"the path is {noise.dtype}, the state {z0.dtype}", fix=f"make the path with dtype={z0.dtype}"
            )
        return noise
    if keys is not None and keys.shape != z0.shape[:-1]:
        raise ShapeError(f"keys have shape {tuple(keys.shape)}, the batch is {tuple(z0.shape[:-1])}", variable="keys")
    batch = tuple(z0.shape[:-1])
    return BrownianPath(noise, width, batch=batch, keys=keys, knots=grid.knots, dtype=z0.dtype, device=z0.device)


def blocks_of(path: BrownianPath, grid: StepGrid, *, made: bool) -> Iterator[Tensor]:
    """Blocks of increments over the grid; a path made for this grid has its steps in every cell."""
    return path.uniform(grid.level) if made and grid.level is not None else path.increments(grid.times)


@torch.no_grad()
def noise_width(drift: Field, diffusion: Field, t: Tensor, z: Tensor, noise_type: str) -> int:
    """m, after one trial evaluation that checks the shapes of both fields."""
    f, g = drift(t, z), diffusion(t, z)
    if f.shape != z.shape:
        raise ShapeError(f"drift returns shape {tuple(f.shape)} for a state of {tuple(z.shape)}", variable="drift")
    if noise_type == DIAGONAL:
        if not _broadcasts(g, z):
            raise ShapeError(
                f"diffusion returns shape {tuple(g.shape)} for a state of {tuple(z.shape)}",
                variable="diffusion",
                fix="return [..., d], or pass noise_type='general' for a matrix [..., d, m]",
            )
        return z.shape[-1]
    if g.dim() < 2 or g.shape[-2] != z.shape[-1]:
        raise ShapeError(
            f"diffusion returns shape {tuple(g.shape)}, {noise_type} noise needs [..., {z.shape[-1]}, m]",
            variable="diffusion",
            fix="return a matrix for each state, or pass noise_type='diagonal'",
        )
    return g.shape[-1]


def _broadcasts(g: Tensor, z: Tensor) -> bool:
    sizes = zip(reversed(g.shape), reversed(z.shape), strict=False)
    return g.dim() <= z.dim() and all(mine in (1, other) for mine, other in sizes)


def check_state(z0: Tensor) -> None:
    """``z0`` is a finite float tensor ``[..., d]``."""
    if not torch.is_floating_point(z0) or z0.dtype not in (torch.float32, torch.float64):
        raise DataError(
            f"the state must be float32 or float64, got {z0.dtype}", variable="z0", fix="z0.to(torch.float64)"
        )
    if z0.dim() == 0 or z0.shape[-1] == 0:
        raise ShapeError(
            f"the state must be [..., d] with d >= 1, got {tuple(z0.shape)}", variable="z0", fix="add a last dim"
        )
