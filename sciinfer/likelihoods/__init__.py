"""Likelihoods: masks everywhere, closed-form expectations where they exist."""

from .base import Likelihood
from .bernoulli import Bernoulli
from .gaussian import Gaussian
from .joint import JointLikelihood, channel_supports
from .negative_binomial import NegativeBinomial
from .ordinal import Ordinal
from .point_process import PointProcess, point_process_rows
from .poisson import Poisson
from .student_t import StudentT

__all__ = [
    "Bernoulli",
    "Gaussian",
    "JointLikelihood",
    "Likelihood",
    "NegativeBinomial",
    "Ordinal",
    "PointProcess",
    "Poisson",
    "StudentT",
    "channel_supports",
    "point_process_rows",
]
