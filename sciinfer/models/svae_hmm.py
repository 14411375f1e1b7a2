"""Hidden discrete states behind an emission for each, their posterior by recognition potentials."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..labelled.series import Padded, SeriesBatch
from ..processes.hidden_markov import likeliest_path
from ..processes.jump import JumpProcess
from ..processes.jump_posterior import TiltedStates, data_steps, exact_potentials, tilt
from .base import Loss
from .emissions import Emission
from .neural_mjp import NeuralMJP
from .svae_recognition import RowReader, bound_loss, fade, hide_rows


class Segments(NamedTuple):
    """Where which state was: ``time [S, T]``, ``rows [S, T]`` (False = padding), ``probability [S, T, K]`` and the
    ``likeliest [S, T]`` path as a whole."""

    time: Tensor
    rows: Tensor
    probability: Tensor
    likeliest: Tensor


class StateReader(nn.Module):
    """Log-potentials ``[S, T, K]`` of the states, zero where nothing is visible.

    Args:
        channels, states, hidden: sizes. encoder: see :class:`~sciinfer.models.svae_recognition.RowReader`.
    """

    def __init__(self, channels: int, states: int, hidden: int, encoder: str, *, generator: torch.Generator) -> None:
        super().__init__()
        self.rows = RowReader(channels, states, hidden, encoder, generator=generator)

    def forward(self, padded: Padded) -> Tensor:
        """Each row's own, whatever the chain says."""
        return self.rows(padded) * padded.mask.any(-1)[..., None]


class HiddenMarkovSVAE(NeuralMJP):
    """``z`` jumps among ``K`` states in continuous time, ``y ~ p(y | z)``, ``q(z) = p(z) prod_t exp e_t(z_t) / Z``.

    ``ELBO = sum_t E_q log p(y_t | z_t) - KL(q || p)``, all sums exact; without a reader the potentials are the
    likelihood itself and the bound is the evidence.

    Args:
        process, emission: the parts. reader: of the potentials; None for the likelihood itself.
        hide: share of the rows whose potentials are left out in a training step, while they are still decoded.
        warmup: fraction of training over which the divergences fade in. seed_start: of the clustering at the start.
    """

    def __init__(
        self,
        process: JumpProcess,
        emission: Emission,
        reader: StateReader | None,
        *,
        hide: float = 0.0,
        warmup: float = 0.0,
        seed_start: int = 0,
    ) -> None:
        super().__init__(process, emission, None, warmup=warmup, seed_start=seed_start)
        self.reader, self.hide = reader, hide

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative ELBO per observed entry; the terms sum to it once the warm-up is over."""
        terms = self.elbo_terms(batch, generator=generator)
        return bound_loss(terms, ("fit", "start", "path"), batch, fade(progress, self.warmup))

    def elbo_terms(self, batch: SeriesBatch, *, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Expected log-likelihood, ``KL(q_0 || pi)`` and path divergence ``[S]``; only what is hidden is random."""
        padded, log_e = self._seen(batch)
        hidden = hide_rows(padded, self.hide if self.reader is not None else 0.0, generator)
        q = self._posterior(hidden, log_e)
        fit = (q.log_marginal.exp() * log_e).sum((1, 2))
        start = (q.log_start.exp() * (q.log_start - self.process.start())).sum(-1)
        return fit, start, q.divergence

    def _posterior(self, padded: Padded, log_e: Tensor) -> TiltedStates:
        potential = log_e if self.reader is None else self.reader(padded)
        return tilt(self.process, padded.time, potential, exact_potentials(self.process, padded.time, potential))

    @torch.no_grad()
    def segments(self, batch: SeriesBatch) -> Segments:
        """The states at the data: marginal probabilities, and the likeliest path as a whole."""
        padded, log_e = self._seen(batch)
        potential = log_e if self.reader is None else self.reader(padded)
        q = self._posterior(padded, log_e)
        path = likeliest_path(self.process.start(), data_steps(self.process, padded.time), potential)
        return Segments(padded.time, padded.rows, q.log_marginal.exp(), path)

    def durations(self) -> Tensor:
        """Expected time in each state, model time, ``[K]``."""
        return -1 / self.process.rates().diagonal()

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Conjugate: quasi-Newton on all data. With a reader: Adam."""
        if self.reader is None:
            return {"optimiser": "lbfgs", "steps": 80, "learning_rate": 1.0, "validation": 0.0, "batch_size": None}
        return {"optimiser": "adam", "steps": 400, "learning_rate": 1e-2, "validation": 0.0, "batch_size": 64}

    def summary(self) -> dict[str, float]:
        """Rates, shares of time, and mean durations."""
        spent = {f"duration[{k}]": float(x) for k, x in enumerate(self.durations().detach())}
        return super().summary() | spent
