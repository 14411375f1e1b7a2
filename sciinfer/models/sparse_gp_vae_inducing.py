"""Inducing points: the posterior of the inducing variables in closed form given the potentials of all rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..gp.spatial import Covariance
from ..likelihoods import Likelihood
from ..statespace.linalg import cholesky, jittered_cholesky
from ..statespace.sites import Sites
from .sparse_gp_vae_core import (
    Latents,
    RowBatch,
    RowGPVAE,
    Whitened,
    condition_whitened,
    gram,
    ordered,
    variances,
)

#: jitters, in units of the prior variance, of the covariance that the inducing variables leave
_LADDER = (1e-12, 1e-10, 1e-8, 1e-6)
_SWEEPS = 10


class SparseGPVAE(RowGPVAE):
    """``q(z) = int p(z | u) q(u) du``, ``q(u) prop p(u) prod_i exp(E_{p(z_i|u)} log t_i(z_i))`` at ``M`` points.

    ``ELBO = sum_i E_q log p(y_i | z_i) - KL(q(u) || p(u))``; with the inducing points at all inputs it is the bound of
    the exact GP-VAE. With ``loss(..., batch=b)`` the potentials of all rows enter ``q(u)``, at ``O(n M^2)``, and the
    decoder sees ``b`` rows: the estimate is unbiased, where a ``q(u)`` from the rows of the batch alone would not be.

    Args:
        covariances: one for each latent, over ``D`` inputs. channels: ``C``. inducing: ``M``. inputs: ``D``.
        likelihood, hidden, pairs, generator: see :class:`RowGPVAE`.

    References:
        Jazbec, Ashman, Fortuin, Pearce, Mandt, Rätsch (2021), Scalable Gaussian process variational autoencoders.
        Ashman, So, Tebbutt, Fortuin, Pearce, Turner (2020), Sparse Gaussian process variational autoencoders.

    Example:
        >>> from sciinfer.gp.spatial import Matern
        >>> from sciinfer.random import generator
        >>> model = SparseGPVAE([Matern(2.5)], 2, inducing=6, inputs=1, generator=generator(0, "weights"))
        >>> x = torch.linspace(0, 6, 40, dtype=torch.float64)[:, None]
        >>> losses = model.fit(x, torch.cat([x.sin(), -x.sin()], 1), steps=20, generator=generator(0, "fit"))
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(
        self,
        covariances: Sequence[Covariance],
        channels: int,
        *,
        inducing: int,
        inputs: int,
        likelihood: Likelihood | None = None,
        hidden: tuple[int, ...] = (),
        pairs: int = 1,
        generator: torch.Generator,
    ) -> None:
        super().__init__(covariances, channels, likelihood=likelihood, hidden=hidden, pairs=pairs, generator=generator)
        if inducing < 1 or inputs < 1:
            raise ConfigError(f"{inducing} inducing points over {inputs} inputs", variable="inducing", fix="at least 1")
        spread = torch.rand(inducing, inputs, generator=generator, dtype=torch.float64)
        #: ``[M, D]``
        self.inducing = nn.Parameter(spread * inducing)

    @torch.no_grad()
    def place(self, data: RowBatch) -> None:
        """k-means from the best-spread inputs; where there are fewer inputs than points, the rest lie between them."""
        self.inducing.copy_(inducing_points(data.x[data.rows], len(self.inducing)).to(self.inducing))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``A = L^-1 K_zx [S, K, M, T]`` with ``L L^T = K_zz``, and the variance that ``u`` leaves, ``[S, T, K]``."""
        root = cholesky(gram(self.covariances, self.inducing, self.inducing), what="covariance of the inducing points")
        A = torch.linalg.solve_triangular(root, gram(self.covariances, self.inducing, x), upper=False)
        rest = variances(self.covariances, x) - A.square().sum(-2).mT
        return A, rest.clamp(min=0.0)

    def infer(self, data: RowBatch, sites: Sites) -> tuple[Whitened, Tensor, Tensor]:
        """``q`` of the whitened inducing variables, and ``A`` and the rest at the rows."""
        A, rest = self.project(data.x)
        return condition_whitened(A, sites), A, rest

    def posterior(self, data: RowBatch, sites: Sites) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`RowGPVAE`."""
        q, A, rest = self.infer(data, sites)
        mean, variance = q.moments(A)
        like = data.values
        return mean.to(like), (variance + rest).to(like), q.divergence().to(like)

    def latent(self, data: RowBatch, query: Tensor, draws: int, generator: torch.Generator) -> Latents:
        """See :class:`RowGPVAE`; ``O(Q^3)`` in the number of asked points."""
        q, _, _ = self.infer(data, self.sites(data))
        ask = ordered(query)
        A, rest = self.project(ask.x)
        e = q.sample(draws, generator)
        mean, variance = q.moments(A)
        z = self.draw_given(e, ask.x, A, generator)
        like = data.values
        return Latents(*(ask.restore(part).to(like) for part in (z, mean, variance + rest)))

    def latent_given(self, e: Tensor, query: Tensor, generator: torch.Generator) -> Tensor:
        """Draws ``[n, S, Q, K]`` at ``query [S, Q, D]`` given whitened inducing variables ``e [n, S, K, M]``."""
        ask = ordered(query)
        return ask.restore(self.draw_given(e, ask.x, self.project(ask.x)[0], generator))

    def draw_given(self, e: Tensor, x: Tensor, A: Tensor, generator: torch.Generator) -> Tensor:
        """``z [n, S, Q, K]`` at ``x [S, Q, D]`` given whitened inducing variables ``e [n, S, K, M]``."""
        left = gram(self.covariances, x, x) - A.mT @ A
        peak = variances(self.covariances, x).max()  # of the prior: what is left may be zero
        found = jittered_cholesky(left, _LADDER, lambda diagonal: peak.expand(len(diagonal)))
        shape = (*e.shape[:-1], x.shape[1])
        noise = torch.randn(shape, generator=generator, dtype=e.dtype, device=e.device)
        z = (A.mT @ e.unsqueeze(-1)).squeeze(-1) + (found.lower @ noise.unsqueeze(-1)).squeeze(-1)
        return z.mT

    def prior(self, query: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """Exact draws of the full process; ``O(Q^3)``."""
        ask = ordered(query)
        A, _ = self.project(ask.x)
        shape = (draws, *A.shape[:-1])
        e = torch.randn(shape, generator=generator, dtype=A.dtype, device=A.device)
        return ask.restore(self.draw_given(e, ask.x, A, generator)).to(query)


def inducing_points(x: Tensor, count: int) -> Tensor:
    """``count`` centres of ``x [n, D]`` by k-means from maximin points, on the device of ``x``.

    Example:
        >>> x = torch.tensor([[0.0], [0.1], [5.0], [5.1]], dtype=torch.float64)
        >>> inducing_points(x, 2).sort(0).values.round(decimals=2).tolist()
        [[0.05], [5.05]]
    """
    from ..gp.spatial import maximin

    unique = torch.unique(x.detach(), dim=0)
    if len(unique) <= count:
        return _filled(unique if len(unique) else x.new_zeros(1, x.shape[1]), count)
    spread = unique.std(0).clamp(min=1e-12)
    points, chosen = unique / spread, torch.as_tensor(maximin((unique / spread).cpu().numpy())[0][:count])
    centres = points[chosen.to(points.device)]
    for _ in range(_SWEEPS):
        owner = torch.cdist(points, centres).argmin(1)
        size = torch.bincount(owner, minlength=count)
        total = torch.zeros_like(centres).index_add_(0, owner, points)
        centres = torch.where(size[:, None] > 0, total / size.clamp(min=1)[:, None], centres)
    return centres * spread


def _filled(points: Tensor, count: int) -> Tensor:
    """More points than there are: the others on lines between random pairs, never twice the same."""
    missing = count - len(points)
    if missing == 0:
        return points
    share = (torch.arange(missing, dtype=points.dtype, device=points.device)[:, None] + 1) / (missing + 1)
    low, high = points.amin(0), points.amax(0)
    width = torch.where(high > low, high - low, torch.ones_like(high))
    return torch.cat([points, low + width * (share + 0.01 * share.square())])
