"""A denoiser of the posterior from a denoiser of the prior: moment matching (MMPS)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..diffusion import Denoiser
from ..diffusion.krylov import conjugate_gradients, gmres

Map = Callable[[Tensor], Tensor]


class Guided(Denoiser):
    """``E[x | u, y]`` where ``x | u`` is taken for normal with its own mean ``D`` and covariance ``C = s^2 dD/du``.

    ``D + C A^T (I + A C A^T)^{-1} (b - A D)``, whitened by the noise. It goes into any sampler in place of the prior's
    denoiser. Exact where the prior is Gaussian; elsewhere a guess with the right first two moments at every ``u``.

    Args:
        prior: its denoiser. forward, adjoint: ``A`` and ``A^T`` of ``[n, *shape]`` and ``[n, m]``, per unit of noise.
        b: ``[m]`` data in units of the noise. tolerance: relative residual of the solves. limit: products in each.

    References:
        Rozet, Andry, Lanusse, Louppe (2024), Learning diffusion priors from observations by expectation maximization.

    Example:
        >>> import torch
        >>> from sciinfer.diffusion import GaussianDenoiser
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> guided = Guided(GaussianDenoiser(0 * one, one[None]), lambda x: x, lambda v: v, 2 * one)
        >>> round(float(guided.denoise(0 * one[None], 1e6 * one[0])), 6)
        1.0
    """

    def __init__(
        self, prior: Denoiser, forward: Map, adjoint: Map, b: Tensor, *, tolerance: float = 1e-8, limit: int = 200
    ) -> None:
        self.prior, self.shape, self.forward, self.adjoint, self.b = prior, prior.shape, forward, adjoint, b
        self.tolerance, self.limit = tolerance, limit
        self.products = 0

    def denoise(self, u: Tensor, s: Tensor) -> Tensor:
        """``[n, *shape]``; no gradient flows through it."""
        return self._moments(u, s)[0]

    def with_covariance(self, u: Tensor, s: Tensor) -> tuple[Tensor, Map]:
        """The mean, and the product with ``C - C A^T (I + A C A^T)^{-1} A C``."""
        mean, product = self._moments(u, s)

        def posterior(v: Tensor) -> Tensor:
            unseen = product(v)
            return unseen - product(self.adjoint(self._solve(product, self.forward(unseen))))

        return mean, posterior

    def prior_moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the prior: at the largest noise data say little about the noisy signal."""
        return self.prior.prior_moments(like)

    def _moments(self, u: Tensor, s: Tensor) -> tuple[Tensor, Map]:
        D, product = self.prior.with_covariance(u, s)
        push = self.adjoint(self._solve(product, self.b - self.forward(D)))
        return D + product(push), product

    def _solve(self, product: Map, right: Tensor) -> Tensor:
        # the Jacobian of a trained net is not symmetric
        solve = conjugate_gradients if self.prior.symmetric else gmres
        found = solve(
            lambda v: v + self.forward(product(self.adjoint(v))), right, tolerance=self.tolerance, limit=self.limit
        )
        self.products += found.iterations
        return found.x
