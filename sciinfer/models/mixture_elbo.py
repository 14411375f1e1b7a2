"""The ELBO of a mixture of bridges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..labelled.series import Padded
from ..processes.mixture_posterior import (
    MixturePosterior,
    mixture_path_divergence,
    mixture_points,
    mixture_start_divergence,
)
from ..processes.posterior import Rows

if TYPE_CHECKING:
    from .path_model import PathModel


def mixture_elbo(
    model: PathModel,
    posterior: MixturePosterior,
    padded: Padded,
    context: Tensor,
    rows: Rows | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Expected log-likelihood, ``KL(q_0 || p_0)`` and path divergence ``[S]``.

    Without a generator the points in space are a fixed set, the same for every series.
    """
    q = posterior.infer_mixture(padded, context, rows, nodes=model.nodes, generator=generator)
    C, dim = posterior.components, posterior.dim
    each = Padded(*(part.repeat_interleave(C, 0) for part in padded))
    fits = model._expected_log_prob(each, q.mean.flatten(0, 1), q.cov.flatten(0, 1), generator)
    fit = (q.log_weight.exp() * fits.sum(1).unflatten(0, (-1, C))).sum(-1)
    S, K = q.weights.shape
    points = mixture_points((S, C, dim), model.pairs, generator, q.mean)
    start = mixture_start_divergence(q, model.process.initial(), points)
    points = mixture_points((S, C, K, dim), model.pairs, generator, q.mean)
    return fit, start * padded.rows.any(dim=1), mixture_path_divergence(model.process, q, points)
