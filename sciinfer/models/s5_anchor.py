"""What each channel's own past says by itself: forgetting means that fall back to the channel's mean."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..processes.bridge import take
from ..statespace.recurrence import linear_recurrence

#: starting memories of the forgetting means, in typical gaps
MEMORIES = (2.0, 20.0, 200.0)


class Memory(NamedTuple):
    """What is remembered at each row, ``K`` memories: sums ``num, den [S, T, C, K]``, and of the last value of each
    channel ``last, when [S, T, C]``, ``seen [S, T, C]`` (False: none so far)."""

    num: Tensor
    den: Tensor
    last: Tensor
    when: Tensor
    seen: Tensor


class Recalled(NamedTuple):
    """At ``Q`` times: the deviation from the channel's mean expected there, its correlation ``r`` with the truth, and
    the freshness ``1 / (1 + time since the last value)`` (0: none), ``[S, Q, C]`` each."""

    deviation: Tensor
    correlation: Tensor
    fresh: Tensor


class Anchor(nn.Module):
    """``mean = mu + sum_i a_i num_i / (den_i + kappa_i) + a_0 (last - mu) exp(-dt / tau_0)``.

    ``num_i = sum_j exp(-(t - t_j) / tau_i) (y_j - mu)`` and ``den_i`` likewise with ones, so that each term fades to
    zero with time. The two directions of time are joined as Gaussian messages: ``1/v = 1/v_f + 1/v_b - 1/v_0`` with
    ``v_f = v_0 (1 - r_f^2)``, exact for a Markov channel seen without noise.

    Args:
        channels: ``C``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        K = len(MEMORIES)

        def full(*shape: int, value: float = 0.0) -> nn.Parameter:
            return nn.Parameter(torch.full(shape, value, dtype=torch.float64))

        self.mean = full(channels)
        self.log_variance = full(channels)
        start = torch.tensor(MEMORIES, dtype=torch.float64).log()
        self.log_memory = nn.Parameter(start.expand(channels, K).clone())
        self.log_last = full(channels, value=math.log(10.0))
        self.log_shrink = full(channels, K, value=math.log(0.5))
        self.weight = full(channels, K + 1, value=1.0 / (K + 1))
        # the last share is what no past tells: noise
        self.shares = full(channels, K + 2)

    @property
    def noise_variance(self) -> Tensor:
        """Variance that the past never explains, ``[C]``."""
        return self.log_variance.exp() * self.shares.softmax(-1)[:, -1]

    def remember(self, time: Tensor, step: Tensor, values: Tensor, seen: Tensor, start: Memory | None) -> Memory:
        """Memories after each row; ``start``: those before the first (one row of a :class:`Memory`)."""
        counts = seen.to(values.dtype)
        fade = (-self.log_memory).exp() * step[..., None, None]
        gate = (-fade).exp()
        ones = counts[..., None].expand_as(gate)
        num, den = ((values - self.mean) * counts)[..., None].expand_as(gate), ones
        if start is not None:
            num = torch.cat([num[:, :1] + gate[:, :1] * start.num, num[:, 1:]], dim=1)
            den = torch.cat([den[:, :1] + gate[:, :1] * start.den, den[:, 1:]], dim=1)
        sums = linear_recurrence(torch.cat([gate, gate], -1), torch.cat([num, den], -1))
        num, den = sums.chunk(2, dim=-1)
        return Memory(num, den, *_carry_forward(time, values, seen, start))

    def recall(self, memory: Memory, where: Tensor, has: Tensor, gap: Tensor, time: Tensor) -> Recalled:
        """What row ``where [S, Q]`` (only if ``has``) remembers at ``time [S, Q]``, ``gap`` after it."""
        fade = (-(-self.log_memory).exp() * gap[..., None, None]).exp() * has[..., None, None]
        num, den = take(memory.num, where) * fade, take(memory.den, where) * fade
        shrink = self.log_shrink.exp()
        seen = take(memory.seen, where) & has[..., None]
        since = torch.where(seen, (time[..., None] - take(memory.when, where)).clamp(min=0.0), 0.0)
        kept = (-since * (-self.log_last).exp()).exp() * seen
        off = torch.where(seen, take(memory.last, where) - self.mean, 0.0)
        deviation = (self.weight[:, :-1] * num / (den + shrink)).sum(-1) + self.weight[:, -1] * kept * off
        share = self.shares.softmax(-1)
        correlation = (share[:, :-2] * den / (den + shrink)).sum(-1) + share[:, -2] * kept
        return Recalled(deviation, correlation, seen / (1.0 + since))

    def join(self, sides: list[Recalled]) -> tuple[Tensor, Tensor]:
        """Mean and variance ``[S, Q, C]`` from one or two directions."""
        prior = self.log_variance.exp()
        variances = [prior * (1 - side.correlation.square()).clamp(min=1e-6) for side in sides]
        precision = torch.stack([1 / v for v in variances]).sum(0) - (len(sides) - 1) / prior
        pull = torch.stack([s.deviation / v for s, v in zip(sides, variances, strict=True)]).sum(0)
        return self.mean + pull / precision, 1 / precision


def _carry_forward(time: Tensor, values: Tensor, seen: Tensor, start: Memory | None) -> tuple[Tensor, Tensor, Tensor]:
    """Last value of each channel, its time, and whether there is one."""
    number = torch.arange(time.shape[1], device=time.device)[None, :, None].expand(seen.shape)
    index = torch.where(seen, number, -1).cummax(dim=1).values
    found, at = index >= 0, index.clamp(min=0)
    last = torch.where(found, values.gather(1, at), 0.0)
    when = torch.where(found, time[..., None].expand(seen.shape).gather(1, at), 0.0)
    if start is None:
        return last, when, found
    last, when = torch.where(found, last, start.last), torch.where(found, when, start.when)
    return last, when, found | start.seen
