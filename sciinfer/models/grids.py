"""Shared handling of ragged times: padding, empty series, the caller's order of query times."""

from __future__ import annotations

import torch
from torch import Tensor

from ..labelled.series import Padded, SeriesBatch


def pad_for(batch: SeriesBatch, query: Tensor | None = None) -> Padded:
    """Padded view without empty rows. A series without data is anchored at its first query time, so that the prior
    starts where it is first asked for and not at an arbitrary origin."""
    padded = batch.drop_empty().padded()
    if query is None or not query.shape[1]:
        return padded
    empty = ~padded.rows.any(dim=1, keepdim=True)
    return padded._replace(time=torch.where(empty, query.amin(dim=1, keepdim=True), padded.time))
