"""One door to the exact engine: picks the back-end, filters, smooths, samples."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .linalg import psd_root
from .problem import Filtered, LinearGaussian, Smoothed, matvec, outer_form, symmetrise
from .scan import filter_scan, smooth_scan
from .score import exact_loglik, filter_stretches, single
from .sequential import filter_sequential, smooth_sequential
from .sqrt import filter_sqrt
from .steady import steady_loglik

Backend = Literal["auto", "sequential", "scan", "sqrt"]
#: series times state dimension from which a step of the loop is bound by arithmetic, not by overhead
WIDE = 192


def choose_backend(problem: LinearGaussian, backend: Backend = "auto") -> Literal["sequential", "scan", "sqrt"]:
    """The loop for wide, short batches, where it does three times less arithmetic; the scan otherwise (measured).

    Square roots in single precision, where no gradient of the moments is wanted.
    """
    if backend != "auto":
        return backend
    if single(problem) and not _graph_wanted(problem):
        return "sqrt"
    batch, length = problem.A.shape[:2]
    if problem.A.device.type != "cpu":
        return "scan" if length > 8 else "sequential"
    return "sequential" if length <= 8 or batch * problem.A.shape[-1] > WIDE else "scan"


def _graph_wanted(problem: LinearGaussian) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in problem)


def kalman_filter(problem: LinearGaussian, *, backend: Backend = "auto") -> Filtered:
    """Filtered and predicted moments and the log-likelihood.

    ``"auto"`` keeps a graph only if a gradient is wanted; without one, stretches of time are filtered side by side.
    """
    if backend == "auto" and not single(problem) and not _graph_wanted(problem):
        return filter_stretches(problem)
    return _FILTERS[choose_backend(problem, backend)](problem)


_FILTERS = {"scan": filter_scan, "sequential": filter_sequential, "sqrt": filter_sqrt}


def log_likelihood(problem: LinearGaussian, *, backend: Backend = "auto") -> Tensor:
    """Whitened log-likelihood of each series, ``[B]``: where only this number and its gradient are wanted.

    ``"auto"`` keeps no graph of the steps: its derivative is the exact score, and there is no second one. The named
    back-ends are the filter's, differentiable any number of times. Without a gradient, equal steps and complete rows
    are filtered with a gain that is frozen once it stands still (:mod:`~sciinfer.statespace.steady`).
    """
    if backend != "auto":
        return kalman_filter(problem, backend=backend).loglik
    steady = None if _graph_wanted(problem) else steady_loglik(problem)
    return exact_loglik(problem) if steady is None else steady.loglik


def kalman_smoother(problem: LinearGaussian, filtered: Filtered, *, backend: Backend = "auto") -> Smoothed:
    """Moments given all data."""
    if choose_backend(problem, backend) == "scan":
        return smooth_scan(problem, filtered)
    return smooth_sequential(problem, filtered)


def sample_paths(problem: LinearGaussian, filtered: Filtered, gains: Tensor, *, draws: int, noise: Tensor) -> Tensor:
    """Joint draws of the whole path, backwards: ``x_k | x_{k+1} ~ N(m_k + G_k (x_{k+1} - m^-_{k+1}), Sigma_k)``.

    Args:
        gains: from the smoother.
        noise: ``[draws, B, T, d]`` standard normal.

    Returns:
        ``[draws, B, T, d]``.
    """
    eye = torch.eye(problem.A.shape[-1], dtype=noise.dtype, device=noise.device)
    left = eye - gains[:, :-1] @ problem.A[:, 1:]
    inner = outer_form(left, filtered.cov[:, :-1]) + outer_form(gains[:, :-1], problem.Q[:, 1:])
    roots = psd_root(symmetrise(torch.cat([inner, filtered.cov[:, -1:]], dim=1)))
    offsets = filtered.mean.clone()
    offsets[:, :-1] -= matvec(gains[:, :-1], filtered.mean_pred[:, 1:])
    steps = offsets + matvec(roots, noise)
    path = [steps[:, :, -1]]
    for k in range(noise.shape[2] - 2, -1, -1):
        path.append(matvec(gains[:, k], path[-1]) + steps[:, :, k])
    return torch.stack(path[::-1], dim=2)
