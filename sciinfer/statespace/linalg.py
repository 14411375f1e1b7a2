"""Small dense linear algebra that does not fail on matrices that are positive semi-definite up to round-off."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import NumericalError

#: relative jitters tried in turn; round-off of a well-scaled covariance is far below the largest
_LADDER = (0.0, 1e-14, 1e-12, 1e-10)
_LADDER_SINGLE = (0.0, 1e-7, 1e-6, 1e-5)


def cholesky(P: Tensor, *, what: str = "covariance") -> Tensor:
    """Lower Cholesky factor; adds at most ``1e-10`` (single precision ``1e-5``) of the largest diagonal entry.

    Raises:
        NumericalError: the matrix is not positive definite; names the batch index and the smallest eigenvalue.
    """
    peak = P.diagonal(dim1=-2, dim2=-1).abs().amax(-1, keepdim=True).clamp(min=torch.finfo(P.dtype).tiny)
    info = torch.zeros((), dtype=torch.int32)
    for jitter in _LADDER if P.dtype == torch.float64 else _LADDER_SINGLE:
        shifted = P if jitter == 0.0 else P + torch.diag_embed((peak * jitter).expand(P.shape[:-1]))
        factor, info = torch.linalg.cholesky_ex(shifted)
        if not bool(info.any()):
            return factor
    index = tuple(int(i) for i in torch.nonzero(info)[0]) if info.ndim else ()
    matrix = P[index].detach()
    finite = bool(torch.isfinite(matrix).all())
    lowest = float(torch.linalg.eigvalsh(matrix)[0]) if finite else float("nan")
    raise NumericalError(
        f"the {what} is not positive definite (smallest eigenvalue {lowest:.3g})",
        index=index,
        fix="check for infinite parameters, noise variances of zero, or duplicated noise-free observations",
    )


def psd_root(P: Tensor) -> Tensor:
    """A square root ``R R^T = P`` of a positive semi-definite matrix, by eigenvalues clipped at zero (no gradient)."""
    values, vectors = torch.linalg.eigh(P.detach())
    return vectors * values.clamp(min=0.0).sqrt().unsqueeze(-2)


def solve_spd(P: Tensor, X: Tensor) -> Tensor:
    """``P^{-1} X`` for a covariance ``P``."""
    return torch.cholesky_solve(X, cholesky(P))
