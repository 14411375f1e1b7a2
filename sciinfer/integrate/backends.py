"""torchsde and torchdiffeq behind ``solver="torchsde:METHOD"`` and ``"torchdiffeq:METHOD"``; imported on first use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import BudgetError, ConfigError, NumericalError
from ..extend import require
from ..random import derive
from .dyadic import NoisePath
from .grid import StepGrid, checked_times, step_grid
from .loop import not_finite
from .solver import DIAGONAL, NOISE_TYPES, Field, Trajectory
from .space_time import SpaceTimePath

__entries__ = [
    {
        "kind": "solvers",
        "name": "torchsde",
        "target": "torchsde_sdeint",
        "summary": "SDE: any method of torchsde, as torchsde:METHOD, reproducible by seed",
        "references": ("Li, Wong, Chen, Duvenaud (2020), Scalable gradients for stochastic differential equations",),
        "requires": ("torchsde",),
    },
    {
        "kind": "solvers",
        "name": "torchdiffeq",
        "target": "torchdiffeq_odeint",
        "summary": "ODE: any method of torchdiffeq, as torchdiffeq:METHOD, adaptive ones too",
        "references": ("Chen, Rubanova, Bettencourt, Duvenaud (2018), Neural ordinary differential equations",),
        "requires": ("torchdiffeq",),
    },
]

_ITO, _STRATONOVICH = ("euler", "milstein", "srk"), ("euler_heun", "heun", "midpoint", "log_ode", "reversible_heun")
#: what a method needs to know of the noise beyond its increments
_AREA = {"srk": "space-time", "log_ode": "foster"}
_FIXED = ("euler", "midpoint", "rk4", "heun2", "heun3", "explicit_adams", "implicit_adams", "fixed_adams")


class _Counted:
    """A field with flattened batch dims that counts its calls."""

    def __init__(self, field: Field, batch: torch.Size) -> None:
        self.field, self.batch, self.calls = field, batch, 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        value = self.field(t, y.reshape(*self.batch, y.shape[-1]))
        return value.reshape(-1, *value.shape[len(self.batch) :])


class _Adapter:
    """A path that looks like torchsde's own: increments, and integrals U = h (D/2 + H) where it has areas."""

    def __init__(self, path: NoisePath, shape: tuple[int, int]) -> None:
        self.path, self.shape, self.dtype, self.device = path, shape, path.dtype, path.device
        self.levy_area_approximation = "space-time" if path.area else "none"

    def __call__(
        self, ta: float | Tensor, tb: float | Tensor | None = None, return_U: bool = False, **_: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        start = float(ta)
        if tb is None or not (return_U and isinstance(self.path, SpaceTimePath)):
            return self.path(start, None if tb is None else float(tb)).reshape(self.shape)
        ends = torch.tensor([start, float(tb)], dtype=torch.float64, device="cpu")
        step, height = next(self.path.pairs(ends))[0].unbind()
        area = (step * 0.5 + height) * (float(tb) - start)
        return step.reshape(self.shape), area.reshape(self.shape)


class _Equation(torch.nn.Module):
    """The object with ``f``, ``g``, ``noise_type`` and ``sde_type`` that torchsde expects."""

    def __init__(self, f: Callable[..., Tensor], g: Callable[..., Tensor], noise_type: str, sde_type: str) -> None:
        super().__init__()
        self.f, self.g, self.noise_type, self.sde_type = f, g, noise_type, sde_type


def torchsde_sdeint(
    drift: Field,
    diffusion: Field,
    z0: Tensor,
    grid: StepGrid,
    *,
    noise: NoisePath | int | torch.Generator,
    method: str,
    noise_type: str = DIAGONAL,
    keys: Tensor | None = None,
    check: bool = True,
) -> Trajectory:
    """``sdeint`` by torchsde at the outputs of ``grid``; a seed makes a BrownianInterval of that entropy.

    Raises:
        ConfigError: an unknown method, descending times, or ``keys`` (paths of torchsde depend on the batch).
    """
    torchsde = require("torchsde", extra="bench", purpose=f"solver torchsde:{method}")
    sde_type = _sde_type(method, noise_type, grid, keys)
    batch, d = z0.shape[:-1], z0.shape[-1]
    f, g = _Counted(drift, batch), _Counted(_full(diffusion, noise_type), batch)
    flat, ends = z0.reshape(-1, d), _outputs(grid).to(z0)
    with torch.no_grad():
        width = g(ends[0], flat).shape[-1]
    motion = _motion(torchsde, noise, grid, (len(flat), width), z0, method)
    equation, size = _Equation(f, g, noise_type, sde_type), min(grid.sizes(), default=1.0)
    try:
        found = torchsde.sdeint(equation, flat, ends, bm=motion, method=method, dt=size)
    except RecursionError as err:
        raise ConfigError(f"torchsde cannot take {grid.steps} steps", fix="use the native euler-maruyama") from err
    z = found.reshape(len(ends), *batch, d)
    return Trajectory(_finite(z, ends, check), f.calls)


def torchdiffeq_odeint(
    drift: Field,
    z0: Tensor,
    times: Tensor,
    *,
    method: str,
    steps: int | None = None,
    dt: float | None = None,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    max_steps: int = 100_000,
    check: bool = True,
) -> Trajectory:
    """``odeint`` by torchdiffeq; fixed-step methods take ``steps`` or ``dt``, the others tolerances and a budget."""
    torchdiffeq = require("torchdiffeq", extra="bench", purpose=f"solver torchdiffeq:{method}")
    ends, f = checked_times(times), _Counted(drift, z0.shape[:-1])
    options: dict[str, Any] = {"max_num_steps": max_steps}
    if method in _FIXED:
        options = {"step_size": min(map(abs, step_grid(times, steps=steps, dt=dt).sizes()), default=1.0)}
    flat = z0.reshape(-1, z0.shape[-1])
    if len(ends) == 1:
        return Trajectory(z0[None], 0)
    try:
        found = torchdiffeq.odeint(f, flat, ends.to(z0), method=method, rtol=rtol, atol=atol, options=options)
    except AssertionError as err:  # torchdiffeq states every failure of its step control by an assertion
        raise _step_control(err, method, max_steps, f.calls) from err
    except ValueError as err:
        raise ConfigError(f"torchdiffeq: {err}", fix="use torchdiffeq:dopri5, torchdiffeq:rk4, or rk4") from err
    return Trajectory(_finite(found.reshape(len(ends), *z0.shape), ends, check), f.calls)


def _sde_type(method: str, noise_type: str, grid: StepGrid, keys: Tensor | None) -> str:
    if method not in (*_ITO, *_STRATONOVICH):
        raise ConfigError(f"torchsde has no method {method!r}", fix=f"one of {', '.join((*_ITO, *_STRATONOVICH))}")
    if noise_type not in NOISE_TYPES:
        raise ConfigError(f"unknown noise type {noise_type!r}", fix=f"one of {', '.join(NOISE_TYPES)}")
    if keys is not None:
        raise ConfigError(
            "torchsde draws its noise for the whole batch, without keys", fix="pass noise=BrownianPath(...)"
        )
    if len(grid.counts) and float(grid.times[-1]) < float(grid.times[0]):
        raise ConfigError("torchsde does not integrate backward in time", fix="use a native solver")
    return "ito" if method in _ITO else "stratonovich"


def _full(diffusion: Field, noise_type: str) -> Field:
    # torchsde does not broadcast a constant diffusion over the batch
    def full(t: Tensor, z: Tensor) -> Tensor:
        g = diffusion(t, z)
        return g.expand_as(z) if noise_type == DIAGONAL else g.expand(*z.shape[:-1], *g.shape[-2:])

    return full


def _outputs(grid: StepGrid) -> Tensor:
    return grid.times[torch.tensor([0, *grid.counts], device="cpu").cumsum(0)]


def _motion(torchsde: Any, noise: Any, grid: StepGrid, size: tuple[int, int], z0: Tensor, method: str) -> Any:
    if isinstance(noise, torch.Generator):
        noise = int(torch.randint(2**62, (), generator=noise, device=noise.device))
    t0, t1 = float(grid.times[0]), float(grid.times[-1])
    if isinstance(noise, NoisePath):
        if method in _AREA and not (method == "srk" and noise.area):
            raise ConfigError(
                f"torchsde:{method} needs more of the noise than this path gives",
                fix="pass a seed instead, or a SpaceTimePath for torchsde:srk",
            )
        return _Adapter(noise, size)
    return torchsde.BrownianInterval(
        t0=t0,
        t1=t1,
        size=size,
        dtype=z0.dtype,
        device=z0.device,
        entropy=derive(noise, "torchsde"),  # without it torchsde asks the global state of NumPy
        dt=min(grid.sizes(), default=None),
        levy_area_approximation=_AREA.get(method, "none"),
    )


def _finite(z: Tensor, times: Tensor, check: bool) -> Tensor:
    bad = ~torch.isfinite(z.detach()).flatten(1).all(dim=1)
    if check and bool(bad.any()):
        k = int(bad.nonzero()[0])
        before = max(k - 1, 0)
        gap = float(times[k] - times[before])
        raise not_finite(
            z[k].detach(), z[before].detach(), time=float(times[before]), step=before, dt=gap, what="drift or diffusion"
        )
    return z


def _step_control(err: AssertionError, method: str, max_steps: int, calls: int) -> Exception:
    if "max_num_steps" in str(err):
        return BudgetError(
            f"{method} used up {max_steps} steps ({calls} evaluations); the equation may be stiff",
            fix="use the implicit solver rosenbrock with steps, or raise rtol or max_steps",
            details={"nfe": calls},
        )
    return NumericalError(
        f"{method} stopped after {calls} evaluations: {err}; the drift is NaN there, or far too stiff",
        variable="drift",
        fix="check the drift for NaN at the last state; for a stiff equation use rosenbrock with steps",
        details={"nfe": calls},
    )
