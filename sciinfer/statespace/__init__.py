"""Exact linear-Gaussian inference: filter, smoother, log-likelihood and joint samples."""

from .compress import compress_rows
from .cross import cross_covariance, joint_covariance
from .discretise import discretise, unique_steps
from .engine import Backend, choose_backend, kalman_filter, kalman_smoother, log_likelihood, sample_paths
from .linalg import cholesky, psd_root, solve_spd
from .problem import Filtered, LinearGaussian, Smoothed, log_jacobian, matvec, outer_form, symmetrise, whiten
from .recurrence import linear_recurrence
from .scan import associative_scan
from .score import exact_loglik
from .sqrt import filter_sqrt
from .steady import steady_loglik

__all__ = [
    "Backend",
    "Filtered",
    "LinearGaussian",
    "Smoothed",
    "associative_scan",
    "cholesky",
    "choose_backend",
    "compress_rows",
    "cross_covariance",
    "discretise",
    "exact_loglik",
    "filter_sqrt",
    "joint_covariance",
    "kalman_filter",
    "kalman_smoother",
    "linear_recurrence",
    "log_jacobian",
    "log_likelihood",
    "matvec",
    "outer_form",
    "psd_root",
    "sample_paths",
    "solve_spd",
    "steady_loglik",
    "symmetrise",
    "unique_steps",
    "whiten",
]
