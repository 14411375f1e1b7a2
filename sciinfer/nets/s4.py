"""The convolution mode of diagonal state-space layers: on a regular grid the recurrence is one product of spectra."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def regular_step(time: Tensor, rows: Tensor, tolerance: float = 1e-9) -> Tensor | None:
    """The one step of all series, or None where steps differ (relatively by more than ``tolerance``).

    Args:
        time: ``[S, T]`` ascending. rows: ``[S, T]``, False = padding.

    Example:
        >>> time = torch.tensor([[0.0, 0.5, 1.0]]); float(regular_step(time, time >= 0))
        0.5
    """
    steps = time.diff(dim=1)[rows[:, 1:]]
    if not steps.numel():
        return None
    low, high = steps.min(), steps.max()
    # equal steps of late times differ by their rounding, a few units in the last place of the time
    slack = max(tolerance, 8 * torch.finfo(time.dtype).eps * float(time.abs().max() / high.clamp(min=1e-30)))
    return steps.mean() if float(high - low) <= slack * float(high) and float(low) > 0 else None


def convolve_states(rate: Tensor, step: Tensor, b: Tensor) -> Tensor:
    """``x_k = exp(rate h) x_{k-1} + b_k`` for all ``k`` at once: ``x = K * b`` with ``K_k = exp(rate h k)``.

    Args:
        rate: ``[N]`` complex, real parts negative. step: ``h``, scalar. b: ``[S, T, N]`` complex.

    Returns:
        ``[S, T, N]``.

    References:
        Gu, Goel, Ré (2022), Efficiently modeling long sequences with structured state spaces.

    Example:
        >>> b = torch.ones(1, 3, 1, dtype=torch.complex128); half = torch.tensor([0.5 + 0j], dtype=b.dtype).log()
        >>> convolve_states(half, torch.tensor(1.0), b).real[0, :, 0].tolist()
        [1.0, 1.5, 1.75]
    """
    T = b.shape[1]
    size = _smooth(2 * T - 1)
    # time last: the transforms then run along memory
    spectrum = torch.fft.fft(b.transpose(1, 2), n=size) * torch.fft.fft(_powers(rate * step, T), n=size)
    return torch.fft.ifft(spectrum, n=size)[..., :T].transpose(1, 2)


def _powers(exponent: Tensor, count: int) -> Tensor:
    """``exp(exponent k)`` for ``k < count``, ``[N, count]``: complex exponentials of two short ranges, multiplied."""
    side = max(math.isqrt(count - 1) + 1, 1)
    number = torch.arange(side, dtype=exponent.real.dtype, device=exponent.device)
    fine, coarse = (exponent[:, None] * number).exp(), (exponent[:, None] * (side * number)).exp()
    return (coarse[:, :, None] * fine[:, None, :]).flatten(1)[:, :count]


def _smooth(least: int) -> int:
    """The smallest ``2^a 3^b 5^c >= least``: lengths whose transform is fast."""
    best, five = 1 << (least - 1).bit_length(), 1
    while five < best:
        three = five
        while three < best:
            rest = -(-least // three)
            best = min(best, three << max(rest - 1, 0).bit_length())
            three *= 3
        five *= 5
    return best
