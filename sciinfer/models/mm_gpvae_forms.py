"""The posterior of independent latent processes under potentials, by the state-space engine or in Fourier form."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..gp.fourier import condition_fourier, even_step, fourier_prior
from ..gp.kernels import RBF
from ..labelled.series import Padded
from ..processes import GaussianPath, LatentGPs, condition_potentials
from ..statespace.sites import Sites

FORMS = ("time", "fourier")


class LatentPosterior(ABC):
    """``q(z) = p(z) prod t(z) / Z`` of ``K`` independent processes. ``divergence [S]``: ``KL(q || p)`` of paths."""

    divergence: Tensor
    log_normaliser: Tensor

    @abstractmethod
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance at the data, ``[S, T, K]`` each."""

    @abstractmethod
    def sample(self, draws: int, generator: torch.Generator) -> Tensor:
        """Joint draws ``[n, S, Q, K]`` at the query."""


class TimePosterior(LatentPosterior):
    """By the exact engine, linear in the number of times, any times."""

    def __init__(self, process: LatentGPs, padded: Padded, potentials: Sites, query: Tensor) -> None:
        self.path: GaussianPath = condition_potentials(process, process.readout(), padded.time, potentials, query)
        self.divergence, self.log_normaliser = self.path.divergence, self.path.log_normaliser

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance at the data."""
        at = self.path.bridge.at_data
        return self.path.mean(at), self.path.cov(at).diagonal(dim1=-2, dim2=-1)

    def sample(self, draws: int, generator: torch.Generator) -> Tensor:
        """Joint draws at the query."""
        return self.path.sample(draws, generator, self.path.bridge.at_query)


class FourierPosteriorForm(LatentPosterior):
    """By independent Fourier coefficients on a circle that is as long as data, query and padding need."""

    def __init__(self, process: LatentGPs, padded: Padded, potentials: Sites, query: Tensor) -> None:
        step = even_step(padded.time, padded.rows)
        whole = torch.cat([padded.time, query], dim=1).detach()
        start, stop = whole.amin(dim=1, keepdim=True), whole.amax(dim=1, keepdim=True)
        self.time, self.query = padded.time - start, query - start
        prior = fourier_prior(process.kernels, float((stop - start).max()), step)
        self.found = condition_fourier(prior, self.time, potentials)
        self.divergence, self.log_normaliser = self.found.divergence, self.found.log_normaliser

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance at the data."""
        return self.found.moments(self.time)

    def sample(self, draws: int, generator: torch.Generator) -> Tensor:
        """Joint draws at the query."""
        return self.found.sample(draws, generator, self.query)


def infer_latents(form: str, process: LatentGPs, padded: Padded, potentials: Sites, query: Tensor) -> LatentPosterior:
    """The posterior in the form asked for.

    The Fourier form of a Matérn kernel holds on the grid only: at query times the engine answers, as exactly.

    Raises:
        TimeError: Fourier form of data on no even grid.
    """
    if form == "fourier":
        if not query.shape[1] or all(isinstance(kernel, RBF) for kernel in process.kernels):
            return FourierPosteriorForm(process, padded, potentials, query)
        even_step(padded.time, padded.rows)
    return TimePosterior(process, padded, potentials, query)
