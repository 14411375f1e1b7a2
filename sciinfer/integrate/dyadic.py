"""What Brownian paths have in common: seed, keys, cells, and times as integers.

A path is refined by halving its cells. Every interval is known by its level and by its index among all intervals of
that level, counted over the cells; the normals that split it come from a hash of these and of the path's key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError, TimeError
from .hashing import path_codes

#: normals made at once; larger blocks leave the cache and are slower
_BLOCK = 1 << 17
#: the same for an accelerator, where a call costs more than its numbers
_BLOCK_AWAY = 1 << 24
#: longest block in steps, so that a diverging integration is noticed early
_LONGEST = 2048


class NoisePath(ABC):
    """A batch of independent Brownian paths, W(t0) = 0; see :class:`~sciinfer.integrate.BrownianPath` for arguments."""

    #: whether the path knows the space-time area of every step
    area = False

    def __init__(
        self,
        seed: int,
        dim: int,
        t0: float = 0.0,
        t1: float = 1.0,
        *,
        batch: int | Sequence[int] = (),
        keys: Tensor | None = None,
        knots: Tensor | None = None,
        levels: int = 32,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        _check(seed, dim, levels, dtype)
        shape = (batch,) if isinstance(batch, int) else tuple(batch)
        self.keys = (counting(shape) if keys is None else whole(keys)).to(device)
        edges = (
            torch.tensor([t0, t1], dtype=torch.float64, device="cpu")
            if knots is None
            else knots.detach().to("cpu", torch.float64)
        )
        self.seed, self.dim, self.levels, self.dtype, self.knots = seed, dim, levels, dtype, _ascending(edges)
        self.device = self.keys.device
        self._codes = path_codes(seed, self.keys.flatten(), dim).flatten()
        self._gaps = self.knots.diff().to(self.device)

    @property
    def shape(self) -> torch.Size:
        """``[*batch, dim]``: shape of W at one time."""
        return torch.Size([*self.keys.shape, self.dim])

    @property
    def t0(self) -> float:
        """First knot."""
        return float(self.knots[0])

    @property
    def t1(self) -> float:
        """Last knot."""
        return float(self.knots[-1])

    def __call__(self, ta: float, tb: float | None = None) -> Tensor:
        """``[*batch, dim]``: W(ta), or W(tb) - W(ta)."""
        times = torch.tensor([ta] if tb is None else [ta, tb], dtype=torch.float64, device="cpu")
        values = self.at(times)
        return values[0] if tb is None else values[1] - values[0]

    @abstractmethod
    def at(self, times: Tensor) -> Tensor:
        """W at ``times [Q]``: ``[Q, *batch, dim]``."""

    @abstractmethod
    def increments(self, times: Tensor) -> Iterator[Tensor]:
        """Increments over the grid ``times [N + 1]``, block by block, ``[n, *batch, dim]``."""

    @abstractmethod
    def uniform(self, level: int) -> Iterator[Tensor]:
        """Increments of the grid with ``2^level`` equal steps in every cell, block by block."""

    @abstractmethod
    def window(self, level: int, first: int, stop: int) -> Tensor:
        """Increments of the steps ``first..stop - 1`` of that grid, ``[n, *batch, dim]``, without the ones before."""

    def level_of(self, times: Tensor) -> int | None:
        """L if the grid ``times [N + 1]`` has ``2^L`` equal steps in every cell, else None."""
        flat = self._flat_positions(times)
        return self._uniform_level(flat) if len(flat) > 1 else None

    @property
    def block(self) -> int:
        """Steps whose noise is made at once."""
        return self._steps_per_block()

    def _steps_per_block(self) -> int:
        # a power of two; at least 8, so that each recursion climbs two levels or more
        many = _BLOCK if self.device.type == "cpu" else _BLOCK_AWAY
        fit = max(8, min(_LONGEST, many // max(1, len(self._codes))))
        return 1 << (fit.bit_length() - 1)

    def _queries(self) -> int:
        # single times looked up at once
        return max(1, min(_LONGEST, _BLOCK // max(1, len(self._codes))))

    def _check_level(self, level: int) -> None:
        if not 0 <= level <= self.levels:
            raise ConfigError(f"level must lie in 0..{self.levels}, got {level}", fix="raise levels of the path")

    # --- times to integers: cell * 2^levels + position in the cell

    def _flat_positions(self, times: Tensor) -> Tensor:
        wanted = times.detach().to("cpu", torch.float64)
        if wanted.dim() != 1:
            raise ShapeError(f"times must have one dim, got shape {tuple(wanted.shape)}", fix="pass times [Q]")
        slack = (self.knots[-1] - self.knots[0]) * 1e-12
        outside = ~((wanted >= self.knots[0] - slack) & (wanted <= self.knots[-1] + slack))
        if bool(outside.any()):
            index = int(outside.nonzero()[0])
            raise TimeError(
                f"time {float(wanted[index])} lies outside the path's [{self.t0}, {self.t1}]",
                index=index,
                fix="make the path with knots that span all times",
            )
        cell = (torch.searchsorted(self.knots, wanted, right=True) - 1).clamp(0, len(self._gaps) - 1)
        left, right = self.knots[cell], self.knots[cell + 1]
        place = ((wanted - left) / (right - left) * 2.0**self.levels).round().to(torch.int64)
        return ((cell << self.levels) + place.clamp(0, 1 << self.levels)).to(self.device)

    def _uniform_level(self, flat: Tensor) -> int | None:
        steps, cells = len(flat) - 1, len(self._gaps)
        per_cell = steps // cells
        if per_cell < 1 or per_cell * cells != steps or per_cell & (per_cell - 1):
            return None
        level = per_cell.bit_length() - 1
        if level > self.levels:
            return None
        grid = torch.arange(steps + 1, device=self.device) << (self.levels - level)
        return level if torch.equal(flat, grid) else None

    def _out(self, values: Tensor) -> Tensor:
        return values.to(self.dtype).reshape(len(values), *self.shape)


def counting(shape: tuple[int, ...]) -> Tensor:
    """0, 1, 2, ... in the shape of a batch."""
    count = 1
    for size in shape:
        count *= size
    return torch.arange(count, device="cpu").reshape(shape)


def whole(keys: Tensor) -> Tensor:
    """Keys as int64; a ConfigError for fractions, which would make different paths the same."""
    if keys.dtype.is_floating_point or keys.dtype.is_complex:
        raise ConfigError(f"keys must be integers, got {keys.dtype}", variable="keys", fix="keys=torch.arange(batch)")
    return keys.to(torch.int64)


def _ascending(knots: Tensor) -> Tensor:
    if knots.dim() != 1 or len(knots) < 2:
        raise ShapeError(f"knots must be [C + 1] with C >= 1, got shape {tuple(knots.shape)}", fix="pass t0 and t1")
    bad = ~(knots.diff() > 0) | ~torch.isfinite(knots.diff())
    if bool(bad.any()):
        index = int(bad.nonzero()[0])
        raise TimeError(f"knots must ascend strictly, knot {index + 1} does not", index=index + 1, fix="sort the times")
    return knots


def _check(seed: int, dim: int, levels: int, dtype: torch.dtype) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"a seed must be an int, got {type(seed).__name__}", fix="pass seed=0 or another integer")
    if dim < 1:
        raise ConfigError(f"dim must be positive, got {dim}", fix="pass the number of noise components")
    if not 1 <= levels <= 40:
        raise ConfigError(f"levels must lie in 1..40, got {levels}", fix="keep the default 32")
    if dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"paths are float32 or float64, got {dtype}", fix="pass dtype=torch.float64")
