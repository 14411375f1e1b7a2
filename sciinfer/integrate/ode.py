"""``odeint``: ordinary differential equations, by fixed steps or by steps that suit each series."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from ..extend import registry
from .adaptive import Control
from .grid import StepGrid, step_grid
from .loop import run
from .ode_adaptive import Wishes, adaptive_odeint
from .sde import check_drift, check_state
from .solver import Field, OdeSolver, Trajectory
from .tableau import EmbeddedRK

_BLOCK = 512


def odeint(
    drift: Callable[..., Tensor],
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
    gradient: str = "backprop",
    parameters: Sequence[Tensor] = (),
    context: Tensor | None = None,
    compact: bool = False,
    event: Callable[..., Tensor] | None = None,
    dense: bool = False,
    error: bool = False,
    probe: Tensor | None = None,
) -> Trajectory:
    """Integrate dz/dt = f(t, z) from ``times[0]`` and report the state at ``times``; differentiable.

    Fixed steps (``steps`` or ``dt`` given) are taken by all series together. The adaptive solvers ``tsit5``, ``dopri5``
    and ``kvaerno5`` give every series steps of its own: a series alone has the same solution, and costs as many
    evaluations, as in any batch.

    Args:
        drift: ``f(t, z) -> [..., d]``. t is a scalar tensor for fixed steps; for adaptive ones it is ``[...]``, a time
            for each series.
        z0: ``[..., d]``, any leading batch dims, float32 or float64.
        times: ``[T]`` strictly monotone, any unit; z0 is the state at the first. Adaptive solvers also take
            ``[..., T]``, monotone for each series (repeat the last time where a series has fewer).
        steps, dt: number of steps over all times, or their longest size (fixed-step solvers).
        solver: ``"tsit5"``, ``"dopri5"``, ``"kvaerno5"`` (adaptive; the last implicit, for stiff equations);
            ``"rk4"``, ``"heun"``, ``"euler"``, ``"rosenbrock"`` (implicit); ``"torchdiffeq:METHOD"``; or an object.
        rtol, atol: tolerances of adaptive solvers, on the root mean square over the components of a series.
        max_steps: budget of an adaptive solver, of each series (of torchdiffeq: between two outputs).
        check: stop with an error when a state is not finite. Without it, adaptive solvers report NaN from there on
            for the series concerned, and the others go on.
        gradient: of adaptive solvers: ``"backprop"`` (the accepted steps are walked again with a graph),
            ``"checkpoint"`` (in segments, recomputed backward: memory as the square root of the steps), ``"adjoint"``
            (memory as the outputs; the gradient of the equation, not exactly that of the discrete solution).
        parameters: for the adjoint, what the drift depends on beside its own ``parameters()``.
        context: ``[..., c]``; the drift is then called ``f(t, z, context)``.
        compact: the drift takes any subset of the series, as ``t [A], z [A, d]``: those that have arrived cost no more.
        event: ``g(t, z) -> [...]``; a series ends where it changes its sign, and later outputs hold the state there.
        dense: make ``report.dense(times)``.
        error: make ``report.error``, the sum of the error estimates E h over the steps (differentiable).
        probe: ``[...]``, a time for each series: make ``report.local_error``, E of the step that holds it.

    Returns:
        ``z [T, ..., d]``, the number of drift evaluations that found the solution (the most of any series; without the
        trial that checks shapes, and without those of the gradient), and, for an adaptive solver, a report with the
        numbers of each series.

    Raises:
        NumericalError: a state is not finite, or an adaptive step shrinks to nothing.
        BudgetError: ``max_steps`` is used up, the sign of a stiff equation; ``details["partial"]`` holds the outputs.

    References:
        Pal, Ma, Shah, Rackauckas (2021), Opening the blackbox: regularizing the internal solver heuristics.
        Pal, Edelman, Rackauckas (2023), Locally regularized neural differential equations.

    Example:
        >>> import torch
        >>> path = odeint(lambda t, z: -z, torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1.0]), steps=20)
        >>> round(float(path.z[-1]), 6), path.nfe
        (0.367879, 80)
    """
    check_state(z0)
    wishes = Wishes(gradient, parameters, context, compact, dense, error, probe)
    if isinstance(solver, str) and ":" in solver:
        backend, _, method = solver.partition(":")
        if event is not None or wishes != Wishes():
            raise _adaptive_only()
        adapter = registry().get("solvers", backend)
        return adapter(
            drift, z0, times, method=method, steps=steps, dt=dt, rtol=rtol, atol=atol, max_steps=max_steps, check=check
        )
    scheme = _native(solver)
    if isinstance(scheme, EmbeddedRK) and steps is None and dt is None:
        return adaptive_odeint(drift, z0, times, scheme, Control(rtol, atol, max_steps, check, event), wishes)
    if event is not None or wishes != Wishes():
        raise _adaptive_only()
    return _fixed(drift, z0, scheme, step_grid(times, steps=steps, dt=dt), check)


def _adaptive_only() -> ConfigError:
    return ConfigError(
        "gradient, parameters, context, compact, event, dense, error and probe need a native adaptive solver",
        fix='solver="tsit5" without steps and dt',
    )


def _fixed(drift: Field, z0: Tensor, scheme: OdeSolver, grid: StepGrid, check: bool) -> Trajectory:
    with torch.no_grad():
        check_drift(drift(grid.times[0].to(z0), z0), z0)
    calls = 0

    def counted(t: Tensor, z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return drift(t, z)

    def advance(t: Tensor, z: Tensor, size: float, _: Tensor) -> Tensor:
        return scheme.step(counted, t, z, size)

    z = run(advance, z0, grid, _silence(grid, z0), check=check, what="drift", fields=(drift,))
    return Trajectory(z, calls)


def _native(solver: str | OdeSolver) -> OdeSolver:
    if isinstance(solver, OdeSolver):
        return solver
    found = registry().get("solvers", solver if "/" in solver else f"ode-{solver.removeprefix('ode-')}")
    if not isinstance(found, OdeSolver):
        raise ConfigError(
            f"solver {solver!r} is not for ordinary equations",
            fix="use tsit5, kvaerno5, rk4, heun, euler or rosenbrock",
        )
    return found


def _silence(grid: StepGrid, like: Tensor) -> Iterator[Tensor]:
    # the loop runs over blocks of noise: an equation without noise has empty ones
    for first in range(0, grid.steps, _BLOCK):
        yield like.new_empty(min(_BLOCK, grid.steps - first), 0)
