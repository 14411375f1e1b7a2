"""``sdeint``: stochastic differential equations, with the noise given as a path or as a seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, ShapeError
from ..extend import registry
from .brownian import BrownianPath
from .dyadic import NoisePath
from .gradients import solve
from .grid import StepGrid, step_grid
from .jumps import Jumps
from .noise import GridNoise, runs_of
from .probe import Probe
from .problem import Problem
from .solver import DIAGONAL, Field, OdeReport, Solver, Trajectory
from .space_time import SpaceTimePath

Noise = NoisePath | int | torch.Generator


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
    gradient: str = "backprop",
    checkpoint: int | None = None,
    params: Sequence[Tensor] | None = None,
    jumps: Jumps | None = None,
    jump_size: Field | None = None,
    error: bool = False,
    probe: float | None = None,
) -> Trajectory:
    """Integrate dz = f(t, z) dt + g(t, z) dW (+ c(t, z) dJ) from ``times[0]`` and report the state at ``times``.

    Differentiable in everything that f, g, c and z0 depend on.

    Args:
        drift: ``f(t, z) -> [..., d]``; t is a scalar tensor.
        diffusion: ``g(t, z)``: ``[..., d]`` for diagonal noise, ``[..., d, m]`` otherwise. See :class:`Solver`.
        z0: ``[..., d]``, any leading batch dims, float32 or float64.
        times: ``[T]`` strictly monotone, any unit; z0 is the state at the first.
        steps, dt: number of steps over all times, or their longest size; the grid meets every output time
            (:func:`sciinfer.integrate.step_grid`).
        noise: a seed, a generator that a seed is drawn from, or a :class:`BrownianPath` with the batch dims of z0 (a
            :class:`SpaceTimePath` for the srk solvers). A seed makes a path whose cells suit the grid: the same path
            when the steps are halved. For one path on unrelated grids, or for two solvers, pass the path.
        solver: a registered name (``"euler-maruyama"``, ``"milstein"``, ``"srk"``, ``"heun"``, ``"reversible-heun"``,
            ...; see docs/solvers.md), ``"torchsde:METHOD"``, or an object.
        noise_type: ``"diagonal"``, ``"additive"`` or ``"general"`` (ignored for a solver object).
        keys: int64 with the batch dims of z0, the identity of each path made from a seed (default 0, 1, 2, ...).
        check: stop with an error when a state is not finite.
        gradient: ``"backprop"`` keeps every step; ``"checkpoint"`` keeps one in sqrt(steps) and does the others again;
            ``"adjoint"`` walks the path back, in memory that does not grow with the steps; ``"reversible"`` does so to
            rounding (solver reversible-heun).
        checkpoint: steps of a piece for ``gradient="checkpoint"``.
        params: except for backprop, the tensors that f, g, c depend on; leaves are found without being named.
        jumps: :class:`JumpPath` or :class:`StablePath` with the shape of z0; a jump comes at the end of its step.
        jump_size: ``c(t, z)``, by which jumps are multiplied component by component (default 1).
        error: also report the sum over the steps of E h, E the solver's own estimate of its error, to regularise with.
        probe: a time; also report E of the step that holds it. Drawn at random, it regularises at the cost of one step.

    Returns:
        ``z [T, ..., d]``, the number of drift evaluations (without the trial that checks shapes, and without
        those of the gradient), and with ``error`` or ``probe`` a report that holds ``error [...]`` and
        ``local_error [...]``.

    Raises:
        NumericalError: a state is not finite: time, norm, first bad series, the parameter to look at; the last good
            state in ``details``.
        ShapeError, TimeError, ConfigError: unusable arguments.

    References: Kloeden, Platen (1992), Numerical solution of stochastic differential equations; Pal et al. (2021),
    Opening the blackbox, and (2023), Locally regularized neural differential equations.

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
        given = (checkpoint, params, jumps, jump_size, probe)
        if gradient != "backprop" or error or any(option is not None for option in given):
            raise ConfigError(f"{solver} takes no gradient, params, jumps, error or probe", fix="use a native solver")
        backend, _, method = solver.partition(":")
        adapter = registry().get("solvers", backend)
        return adapter(
            drift, diffusion, z0, grid, noise=noise, method=method, noise_type=noise_type, keys=keys, check=check
        )
    if jump_size is not None and jumps is None:
        raise ConfigError("jump_size is given, but no jumps", variable="jump_size", fix="pass jumps=JumpPath(...)")
    probed = None if probe is None else Probe.at(grid, probe)
    problem = prepare(drift, diffusion, z0, grid, noise, native(solver, noise_type), keys, jumps=jumps)
    problem = problem._replace(jump_size=jump_size, error=error, check=check)
    if probed is not None:
        problem = probed.split(problem)
    z, total = solve(problem, z0, gradient, checkpoint, params)
    local = None if probed is None else probed.measure(problem, z)
    report = _report(problem, z0, total, local) if error or probed is not None else None
    return Trajectory(z if probed is None else probed.outputs(z), problem.evaluations, report)


def _report(problem: Problem, z0: Tensor, error: Tensor | None, local: Tensor | None) -> OdeReport:
    shape, steps = z0.shape[:-1], problem.grid.steps
    counts = [torch.full(shape, n, device=z0.device) for n in (problem.evaluations, steps, 0)]
    return OdeReport(*counts, error=error, local_error=local)


def native(solver: str | Solver, noise_type: str) -> Solver:
    """The solver object behind a name; an object is returned as it is."""
    if isinstance(solver, Solver):
        return solver
    found = registry().get("solvers", solver)
    if not _makes_solvers(found):
        raise ConfigError(
            f"solver {solver!r} is not for stochastic equations", fix="use euler-maruyama, milstein, srk or heun"
        )
    return found(noise_type)


def _makes_solvers(found: object) -> bool:
    # a class of solvers, or a function that says it returns one
    if isinstance(found, type):
        return issubclass(found, Solver)
    return getattr(found, "__annotations__", {}).get("return") in ("Solver", Solver)


def prepare(
    drift: Field,
    diffusion: Field,
    z0: Tensor,
    grid: StepGrid,
    noise: Noise,
    scheme: Solver,
    keys: Tensor | None,
    *,
    idle: int = 0,
    jumps: Jumps | None = None,
) -> Problem:
    """The problem with its noise, after the checks; ``idle``: trailing components of the state without noise."""
    if scheme.forward_only and len(grid.counts) and float(grid.times[-1]) < float(grid.times[0]):
        raise ConfigError(
            f"{type(scheme).__name__} does not integrate backward in time", fix="use heun, midpoint or euler-maruyama"
        )
    if jumps is not None and jumps.shape != z0.shape:
        raise ShapeError(f"jumps have shape {tuple(jumps.shape)}, the state {tuple(z0.shape)}", variable="jumps")
    width = noise_width(drift, diffusion, grid.times[0].to(z0), z0, scheme.noise_type)
    path = path_for(noise, grid, z0, width - (idle if scheme.noise_type == DIAGONAL else 0), keys, area=scheme.area)
    made = path is not noise
    source = GridNoise(path, grid, runs_of(grid, path, made=made), scheme.area)
    source = source._replace(idle=idle if scheme.noise_type == DIAGONAL else 0, jumps=jumps)
    return Problem(scheme, drift, diffusion, grid, source, width)


def path_for(
    noise: Noise, grid: StepGrid, z0: Tensor, width: int, keys: Tensor | None, *, area: bool = False
) -> NoisePath:
    """The path that ``noise`` stands for, checked against the batch of ``z0`` and the width of the noise."""
    if isinstance(noise, torch.Generator):
        noise = int(torch.randint(2**62, (), generator=noise, device=noise.device))
    if isinstance(noise, NoisePath):
        wanted = (*z0.shape[:-1], width)
        if tuple(noise.shape) != wanted:
            raise ShapeError(f"the path has shape {tuple(noise.shape)}, the state needs {wanted}", variable="noise")
        if noise.dtype != z0.dtype:
            raise ConfigError(
                f"the path is {noise.dtype}, the state {z0.dtype}", fix=f"make the path with dtype={z0.dtype}"
            )
        if noise.device != z0.device:
            raise ConfigError(
                f"the path is on {noise.device}, the state on {z0.device}", fix="make the path with device=z0.device"
            )
        if area and not noise.area:
            raise ConfigError(
                "this solver needs the space-time area of the noise", fix="pass a SpaceTimePath, or a seed"
            )
        return noise
    if keys is not None and keys.shape != z0.shape[:-1]:
        raise ShapeError(f"keys have shape {tuple(keys.shape)}, the batch is {tuple(z0.shape[:-1])}", variable="keys")
    kind, batch = SpaceTimePath if area else BrownianPath, tuple(z0.shape[:-1])
    return kind(noise, width, batch=batch, keys=keys, knots=grid.knots, dtype=z0.dtype, device=z0.device)


@torch.no_grad()
def noise_width(drift: Field, diffusion: Field, t: Tensor, z: Tensor, noise_type: str) -> int:
    """m, after one trial evaluation that checks the shapes of both fields."""
    f, g = drift(t, z), diffusion(t, z)
    check_drift(f, z)
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


def check_drift(f: Tensor, z: Tensor, name: str = "drift") -> None:
    """What a drift returns has the shape of the state, and does not widen its dtype."""
    if f.shape != z.shape:
        raise ShapeError(f"{name} returns shape {tuple(f.shape)} for a state of {tuple(z.shape)}", variable=name)
    if torch.promote_types(f.dtype, z.dtype) != z.dtype:
        raise DataError(
            f"{name} returns {f.dtype} for a state of {z.dtype}", variable=name, fix=f"pass z0 as {f.dtype}"
        )


def check_state(z0: Tensor) -> None:
    """``z0`` is a float tensor ``[..., d]``."""
    if not torch.is_floating_point(z0) or z0.dtype not in (torch.float32, torch.float64):
        raise DataError(
            f"the state must be float32 or float64, got {z0.dtype}", variable="z0", fix="z0.to(torch.float64)"
        )
    if z0.dim() == 0 or z0.shape[-1] == 0:
        raise ShapeError(
            f"the state must be [..., d] with d >= 1, got {tuple(z0.shape)}", variable="z0", fix="add a last dim"
        )
