"""The loop over steps, and what is said when a state leaves the finite numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import NumericalError
from .grid import StepGrid

#: ``advance(t, z, dt, dw) -> z``
Advance = Callable[[Tensor, Tensor, float, Tensor], Tensor]


def steps(
    advance: Advance, z: Tensor, times: Tensor, sizes: Sequence[float], noise: Tensor, keep: Sequence[bool]
) -> tuple[Tensor, list[Tensor]]:
    """Advance through a block; a pure function that ``torch.compile(fullgraph=True)`` takes as one graph.

    Args:
        advance: one step.
        z: ``[..., d]``.
        times: ``[n]``, start of each step.
        sizes: n step sizes.
        noise: ``[n, ..., m]`` increments.
        keep: n flags, which ends of steps to return.

    Returns:
        The last state, and the kept ones.
    """
    kept: list[Tensor] = []
    for t, dt, dw, wanted in zip(times.unbind(), sizes, noise.unbind(), keep, strict=True):
        z = advance(t, z, dt, dw)
        if wanted:
            kept.append(z)
    return z, kept


def run(
    advance: Advance,
    z0: Tensor,
    grid: StepGrid,
    blocks: Iterable[Tensor],
    *,
    check: bool = True,
    what: str = "drift or diffusion",
) -> Tensor:
    """Integrate over the whole grid: ``[T, ..., d]``. States are checked once a block, not at every step.

    Raises:
        NumericalError: a state is not finite; names time, step, first bad series, and holds the last good state.
    """
    times, sizes, keep = grid.times[:-1].to(z0.device, z0.dtype), grid.sizes(), grid.keep()
    z, kept, first = z0, [z0], 0
    for noise in blocks:
        here = slice(first, first + len(noise))
        before = z
        z, ends = steps(advance, z, times[here], sizes[here], noise, keep[here])
        if check and not bool(torch.isfinite(z.detach()).all()):
            raise _diverged(advance, before, grid, times[here], sizes[here], noise, first, what)
        kept += ends
        first += len(noise)
    return torch.stack(kept)


@torch.no_grad()
def _diverged(
    advance: Advance,
    z: Tensor,
    grid: StepGrid,
    times: Tensor,
    sizes: Sequence[float],
    noise: Tensor,
    first: int,
    what: str,
) -> NumericalError:
    # the noise is a function of its counter: the block can be walked again to find the step
    step, good = first, z
    for offset, (t, dt, dw) in enumerate(zip(times.unbind(), sizes, noise.unbind(), strict=True)):
        step, good, z = first + offset, z, advance(t, z, dt, dw)
        if not bool(torch.isfinite(z).all()):
            break
    return not_finite(z, good, time=float(grid.times[step]), step=step, dt=sizes[step - first], what=what)


def not_finite(z: Tensor, good: Tensor, *, time: float, step: int, dt: float, what: str) -> NumericalError:
    """The error for the step from ``good [..., d]`` at ``time`` to a state ``z`` that is not finite."""
    bad = (~torch.isfinite(z)).reshape(-1, z.shape[-1]).any(dim=1)
    series = int(bad.nonzero()[0])
    row = good.reshape(-1, good.shape[-1])[series]
    norm = float(row.norm())
    found = "NaN" if bool(torch.isnan(z).any()) else "infinite"
    details: dict[str, Any] = {
        "time": time,
        "step": step,
        "norm": norm,
        "series": series,
        "state": good.detach().clone(),
    }
    return NumericalError(
        f"the state becomes {found} in step {step}, from t = {time:.6g} (dt = {dt:.3g}), where its norm is {norm:.6g}; "
        f"{int(bad.sum())} of {len(bad)} series are affected",
        variable=what,
        dim="series",
        index=series,
        fix=f"check the {what} at this state (details['state'] holds the last finite one) or take smaller steps",
        details=details,
    )
