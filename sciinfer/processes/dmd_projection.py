"""Exponentials shared by many series, by variable projection: amplitudes are eliminated, exponents are searched."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: entries of the largest intermediate, directions of a basis below this share of the strongest are left out
_ENTRIES, _CUT = 4_000_000, 1e-10


class Cells(NamedTuple):
    """Least-squares problems, one basis each: ``time [G, T]``, ``weight [G, T]`` (0 = not seen), ``y [G, T, q]``."""

    time: Tensor
    weight: Tensor
    y: Tensor


class Projection(NamedTuple):
    """``exponents [r]``, ``amplitudes [B, r, n]`` at time 0, ``residual [B, T, n]`` (0 where not seen)."""

    exponents: Tensor
    amplitudes: Tensor
    residual: Tensor


def cells_of(time: Tensor, y: Tensor, mask: Tensor) -> Cells:
    """One cell for each series where channels are missing together, else one for each series and channel.

    Args:
        time: ``[B, T]``. y, mask: ``[B, T, n]``.
    """
    values = torch.where(mask, y, torch.zeros_like(y)).to(torch.complex128)
    if bool((mask.all(2) == mask.any(2)).all()):
        return Cells(time, mask.any(2).double(), values)
    n = y.shape[2]
    return Cells(time.repeat_interleave(n, 0), mask.mT.flatten(0, 1).double(), values.mT.flatten(0, 1)[..., None])


def variable_projection(
    time: Tensor,
    y: Tensor,
    mask: Tensor,
    start: Tensor,
    *,
    stable: bool = False,
    steps: int = 60,
    tolerance: float = 1e-11,
) -> Projection:
    r"""Minimise :math:`\sum |y_{bc}(t) - \sum_k a_{bkc} e^{\omega_k t}|^2` over shared ``omega`` and free ``a``.

    Levenberg-Marquardt on ``omega`` with the Jacobian of Kaufman. Real data keep conjugate pairs conjugate.

    Args:
        time: ``[B, T]``. y, mask: ``[B, T, n]``. start: ``[r]`` complex. stable: exponents with positive real part are
            moved to the imaginary axis.

    References:
        Golub, Pereyra (1973), The differentiation of pseudo-inverses; Askham, Kutz (2018), Variable projection methods
        for an optimized dynamic mode decomposition.
    """
    cells, real = cells_of(time, y, mask), not y.is_complex()
    omega = _bounded(start.to(torch.complex128), stable)
    cost, gram, slope = _normal(cells, omega)
    damping, wait = 1e-2, 0
    for _ in range(steps):
        size = gram.diagonal().real.clamp(min=1e-300).sqrt()
        scaled = gram / (size[:, None] * size) + damping * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        move = -torch.linalg.solve(scaled, slope / size) / size
        trial = _bounded(omega + move, stable)
        found = _normal(cells, trial)
        if bool(found[0].isfinite()) and float(found[0]) < float(cost):
            gain = 1 - float(found[0]) / max(float(cost), 1e-300)
            omega, (cost, gram, slope) = trial, found
            damping, wait = max(damping / 10, 1e-12), 0
            if gain < tolerance:
                break
        else:
            damping, wait = damping * 10, wait + 1
            if wait > 8:
                break
    omega = _paired(omega) if real else omega
    amplitudes, residual = amplitudes_of(time, y, mask, omega)
    return Projection(omega, amplitudes, residual)


def amplitudes_of(time: Tensor, y: Tensor, mask: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares ``amplitudes [B, r, n]`` for given exponents, and the ``residual [B, T, n]``."""
    cells = cells_of(time, y, mask)
    basis, size = _basis(cells, omega)
    u, s, vh = _svd(basis)
    inverse = torch.where(s > 0, 1 / s, 0.0).to(u.dtype)
    found = vh.mH @ (inverse[..., None] * (u.mH @ cells.y)) / size[..., None]
    residual = cells.y - basis @ (found * size[..., None])
    if len(time) != len(cells.y):
        n = y.shape[2]
        found = found[..., 0].unflatten(0, (-1, n)).mT
        residual = residual[..., 0].unflatten(0, (-1, n)).mT
    return found, residual if y.is_complex() else residual.real


def _basis(cells: Cells, omega: Tensor) -> tuple[Tensor, Tensor]:
    """``[G, T, r]`` of unit columns, and the sizes ``[G, r]`` that were divided out."""
    exponent = cells.time[..., None] * omega
    top = torch.where(cells.weight[..., None] > 0, exponent.real, -torch.inf).amax(1, keepdim=True)
    top = torch.where(top.isfinite(), top, 0.0)
    columns = cells.weight[..., None] * torch.exp(torch.where(cells.weight[..., None] > 0, exponent - top, 0.0))
    size = columns.abs().square().sum(1).sqrt().clamp(min=1e-300)
    return columns / size[:, None], size.to(omega.dtype) * top[:, 0].exp()


def _svd(basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(basis, full_matrices=False)
    fine = s > _CUT * s[..., :1].clamp(min=1e-300)
    return u * fine[..., None, :], torch.where(fine, s, 0.0), vh


def _normal(cells: Cells, omega: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cost, Gauss-Newton matrix ``[r, r]`` and gradient ``[r]``, summed over the cells in blocks."""
    G, T, q = cells.y.shape
    block = max(1, _ENTRIES // max(T * q * len(omega), 1))
    parts = [_block(Cells(*(part[i : i + block] for part in cells)), omega) for i in range(0, G, block)]
    cost, gram, slope = zip(*parts, strict=True)
    return torch.stack(cost).sum(), torch.stack(gram).sum(0), torch.stack(slope).sum(0)


def _block(cells: Cells, omega: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    basis, _ = _basis(cells, omega)
    u, s, vh = _svd(basis)
    inner = u.mH @ cells.y
    residual = cells.y - u @ inner
    amplitude = vh.mH @ (torch.where(s > 0, 1 / s, 0.0).to(u.dtype)[..., None] * inner)
    turned = cells.time[..., None] * basis
    turned = turned - u @ (u.mH @ turned)
    # J[g, t, q, k] = -turned[g, t, k] amplitude[g, k, q]: never formed
    gram = (turned.mH @ turned * (amplitude.conj() @ amplitude.mT)).sum(0)
    slope = -torch.einsum("gtk,gkq,gtq->k", turned.conj(), amplitude.conj(), residual)
    return residual.abs().square().sum(), gram, slope


def _bounded(omega: Tensor, stable: bool) -> Tensor:
    return torch.complex(omega.real.clamp(max=0.0), omega.imag) if stable else omega


def _paired(omega: Tensor) -> Tensor:
    """Round-off between conjugates removed."""
    partner = (omega[:, None] - omega.conj()[None]).abs().argmin(1)
    return 0.5 * (omega + omega[partner].conj())
