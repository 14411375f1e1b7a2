"""Jumps without memory: compound Poisson and stable paths, the same in any batch and on any grid."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from ..errors import ConfigError, TimeError
from ..random import derive
from .dyadic import counting, whole
from .hashing import mix64, node_codes, normal_pairs, path_codes, uniforms

#: mean number of jumps in a cell, and the most that a cell can have (beyond 2^-40)
_MEAN, _MOST = 2.0, 24
#: numbers made at once
_BLOCK = 1 << 18


class Jumps(ABC):
    """Independent pure-jump paths; J(t0) = 0, right-continuous.

    Args:
        seed: any integer.
        dim: number of independent components.
        t0, t1: ends of the time axis.
        batch, keys: as for :class:`~sciinfer.integrate.BrownianPath`.
    """

    def __init__(
        self,
        seed: int,
        dim: int,
        t0: float,
        t1: float,
        cells: int,
        batch: int | Sequence[int],
        keys: Tensor | None,
        device: torch.device | str,
    ) -> None:
        if not (math.isfinite(t0) and math.isfinite(t1) and t1 > t0):
            raise TimeError(f"t1 must be later than t0, got {t0} and {t1}", fix="pass finite t0 < t1")
        if dim < 1:
            raise ConfigError(f"dim must be positive, got {dim}", fix="pass the number of components of the state")
        self.seed, self.dim, self.t0, self.t1, self.cells = seed, dim, float(t0), float(t1), cells
        shape = (batch,) if isinstance(batch, int) else tuple(batch)
        self.keys = (counting(shape) if keys is None else whole(keys)).to(device)
        self._codes = path_codes(derive(seed, "jumps"), self.keys.flatten(), dim).flatten()

    @property
    def shape(self) -> torch.Size:
        """``[*batch, dim]``."""
        return torch.Size([*self.keys.shape, self.dim])

    def increments(self, times: Tensor) -> Tensor:
        """J(t_k+1) - J(t_k) over an ascending or descending grid ``times [N + 1]``: ``[N, *batch, dim]``, float64.

        Raises:
            TimeError: a time lies outside [t0, t1].
        """
        grid = times.detach().to("cpu", torch.float64)
        slack = (self.t1 - self.t0) * 1e-12
        outside = ~((grid >= self.t0 - slack) & (grid <= self.t1 + slack))
        if bool(outside.any()):
            index = int(outside.nonzero()[0])
            raise TimeError(
                f"time {float(grid[index])} lies outside the jumps' [{self.t0}, {self.t1}]",
                index=index,
                fix="make the path with t0 and t1 that span all times",
            )
        down = len(grid) > 1 and bool(grid[0] > grid[-1])
        found = self._up((grid.flip(0) if down else grid).to(self._codes.device))
        return (-found.flip(0) if down else found).reshape(len(found), *self.shape)

    def _up(self, grid: Tensor) -> Tensor:
        width = (self.t1 - self.t0) / self.cells
        first = min(max(int((float(grid[0]) - self.t0) / width) - 1, 0), self.cells - 1)
        last = min(int((float(grid[-1]) - self.t0) / width) + 2, self.cells)
        found = torch.zeros(len(grid) - 1, len(self._codes), dtype=torch.float64, device=grid.device)
        count = max(1, _BLOCK // max(1, len(self._codes) * self._many()))
        for start in range(first, last, count):
            cells = torch.arange(start, min(start + count, last), device=grid.device)
            when, size = self._jumps(cells, width)
            # a jump at t belongs to the step (a, b] with a < t <= b
            step = torch.searchsorted(grid, when.contiguous()) - 1
            inside = (step >= 0) & (step < len(found))
            found.scatter_add_(
                0, step.clamp(0, max(len(found) - 1, 0)), torch.where(inside, size, torch.zeros_like(size))
            )
        return found

    @abstractmethod
    def _many(self) -> int:
        """Jumps of a cell at most."""

    @abstractmethod
    def _jumps(self, cells: Tensor, width: float) -> tuple[Tensor, Tensor]:
        """Times and sizes of all jumps in the cells, each ``[n, K]``; size 0 where there is none."""


@final
class JumpPath(Jumps):
    """Compound Poisson: jumps come at ``rate`` per unit time, each component on its own; refinement is exact.

    Args:
        seed, dim, t0, t1, batch, keys: see :class:`Jumps`. t0 and t1 are part of the path's identity, and so is rate.
        rate: expected number of jumps per unit of time and component.
        size: makes a jump from a standard normal number (elementwise); the number itself by default.

    Example:
        >>> import torch
        >>> path = JumpPath(0, dim=1, rate=3.0, t1=100.0, size=lambda n: 1 + 0 * n)
        >>> fine = path.increments(torch.linspace(0, 100, 1001))
        >>> bool((fine.sum(0) == path.increments(torch.tensor([0.0, 100.0]))[0]).all()), bool(220 < fine.sum() < 380)
        (True, True)
    """

    def __init__(
        self,
        seed: int,
        dim: int,
        *,
        rate: float,
        t0: float = 0.0,
        t1: float = 1.0,
        batch: int | Sequence[int] = (),
        keys: Tensor | None = None,
        size: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if not (rate > 0 and math.isfinite(rate)):
            raise ConfigError(f"rate must be positive and finite, got {rate}", fix="pass jumps per unit of time")
        cells = max(1, math.ceil(rate * (t1 - t0) / _MEAN)) if math.isfinite(t1 - t0) else 1
        super().__init__(seed, dim, t0, t1, cells, batch, keys, device)
        self.rate, self.size = float(rate), size

    def _many(self) -> int:
        return _MOST

    def _jumps(self, cells: Tensor, width: float) -> tuple[Tensor, Tensor]:
        chance = uniforms(mix64(node_codes(cells, torch.zeros_like(cells))[:, None] ^ self._codes))[0]
        mean, k = self.rate * width, torch.arange(_MOST, dtype=torch.float64, device=chance.device)
        law = torch.exp(k * math.log(mean) - mean - torch.lgamma(k + 1.0))
        count = torch.searchsorted(law.cumsum(0), chance)
        most = max(1, int(count.max()))
        number = torch.arange(1, most + 1, device=cells.device)
        codes = node_codes(cells[:, None], 2 * number).flatten()
        part = uniforms(mix64(codes[:, None] ^ self._codes))[0].unflatten(0, (-1, most))
        draw = normal_pairs(self._codes, node_codes(cells[:, None], 2 * number + 1).flatten())[:, 0]
        size = (draw if self.size is None else self.size(draw)).unflatten(0, (-1, most))
        exists = number[:, None] <= count[:, None]
        when = self.t0 + (cells[:, None, None] + part) * width
        return when.flatten(0, 1), torch.where(exists, size, torch.zeros_like(size)).flatten(0, 1)


@final
class StablePath(Jumps):
    """Alpha-stable Levy motion, heavy-tailed: a walk of exact increments on a grid of ``cells``.

    J(t) = sum of the increments whose cell ends by t: exact on every grid whose times are edges of cells, the same path
    on all of them; between the edges it is constant. Characteristic function of J(t), beta = 0: exp(-t |scale u|^alpha)
    (with t in units where scale is that of one unit of time).

    Args:
        seed, dim, t0, t1, batch, keys: see :class:`Jumps`.
        alpha: in (0, 2]; 2 is Brownian motion of variance 2 scale^2 t, smaller is heavier in the tails.
        beta: skewness in [-1, 1] (0 for alpha = 1).
        scale: of one unit of time.
        cells: number of equal cells of [t0, t1].

    Example:
        >>> import torch
        >>> path = StablePath(0, dim=1, alpha=1.5, cells=64)
        >>> total = path.increments(torch.tensor([0.0, 1.0]))[0]
        >>> bool((path.increments(torch.linspace(0, 1, 65)).sum(0) - total).abs() < 1e-12)
        True
    """

    def __init__(
        self,
        seed: int,
        dim: int,
        *,
        alpha: float,
        beta: float = 0.0,
        scale: float = 1.0,
        t0: float = 0.0,
        t1: float = 1.0,
        cells: int = 1024,
        batch: int | Sequence[int] = (),
        keys: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 0 < alpha <= 2:
            raise ConfigError(f"alpha must lie in (0, 2], got {alpha}", fix="use 1.5, or a Brownian path for 2")
        if not -1 <= beta <= 1 or (alpha == 1 and beta != 0):
            raise ConfigError(f"beta must lie in [-1, 1], and be 0 for alpha = 1; got {beta}", fix="use beta=0")
        if not scale > 0 or cells < 1:
            raise ConfigError(
                f"scale and cells must be positive, got {scale} and {cells}", fix="use scale=1, cells=1024"
            )
        super().__init__(seed, dim, t0, t1, cells, batch, keys, device)
        self.alpha, self.beta, self.scale = float(alpha), float(beta), float(scale)

    def _many(self) -> int:
        return 1

    def _jumps(self, cells: Tensor, width: float) -> tuple[Tensor, Tensor]:
        first, second = uniforms(mix64(node_codes(cells, torch.zeros_like(cells))[:, None] ^ self._codes))
        size = stable(first, second, self.alpha, self.beta) * (self.scale * width ** (1.0 / self.alpha))
        # an edge met by a grid time to rounding belongs to the step that ends there
        edges = self.t0 + (cells[:, None] + 1) * width
        return (edges - 1e-9 * width).expand_as(size), size


def stable(first: Tensor, second: Tensor, alpha: float, beta: float = 0.0) -> Tensor:
    """Standard alpha-stable numbers (S1 parameters, scale 1) from two uniforms in (0, 1).

    References: Chambers, Mallows, Stuck (1976), A method for simulating stable random variables.

    Example:
        >>> import torch
        >>> half = torch.tensor(0.5, dtype=torch.float64)
        >>> float(stable(half, half, 1.5))
        0.0
    """
    angle, wait = (first - 0.5) * math.pi, -torch.log(second)
    if alpha == 1.0:
        return torch.tan(angle)
    lean = beta * math.tan(0.5 * math.pi * alpha)
    shift, factor = math.atan(lean) / alpha, (1.0 + lean * lean) ** (0.5 / alpha)
    turned = alpha * (angle + shift)
    tail = (torch.cos(angle - turned) / wait) ** ((1.0 - alpha) / alpha)
    return factor * torch.sin(turned) / torch.cos(angle) ** (1.0 / alpha) * tail
