"""Gaussian processes over general inputs: Vecchia, sparse inverse Cholesky (DKLGP), inducing points."""

from .covariances import Covariance, Isotropic, Matern, OneInput, SquaredExponential, as_covariance
from .dense import DensePosterior, dense_log_likelihood
from .dklgp import DKLGP
from .dklgp_posterior import DKLPosterior
from .optimise import FitReport
from .ordering import maximin
from .predict import VecchiaPosterior
from .svgp import SparseGP, SparsePosterior
from .vecchia import VecchiaGP

__all__ = [
    "Covariance",
    "DKLGP",
    "DKLPosterior",
    "DensePosterior",
    "FitReport",
    "Isotropic",
    "Matern",
    "OneInput",
    "SparseGP",
    "SparsePosterior",
    "SquaredExponential",
    "VecchiaGP",
    "VecchiaPosterior",
    "as_covariance",
    "dense_log_likelihood",
    "maximin",
]
