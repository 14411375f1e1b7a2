"""Markov chain Monte Carlo: the No-U-Turn sampler, stochastic-gradient HMC, and whether chains have mixed."""

from .convergence import bulk_ess, mcse_mean, rhat, tail_ess
from .nuts import nuts
from .result import Draws, Summary, summarise
from .sghmc import sghmc, slope_of

__all__ = [
    "Draws",
    "Summary",
    "bulk_ess",
    "mcse_mean",
    "nuts",
    "rhat",
    "sghmc",
    "slope_of",
    "summarise",
    "tail_ess",
]
