"""``var-kalman``: a vector autoregression on a regular grid where any entry may be missing, by the exact engine."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..labelled.schema import Schema
from ..labelled.series import SeriesBatch
from ..statespace import LinearGaussian, kalman_filter, kalman_smoother, log_likelihood, sample_paths, whiten
from .base import Draws, Loss, Model
from .var_steps import Moments, cell_moments, compared, expected_moments, solved, stationary
from .window_grid import GridRows, grid_step, held, to_grid
from .window_model import require_whole

__entries__ = [
    {
        "kind": "models",
        "name": "var-kalman",
        "target": "var_kalman",
        "summary": "vector autoregression with missing entries: exact filter and smoother, expectation-maximisation",
        "references": [
            "Luetkepohl (2005), New introduction to multiple time series analysis",
            "Shumway, Stoffer (1982), An approach to time series smoothing and forecasting using the EM algorithm",
        ],
        "options": {
            "order": "lags",
            "iterations": "of expectation-maximisation after the start by regression",
            "ridge": "penalty, in rows that say that nothing changes",
        },
    },
]

#: cells that expectation-maximisation reads at most, observation noise in units of a channel's spread, most cells asked
_READ, _NOISE, _AHEAD = 10_000, 0.02, 200_000


def var_kalman(schema: Schema, *, seed: int = 0, order: int = 1, iterations: int = 2, ridge: float = 10.0) -> VarKalman:
    r"""Build a vector autoregression for regular data of this schema.

    :math:`x_t = m + \sum_{k \le p} A_k (x_{t-k} - m) + e_t`, :math:`e_t \sim N(0, Q)`, :math:`y_t = x_t` with a little
    noise, at the observed entries. Likelihood, gaps and forecasts are exact; nothing is filled in beforehand.

    Args:
        schema: channels and time scale. seed: unused. order: ``p``. iterations: of expectation-maximisation.
        ridge: of the regression.

    Raises:
        ConfigError: an option out of its range.

    References:
        Shumway, Stoffer (1982), An approach to time series smoothing and forecasting using the EM algorithm

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> var_kalman(Schema(axis, None, (Variable("a"),), (Channel("a"),)), order=2).coefficients.shape
        torch.Size([1, 2])
    """
    require_whole(order, "order", 1, 1)
    require_whole(iterations, "iterations", 0, 3)
    if not isinstance(ridge, int | float) or isinstance(ridge, bool) or not 0 <= ridge < math.inf:
        raise ConfigError(f"ridge must be >= 0, got {ridge!r}", variable="ridge", fix="ridge=10.0")
    return VarKalman(schema.n_channels, order, iterations, float(ridge))


class VarKalman(Model):
    """See :func:`var_kalman`. Between cells, paths are straight lines."""

    step: Tensor
    against: Tensor

    def __init__(self, channels: int, order: int, iterations: int, ridge: float) -> None:
        super().__init__()
        self.channels, self.order, self.iterations, self.ridge = channels, order, iterations, ridge
        f64 = torch.float64
        self.coefficients = nn.Parameter((0.5 / order * torch.eye(channels, dtype=f64)).repeat(1, order))
        self.root = nn.Parameter(0.5 * torch.eye(channels, dtype=f64))
        self.level = nn.Parameter(torch.zeros(channels, dtype=f64))
        self.log_noise = nn.Parameter(torch.full((channels,), math.log(_NOISE), dtype=f64))
        self.register_buffer("step", torch.ones((), dtype=f64))
        self.register_buffer("against", torch.ones(2, dtype=f64))

    def _set(self, coefficients: Tensor, covariance: Tensor) -> None:
        with torch.no_grad():
            self.coefficients.copy_(coefficients)
            self.root.copy_(torch.linalg.cholesky(covariance))

    @torch.no_grad()
    def initialise(self, batch: SeriesBatch) -> None:
        """Regression on held values, then expectation-maximisation through the smoother."""
        batch = batch.to(self.step.device, self.step.dtype).drop_empty()
        if batch.observed == 0:
            return
        self.step.fill_(grid_step(batch))
        count = batch.mask.sum(0)
        mean = batch.values.sum(0) / count.clamp(min=1)
        spread = ((batch.values - mean).square() * batch.mask).sum(0) / count.clamp(min=1)
        spread = torch.where(count > 1, spread, 1.0).sqrt().clamp(min=1e-6)
        self.level.copy_(mean)
        self.log_noise.copy_((_NOISE * spread).log())
        grid = self._left(to_grid(batch, self.step, model="var-kalman"))
        filled = held(grid, mean) - mean
        self.against.copy_(compared(filled, grid, self.order, self.ridge, spread))
        self._set(*solved(cell_moments(filled, grid.cells, self.order), self.ridge, spread))
        width = _READ // max(len(grid.cells), 1) + self.order + 1
        grid = grid._replace(
            values=grid.values[:, -width:] if len(grid.cells) == 1 else grid.values[:, :width],
            mask=grid.mask[:, -width:] if len(grid.cells) == 1 else grid.mask[:, :width],
            cells=grid.cells.clamp(max=width),
        )
        for _ in range(self.iterations):
            self._set(*solved(self._expected(grid), self.ridge, spread))

    def _expected(self, grid: GridRows) -> Moments:
        problem, _ = self._problem(grid.values, grid.mask)
        filtered = kalman_filter(problem)
        smoothed = kalman_smoother(problem, filtered)
        return expected_moments(smoothed, grid.cells, self.channels)

    @staticmethod
    def _left(grid: GridRows) -> GridRows:
        """The first row in the first cell."""
        T = grid.values.shape[1]
        at = torch.arange(T, device=grid.values.device) + (T - grid.cells)[:, None]
        inside = (at < T)[..., None]
        at = at.clamp(max=T - 1)[..., None].expand_as(grid.values)
        return grid._replace(values=grid.values.gather(1, at) * inside, mask=grid.mask.gather(1, at) & inside)

    def _problem(self, values: Tensor, mask: Tensor) -> tuple[LinearGaussian, Tensor]:
        """State ``(x_t, ..., x_{t-p+1}) - m``; and the logarithm of the whitening's Jacobian, ``[S]``."""
        S, T, C = values.shape
        d = C * self.order
        lower = torch.eye(d, dtype=values.dtype, device=values.device)[: d - C]
        A = torch.cat([self.coefficients, lower])
        root = self.root.tril()
        noise = root @ root.mT + 1e-12 * torch.eye(C, dtype=root.dtype, device=root.device)
        Q = nn.functional.pad(noise, (0, d - C, 0, d - C))
        H = torch.eye(C, d, dtype=values.dtype, device=values.device).expand(S, T, C, d)
        precision = (-2 * self.log_noise).exp().expand(S, T, C)
        H, y, jacobian = whiten(H, values - self.level, precision, mask)
        P0 = stationary(A, Q)
        start = A.new_zeros(S, d)
        return LinearGaussian(
            A.expand(S, T, d, d), Q.expand(S, T, d, d), H, y, start, P0.expand(S, d, d)
        ), jacobian.sum(1)  # fmt: skip

    def log_likelihood(self, batch: SeriesBatch) -> Tensor:
        """``log p(y)`` of each series, ``[S]``."""
        grid = self._left(to_grid(batch, self.step, model="var-kalman"))
        problem, jacobian = self._problem(grid.values, grid.mask)
        return log_likelihood(problem) + jacobian

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """``-log p(y)`` per observed entry."""
        value = -self.log_likelihood(batch).sum() / max(batch.observed, 1)
        return Loss(value, {"loglik": -value.detach()})

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint draws of the path and exact moments: smoothing, imputation and forecasts alike."""
        right = to_grid(batch, self.step, model="var-kalman")
        grid = self._left(right)
        some = right.cells > 0
        first = torch.where(some, right.end - (right.cells - 1) * self.step, times.amin(1) if times.numel() else 0.0)
        place = self._places(batch, times, first, grid)
        before = int((-place.min()).ceil().clamp(min=0)) if place.numel() else 0
        cells = max(int(place.max().ceil()) + 1 if place.numel() else 1, grid.values.shape[1]) + before
        if cells > _AHEAD:
            raise ConfigError(f"var-kalman was asked over {cells} steps", dim="time", fix=f"at most {_AHEAD} steps")
        pad = (0, 0, before, cells - before - grid.values.shape[1])
        problem, _ = self._problem(nn.functional.pad(grid.values, pad), nn.functional.pad(grid.mask, pad))
        place = place + before
        asked = max(int(place.min().floor()), 0) if place.numel() else 0
        problem, place = _from_cell(problem, asked), place - asked
        filtered = kalman_filter(problem)
        smoothed = kalman_smoother(problem, filtered)
        C = self.channels
        noise = torch.randn((draws, *filtered.mean.shape), generator=generator, dtype=times.dtype, device=times.device)
        path = sample_paths(problem, filtered, smoothed.gain, draws=draws, noise=noise)[..., :C] + self.level
        signal = _between_cells(path, place)
        mean, variance = _cell_answer(smoothed.mean[..., :C] + self.level, smoothed.cov[..., :C, :C], place)
        sd = self.log_noise.exp()
        white = torch.randn(signal.shape, generator=generator, dtype=times.dtype, device=times.device)
        return Draws(signal, signal + sd * white, None, mean, variance + sd.square())

    def _places(self, batch: SeriesBatch, times: Tensor, first: Tensor, grid: GridRows) -> Tensor:
        """Cells of the times, ``[S, Q]``, counted from the row before each."""
        by_clock = (times - first[:, None]) / self.step
        padded = batch.drop_empty().padded()
        gap = (padded.time.diff(dim=1) / self.step).round()
        cell = nn.functional.pad(gap, (1, 0)).cumsum(1)
        if not len(batch.drop_empty().time):
            return by_clock
        row = (torch.searchsorted(padded.time.contiguous(), times.contiguous(), right=True) - 1).clamp(min=0)
        row = torch.minimum(row, (padded.rows.sum(1, keepdim=True) - 1).clamp(min=0))
        since = (times - padded.time.gather(1, row)) / self.step
        return torch.where((grid.cells > 0)[:, None], cell.gather(1, row) + since, by_clock)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Draws from the stationary distribution."""
        blank = self.level.detach().new_zeros(1, self.channels)
        start = SeriesBatch(times[:1], blank, blank.bool(), torch.tensor([0, 1], device=times.device))
        found = self.predict(start, times[None], draws=draws, generator=generator)
        return Draws(found.signal, found.observation)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """No steps: :meth:`initialise` does the work."""
        return {"optimiser": "lbfgs", "steps": 0, "learning_rate": 1.0, "validation": 0.0, "batch_size": None}

    def summary(self) -> dict[str, float]:
        """Step, the largest modulus of an eigenvalue, and the absolute error over 24 steps of the regression (fitted to
        three quarters, on the rest) over that of the last value and of the value 24 steps ago: above one, these win."""
        d = self.coefficients.shape[1]
        lower = torch.eye(d, dtype=self.step.dtype, device=self.step.device)[: d - self.channels]
        A = torch.cat([self.coefficients.detach(), lower])
        last, season = self.against.tolist()
        return {
            "step": float(self.step), "largest_eigenvalue": float(torch.linalg.eigvals(A.double()).abs().max()),
            "error_over_last_value": last, "error_over_value_24_steps_ago": season,
        }  # fmt: skip


def _from_cell(problem: LinearGaussian, first: int) -> LinearGaussian:
    """The problem from cell ``first`` on; what comes before is in the moments that it starts from."""
    if first == 0:
        return problem
    early = problem._replace(**{name: getattr(problem, name)[:, : first + 1] for name in ("A", "Q", "H", "y")})
    start = kalman_filter(early)
    later = {name: getattr(problem, name)[:, first:] for name in ("A", "Q", "H", "y")}
    return problem._replace(**later, m0=start.mean_pred[:, first], P0=start.cov_pred[:, first])


def _between_cells(path: Tensor, place: Tensor) -> Tensor:
    low = place.floor().long().clamp(0, path.shape[2] - 1)
    high = (low + 1).clamp(max=path.shape[2] - 1)
    share = (place - low)[None, ..., None]
    pick = lambda at: path.gather(2, at[None, ..., None].expand(len(path), -1, -1, path.shape[3]))  # noqa: E731
    return torch.where(share > 0, (1 - share) * pick(low) + share * pick(high), pick(low))


def _cell_answer(mean: Tensor, cov: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Mean on the straight line; variances (not covariances) on it too, which is cautious between cells."""
    spread = cov.diagonal(dim1=-2, dim2=-1)
    return _between_cells(mean[None], place)[0], _between_cells(spread[None], place)[0].clamp(min=0.0)
