"""Events in continuous time: no bins, the integral of the rate by quadrature between the events."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .base import Likelihood, _blanked, _masked_sum


class PointProcess(Likelihood):
    """``log p = sum_i eta(t_i) - int exp(eta(t)) dt``: a Poisson process with rate ``exp(eta)`` per unit of time.

    Each entry of ``y`` is an event (``y = n > 0``: ``n`` events at this time) or a node of the integral
    (``y = -w < 0``, ``w`` its weight in units of time), see :func:`point_process_rows`; zero says nothing.

    Args:
        channels: ``C`` (kept for a uniform constructor).

    Example:
        >>> time, y = point_process_rows([1.0, 4.0], 0.0, 10.0)
        >>> eta = torch.zeros_like(y)
        >>> round(float(PointProcess(1).log_prob(y, eta, y != 0).sum()), 6)
        -10.0
    """

    support = "real"

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels

    def entry_log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """``n eta`` at events, ``-w exp(eta)`` at nodes."""
        return y.clamp(min=0.0) * eta - _rate_share(y, eta)

    def expected_log_prob(self, y: Tensor, mean: Tensor, variance: Tensor, mask: Tensor) -> Tensor:
        """Closed form: ``E[exp(eta)] = exp(mean + variance/2)``."""
        y, mean, variance = _blanked(y, mask), _blanked(mean, mask), _blanked(variance, mask)
        return _masked_sum(y.clamp(min=0.0) * mean - _rate_share(y, mean + 0.5 * variance), mask)

    def mean(self, eta: Tensor) -> Tensor:
        """The rate, events per unit of time."""
        return eta.exp()

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """Numbers of events in one unit of time at a constant rate."""
        return torch.poisson(eta.detach().exp(), generator=generator)


def point_process_rows(
    events: Tensor | np.ndarray | list[float],
    start: float,
    stop: float,
    *,
    nodes: int = 4,
    panel: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Times ``[n]``, ascending, and entries ``[n, 1]`` for :class:`PointProcess`.

    The smoothed log-rate has kinks at the events, so that each gap between them has its own Gauss-Legendre rule.

    Args:
        events: times within ``[start, stop]``, any order, ties allowed. start, stop: of the observation.
        nodes: of the rule in each panel. panel: longest panel, default the tenth of the whole.

    Raises:
        DataError: an event outside the window.
    """
    at = np.sort(np.asarray(events, dtype=np.float64).reshape(-1))
    bad = np.flatnonzero(~((at >= start) & (at <= stop)))
    if len(bad) or not start < stop:
        raise DataError(
            f"events must lie in the window [{start}, {stop}]",
            index=int(bad[0]) if len(bad) else None,
            fix="widen the window or drop the event",
        )
    longest = (stop - start) / 10 if panel is None else panel
    edges = np.unique(np.concatenate([[start, stop], at]))
    pieces = [np.linspace(a, b, int(np.ceil((b - a) / longest)) + 1) for a, b in itertools.pairwise(edges)]
    left, right = (np.concatenate([part[cut] for part in pieces]) for cut in (slice(None, -1), slice(1, None)))
    x, w = np.polynomial.legendre.leggauss(nodes)
    half = 0.5 * (right - left)
    time = np.concatenate([at, (left[:, None] + half[:, None] * (x + 1)).reshape(-1)])
    y = np.concatenate([np.ones(len(at)), -(half[:, None] * w).reshape(-1)])
    order = np.argsort(time, kind="stable")
    return torch.as_tensor(time[order]), torch.as_tensor(y[order])[:, None]


def _rate_share(y: Tensor, eta: Tensor) -> Tensor:
    weight = (-y).clamp(min=0.0)
    # an event has no rate term: a large predictor there must not overflow into 0 * inf
    return weight * torch.where(weight > 0, eta, torch.zeros_like(eta)).exp()
