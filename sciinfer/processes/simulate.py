"""Draw paths of a nonlinear process at ragged times, series by series in step."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import BudgetError, NumericalError
from .base import NonlinearProcess

#: longest simulation: minutes, not hours
MAX_STEPS = 100_000


def simulate(
    process: NonlinearProcess, z: Tensor, start: Tensor, times: Tensor, *, step: float, generator: torch.Generator
) -> Tensor:
    """Euler-Maruyama from ``z`` at ``start`` through ``times``.

    Args:
        z: ``[n, S, d]``. start: ``[S]``. times: ``[S, K]``, ascending, not before ``start``.
        step: largest step, model time.

    Returns:
        ``[n, S, K, d]``.

    Raises:
        NumericalError: the state left the finite numbers; names time, series and size.
        BudgetError: the times are more than ``MAX_STEPS`` steps away.
    """
    check_length(times - start[:, None], step)
    path, now = [], start
    for k in range(times.shape[1]):
        gap = (times[:, k] - now).clamp(min=0.0)
        count = max(1, int(torch.ceil(gap.max() / step).item()))
        h = gap / count
        for i in range(count):
            z = _euler(process, now + i * h, z, h, generator)
        now = torch.maximum(times[:, k], now)
        check_finite(z, now)
        path.append(z)
    return torch.stack(path, dim=2)


def check_length(away: Tensor, step: float) -> None:
    """Refuse times ``away [S, K]`` that are more than ``MAX_STEPS`` steps from where a simulation starts."""
    if not away.numel() or float(away.max()) <= MAX_STEPS * step:
        return
    series, place = divmod(int(away.argmax()), away.shape[1])
    farthest = float(away.max())
    raise BudgetError(
        f"the asked time lies {farthest:.3g} model times away, which takes {farthest / step:.3g} steps",
        dim="time",
        index=(series, place),
        fix="ask for times nearer to the data",
    )


def _euler(process: NonlinearProcess, t: Tensor, z: Tensor, h: Tensor, generator: torch.Generator) -> Tensor:
    t = t.expand(z.shape[:-1])
    noise = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
    return z + process.drift(t, z) * h[:, None] + process.diffusion(t, z) * h.sqrt()[:, None] * noise


def check_finite(z: Tensor, now: Tensor) -> None:
    """Refuse states ``z [n, S, d]`` at times ``now [S]`` that are not finite."""
    if bool(torch.isfinite(z).all()):
        return
    series = int(torch.nonzero(~torch.isfinite(z).all(-1).all(0))[0])
    raise NumericalError(
        f"the simulated path left the finite numbers at model time {float(now[series]):.6g}",
        dim="series",
        index=series,
        fix="lower the learning rate or the simulation step",
        details={"norm": float(z[:, series].abs().nan_to_num().max())},
    )
