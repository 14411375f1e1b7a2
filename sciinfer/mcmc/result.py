"""What a sampler hands back: draws, how they were made, and what speaks against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .convergence import bulk_ess, mcse_mean, rhat, tail_ess

#: draws of every chain together are trusted from these on (Vehtari et al. 2021)
RHAT, ESS_PER_CHAIN, BFMI = 1.01, 100, 0.3


class Summary(NamedTuple):
    """One number for each parameter, all ``[d]``."""

    mean: np.ndarray
    sd: np.ndarray
    mcse: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray
    rhat: np.ndarray

    def table(self, names: Sequence[str]) -> list[dict[str, float | str]]:
        """A row for each parameter."""
        return [
            {"name": name, **{k: float(column[i]) for k, column in self._asdict().items()}}
            for i, name in enumerate(names)
        ]


@dataclass(frozen=True)
class Draws:
    """Markov chains.

    Args:
        draws: ``[chain, draw, d]``. log_density, accept, energy: ``[chain, draw]``; steps: leapfrog steps, the same.
        diverged: ``[chain, draw]``: transitions whose energy error was beyond repair. warmup_divergences: ``[chain]``.
        step_size: ``[chain]``. max_depth: of the tree; a transition of ``2^max_depth - 1`` steps was cut short.
        evaluations: points at which value and gradient were asked for, warm-up included.
    """

    draws: Tensor
    log_density: Tensor
    accept: Tensor
    energy: Tensor
    steps: Tensor
    diverged: Tensor
    warmup_divergences: Tensor
    step_size: Tensor
    max_depth: int
    evaluations: int
    seconds: float

    @property
    def flat(self) -> Tensor:
        """``[chain * draw, d]``."""
        return self.draws.reshape(-1, self.draws.shape[-1])

    @property
    def divergences(self) -> int:
        """After the warm-up, all chains."""
        return int(self.diverged.sum())

    def summary(self) -> Summary:
        """Means, standard deviations, Monte Carlo errors, effective sample sizes, R-hat."""
        return summarise(self.draws)

    def bfmi(self) -> np.ndarray:
        """Bayesian fraction of missing information of each chain; low where momenta do not reach the tails."""
        energy = self.energy.numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.square(np.diff(energy, axis=1)).mean(axis=1) / energy.var(axis=1)

    def problems(self) -> tuple[str, ...]:
        """What speaks against the draws, one sentence each; empty when nothing does."""
        chains, n = self.draws.shape[:2]
        if n < 4:
            return (f"{n} draws a chain are too few to judge",)
        found, s = [], self.summary()
        if self.divergences:
            found.append(f"{self.divergences} of {chains * n} transitions diverged: raise target_accept")
        cut = int((self.steps >= 2**self.max_depth - 1).sum())
        if cut:
            found.append(f"{cut} trajectories were cut at depth {self.max_depth}: try metric='dense'")
        if not bool((s.rhat <= RHAT).all()):
            found.append(f"R-hat is {np.nanmax(s.rhat):.3f}, above {RHAT}: draw longer")
        fewest = min(np.nanmin(s.ess_bulk), np.nanmin(s.ess_tail))
        if not fewest >= ESS_PER_CHAIN * chains:
            found.append(f"the smallest effective size is {fewest:.0f}, below {ESS_PER_CHAIN} a chain: draw longer")
        if bool((self.bfmi() < BFMI).any()):
            found.append(f"the energy mixes slowly (BFMI {self.bfmi().min():.2f}): reparametrise heavy tails")
        return tuple(found)

    @property
    def converged(self) -> bool:
        """Nothing speaks against the draws."""
        return not self.problems()


def summarise(draws: Tensor) -> Summary:
    """The summary of ``[chain, draw, d]``, for instance of draws that were transformed.

    Example:
        >>> from sciinfer.random import generator
        >>> z = torch.randn(4, 500, 1, generator=generator(0), dtype=torch.float64)
        >>> abs(summarise(z).mean.item()) < 0.1
        True
    """
    z = draws.detach().cpu().numpy()
    return Summary(z.mean((0, 1)), z.std((0, 1), ddof=1), mcse_mean(z), bulk_ess(z), tail_ess(z), rhat(z))


class Record:
    """The growing lists of one chain."""

    def __init__(self) -> None:
        self.rows: list[tuple[np.ndarray, float, float, float, int, bool]] = []
        self.warmup_divergences, self.step = 0, float("nan")

    def column(self, index: int, length: int, dtype: torch.dtype) -> Tensor:
        """One quantity, ``[length]``."""
        return torch.tensor([row[index] for row in self.rows[:length]], dtype=dtype)

    def draws(self, length: int, dim: int) -> Tensor:
        """``[length, d]``."""
        rows = [row[0] for row in self.rows[:length]]
        return torch.as_tensor(np.array(rows, dtype=float).reshape(length, dim))


def collect(records: Sequence[Record], dim: int, max_depth: int, evaluations: int, seconds: float) -> Draws:
    """The chains so far, all cut to the length of the shortest."""
    n = min(len(record.rows) for record in records)

    def stack(index: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.stack([record.column(index, n, dtype) for record in records])

    return Draws(
        draws=torch.stack([record.draws(n, dim) for record in records]),
        log_density=stack(1),
        accept=stack(2),
        energy=stack(3),
        steps=stack(4, torch.int64),
        diverged=stack(5, torch.bool),
        warmup_divergences=torch.tensor([record.warmup_divergences for record in records]),
        step_size=torch.tensor([record.step for record in records], dtype=torch.float64),
        max_depth=max_depth,
        evaluations=evaluations,
        seconds=seconds,
    )
