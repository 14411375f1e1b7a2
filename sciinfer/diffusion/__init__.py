"""Diffusion priors: noise schedules, denoisers, samplers, likelihoods."""

from .denoiser import Counted, Denoiser, Product
from .exact_denoisers import GaussianDenoiser, MixtureDenoiser, kernel_density
from .krylov import root_times
from .likelihood import log_prob
from .noise import RowNoise
from .samplers import (
    DEIS,
    ERSDE,
    AdaptiveSDE,
    Ancestral,
    DPMSolver,
    Euler,
    ExactAncestral,
    Heun,
    Langevin,
    PredictorCorrector,
    Sampler,
    UniPC,
    sample,
)
from .schedule import EDM, SCHEDULES, VE, VP, Cosine, Linear, Schedule, SubVP

__all__ = [
    "DEIS",
    "EDM",
    "ERSDE",
    "SCHEDULES",
    "VE",
    "VP",
    "AdaptiveSDE",
    "Ancestral",
    "Cosine",
    "Counted",
    "DPMSolver",
    "Denoiser",
    "Euler",
    "ExactAncestral",
    "GaussianDenoiser",
    "Heun",
    "Langevin",
    "Linear",
    "MixtureDenoiser",
    "PredictorCorrector",
    "Product",
    "RowNoise",
    "Sampler",
    "Schedule",
    "SubVP",
    "UniPC",
    "kernel_density",
    "log_prob",
    "root_times",
    "sample",
]
