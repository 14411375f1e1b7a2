"""Small dense linear algebra that does not fail on matrices that are positive semi-definite up to round-off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import NumericalError

#: relative jitters tried in turn; round-off of a well-scaled covariance is far below the largest
_LADDER = (1e-14, 1e-12, 1e-10)
_LADDER_SINGLE = (1e-7, 1e-6, 1e-5)


class Jittered(NamedTuple):
    """Lower factors, the largest relative jitter that any took, and ``info``: not zero where even that failed."""

    lower: Tensor
    jitter: float
    info: Tensor


def jittered_cholesky(P: Tensor, ladder: Sequence[float], scale: Callable[[Tensor], Tensor]) -> Jittered:
    """Lower Cholesky factors of ``P [..., n, n]``; those that fail are tried again with more on their diagonals.

    Args:
        ladder: jitters, in units of ``scale``. scale: of diagonals ``[k, n]``, one number for each.

    Example:
        >>> P = torch.stack([torch.eye(2), torch.ones(2, 2)]).double()
        >>> found = jittered_cholesky(P, (1e-20, 1e-12), lambda d: d.mean(-1))
        >>> found.jitter, bool(found.info.any()), bool((found.lower[0] == torch.eye(2)).all())
        (1e-12, False, True)
    """
    lower, info = torch.linalg.cholesky_ex(P)
    if not bool(info.any()):
        return Jittered(lower, 0.0, info)
    shape, taken = P.shape, 0.0
    flat, lower, info = P.reshape(-1, *shape[-2:]), lower.reshape(-1, *shape[-2:]), info.reshape(-1)
    size = scale(flat.detach().diagonal(dim1=-2, dim2=-1))[:, None]
    for taken in ladder:
        bad = torch.nonzero(info)[:, 0]
        redone, again = torch.linalg.cholesky_ex(
            flat[bad] + torch.diag_embed((taken * size[bad]).expand(-1, shape[-1]))
        )
        lower, info = lower.index_put((bad,), redone), info.index_put((bad,), again)
        if not bool(info.any()):
            break
    return Jittered(lower.reshape(shape), taken, info.reshape(shape[:-2]))


def cholesky(P: Tensor, *, what: str = "covariance") -> Tensor:
    """Lower Cholesky factor; adds at most ``1e-10`` (single precision ``1e-5``) of the largest diagonal entry.

    Raises:
        NumericalError: the matrix is not positive definite; names the batch index and the smallest eigenvalue.
    """
    found = jittered_cholesky(P, _LADDER if P.dtype == torch.float64 else _LADDER_SINGLE, _peak)
    if not bool(found.info.any()):
        return found.lower
    index = tuple(int(i) for i in torch.nonzero(found.info)[0]) if found.info.ndim else ()
    raise NumericalError(
        f"the {what} is not positive definite (smallest eigenvalue {_lowest(P[index].detach()):.3g})",
        index=index,
        fix="check for infinite parameters, noise variances of zero, or duplicated noise-free observations",
    )


def _peak(diagonal: Tensor) -> Tensor:
    return diagonal.abs().amax(-1).clamp(min=torch.finfo(diagonal.dtype).tiny)


def _lowest(matrix: Tensor) -> float:
    return float(torch.linalg.eigvalsh(matrix)[0]) if bool(torch.isfinite(matrix).all()) else float("nan")


def psd_root(P: Tensor) -> Tensor:
    """A square root ``R R^T = P`` of a positive semi-definite matrix, by eigenvalues clipped at zero (no gradient)."""
    values, vectors = torch.linalg.eigh(P.detach())
    return vectors * values.clamp(min=0.0).sqrt().unsqueeze(-2)


def solve_spd(P: Tensor, X: Tensor) -> Tensor:
    """``P^{-1} X`` for a covariance ``P``."""
    return torch.cholesky_solve(X, cholesky(P))
