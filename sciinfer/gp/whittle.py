"""Debiased Whittle likelihood: hyper-parameters of evenly spaced data from the periodogram, as a warm start."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, ShapeError
from ..nets.parameters import value_and_slopes
from .kernels import Kernel
from .spatial.optimise import FitReport, maximise


def whittle_log_likelihood(kernel: Kernel, noise: Tensor | float, y: Tensor, step: float) -> Tensor:
    """``-sum_w [log E I(w) + I(w) / E I(w)]`` over positive frequencies, ``N log N`` in the number of times.

    The expected periodogram of this very window, ``E I(w) = sum_tau c(tau) k(tau) e^{-i w tau}``, takes the place of
    the spectral density: leakage, aliasing and gaps are in it.

    Args:
        kernel: stationary, one output. noise: variance. y: ``[T]``, zero mean, NaN = missing; step: between times.

    References:
        Sykulski, Olhede, Guillaumin, Lilly, Early (2019), The debiased Whittle likelihood.

    Example:
        >>> from sciinfer.gp.kernels import Matern12
        >>> y = torch.tensor([0.1, -0.2, float("nan"), 0.3], dtype=torch.float64)
        >>> bool(whittle_log_likelihood(Matern12(), 0.1, y, 1.0).isfinite())
        True
    """
    seen = ~y.isnan()
    found, window = _periodogram(torch.where(seen, y, torch.zeros_like(y)), seen.to(y.dtype))
    expected = expected_periodogram(kernel, noise, window, step)
    half = slice(1, (len(y) + 1) // 2)
    return -(expected.log() + found / expected)[half].sum()


def expected_periodogram(kernel: Kernel, noise: Tensor | float, window: Tensor, step: float) -> Tensor:
    """``E I(w)``, ``[T]``, of a process with covariance ``k(tau) + noise [tau = 0]`` seen through a window.

    Args:
        window: ``[T]``, ``(1/n) sum_t g_t g_{t+tau}`` of the indicator ``g`` of what was seen.
    """
    lag = step * torch.arange(len(window), dtype=window.dtype, device=window.device)
    c = window * kernel.covariance(lag)
    first = torch.zeros_like(c)
    first[0] = 1.0
    c = c + noise * window[0] * first
    return (2 * torch.fft.fft(c).real - c[0]).clamp(min=1e-12 * float(c[0].detach()))


def whittle_start(
    kernel: Kernel, y: Any, step: float, *, noise: float = 0.1, iterations: int = 60
) -> tuple[Kernel, float, FitReport]:
    """A copy of ``kernel`` fitted to the periodogram, the noise variance, and how the search ended.

    Args:
        kernel: stationary starting kernel. y: ``[T]`` at even steps, NaN = missing (its mean is removed).
        step: between times. noise: starting variance.

    Raises:
        ConfigError: the kernel is not stationary or has several outputs.
        ShapeError, DataError: fewer than 8 values in a row of one dimension.
    """
    values = torch.as_tensor(y, dtype=torch.float64).detach()
    if not kernel.stationary or kernel.outputs != 1:
        raise ConfigError("the Whittle likelihood needs a stationary kernel of one output", variable="kernel")
    if values.ndim != 1:
        raise ShapeError(f"values have shape {tuple(values.shape)}", variable="y", fix="pass [T]")
    if int((~values.isnan()).sum()) < 8:
        raise DataError("too few values for a periodogram", variable="y", fix="start from the default instead")
    values, fitted = values - values.nanmean(), copy.deepcopy(kernel)
    log_noise = torch.nn.Parameter(torch.tensor(math.log(noise), dtype=torch.float64))
    named = [*((n, p) for n, p in fitted.named_parameters() if p.requires_grad), ("log_noise", log_noise)]

    def evaluate() -> tuple[float, Sequence[Tensor]]:
        value = whittle_log_likelihood(fitted, log_noise.exp(), values, step)
        return value_and_slopes(value, [p for _, p in named])

    report = maximise(named, evaluate, iterations=iterations)
    return fitted, float(log_noise.detach().exp()), report


def _periodogram(y: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """``I(w) = |sum_t y_t e^{-i w t}|^2 / n`` and the window's autocorrelation ``[T]`` (zero-padded, exact)."""
    n = seen.sum()
    spread = torch.fft.rfft(seen, n=2 * len(seen))
    window = torch.fft.irfft(spread.abs().square(), n=2 * len(seen))[: len(seen)] / n
    return torch.fft.fft(y).abs().square() / n, window
