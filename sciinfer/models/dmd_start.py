"""Start of the ``dmd`` model: exponents by variable projection, modes from the amplitudes, halves for the bags."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from ..labelled.series import SeriesBatch
from ..processes.dmd_optimised import half, pruned, start_of
from ..processes.dmd_projection import Projection, variable_projection

#: series that are looked at, and from which number on bags take half of the series instead of half of the rows,
#: largest amplitude
_SERIES, _MANY, _HUGE = 64, 8, 1e3


class Found(NamedTuple):
    """``exponents [k]`` with frequencies >= 0, ``modes [k, C, q]`` complex, ``noise [C]`` standard deviation."""

    exponents: Tensor
    modes: Tensor
    noise: Tensor


def find_modes(
    batch: SeriesBatch, slots: int, columns: int, bags: int, *, stable: bool, g: torch.Generator
) -> list[Found]:
    """The fit to all data, then the fits to random halves; nothing where the series are too short.

    Args:
        slots: most oscillations. columns: most directions of one, ``q``.
    """
    chosen = torch.linspace(0, batch.n_series - 1, min(batch.n_series, _SERIES), device=batch.time.device)
    chosen = chosen.round().long().unique()
    padded = batch.select(chosen).padded()
    time, y, mask = padded.time - padded.time[:, :1], padded.values, padded.mask
    try:
        start = start_of(time, y, mask, "auto")
    except DataError:
        return []
    fit = variable_projection(time, y, mask, _fewer(start, slots), stable=stable)
    fit = pruned(time, y, mask, fit, stable=stable)
    whole = _modes(fit, mask, columns)
    found = [whole]
    for _ in range(bags):
        kept = _half_of_series(mask, g) if len(mask) >= _MANY else half(mask, g)
        other = variable_projection(time, y, kept, fit.exponents, stable=stable, steps=15, tolerance=1e-7)
        found.append(_turned(_modes(other, kept, columns, fit.exponents), whole))
    return found


def _fewer(start: Tensor, slots: int) -> Tensor:
    """The ``slots`` least damped, conjugates kept together."""
    upper = start[start.imag >= 0]
    upper = upper[torch.argsort(upper.real.abs(), stable=True)][:slots]
    return torch.cat([upper, upper[upper.imag > 0].conj()])


def _half_of_series(mask: Tensor, g: torch.Generator) -> Tensor:
    order = torch.rand(len(mask), generator=g, dtype=torch.float64, device=mask.device).argsort().argsort()
    return mask & (order < (len(mask) + 1) // 2)[:, None, None]


def _modes(fit: Projection, mask: Tensor, columns: int, like: Tensor | None = None) -> Found:
    """``like``: the exponents whose place decides which are listed, so that halves keep the order."""
    which = (fit.exponents if like is None else like).imag >= 0
    exponents, seen = fit.exponents[which], mask.any(1).any(1)
    real = (fit.exponents if like is None else like).imag[which] == 0
    # a conjugate pair a e^{wt} + conj = Re(2 a e^{wt}); of two unit normals E|b|^2 = 2, of one 1
    size = torch.where(real, 1.0, 2**0.5)[:, None, None]
    amplitude = fit.amplitudes[seen][:, which].permute(1, 2, 0) * size
    # what has decayed before anything was seen has no amplitude that could be known
    amplitude = torch.where(amplitude.abs() < _HUGE, amplitude, torch.zeros_like(amplitude))
    left, s, _ = torch.linalg.svd(amplitude / max(int(seen.sum()), 1) ** 0.5, full_matrices=False)
    modes = (left * s[:, None])[..., :columns]
    modes = torch.nn.functional.pad(modes, (0, columns - modes.shape[2]))
    modes = torch.where(real[:, None, None], torch.complex(modes.real, torch.zeros_like(modes.real)), modes)
    used = len(fit.exponents) * (1 + seen.sum())
    count = mask.sum((0, 1))
    noise = (fit.residual.square().sum((0, 1)) / (count - used).clamp(min=1)).sqrt()
    return Found(exponents, modes, noise.clamp(min=1e-4))


def _turned(found: Found, whole: Found) -> Found:
    """Directions turned (which changes nothing) so that they lie nearest to those of the fit to all data."""
    u, _, vh = torch.linalg.svd(found.modes.mH @ whole.modes)
    return found._replace(modes=found.modes @ (u @ vh))
