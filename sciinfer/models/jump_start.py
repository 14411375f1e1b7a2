"""Start a hidden jump process from clusters of the values and from how often they follow each other."""

from __future__ import annotations

import torch
from torch import Tensor

from ..labelled.series import SeriesBatch
from ..processes.jump import JumpProcess
from ..random import generator
from .emissions import Emission

#: most rows that are clustered
_ROWS = 5000


def start_from_clusters(process: JumpProcess, emission: Emission, batch: SeriesBatch, *, seed: int) -> None:
    """Set emissions and rates in place; states are ordered by the first channel."""
    # the stream lives on the CPU
    batch = batch.to(device="cpu", dtype=torch.float64).drop_empty()
    if len(batch.time) < process.states:
        return
    g = generator(seed, "clusters")
    values, mask = batch.values, batch.mask
    centres = _cluster(values[:_ROWS], mask[:_ROWS], process.states, g)
    centres = centres[torch.argsort(centres[:, 0], stable=True)]
    label = _distance(values, mask, centres).argmin(-1)
    error = (values - centres[label]).square() * mask
    scatter = (error.sum(0) / mask.sum(0).clamp(min=1)).sqrt()
    emission.start(centres.to(process.log_rates), scatter.to(process.log_rates))
    _start_rates(process, batch, label)


def _cluster(values: Tensor, mask: Tensor, states: int, g: torch.Generator, tries: int = 5, rounds: int = 25) -> Tensor:
    """The best of several runs of k-means that skips what is missing."""
    best, found = torch.inf, values[:states].clone()
    for _ in range(tries):
        centres = _seeds(values, mask, states, g)
        for _ in range(rounds):
            one = torch.nn.functional.one_hot(_distance(values, mask, centres).argmin(-1), states).to(values.dtype)
            weight = one.mT @ mask.to(values.dtype)
            centres = torch.where(weight > 0, one.mT @ (values * mask) / weight.clamp(min=1.0), centres)
        cost = float(_distance(values, mask, centres).amin(-1).sum())
        if cost < best:
            best, found = cost, centres
    return found


def _seeds(values: Tensor, mask: Tensor, states: int, g: torch.Generator) -> Tensor:
    """Rows far from each other: each is drawn in proportion to its squared distance from those before."""
    chosen = [int(torch.randint(len(values), (1,), generator=g))]
    while len(chosen) < states:
        away = _distance(values, mask, (values * mask)[chosen]).amin(-1) + 1e-9
        chosen.append(int(torch.multinomial(away, 1, generator=g)))
    return (values * mask)[chosen].clone()


def _distance(values: Tensor, mask: Tensor, centres: Tensor) -> Tensor:
    return ((values[:, None] - centres).square() * mask[:, None]).sum(-1)


def _start_rates(process: JumpProcess, batch: SeriesBatch, label: Tensor) -> None:
    """Changes of cluster per time spent in it; one change too many and too few each, so that no rate is zero."""
    series = batch.series_of_row
    same = series[1:] == series[:-1]
    before, after = label[:-1][same], label[1:][same]
    step = batch.time.diff()[same]
    K = process.states
    counts = torch.zeros(K * K, dtype=torch.float64, device=label.device).index_add_(
        0, before * K + after, torch.ones_like(step)
    )
    spent = torch.zeros(K, dtype=torch.float64, device=label.device).index_add_(0, before, step)
    first = torch.cat([torch.ones_like(series[:1], dtype=torch.bool), ~same])
    starts = torch.bincount(label[first], minlength=K).double()
    typical = step.sum() / K
    with torch.no_grad():
        process.log_rates.copy_(
            ((counts.view(K, K) + 0.5) / (spent[:, None] + 0.1 * typical + 1e-9)).clamp(max=1e3).log()
        )
        process.log_start.copy_((starts + 0.5).log())
