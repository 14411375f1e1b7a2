"""The loop over steps, and what is said when a state leaves the finite numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import NumericalError
from .grid import StepGrid
from .suspect import suspect

#: the state ``[..., d]``, or a tuple of tensors that a solver hands from step to step
C = TypeVar("C")
#: ``advance(t, z, dt, dw) -> z``
Advance = Callable[[Tensor, C, float, Tensor], C]


def steps(
    advance: Advance[C], z: C, times: Tensor, sizes: Sequence[float], noise: Tensor, keep: Sequence[bool]
) -> tuple[C, list[C]]:
    """Advance through a block; a pure function that ``torch.compile(fullgraph=True)`` takes as one graph.

    Args:
        advance: one step.
        z: ``[..., d]``, or any carry of the step.
        times: ``[n]``, start of each step.
        sizes: n step sizes.
        noise: ``[n, ..., m]`` increments.
        keep: n flags, which ends of steps to return.

    Returns:
        The last state, and the kept ones.
    """
    kept: list[C] = []
    for t, dt, dw, wanted in zip(times.unbind(), sizes, noise.unbind(), keep, strict=True):
        z = advance(t, z, dt, dw)
        if wanted:
            kept.append(z)
    return z, kept


def run(
    advance: Advance[Tensor],
    z0: Tensor,
    grid: StepGrid,
    blocks: Iterable[Tensor],
    *,
    check: bool = True,
    what: str = "drift or diffusion",
    fields: Sequence[object] = (),
) -> Tensor:
    """Integrate over the whole grid: ``[T, ..., d]``. States are checked once a block, not at every step.

    Raises:
        NumericalError: a state is not finite; names time, step, first bad series, the parameter of ``fields`` to look
            at, and holds the last good state.
    """
    return torch.stack(walk(advance, z0, _itself, z0, grid, blocks, check=check, what=what, fields=fields)[0])


def walk(
    advance: Advance[C],
    start: C,
    state: Callable[[C], Tensor],
    like: Tensor,
    grid: StepGrid,
    blocks: Iterable[Tensor],
    *,
    check: bool = True,
    what: str = "drift or diffusion",
    fields: Sequence[object] = (),
) -> tuple[list[C], C]:
    """:func:`run` for a carry with a ``state`` of the kind of ``like``: the carries at the outputs, and the last."""
    times, sizes, keep = grid.times[:-1].to(like.device, like.dtype), grid.sizes(), grid.keep()
    carry, kept, first = start, [start], 0
    for noise in blocks:
        here = slice(first, first + len(noise))
        before = carry
        carry, ends = steps(advance, carry, times[here], sizes[here], noise, keep[here])
        if check and not bool(torch.isfinite(state(carry).detach()).all()):
            raise diverged(advance, before, state, grid, noise, first, what, fields)
        kept += ends
        first += len(noise)
    return kept, carry


def _itself(z: Tensor) -> Tensor:
    return z


@torch.no_grad()
def diverged(
    advance: Advance[C],
    carry: C,
    state: Callable[[C], Tensor],
    grid: StepGrid,
    noise: Tensor,
    first: int,
    what: str,
    fields: Sequence[object] = (),
) -> NumericalError:
    """The error for a block of steps, from ``first`` on, in which a state stops being finite."""
    # the noise is a function of its counter: the block can be walked again to find the step
    here = slice(first, first + len(noise))
    times, sizes = grid.times[here].to(state(carry)), grid.sizes()[here]
    step, good = first, carry
    for offset, (t, dt, dw) in enumerate(zip(times.unbind(), sizes, noise.unbind(), strict=True)):
        step, good, carry = first + offset, carry, advance(t, carry, dt, dw)
        if not bool(torch.isfinite(state(carry)).all()):
            break
    return not_finite(
        state(carry),
        state(good),
        time=float(grid.times[step]),
        step=step,
        dt=sizes[step - first],
        what=what,
        fields=fields,
    )


def not_finite(
    z: Tensor, good: Tensor, *, time: float, step: int, dt: float, what: str, fields: Sequence[object] = ()
) -> NumericalError:
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
    named = suspect(fields)
    if named is not None:
        details |= {"parameter": named.name, "parameter_norm": named.norm}
    return NumericalError(
        f"the state becomes {found} in step {step}, from t = {time:.6g} (dt = {dt:.3g}), where its norm is {norm:.6g}; "
        f"{int(bad.sum())} of {len(bad)} series are affected" + ("" if named is None else f"; {named.sentence}"),
        variable=what,
        dim="series",
        index=series,
        fix=f"check the {what} at this state (details['state'] holds the last finite one) or take smaller steps",
        details=details,
    )
