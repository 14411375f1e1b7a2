"""Adaptive solvers with a step for each series against torchdiffeq's, which has one step for the whole batch.

255 mild van der Pol oscillators (mu = 1) and one that is stiff (mu = 50) on [0, 10], float64, rtol 1e-7, no
gradients. In torchdiffeq the stiff series decides the steps of all; here the mild ones take as many as without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sciinfer.integrate import odeint

from .harness import Row, installed, timed_row, versions

RTOL, ATOL = 1e-7, 1e-9
STIFF = 50.0


def drift(t: Tensor, z: Tensor, mu: Tensor) -> Tensor:
    x, v = z.unbind(-1)
    return torch.stack([v, mu[..., 0] * (1 - x * x) * v - x], dim=-1)


def problem(series: int, stiff: bool) -> tuple[Tensor, Tensor]:
    """Starts and parameters; the last series is the stiff one."""
    z0 = torch.randn(series, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mu = torch.ones(series, 1, dtype=torch.float64)
    if stiff:
        mu[-1] = STIFF
    return z0, mu


def native(z0: Tensor, mu: Tensor, times: Tensor, solver: str) -> Callable[[], Any]:
    return lambda: odeint(drift, z0, times, solver=solver, context=mu, compact=True, rtol=RTOL, atol=ATOL)


def torchdiffeq_dopri5(z0: Tensor, mu: Tensor, times: Tensor) -> Callable[[], Any] | None:
    if not installed("torchdiffeq"):
        return None
    import torchdiffeq

    return lambda: torchdiffeq.odeint(lambda t, z: drift(t, z, mu), z0, times, method="dopri5", rtol=RTOL, atol=ATOL)


def _evaluations(z0: Tensor, mu: Tensor, times: Tensor) -> int:
    import torchdiffeq

    calls = [0]

    def counted(t: Tensor, z: Tensor) -> Tensor:
        calls[0] += 1
        return drift(t, z, mu)

    torchdiffeq.odeint(counted, z0, times, method="dopri5", rtol=RTOL, atol=ATOL)
    return calls[0]


def _cost_row(times: Tensor, series: int) -> Row:
    """Evaluations of the mild series beside the stiff one, as a multiple of those without it."""
    runs = [problem(series, stiff) for stiff in (False, True)]
    counts = [native(*run, times, "dopri5")().report.evaluations[:-1].sum() for run in runs]
    peer = None
    if installed("torchdiffeq"):
        theirs = [_evaluations(*run, times) for run in runs]
        peer = theirs[1] / theirs[0]
    ours = float(counts[1]) / float(counts[0])
    name = f"integrate_ode/mild-series-evaluations-{series}"
    return Row(name=name, ours=ours, peer=peer, unit="times alone", goal=2.0, versions=versions("torchdiffeq"))


@torch.no_grad()  # entered anew whenever the generator goes on
def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Goals: at least twice as fast as torchdiffeq's dopri5 with one stiff series; the others' cost unchanged."""
    series, times = (8, torch.tensor([0.0, 0.5])) if tiny else (256, torch.tensor([0.0, 10.0]))
    times = times.to(torch.float64)
    yield _cost_row(times, series)
    for solver, stiff, goal in (("dopri5", True, 2.0), ("tsit5", True, 2.0), ("dopri5", False, None)):
        z0, mu = problem(series, stiff)
        case = f"{series - 1}-mild-1-stiff" if stiff else f"{series}-mild"
        yield timed_row(
            f"integrate_ode/{solver}-{case}",
            native(z0, mu, times, solver),
            torchdiffeq_dopri5(z0, mu, times),
            repeats=1 if tiny else 5,
            goal=goal,
            packages=("torchdiffeq",),
        )
