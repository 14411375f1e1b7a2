"""Markov chain Monte Carlo: the No-U-Turn sampler, and whether its chains have mixed."""

from .convergence import bulk_ess, mcse_mean, rhat, tail_ess
from .nuts import nuts
from .result import Draws, Summary, summarise

__all__ = ["Draws", "Summary", "bulk_ess", "mcse_mean", "nuts", "rhat", "summarise", "tail_ess"]
