"""``copula``: windows with their own marginal distributions and the dependence of a Gaussian, nothing to train."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..labelled.schema import Schema
from ..labelled.series import SeriesBatch
from .base import Draws, Loss, Model
from .copula_margins import LEVELS, margins, pair_covariance, slopes_of, to_normal, to_value
from .window_grid import GridRows, grid_step, to_grid
from .window_model import require_whole

__entries__ = [
    {
        "kind": "models",
        "name": "copula",
        "target": "copula",
        "summary": "Gaussian copula over windows: generates, fills gaps and forecasts inside a window, in closed form",
        "references": [
            "Nelsen (2006), An introduction to copulas",
            "Liu, Lafferty, Wasserman (2009), The nonparanormal",
        ],
        "options": {
            "window": "cells of a window, on the data's grid",
            "shrinkage": "weight of independent noise in the dependence, None: from the size of the data",
        },
    },
]

#: largest covariance, windows read, numbers in one pass
_LARGEST, _MOST, _PASS = 3000, 20_000, 20_000_000


def copula(schema: Schema, *, seed: int = 0, window: int = 24, shrinkage: float | None = None) -> Copula:
    r"""Build a Gaussian copula over windows for regular data of this schema.

    :math:`y_{tc} = F_{tc}^{-1}(\Phi(z_{tc}))`, :math:`z \sim N(0, (1 - s) R + s I)` over the ``T d`` cells of a window:
    ``F`` from ranks by position and channel, ``R`` the covariance of the normal scores (over the pairs that were
    seen). What is known conditions ``z`` exactly. A longer series is cut into windows that do not know of each other.

    Args:
        schema: channels and time scale. seed: unused. window: ``T``. shrinkage: ``s``.

    Raises:
        ConfigError: an option out of its range.

    References:
        Liu, Lafferty, Wasserman (2009), The nonparanormal

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> copula(Schema(axis, None, (Variable("a"),), (Channel("a"),)), window=6).dependence.shape
        torch.Size([6, 6])
    """
    require_whole(window, "window", 2, 24)
    if window * schema.n_channels > _LARGEST:
        raise ConfigError(
            f"a window of {window} cells x {schema.n_channels} channels has more than {_LARGEST} entries",
            variable="window",
            fix=f"window={max(_LARGEST // schema.n_channels, 2)}, or fewer channels",
        )
    numeric = isinstance(shrinkage, int | float) and not isinstance(shrinkage, bool)
    if shrinkage is not None and not (numeric and 0 < shrinkage < 1):
        raise ConfigError(
            f"shrinkage must be in (0, 1) or None, got {shrinkage!r}", variable="shrinkage", fix="shrinkage=0.01"
        )
    return Copula(schema.n_channels, window, shrinkage)


class Copula(Model):
    """See :func:`copula`."""

    step: Tensor
    knots: Tensor
    dependence: Tensor

    def __init__(self, channels: int, window: int, shrinkage: float | None) -> None:
        super().__init__()
        self.channels, self.window, self.shrinkage = channels, window, shrinkage
        size = window * channels
        f64 = torch.float64
        normal = torch.special.ndtri(torch.tensor(LEVELS, dtype=f64))
        known = {
            "step": torch.ones((), dtype=f64), "knots": normal.expand(window, channels, -1).clone(),
            "dependence": torch.eye(size, dtype=f64),
        }  # fmt: skip
        for name, value in known.items():
            self.register_buffer(name, value)
        self.log_nugget = nn.Parameter(torch.tensor(math.log(shrinkage or 0.01), dtype=f64))

    @torch.no_grad()
    def initialise(self, batch: SeriesBatch) -> None:
        """Ranks and covariance of the windows."""
        batch = batch.to(self.step.device, self.step.dtype).drop_empty()
        if batch.observed == 0:
            return
        self.step.fill_(grid_step(batch))
        values, seen = self._training_windows(to_grid(batch, self.step, model="copula"))
        self.knots.copy_(margins(values, seen))
        z = torch.where(seen, to_normal(values, self.knots), 0.0).flatten(1)
        self.dependence.copy_(pair_covariance(z, seen.flatten(1)))
        if self.shrinkage is None:
            size = z.shape[1]
            self.log_nugget.fill_(math.log(min(0.01 * (size / len(z)) ** 2, 0.1) + 1e-6))

    def _training_windows(self, grid: GridRows) -> tuple[Tensor, Tensor]:
        """Every window of every series, ``[N, T, C]``; shorter series count as the last cells of one."""
        T = self.window
        values, mask = (nn.functional.pad(part, (0, 0, T, 0)) for part in (grid.values, grid.mask))
        cell = torch.arange(1, values.shape[1] - T + 1, device=values.device)
        first = (values.shape[1] - grid.cells).clamp(max=values.shape[1] - 1)
        whole = cell >= torch.minimum(first, torch.as_tensor(values.shape[1] - T, device=values.device))[:, None]
        series, start = whole.nonzero().unbind(1)
        every = max(1, -(-len(series) // _MOST))
        series, start = series[::every, None], start[::every, None] + 1
        at = start + torch.arange(T, device=values.device)
        return values[series, at], mask[series, at]

    def correlation(self) -> Tensor:
        """``(1 - s) R + s I``, ``[T C, T C]``."""
        nugget = self.log_nugget.exp()
        size = len(self.dependence)
        eye = torch.eye(size, dtype=self.dependence.dtype, device=self.dependence.device)
        return (self.dependence + nugget * eye) / (1 + nugget)

    def _tiles(self, grid: GridRows, after: int, before: int) -> tuple[Tensor, Tensor, int]:
        """Windows ``[S, n, T, C]`` that end ``after`` cells past the last row and reach ``before`` cells back from it.

        Also the index, along ``n T``, of the last row.
        """
        T = self.window
        count = max(-(-(before + 1 + after) // T), 1)
        back = count * T - after
        short = max(back - grid.values.shape[1], 0)
        parts = []
        for part in (grid.values, grid.mask):
            padded = nn.functional.pad(part, (0, 0, short, after))
            parts.append(padded[:, padded.shape[1] - count * T :].unflatten(1, (count, T)))
        return parts[0], parts[1], back - 1

    def log_likelihood(self, batch: SeriesBatch) -> Tensor:
        """Sum over windows, counted from the last row, of the log density of what was seen, ``[S]``."""
        grid = to_grid(batch, self.step, model="copula")
        values, seen, _ = self._tiles(grid, 0, grid.values.shape[1] - 1)
        S, count = values.shape[:2]
        z = to_normal(values.flatten(0, 1), self.knots)
        slope = slopes_of(values.flatten(0, 1), self.knots).log()
        mask = seen.flatten(0, 1).flatten(1)
        factor = self._factor(mask)
        white = torch.linalg.solve_triangular(factor, torch.where(mask, z.flatten(1), 0.0)[..., None], upper=False)
        entries = torch.where(mask, slope.flatten(1), 0.0).sum(1) - 0.5 * math.log(2 * math.pi) * mask.sum(1)
        entries = entries - 0.5 * white.square().sum((1, 2)) - factor.diagonal(dim1=1, dim2=2).log().sum(1)
        return entries.view(S, count).sum(1)

    def _factor(self, mask: Tensor) -> Tensor:
        """Cholesky factors ``[B, T C, T C]`` of the seen part, ones elsewhere."""
        both = mask[:, :, None] & mask[:, None]
        eye = torch.eye(mask.shape[1], dtype=self.dependence.dtype, device=mask.device)
        return torch.linalg.cholesky(torch.where(both, self.correlation(), eye))

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative log density per entry; only the shrinkage is left to train."""
        value = -self.log_likelihood(batch).sum() / max(batch.observed, 1)
        return Loss(value, {"windows": value.detach()})

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint draws inside each window, given what was seen in it."""
        grid = to_grid(batch, self.step, model="copula")
        start = times.amin(1) if times.numel() else grid.end
        end = torch.where(grid.cells > 0, grid.end, start)
        place = (times - end[:, None]) / self.step
        after = max(math.ceil(float(place.max()) - 1e-6), 0) if place.numel() else 0
        before = max(math.ceil(-float(place.min()) - 1e-6), 0) if place.numel() else 0
        self._require_inside(after, bool((grid.cells > 0).any()))
        values, seen, last = self._tiles(grid, after, before)
        path = self._condition(values, seen, draws, generator)
        place = (place + last).clamp(0, path.shape[2] - 1)
        found = _between(path, place)
        return Draws(found, found)

    def _require_inside(self, after: int, known: bool) -> None:
        if after >= self.window and known:
            raise ConfigError(
                f"copula was asked {after} cells of {float(self.step):.4g} after the last row, but a window has "
                f"{self.window} and must hold some of the data",
                dim="time",
                fix=f"window={2 * after}, or take a forecaster such as nlinear or var-kalman",
            )

    def _condition(self, values: Tensor, seen: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """Draws ``[n, S, cells, C]``: prior draws, moved by what they miss of the seen cells."""
        S, count, T, C = values.shape
        correlation = self.correlation()
        root = torch.linalg.cholesky(correlation)
        size, total = T * C, S * count
        flat, mask = values.flatten(0, 1), seen.flatten(0, 1).flatten(1)
        z = torch.where(mask, to_normal(flat, self.knots).flatten(1), 0.0)
        white = torch.randn((draws, total, size), generator=generator, dtype=z.dtype, device=z.device)
        width = max(1, _PASS // (size * (size + draws)))
        parts = []
        for rows in torch.arange(total, device=z.device).split(width):
            prior = white[:, rows] @ root.mT
            missed = torch.where(mask[rows], z[rows] - prior, 0.0)
            pull = torch.cholesky_solve(missed.permute(1, 2, 0), self._factor(mask[rows])).permute(2, 0, 1)
            moved = prior + torch.where(mask[rows], pull, 0.0) @ correlation
            found = to_value(moved.unflatten(2, (T, C)), self.knots)
            parts.append(torch.where(seen.flatten(0, 1)[rows], flat[rows], found))
        return torch.cat(parts, dim=1).view(draws, S, count * T, C)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Windows one after the other, each of its own."""
        blank = self.knots.new_zeros(1, self.channels)
        start = SeriesBatch(times[:1], blank, blank.bool(), torch.tensor([0, 1], device=times.device))
        return self.predict(start, times[None], draws=draws, generator=generator)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """No steps: :meth:`initialise` knows everything."""
        return {"optimiser": "adam", "steps": 0, "learning_rate": 0.01, "validation": 0.0, "batch_size": 64}

    def summary(self) -> dict[str, float]:
        """Step and shrinkage."""
        nugget = float(self.log_nugget.detach().exp())
        return {"step": float(self.step), "shrinkage": nugget / (1 + nugget)}


def _between(path: Tensor, place: Tensor) -> Tensor:
    low = place.floor().long()
    # a time that is a cell's but for rounding is the cell's
    low = torch.where((place - place.round()).abs() < 1e-6, place.round().long(), low)
    high = (low + 1).clamp(max=path.shape[2] - 1)
    share = (place - low).clamp(min=0.0)
    share = torch.where(share < 1e-6, 0.0, share)[None, ..., None]
    pick = lambda at: path.gather(2, at[None, ..., None].expand(len(path), -1, -1, path.shape[3]))  # noqa: E731
    return torch.where(share > 0, (1 - share) * pick(low) + share * pick(high), pick(low))
