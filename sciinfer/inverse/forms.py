"""Three ways to the same exact posterior: m x m Cholesky, rank x rank Cholesky, conjugate gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import BudgetError
from .exact import Solution, Whitened
from .linalg import cholesky, conjugate_gradients

_JOSEPH_LIMIT = 2048  # signals up to this size get the positive form of the variance


def by_data(problem: Whitened, draws: int, generator: torch.Generator) -> Solution:
    r"""With :math:`K_w = A_wCA_w^T + I`, of the size of the data."""
    prior, b = problem.prior, problem.b
    gain = prior.apply(problem.adjoint(torch.eye(len(b), dtype=b.dtype, device=b.device)))  # [m, *shape] = A_w C
    kernel = problem.forward(gain) + torch.eye(len(b), dtype=b.dtype, device=b.device)
    lower = cholesky(0.5 * (kernel + kernel.T), name="A C A^T + R").lower
    flat = gain.flatten(1)
    weights = torch.cholesky_solve(b[:, None], lower)[:, 0]
    mean = prior.mean + (weights @ flat).reshape(prior.shape)
    z = torch.linalg.solve_triangular(lower, b[:, None], upper=False)[:, 0]
    stats = {
        "log_evidence": _log_evidence(problem, float((z**2).sum()), lower),
        "residual": float((kernel @ weights - b).norm() / b.norm().clamp(min=torch.finfo(b.dtype).tiny)),
    }
    variance = _variance(problem, flat, lower)
    return Solution(_matheron(problem, flat, lower, draws, generator), mean, variance.reshape(prior.shape), stats)


def _variance(problem: Whitened, gain: Tensor, lower: Tensor) -> Tensor:
    r"""Joseph's form: the diagonal of :math:`(I-GA)C(I-GA)^T + GG^T`, a sum of squares; or the difference."""
    prior = problem.prior
    if max(prior.size, prior.rank) > _JOSEPH_LIMIT:
        half = torch.linalg.solve_triangular(lower, gain, upper=False)
        return (prior.variance().flatten() - (half**2).sum(0)).clamp(min=0.0)
    kalman = torch.cholesky_solve(gain, lower)  # [m, n] = K^-1 A C
    root = prior.root(torch.eye(prior.rank, dtype=gain.dtype, device=gain.device))
    left = root.flatten(1) - problem.forward(root) @ kalman
    return (left**2).sum(0) + (kalman**2).sum(0)


def _matheron(problem: Whitened, gain: Tensor, lower: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Prior draws, each corrected by the gain times its own misfit (Matheron's rule)."""
    prior, b = problem.prior, problem.b
    if not draws:
        return prior.mean.new_zeros(0, *prior.shape)
    signal, misfit = _misfits(problem, draws, generator)
    return signal + (torch.cholesky_solve(misfit.T, lower).T @ gain).reshape(draws, *prior.shape).to(b)


def _misfits(problem: Whitened, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    prior, b = problem.prior, problem.b
    signal = prior.sample(draws, generator)
    noise = torch.randn(draws, len(b), generator=generator, dtype=b.dtype, device=generator.device).to(b.device)
    return signal, b - problem.forward(signal - prior.mean) - noise


def by_signal(problem: Whitened, draws: int, generator: torch.Generator) -> Solution:
    r"""In the prior's own coordinates :math:`x = \mu + L\xi`, with :math:`S = I + H^TH`, :math:`H = A_wL`."""
    prior, b = problem.prior, problem.b
    eye = torch.eye(prior.rank, dtype=b.dtype, device=b.device)
    root = prior.root(eye)
    h = problem.forward(root)  # [rank, m]
    lower = cholesky(eye + h @ h.T, name="I + H^T H").lower
    xi = torch.cholesky_solve((h @ b)[:, None], lower)[:, 0]
    misfit = b - xi @ h
    quadratic = float((misfit**2).sum() + (xi**2).sum())
    normal = h @ misfit - xi
    stats = {
        "log_evidence": _log_evidence(problem, quadratic, lower),
        "residual": float(normal.norm() / (h @ b).norm().clamp(min=torch.finfo(b.dtype).tiny)),
    }
    spread = torch.linalg.solve_triangular(lower, root.flatten(1), upper=False)
    noise = torch.randn(draws, prior.rank, generator=generator, dtype=b.dtype, device=generator.device).to(b.device)
    moved = torch.linalg.solve_triangular(lower.T, noise.T, upper=True).T
    return Solution(
        prior.mean + prior.root(xi + moved), prior.mean + prior.root(xi), (spread**2).sum(0).reshape(prior.shape), stats
    )


def by_cg(problem: Whitened, draws: int, generator: torch.Generator, tolerance: float) -> Solution:
    """Matrix-free: no array larger than the draws; the variance is the draws' mean square about the exact mean."""
    prior, b = problem.prior, problem.b
    signal, right = prior.mean.new_zeros(0, *prior.shape), b[None]
    if draws:
        signal, misfit = _misfits(problem, draws, generator)
        right = torch.cat([right, misfit])

    def matvec(rows: Tensor, partial: Tensor) -> Tensor:
        if problem.meter.budget != (None, None):
            _check_budget(problem, 2 * len(rows), partial)
        return problem.forward(prior.apply(problem.adjoint(rows))) + rows

    found = conjugate_gradients(matvec, right, tolerance=tolerance, iterations=max(20 * len(b), 100))
    _check_converged(problem, found.residual, found.x, tolerance)
    moves = prior.apply(problem.adjoint(found.x))
    mean, sampled = prior.mean + moves[0], signal + moves[1:]
    variance = ((sampled - mean) ** 2).mean(0) if draws else torch.full_like(mean, math.nan)
    stats = {"log_evidence": None, "residual": float(found.residual.max()), "iterations": found.iterations}
    return Solution(sampled, mean, variance, stats)


def _check_budget(problem: Whitened, planned: int, partial: Tensor) -> None:
    meter = problem.meter
    seconds, limit = meter.budget
    over = (limit is not None and meter.nfe + planned > limit) or (seconds is not None and meter.seconds > seconds)
    if over:
        meter.budget = type(meter.budget)()  # the partial mean itself costs one adjoint
        mean = problem.prior.mean + problem.prior.apply(problem.adjoint(partial[:1]))[0]
        raise BudgetError(
            f"the budget is over after {meter.nfe} operator evaluations and {meter.seconds:.3g} s",
            fix="raise the budget, or loosen the tolerance",
            details={"partial": mean, "nfe": meter.nfe},
        )


def _check_converged(problem: Whitened, residual: Tensor, x: Tensor, tolerance: float) -> None:
    worst = float(residual.max())
    if not worst <= max(100 * tolerance, 1e-12):
        raise BudgetError(
            f"conjugate gradients stopped at the relative residual {worst:.3g}, asked for {tolerance:g}",
            fix="loosen the tolerance, or use form='data'",
            details={"partial": problem.prior.mean + problem.prior.apply(problem.adjoint(x[:1]))[0], "residual": worst},
        )


def _log_evidence(problem: Whitened, quadratic: float, lower: Tensor) -> float:
    """log N(y; A mu, A C A^T + R) of the whitened problem, with the change of units undone."""
    half_logdet = float(lower.diagonal().log().sum())
    return -0.5 * quadratic - half_logdet - problem.log_sd - 0.5 * len(problem.b) * math.log(2 * math.pi)
