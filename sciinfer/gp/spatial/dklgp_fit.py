"""The bound of a sparse inverse Cholesky posterior and its exact gradient, in the memory of one block of points.

The factors L and V and the sites are found block by block without a graph, the terms of the bound are differentiated
with respect to them block by block, and what each of them says about the parameters is found in a last walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...nets.parameters import value_and_slopes
from .pattern import dense_factor

if TYPE_CHECKING:
    from .dklgp import DKLGP, Setting

#: points in one block
BLOCK = 512


class _Parts(NamedTuple):
    """Leaves of the graph of the bound: entries of L and V ``[n, s]``, sites ``[2, n]``, ``nu [n]``."""

    L: Tensor
    V: Tensor
    sites: Tensor
    nu: Tensor


def blocked_bound(
    gp: DKLGP, at: Setting, moments: tuple[Tensor, Tensor], parameters: Sequence[Tensor]
) -> tuple[float, list[Tensor]]:
    """The bound with sites matched at ``moments``, and its slopes in ``parameters``."""
    with torch.no_grad():
        sites, L, rows = gp._sites(at, *moments), gp._prior(at), torch.arange(len(at.X))
        precision = Precision(at.pattern.columns, L, sites[0])
        found = _Parts(L, gp._given_sites(at, sites, rows), sites, precision.solve(sites[1]))
    leaves = _Parts(*(part.requires_grad_() for part in found))
    value, slopes, pulls = _differentiate(gp, at, leaves, parameters)
    pulls = _through_centre(at, leaves, pulls, precision)
    for more in _walk_back(gp, at, moments, leaves, pulls, parameters):
        slopes = [a + b for a, b in zip(slopes, more, strict=True)]
    return value, slopes


class Precision:
    """The sparse matrix ``L L^T + diag(p)``, factorised once."""

    def __init__(self, columns: Tensor, L: Tensor, precision: Tensor) -> None:
        from scipy.sparse import csc_array, diags_array
        from scipy.sparse.linalg import splu

        kept = columns >= 0
        place = torch.arange(len(columns))[:, None].expand_as(columns)[kept]
        entries = L.detach()[kept].numpy(), (columns[kept].numpy(), place.numpy())
        root = csc_array(entries, shape=(len(columns), len(columns)))
        # symmetric and definite: no pivoting for size, an order for few entries
        options = {"SymmetricMode": True}
        self._factor = splu(
            csc_array(root @ root.T + diags_array(precision.detach().numpy())),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options=options,
        )

    def solve(self, right: Tensor) -> Tensor:
        """``(L L^T + diag(p))^-1 right``."""
        return torch.as_tensor(np.ascontiguousarray(self._factor.solve(right.detach().numpy())))


def _differentiate(
    gp: DKLGP, at: Setting, leaves: _Parts, parameters: Sequence[Tensor]
) -> tuple[float, list[Tensor], _Parts]:
    """The bound, its direct slopes in the parameters, and its slopes in the leaves."""
    from .dklgp import Posterior

    wanted = [*parameters, leaves.L, leaves.V, leaves.nu]
    total, slopes = 0.0, [torch.zeros_like(tensor) for tensor in wanted]
    for rows in torch.arange(len(at.X)).split(BLOCK):
        q, L = Posterior(leaves.nu, leaves.V), leaves.L[rows]
        value, found = value_and_slopes(gp._terms(at, q, L, gp._solves(at, q, L, rows), rows), wanted)
        total, slopes = total + value, [a + b for a, b in zip(slopes, found, strict=True)]
    *direct, L, V, nu = slopes
    return total, direct, _Parts(L, V, torch.zeros_like(leaves.sites), nu)


def _through_centre(at: Setting, leaves: _Parts, pulls: _Parts, precision: Precision) -> _Parts:
    """The slope in ``nu`` becomes slopes in L and the sites: ``(L L^T + P) nu = shift``."""
    adjoint, columns = precision.solve(pulls.nu), at.pattern.columns
    surrogate = (adjoint * (leaves.sites[1] - leaves.sites[0] * leaves.nu.detach())).sum()
    surrogate = surrogate - (pulled(leaves.L, columns, adjoint) * pulled(leaves.L, columns, leaves.nu.detach())).sum()
    _, (L, sites) = value_and_slopes(surrogate, [leaves.L, leaves.sites])
    return pulls._replace(L=pulls.L + L, sites=sites)


def pulled(L: Tensor, columns: Tensor, x: Tensor) -> Tensor:
    """``L^T x`` of (some columns of) a sparse factor."""
    return (L * torch.where(columns >= 0, x[columns.clamp(min=0)], 0.0)).sum(-1)


def _walk_back(
    gp: DKLGP,
    at: Setting,
    moments: tuple[Tensor, Tensor],
    leaves: _Parts,
    pulls: _Parts,
    parameters: Sequence[Tensor],
) -> list[list[Tensor]]:
    """Slopes in the parameters through the columns of L and V, block by block, then through the sites."""
    found, sites = [], leaves.sites.detach().requires_grad_()
    on_sites = pulls.sites.clone()
    for rows in torch.arange(len(at.X)).split(BLOCK):
        surrogate = (gp._prior(at, rows) * pulls.L[rows]).sum()
        surrogate = surrogate + (gp._given_sites(at, sites, rows) * pulls.V[rows]).sum()
        _, (*slopes, more) = value_and_slopes(surrogate, [*parameters, sites])
        found.append(slopes)
        on_sites = on_sites + more
    matched = gp._sites(at, *moments)
    if matched.requires_grad:
        found.append(value_and_slopes((matched * on_sites).sum(), parameters)[1])
    return found


def centre(columns: Tensor, L: Tensor, sites: Tensor, *, exact: bool) -> Tensor:
    """``nu``: ``(L L^T + P) nu = shift``; differentiable where ``exact``, by a sparse factor otherwise."""
    if not exact:
        return Precision(columns, L, sites[0]).solve(sites[1])
    from .conditionals import safe_cholesky

    root = dense_factor(columns, L)
    factor = safe_cholesky((root @ root.mT + torch.diag(sites[0]))[None])[0][0]
    return torch.cholesky_solve(sites[1][:, None], factor)[:, 0]
