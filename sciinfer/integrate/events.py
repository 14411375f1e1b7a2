"""Events: where a function of time and state changes its sign, found on the dense output, series by series."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .dense import interpolate
from .solver import Field

#: parts of a step that are looked at, and halvings of the one with the change
_PARTS, _HALVINGS = 4, 52

#: ``g(t [A], z [A, d]) -> [A]``
Event = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def crossing(event: Event, dense: Tensor, t: Tensor, z: Tensor, h: Tensor, moves: Tensor) -> Tensor:
    """``theta [A]`` in (0, 1], where ``event`` first changes its sign in each step, infinite where it does not.

    A step is looked at in four parts: two changes within one part are missed. A zero at the start is no change.
    """

    def value(theta: Tensor) -> Tensor:
        return event(t + theta * h, interpolate(dense, theta, z, moves))

    low = torch.zeros_like(t)
    left, found = value(low), torch.full_like(t, torch.inf)
    sign = left.sign()
    for part in range(1, _PARTS + 1):
        right = value(torch.full_like(t, part / _PARTS))
        hit = (sign * right.sign() < 0) | ((right == 0) & (sign != 0))
        found = torch.where(hit & torch.isinf(found), torch.full_like(t, part / _PARTS), found)
        sign = torch.where(sign == 0, right.sign(), sign)
    some = torch.isfinite(found)
    return _bisect(value, found, sign, some) if bool(some.any()) else found


def _bisect(value: Callable[[Tensor], Tensor], high: Tensor, sign: Tensor, some: Tensor) -> Tensor:
    high = torch.where(some, high, torch.ones_like(high))
    low = high - 1 / _PARTS
    # sign is that of the function before its change
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        before = value(middle).sign() * sign > 0
        low, high = torch.where(before, middle, low), torch.where(before, high, middle)
    return torch.where(some, high, torch.full_like(high, torch.inf))


def attach(event: Event, field: Field, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Event time and state with the gradient of the equation ``g(t, z(t)) = 0`` that defines them.

    Args:
        t: ``[A]``, found. z: ``[A, d]``, the state there, with its graph.

    References: Chen, Amos, Nickel (2021), Learning neural event functions for ordinary differential equations.
    """
    at, state = t.detach().requires_grad_(), z.detach().requires_grad_()
    with torch.enable_grad():
        value = event(at, state)
        by_time, by_state = torch.autograd.grad(value.sum(), (at, state), allow_unused=True)
    slope = field(t.detach(), z)
    rate = (torch.zeros_like(state) if by_state is None else by_state).mul(slope.detach()).sum(-1)
    rate = rate + (0.0 if by_time is None else by_time)
    # where g does not change along the path, the time has no gradient (and must not make one of NaN)
    rate = torch.where(rate == 0, torch.full_like(rate, torch.inf), rate)
    # g is zero here up to round-off: only its gradient is wanted
    value = event(t.detach(), z)
    when = t.detach() - (value - value.detach()) / rate
    return when, z + slope.detach() * (when - when.detach())[:, None]
