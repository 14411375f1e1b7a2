"""Trajectories to pairs of delay windows, and how many directions in them are more than noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, ShapeError

#: how far above the edge of pure noise a singular value must lie: noise in delay windows is not independent
_SLACK = 1.15


class Pairs(NamedTuple):
    """Windows ``x [m, p]``, the windows one step later ``y [m, p]`` and, with inputs, those between them ``u``."""

    x: Tensor
    y: Tensor
    u: Tensor | None


def trajectories(x: Any, name: str = "x") -> list[Tensor]:
    """One array ``[T, n]`` (or ``[T]``) or a list of them, as double tensors ``[T, n]``; NaN = missing.

    Raises:
        ShapeError: an array of other dims, or other channels than the first. DataError: an infinite value.

    Example:
        >>> [t.shape for t in trajectories([[1.0, 2.0], [3.0, 4.0]])]
        [torch.Size([2, 2])]
    """
    many = isinstance(x, Sequence) and len(x) > 0 and all(getattr(part, "ndim", 0) >= 1 for part in x)
    found = [_double(part, name) for part in (x if many else [x])]
    found = [part[:, None] if part.ndim == 1 else part for part in found]
    for index, part in enumerate(found):
        if part.ndim != 2 or part.shape[1] != found[0].shape[1]:
            raise ShapeError(
                f"a trajectory has shape {tuple(part.shape)}, the first {tuple(found[0].shape)}",
                variable=name, index=index, fix="use [time, channel] with the same channels in each",
            )  # fmt: skip
        if bool(torch.isinf(part).any()):
            raise DataError("a value is infinite", variable=name, index=index, fix="mark it as missing with NaN")
    return found


def _double(x: Any, name: str) -> Tensor:
    try:
        tensor = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as err:
        raise ShapeError(f"not a numeric array: {err}", variable=name, fix="pass [time, channel]") from err
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def windows(x: Tensor, delays: int) -> Tensor:
    """``[T - delays + 1, delays n]``: each row holds ``delays`` consecutive snapshots, the oldest first.

    Example:
        >>> windows(torch.tensor([[1.0], [2.0], [3.0]]), 2).tolist()
        [[1.0, 2.0], [2.0, 3.0]]
    """
    if len(x) < delays:
        return x.new_zeros(0, delays * x.shape[1])
    return x.unfold(0, delays, 1).mT.flatten(1)


def pairs_of(many: list[Tensor], delays: int, inputs: list[Tensor] | None = None) -> Pairs:
    """All pairs of complete windows one step apart; none leads from one trajectory to the next.

    Raises:
        DataError: there is no such pair.
    """
    xs, ys, us = [], [], []
    for index, one in enumerate(many):
        lifted = windows(one, delays)
        x, y = lifted[:-1], lifted[1:]
        u = None if inputs is None else inputs[index][delays - 1 : delays - 1 + len(x)]
        fine = ~(x.isnan().any(1) | y.isnan().any(1))
        if u is not None:
            fine &= ~u.isnan().any(1)
            us.append(u[fine])
        xs.append(x[fine])
        ys.append(y[fine])
    found = Pairs(torch.cat(xs), torch.cat(ys), torch.cat(us) if us else None)
    if not len(found.x):
        raise DataError(
            f"no {delays + 1} snapshots in a row are complete", dim="time",
            fix="use fewer delays, or OptimisedDMD, which takes gaps and irregular times",
        )  # fmt: skip
    return found


def automatic_rank(s: Tensor, rows: int, columns: int, most: int, floor: float = 1e-3) -> int:
    r"""Number of singular values that are neither noise nor negligible.

    Given ``r`` directions, the noise level is that of the rest,
    :math:`\hat\sigma_r^2 = \sum_{i > r} s_i^2 / ((p - r)(m - r))`; the answer is the largest ``r`` whose last value is
    past the edge :math:`\hat\sigma_r(\sqrt{p - r} + \sqrt{m - r})` of a matrix of noise (times 1.15, since windows
    overlap). At most half of the values count, and none below ``floor`` times the largest.

    Args:
        s: ``[min(p, m)]`` descending. rows, columns: ``p, m`` of the matrix. most: largest answer. floor: see above.

    References:
        Gavish, Donoho (2014), The optimal hard threshold for singular values is 4/sqrt(3)

    Example:
        >>> s = torch.cat([torch.tensor([50.0, 40.0]), torch.linspace(11, 9, 8)])
        >>> automatic_rank(s, 10, 100, 9)
        2
    """
    some = s.square().flip(0).cumsum(0).flip(0)
    limit = int((s > floor * s[0]).sum()) if len(s) else 0
    limit = min(limit, most, (min(rows, columns) + 1) // 2)
    for r in range(limit, 1, -1):
        left = (rows - r) * (columns - r)
        sigma = math.sqrt(float(some[r]) / left) if left > 0 and r < len(s) else 0.0
        edge = sigma * (math.sqrt(max(rows - r, 0)) + math.sqrt(max(columns - r, 0)))
        if float(s[r - 1]) > _SLACK * edge:
            return r
    return 1


def chosen_rank(rank: int | str, s: Tensor, rows: int, columns: int, most: int, floor: float) -> int:
    """``rank`` itself, cut to what there is, or the automatic one."""
    if rank == "auto":
        return automatic_rank(s, rows, columns, min(most, columns), floor)
    return min(int(rank), most, columns)


def check_rank(rank: int | str) -> None:
    """Raises ConfigError unless ``rank`` is ``"auto"`` or a whole number >= 1."""
    whole = isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1
    if rank != "auto" and not whole:
        raise ConfigError(f"rank must be 'auto' or a whole number >= 1, got {rank!r}", variable="rank", fix="'auto'")
