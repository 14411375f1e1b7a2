"""Posterior collapse made visible: how much of each latent dimension the data decide."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import DataError

Array = np.ndarray
#: share of variance decided by the data below which a dimension counts as unused
ACTIVE = 0.01


class LatentUse(NamedTuple):
    """By latent dimension: ``share`` of its variance that the data decide, ``information`` in nats, ``active``."""

    share: Array
    information: Array
    active: Array


def latent_use(draws: Array) -> LatentUse:
    r"""Active units and mutual information from posterior draws at the times of the data.

    .. math:: s_k = \frac{\mathrm{Var}(\mathrm{E}[z_k \mid y])}{\mathrm{Var}(\mathrm{E}[z_k \mid y]) +
              \mathrm{E}[\mathrm{Var}(z_k \mid y)]}, \quad I_k = -\tfrac12 \log(1 - s_k)

    ``I`` is the mutual information of a Gaussian dimension with the data, at one time. The variance of a mean of ``n``
    draws is taken off, so that few draws do not look like use.

    Args:
        draws: ``[n, ..., d]``, at least 2 draws; the middle axes are series and times.

    Returns:
        ``[d]`` each.

    Raises:
        DataError: fewer than 2 draws, or numbers that are not finite.

    References:
        Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders (active units).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> decided = rng.normal(size=(1, 500, 1)) + 0.1 * rng.normal(size=(50, 500, 1))
        >>> use = latent_use(np.concatenate([decided, rng.normal(size=(50, 500, 1))], axis=-1))
        >>> use.active.tolist(), use.share.round(1).tolist()
        ([True, False], [1.0, 0.0])
    """
    n, d = draws.shape[0], draws.shape[-1]
    if n < 2:
        raise DataError(f"the use of a latent dimension needs at least 2 draws, got {n}", dim="draw", fix="draw more")
    flat = draws.reshape(n, -1, d)
    if not np.isfinite(flat).all():
        bad = int(np.nonzero(~np.isfinite(flat).all((0, 1)))[0][0])
        raise DataError("draws are not finite", variable="latent", dim="latent_dim", index=bad)
    within = flat.var(axis=0, ddof=1).mean(axis=0)
    between = np.maximum(flat.mean(axis=0).var(axis=0) - within / n, 0.0)
    share = between / np.maximum(between + within, 1e-300)
    return LatentUse(share, -0.5 * np.log1p(-np.minimum(share, 1 - 1e-12)), share > ACTIVE)
