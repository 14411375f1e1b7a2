"""Linear dynamics that switch among regimes, behind a decoder; steps of one length on gappy data."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import BudgetError, ConfigError
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian, Likelihood
from ..nets import Decoder, LinearDecoder
from ..processes.bridge import take
from ..processes.hidden_markov import likeliest_path
from ..processes.potential_chain import Potentials
from ..processes.switching import (
    SwitchingLinear,
    SwitchingPosterior,
    chain_steps,
    expected_log_steps,
    infer_switching,
    natural_tables,
    step_moments,
)
from ..processes.switching_draws import roll_out, sample_switching, simulate_switching
from .base import Draws, Loss, Model
from .grids import pad_for
from .svae_hmm import Segments
from .svae_recognition import GaussianReader, bound_loss, conjugate_potentials, expected_fit, fade, hide_rows

#: places of all series together that a pass may have
_MOST = 4_000_000


class StepGrid(NamedTuple):
    """Whole steps since the first time of each series.

    ``at_data [S, T]``, ``at_query [S, Q]``: places, ascending from 0, those of queries may lie after the last datum;
    ``moves [S, N]``: is the step into this place there (False at place 0 and after the last datum of the series).
    """

    at_data: Tensor
    at_query: Tensor
    moves: Tensor

    @property
    def last(self) -> Tensor:
        """Place of the last datum, ``[S]``."""
        return self.moves.sum(1)

    def gather(self, rows: Potentials) -> Potentials:
        """Potentials of rows to potentials of places; rows of one place are multiplied."""
        return Potentials(*(self._add(part) for part in rows))

    def _add(self, part: Tensor) -> Tensor:
        blank = part.new_zeros(*self.moves.shape, *part.shape[2:])
        index = self.at_data.reshape(*self.at_data.shape, *([1] * (part.ndim - 2))).expand_as(part)
        return blank.scatter_add(1, index, part)


def step_grid(padded: Padded, step: float, query: Tensor | None = None) -> StepGrid:
    """Times to the nearest whole step from the first datum of the series; earlier queries extend it backwards.

    Raises:
        BudgetError: there would be too many steps.
    """
    time = padded.time
    start = time[:, :1]
    data = ((time - start) / step).round().long()
    asked = data[:, :0] if query is None else ((query - start) / step).round().long()
    early = torch.cat([data[:, :1], asked], dim=1).amin(dim=1, keepdim=True)
    data, asked = data - early, asked - early
    last = data[:, -1]
    places = int(last.max()) + 1
    if places * len(time) > _MOST or (asked.numel() and int(asked.max()) > _MOST):
        raise BudgetError(f"{len(time)} series of up to {places} steps are too many", fix="a longer step")
    column = torch.arange(places, device=time.device)
    return StepGrid(data, asked, (column > 0) & (column <= last[:, None]))


class SwitchingSVAE(Model):
    """``s`` a Markov chain, ``x_t ~ N(A_s x_{t-1} + b_s, Q_s)``, ``y ~ likelihood(decoder(x))``, ``q(s) q(x)``.

    ``ELBO = sum_t E_q log p(y_t | x_t) - KL(q(s) q(x) || p)`` at the fixed point of the two exact updates under the
    potentials, which ``reader`` emits from each row; without one they are the likelihood itself.

    Args:
        process, decoder, likelihood: the parts. reader: of the potentials; None where they are conjugate.
        step: length of a step, model time. sweeps: most updates of the posterior. hide: share of the rows whose
            potentials are left out in a training step. warmup: fraction of training over which the divergences fade in.
        natural: closed-form sweeps before training. rounds: of Gibbs sampling on top of the mean field in predictions.
        seed_start: of the starts.
    """

    def __init__(
        self,
        process: SwitchingLinear,
        decoder: Decoder,
        likelihood: Likelihood,
        reader: GaussianReader | None,
        *,
        step: float = 1.0,
        sweeps: int = 50,
        hide: float = 0.0,
        warmup: float = 0.0,
        natural: int = 40,
        rounds: int = 5,
        seed_start: int = 0,
    ) -> None:
        super().__init__()
        self.process, self.decoder, self.likelihood, self.reader = process, decoder, likelihood, reader
        self.step, self.sweeps, self.hide, self.warmup = step, sweeps, hide, warmup
        self.natural, self.rounds, self.seed_start = natural, rounds, seed_start

    # -- training ------------------------------------------------------------------------------------------------

    def initialise(self, batch: SeriesBatch) -> None:
        """Several starts of the regimes, then closed-form sweeps, on the linear-Gaussian part."""
        from .svae_start import start_switching

        self.likelihood.initialise(batch.values, batch.mask)
        start_switching(self, batch)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative ELBO per observed entry; the terms sum to it once the warm-up is over."""
        terms = self.elbo_terms(batch, generator=generator)
        return bound_loss(terms, ("fit", "switching", "moving"), batch, fade(progress, self.warmup))

    def elbo_terms(self, batch: SeriesBatch, *, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Expected log-likelihood, divergence of the regimes and of the path, ``[S]``."""
        padded = pad_for(batch)
        grid = step_grid(padded, self.step)
        hidden = hide_rows(padded, self.hide if self.reader is not None else 0.0, generator)
        q = self.infer(grid, grid.gather(self.potentials(hidden)))
        mean, cov = take(q.path.smoothed.mean, grid.at_data), take(q.path.smoothed.cov, grid.at_data)
        fit = expected_fit(self.decoder, self.likelihood, padded, mean, cov, generator)
        return fit, q.switching, q.moving

    def potentials(self, padded: Padded) -> Potentials:
        """Of each row, ``[S, T, d, d]`` and ``[S, T, d]``."""
        if self.reader is not None:
            return self.reader(padded)
        if not isinstance(self.decoder, LinearDecoder) or not isinstance(self.likelihood, Gaussian):
            raise ConfigError("conjugate potentials need a linear decoder and Gaussian noise", fix="give a reader")
        return conjugate_potentials(self.decoder, self.likelihood, padded)

    def infer(self, grid: StepGrid, potentials: Potentials, weight: Tensor | None = None) -> SwitchingPosterior:
        """The fixed point; its gradient is exact where the potentials are the likelihood, else that of two sweeps."""
        unroll = 0 if self.reader is None else 2
        return infer_switching(self.process, potentials, grid.moves, sweeps=self.sweeps, unroll=unroll, weight=weight)

    # -- answers -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def segments(self, batch: SeriesBatch) -> Segments:
        """The regimes at the data: marginal probabilities, and the likeliest path as a whole."""
        padded = pad_for(batch)
        grid = step_grid(padded, self.step)
        q = self.infer(grid, grid.gather(self.potentials(padded)))
        moments = q.path.smoothed
        steps = step_moments(moments.mean, moments.cov, q.path.crossed())
        log_e = expected_log_steps(natural_tables(self.process.laws()), steps, grid.moves)
        path = likeliest_path(self.process.chain.start(), chain_steps(self.process.chain, grid.moves), log_e)
        probability = take(q.states.log_marginal.exp(), grid.at_data)
        return Segments(padded.time, padded.rows, probability, path.gather(1, grid.at_data))

    def durations(self) -> Tensor:
        """Expected time in each regime, model time, ``[K]``."""
        return self.step * self.process.chain.durations()

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Posterior paths inside the data, simulated on after its end; ``latent`` is the state, then one for the regime
        that is active and zero for the others."""
        padded = pad_for(batch, times)
        grid = step_grid(padded, self.step, times)
        potentials = grid.gather(self.potentials(padded))
        q = self.infer(grid, potentials)
        s, x = sample_switching(
            self.process, q, potentials, grid.moves, draws=draws, generator=generator, rounds=self.rounds
        )
        beyond = grid.at_query - grid.last[:, None]
        ahead = int(beyond.clamp(min=0).max()) if beyond.numel() else 0
        at_last = grid.last.expand(draws, -1)[..., None]
        later = roll_out(self.process, _pick(s, at_last)[..., 0], _pick(x, at_last)[:, :, 0], ahead, generator)
        where = grid.at_query.expand(draws, *grid.at_query.shape)
        after = (beyond - 1).clamp(min=0).expand_as(where)
        inside = torch.minimum(where, at_last)
        known, path = _pick(s, inside), _pick(x, inside)
        if ahead:
            known = torch.where(beyond > 0, _pick(later[0], after), known)
            path = torch.where((beyond > 0)[..., None], _pick(later[1], after), path)
        return self._draws(known, path, generator)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Draws from the prior."""
        places = ((times - times[:1]) / self.step).round().long()
        s, x = simulate_switching(self.process, int(places.max()) + 1, draws, generator)
        return self._draws(s[:, None, places], x[:, None, places], generator)

    def _draws(self, s: Tensor, x: Tensor, generator: torch.Generator) -> Draws:
        eta = self.decoder(x)
        active = nn.functional.one_hot(s, self.process.states).to(x.dtype)
        latent = torch.cat([x, active], dim=-1)
        return Draws(self.likelihood.mean(eta), self.likelihood.sample(eta, generator), latent)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Conjugate: the closed-form sweeps have done most of it. With a reader: Adam on minibatches."""
        if self.reader is None:
            return {"optimiser": "adam", "steps": 30, "learning_rate": 2e-3, "validation": 0.0, "batch_size": 32}
        return {"optimiser": "adam", "steps": 400, "learning_rate": 5e-3, "validation": 0.0, "batch_size": 32}

    def summary(self) -> dict[str, float]:
        """Mean duration, slowest decay and its turning (radians) of each regime, per step; noise."""
        with torch.no_grad():
            values = torch.linalg.eigvals(self.process.laws().A)
            spent = self.durations()
        found: dict[str, float] = {}
        for k, one in enumerate(values):
            slowest = one[one.abs().argmax()]
            found |= {f"duration[{k}]": float(spent[k]), f"radius[{k}]": float(slowest.abs())}
            found[f"turn[{k}]"] = float(slowest.angle().abs())
        if isinstance(self.likelihood, Gaussian):
            found |= {f"noise[{c}]": float(sd) for c, sd in enumerate(self.likelihood.noise.detach()[:8])}
        return found


def _pick(path: Tensor, where: Tensor) -> Tensor:
    """``path[n, s, where[n, s, k]]`` for ``path [n, S, N, ...]``."""
    index = where.reshape(*where.shape, *([1] * (path.ndim - 3))).expand(*where.shape, *path.shape[3:])
    return path.gather(2, index)
