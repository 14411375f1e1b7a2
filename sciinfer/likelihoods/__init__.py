"""Likelihoods: masks everywhere, closed-form expectations where they exist."""

from .base import Likelihood
from .bernoulli import Bernoulli
from .gaussian import Gaussian
from .poisson import Poisson
from .student_t import StudentT

__all__ = ["Bernoulli", "Gaussian", "Likelihood", "Poisson", "StudentT"]
