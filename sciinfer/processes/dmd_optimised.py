"""Optimised dynamic mode decomposition: any times, missing entries, and bagged intervals of the exponents."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, ShapeError, StateError
from ..random import generator
from .dmd import DMD
from .dmd_projection import Projection, amplitudes_of, variable_projection
from .dmd_rank import check_rank, trajectories

#: largest window of the start
_WIDEST = 120


class Interval(NamedTuple):
    """``low, high [r]`` of growth rates (``rate_``) and angular frequencies (``frequency_``)."""

    rate_low: Tensor
    rate_high: Tensor
    frequency_low: Tensor
    frequency_high: Tensor


class OptimisedDMD:
    r"""Exponentials :math:`x(t) = \sum_k \phi_k b_k e^{\omega_k t}` by nonlinear least squares on the snapshots.

    Times may be irregular and entries missing. Trajectories share the exponents and have amplitudes of their own.
    With ``bags`` the fit is repeated on random halves of the snapshots (without replacement, which gives the spread of
    the full estimate when noise is independent from snapshot to snapshot).

    Args:
        rank: number of exponents or ``"auto"``. bags: refits on halves. stable: growth is not allowed. seed: of the
        halves.

    Attributes:
        exponents: ``[r]``, smallest angular frequency first. amplitudes: one ``[r, n]`` for each trajectory, at its own
        time 0. noise: residual standard deviation ``[n]``. draws: ``[bags, r]`` exponents of the halves.

    Raises:
        ConfigError: an option out of its range.

    References:
        Askham, Kutz (2018), Variable projection methods for an optimized dynamic mode decomposition.
        Sashidhar, Kutz (2022), Bagging, optimized dynamic mode decomposition for robust, stable forecasting.

    Example:
        >>> t = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(20).sort().values
        >>> model = OptimisedDMD(rank=2).fit((0.7 * t).cos()[:, None], t)
        >>> model.exponents.imag.round(decimals=6).tolist()
        [-0.7, 0.7]
    """

    exponents: Tensor
    noise: Tensor
    draws: Tensor

    def __init__(self, *, rank: int | str = "auto", bags: int = 0, stable: bool = False, seed: int = 0) -> None:
        check_rank(rank)
        if not isinstance(bags, int) or isinstance(bags, bool) or bags < 0:
            raise ConfigError(f"bags must be a whole number >= 0, got {bags!r}", variable="bags", fix="bags=50")
        self.asked, self.bags, self.stable, self.seed = rank, bags, stable, seed
        self._complex = False
        self.amplitudes: list[Tensor] = []
        self.amplitude_draws: list[Tensor] = []

    def fit(self, x: Any, times: Any) -> Self:
        """Search the exponents.

        Args:
            x: ``[T, n]`` or a list, NaN = missing. times: ``[T]`` or a list, any unit, ascending.

        Raises:
            ShapeError: sizes do not fit. DataError: too little data, or times that do not ascend.
        """
        time, y, mask = _stacked(x, times)
        self._complex = y.is_complex()
        start = start_of(time, y, mask, self.asked)
        found = variable_projection(time, y, mask, start, stable=self.stable)
        if self.asked == "auto":
            found = pruned(time, y, mask, found, stable=self.stable)
        order = torch.argsort(found.exponents.imag, stable=True)
        self.exponents = found.exponents[order]
        self.amplitudes = list(found.amplitudes[:, order])
        free = (mask.sum((0, 1)) - len(self.exponents) * len(time)).clamp(min=1)
        self.noise = (found.residual.abs().square().sum((0, 1)) / free).sqrt()
        self._bag(time, y, mask)
        return self

    def _bag(self, time: Tensor, y: Tensor, mask: Tensor) -> None:
        g = generator(self.seed, "bags", device=time.device)
        exponents, amplitudes = [], []
        for _ in range(self.bags):
            kept = half(mask, g)
            found = variable_projection(time, y, kept, self.exponents, stable=self.stable, tolerance=1e-8)
            exponents.append(found.exponents)
            amplitudes.append(amplitudes_of(time, y, kept, found.exponents)[0])
        r = len(self.exponents)
        self.draws = torch.stack(exponents) if exponents else self.exponents.new_zeros(0, r)
        self.amplitude_draws = amplitudes

    @property
    def modes(self) -> Tensor:
        """Unit directions ``[n, r]``: of every exponent the leading one over all trajectories."""
        amplitudes = torch.stack(self._ready().amplitudes)
        _, _, vh = torch.linalg.svd(amplitudes.transpose(0, 1), full_matrices=False)
        return vh[:, 0].mT

    def interval(self, level: float = 0.95) -> Interval:
        """Bagged intervals about the estimates.

        Raises:
            StateError: fitted without bags. ConfigError: a level outside (0, 1).
        """
        if len(self._ready().draws) < 2:
            raise StateError("there are no bags to take intervals from", fix="OptimisedDMD(bags=50)")
        if not 0 < level < 1:
            raise ConfigError(f"level must lie in (0, 1), got {level!r}", variable="level", fix="level=0.95")
        apart = self.draws - self.exponents
        width = float(torch.special.ndtri(torch.tensor(0.5 + level / 2, dtype=torch.float64)))
        rate, turn = (width * part.square().mean(0).sqrt() for part in (apart.real, apart.imag))
        centre = self.exponents
        return Interval(centre.real - rate, centre.real + rate, centre.imag - turn, centre.imag + turn)

    def predict(self, times: Any, trajectory: int = 0) -> Tensor:
        """``[T, n]`` at any times of one trajectory."""
        omega = self._ready().exponents
        found = _sum(omega, self.amplitudes[trajectory], _clock(times).to(omega.device))
        return found if self._complex else found.real

    def spread(self, times: Any, trajectory: int = 0) -> Tensor:
        """Standard deviation ``[T, n]`` of a new snapshot at these times: over the bags, and the noise."""
        if len(self._ready().draws) < 2:
            raise StateError("there are no bags to take a spread from", fix="OptimisedDMD(bags=50)")
        clock = _clock(times).to(self.exponents.device)
        centre = _sum(self.exponents, self.amplitudes[trajectory], clock)
        many = [_sum(w, a[trajectory], clock) for w, a in zip(self.draws, self.amplitude_draws, strict=True)]
        return ((torch.stack(many) - centre).abs().square().mean(0) + self.noise.square()).sqrt()

    def _ready(self) -> Self:
        if not self.amplitudes:
            raise StateError("nothing is estimated yet", fix="call fit first")
        return self


def _sum(omega: Tensor, amplitudes: Tensor, time: Tensor) -> Tensor:
    return (time[:, None] * omega).exp() @ amplitudes


def _clock(times: Any) -> Tensor:
    return torch.as_tensor(times).to(torch.float64)


def half(mask: Tensor, g: torch.Generator) -> Tensor:
    """``mask [B, T, n]`` with a random half of the rows that hold something, in each series."""
    rows = mask.any(2)
    key = torch.rand(rows.shape, generator=g, dtype=torch.float64, device=mask.device)
    rank = torch.where(rows, key, torch.inf).argsort(1).argsort(1)
    keep = rank < (rows.sum(1, keepdim=True) + 1) // 2
    return mask & keep[..., None]


def pruned(
    time: Tensor, y: Tensor, mask: Tensor, found: Projection, *, stable: bool = False, floor: float = 1e-3
) -> Projection:
    """Without the exponents that the data do not ask for: the weakest goes as long as Schwarz's criterion falls.

    Args:
        floor: what is below this share of the data's size is not asked for either.
    """
    total = float(torch.where(mask, y, torch.zeros_like(y)).abs().square().sum())
    count = int(mask.sum()) * (2 if y.is_complex() else 1)

    def criterion(fit: Projection) -> float:
        error = float(fit.residual.abs().square().sum()) + floor**2 * total
        return count * math.log(max(error, 1e-300)) + _parameters(mask, fit) * math.log(count)

    best = criterion(found)
    while len(found.exponents) > 1:
        rest = found.exponents[~_weakest(time, mask, found, paired=not y.is_complex())]
        if not len(rest):
            break
        fewer = variable_projection(time, y, mask, rest, stable=stable, tolerance=1e-6)
        if criterion(fewer) > best:
            break
        found, best = fewer, criterion(fewer)
    return found


def _parameters(mask: Tensor, fit: Projection) -> int:
    series = int(mask.any(1).sum())
    return len(fit.exponents) * (1 + series) * (2 if fit.residual.is_complex() else 1)


def _weakest(time: Tensor, mask: Tensor, found: Projection, *, paired: bool) -> Tensor:
    """``[r]`` bool: the exponent that moves the data least, with its conjugate."""
    parts = zip(found.exponents, found.amplitudes.transpose(0, 1), strict=True)
    size = torch.stack([((w * time).exp().abs()[..., None] * a[:, None].abs() * mask).square().sum() for w, a in parts])
    weakest = found.exponents[size.argmin()]
    same = (found.exponents - weakest).abs() < 1e-9
    return same | ((found.exponents - weakest.conj()).abs() < 1e-9) if paired else same


def _stacked(x: Any, times: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``time [B, T]``, ``y, mask [B, T, n]``."""
    many = trajectories(x)
    listed = isinstance(times, list | tuple) and len(times) > 0 and getattr(times[0], "ndim", 0) == 1
    clocks = [_clock(t).to(many[0].device) for t in (times if listed else [times])]
    if [len(t) for t in clocks] != [len(part) for part in many]:
        raise ShapeError("times and snapshots differ in length", variable="times", fix="one time for each snapshot")
    for index, t in enumerate(clocks):
        if bool((t.diff() < 0).any()) or not bool(t.isfinite().all()):
            raise DataError("times must be finite and ascend", variable="times", index=index, fix="sort the snapshots")
    pad = torch.nn.utils.rnn.pad_sequence
    time = pad(clocks, batch_first=True)
    mask = pad([~part.isnan() for part in many], batch_first=True)
    y = pad([torch.where(part.isnan(), 0.0, part) for part in many], batch_first=True)
    return time, y, mask


def start_of(time: Tensor, y: Tensor, mask: Tensor, rank: int | str, floor: float = 1e-2) -> Tensor:
    """Exponents ``[r]`` by :class:`DMD` on delay windows of what linear interpolation puts on a regular grid.

    Raises:
        DataError: no series is long enough for the rank.
    """
    grids = [_on_grid(t, v, m) for t, v, m in zip(time, y, mask, strict=True)]
    steps = [step for step, _ in grids if step > 0]
    need = 4 if rank == "auto" else int(rank) + 2
    if not steps or max(int(m.any(1).sum()) for m in mask) < need:
        raise DataError(f"no series has {need} different times with data", fix="pass longer series or a smaller rank")
    dt = sorted(steps)[len(steps) // 2]
    many = [_resampled(t, v, m, dt) for t, v, m in zip(time, y, mask, strict=True)]
    many = [part for part in many if len(part) > 3]
    length = sorted(len(part) for part in many)[len(many) // 2]
    n = y.shape[2]
    least = 1 if rank == "auto" else -(-int(rank) // n)
    delays = max(min(length // 3, _WIDEST // n), min(least, max(len(part) for part in many) - 2), 1)
    model = DMD(rank=rank, delays=delays, dt=dt, floor=floor).fit([part for part in many if len(part) > delays])
    values = model.eigenvalues[model.eigenvalues.abs() > 1e-3]
    return values.log() / dt


def _on_grid(time: Tensor, y: Tensor, mask: Tensor) -> tuple[float, int]:
    """Typical step between rows with data, and their number."""
    seen = time[mask.any(1)].unique()
    return (float(seen.diff().median()), len(seen)) if len(seen) > 2 else (0.0, len(seen))


def _resampled(time: Tensor, y: Tensor, mask: Tensor, dt: float) -> Tensor:
    """``[L, n]`` on a regular grid of step ``dt`` over the span, channel by channel; 0 where never seen."""
    span = time[mask.any(1)]
    if len(span) < 2:
        return y[:0]
    count = min(int((span[-1] - span[0]) / dt + 1e-6) + 1, 20 * len(span))
    grid = span[0] + dt * torch.arange(count, dtype=time.dtype, device=time.device)
    columns = [_line(grid, time[m], v[m]) for v, m in zip(y.mT, mask.mT, strict=True)]
    return torch.stack(columns, 1)


def _line(grid: Tensor, time: Tensor, y: Tensor) -> Tensor:
    if len(time) < 2:
        return y.new_zeros(len(grid)) if not len(y) else y[0].expand(len(grid))
    right = torch.searchsorted(time, grid).clamp(1, len(time) - 1)
    gap = (time[right] - time[right - 1]).clamp(min=1e-12)
    share = ((grid - time[right - 1]) / gap).clamp(0, 1)
    return y[right - 1] * (1 - share) + y[right] * share
