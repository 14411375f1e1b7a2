"""Fewer observation rows with the same likelihood: what ``m > d`` rows say about ``z [d]`` fits into ``d`` rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Compressed(NamedTuple):
    """``H [..., d, d]``, ``y [..., d]``; ``constant [...]``: what the log-likelihood has beside that of these rows."""

    H: Tensor
    y: Tensor
    constant: Tensor


def compress_rows(weight: Tensor, y: Tensor, mask: Tensor) -> Compressed | None:
    """Whitened rows ``y = weight z + N(0, 1)`` in square form, or None where that saves nothing or is not safe.

    ``|y - weight z|^2 = |L^-1 weight^T y - L^T z|^2 + rest`` with ``L L^T = weight^T weight`` over the observed rows.
    One factorisation serves all times at which the same channels were observed.

    Args:
        weight: ``[m, d]``, whitened. y: ``[..., m]``, whitened, 0 where missing. mask: ``[..., m]``.

    Example:
        >>> weight, y = torch.ones(3, 1, dtype=torch.float64), torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
        >>> found = compress_rows(weight, y, torch.ones(1, 3, dtype=torch.bool))
        >>> [round(float(part), 6) for part in found]
        [1.732051, 3.464102, -1.0]
    """
    m, d = weight.shape
    if m <= d:
        return None
    counts = mask.sum(-1)
    if bool(((counts > 0) & (counts < d)).any()):
        return None
    patterns, which = torch.unique(mask.reshape(-1, m), dim=0, return_inverse=True)
    empty = ~patterns.any(1)[:, None, None]
    eye = torch.eye(d, dtype=weight.dtype, device=weight.device)
    G = torch.einsum("um,mi,mj->uij", patterns.to(weight.dtype), weight, weight) + eye * empty
    root, failed = torch.linalg.cholesky_ex(G)
    sizes = root.detach().diagonal(dim1=-2, dim2=-1)
    # a nearly singular square form would lose digits that the long one has
    least = 1e-5 if weight.dtype == torch.float64 else 3e-2
    if bool(failed.any()) or bool((sizes.amin(1) < least * sizes.amax(1)).any()):
        return None
    factor = (root * ~empty)[which.reshape(mask.shape[:-1])]
    unit = root[which.reshape(mask.shape[:-1])]
    short = torch.linalg.solve_triangular(unit, (y @ weight).unsqueeze(-1), upper=False).squeeze(-1)
    return Compressed(factor.mT, short, -0.5 * (y.square().sum(-1) - short.square().sum(-1)))
