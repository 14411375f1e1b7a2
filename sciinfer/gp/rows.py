"""Data of one series as they come in: any order, numpy or torch, NaN = missing; what is missing is left out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, ShapeError
from .observations import Observed, as_observed, numbers


class Rows(NamedTuple):
    """``items`` that hold a value, ``y [N, C]`` (zero where missing), ``mask [N, C]``, ``kept [N]``: caller's rows."""

    items: Observed
    y: Tensor
    mask: Tensor
    kept: Tensor
    total: int


def read_rows(time: Any, y: Any, outputs: int, device: torch.device) -> Rows:
    """Check and drop rows without any value.

    Args:
        time: ``[N]`` times, or what :mod:`sciinfer.gp.observations` makes. y: ``[N]``, or ``[N, C]`` for outputs.
        device: where to compute.

    Raises:
        ShapeError: sizes do not fit together. DataError: a value is infinite.
    """
    items = as_observed(time).to(device)
    values = numbers(y, "y").to(device)
    values = values[:, None] if values.ndim == 1 and outputs == 1 else values
    if values.shape != (len(items.kind), outputs):
        wanted = f"[{len(items.kind)}]" if outputs == 1 else f"[{len(items.kind)}, {outputs}]"
        raise ShapeError(f"y has shape {list(values.shape)}, wanted {wanted}", variable="y", fix="one value per time")
    infinite = torch.nonzero(values.isinf())
    if len(infinite):
        raise DataError(
            "value is infinite", variable="y", index=int(infinite[0, 0]), fix="mark a missing value with NaN"
        )
    mask = ~values.isnan()
    kept = torch.nonzero(mask.any(1))[:, 0]
    safe = torch.where(mask, values, torch.zeros_like(values))
    return Rows(items.keep(kept), safe[kept], mask[kept], kept, len(mask))


def variances(noise: Any) -> Tensor:
    """Fixed noise variances, all positive.

    Raises:
        ConfigError: one is not a positive finite number.
    """
    values = torch.as_tensor(noise, dtype=torch.float64).detach().clone()
    bad = torch.nonzero(~((values > 0) & values.isfinite()))
    if len(bad):
        raise ConfigError(
            "a noise variance is not positive", variable="noise", index=tuple(bad[0].tolist()), fix="use a small number"
        )
    return values
