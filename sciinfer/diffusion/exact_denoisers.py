"""Denoisers in closed form: Gaussians, mixtures of Gaussians, kernel density estimates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ShapeError
from .denoiser import Denoiser, squared_column


class GaussianDenoiser(Denoiser):
    """``x ~ N(mean, C)``: ``D = mean + C (C + s^2 I)^{-1} (u - mean)``, in the eigenbasis of ``C``.

    Args:
        mean: ``[*shape]``. covariance: ``[n, n]`` with ``n`` the product of the shape.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> GaussianDenoiser(0 * one, one[None]).denoise(2 * one[None], one[0]).item()
        1.0
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        n = mean.numel()
        if covariance.shape != (n, n):
            raise ShapeError(f"a covariance of shape {list(covariance.shape)} for {n} numbers", fix=f"[{n}, {n}]")
        self.mean, self.shape, self.density = mean, tuple(mean.shape), True
        values, self.vectors = torch.linalg.eigh(0.5 * (covariance + covariance.mT))
        self.values = values.clamp(min=0.0)

    def denoise(self, u: Tensor, s: Tensor) -> Tensor:
        """``[n, *shape]``."""
        centred = (u - self.mean).flatten(1) @ self.vectors
        return (centred * (self.values / (self.values + squared_column(s))) @ self.vectors.mT).reshape(
            u.shape
        ) + self.mean

    def prior_moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Exact."""
        variance = (self.vectors.square() * self.values).sum(1).reshape(self.shape)
        return self.mean.to(like), variance.to(like)

    def log_prob(self, u: Tensor, s: Tensor | float = 0.0) -> Tensor:
        """``log p_s(u)``, ``[n]``: of the signal itself at ``s = 0``."""
        spread = self.values + squared_column(torch.as_tensor(s, dtype=u.dtype, device=u.device))
        centred = (u - self.mean).flatten(1) @ self.vectors
        return -0.5 * (centred.square() / spread + spread.log() + math.log(2 * math.pi)).sum(1)

    def covariance(self, u: Tensor, s: Tensor) -> Tensor:
        """The same for all, ``[n, d, d]``."""
        gain = self.values * s**2 / (self.values + s**2)
        return ((self.vectors * gain) @ self.vectors.mT).expand(len(u), -1, -1)


class MixtureDenoiser(Denoiser):
    """``x ~ sum_k w_k N(m_k, C_k)``: responsibilities times the components' own denoisers.

    Args:
        weights: ``[K]``, of any sum. means: ``[K, n]``. covariances: ``[K, n, n]``, one ``[n, n]`` for all, variances
            ``[K]`` or a number.
        shape: of a signal, default ``(n,)``.

    Example:
        >>> means = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        >>> prior = MixtureDenoiser(torch.ones(2, dtype=torch.float64), means, 1e-12)
        >>> u, s = torch.tensor([[0.5]], dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
        >>> round(float(prior.denoise(u, s)), 6), round(float(torch.tanh(u)), 6)
        (0.462117, 0.462117)
    """

    def __init__(
        self, weights: Tensor, means: Tensor, covariances: Tensor | float, shape: tuple[int, ...] | None = None
    ) -> None:
        K, n = means.shape
        self.log_weights, self.means = (weights / weights.sum()).log(), means
        self.shape, self.density = shape or (n,), True
        if math.prod(self.shape) != n or weights.shape != (K,):
            raise ShapeError(f"{list(weights.shape)} weights, {list(means.shape)} means for signals {self.shape}")
        given = torch.as_tensor(covariances, dtype=means.dtype, device=means.device)
        self.isotropic, self.shared = given.ndim < 2, given.ndim == 2
        if self.isotropic:
            self.values, self.vectors = given.expand(K)[:, None].expand(K, n), None
        else:
            values, vectors = torch.linalg.eigh(0.5 * (given + given.mT))
            self.values, self.vectors = values.clamp(min=0.0).expand(K, n), vectors.expand(K, n, n)

    def denoise(self, u: Tensor, s: Tensor) -> Tensor:
        """``[n, *shape]``."""
        share = self.responsibilities(u, s)
        if self.isotropic:
            gain = self.values[:, 0] / (self.values[:, 0] + squared_column(s))
            flat = (share * gain).sum(1, keepdim=True) * u.flatten(1) + (share * (1 - gain)) @ self.means
            return flat.reshape(u.shape)
        return (share[..., None] * self._parts(u, s)).sum(1).reshape(u.shape)

    def _parts(self, u: Tensor, s: Tensor) -> Tensor:
        """Each component's own mean, ``[n, K, d]``."""
        shrunk = self._turned(u) * (self.values / (self.values + squared_column(s)[..., None]))
        return torch.einsum("bkj,kij->bki", shrunk, self._basis()) + self.means

    def covariance(self, u: Tensor, s: Tensor) -> Tensor:
        """Within the components and between them, ``[n, d, d]``; one ``s`` for all."""
        share = self.responsibilities(u, s)
        gain = self.values * s**2 / (self.values + s**2)
        if self.isotropic:
            parts = self.values[:, :1] / (self.values[:, :1] + s**2) * (u.flatten(1)[:, None] - self.means) + self.means
            within = torch.diag_embed((share @ gain[:, :1]).expand(-1, self.means.shape[1]))
        else:
            parts = self._parts(u, s)
            basis = self._basis()
            within = torch.einsum("bk,kij->bij", share, (basis * gain[:, None]) @ basis.mT)
        away = parts - (share[..., None] * parts).sum(1, keepdim=True)
        return within + (share[..., None] * away).mT @ away

    def responsibilities(self, u: Tensor, s: Tensor) -> Tensor:
        """Probability of each component given ``u``, ``[n, K]``."""
        return self._log_joint(u, s).softmax(1)

    def log_prob(self, u: Tensor, s: Tensor | float = 0.0) -> Tensor:
        """``log p_s(u)``, ``[n]``: of the signal itself at ``s = 0``."""
        return torch.logsumexp(self._log_joint(u, torch.as_tensor(s, dtype=u.dtype, device=u.device)), 1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """``[n, *shape]``."""
        like = self.means
        which = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        z = torch.randn(n, like.shape[1], generator=generator, dtype=like.dtype, device=like.device)
        z = z * self.values[which].sqrt()
        turned = z if self.vectors is None else torch.einsum("bj,bij->bi", z, self.vectors[which])
        return (like[which] + turned).reshape(n, *self.shape)

    def covariances(self) -> Tensor:
        """``[K, n, n]``, or ``[1, n, n]`` where all are the same."""
        if self.vectors is None:
            same = bool((self.values == self.values[0]).all())
            return torch.diag_embed(self.values[:1] if same else self.values)
        values, vectors = (self.values[:1], self.vectors[:1]) if self.shared else (self.values, self.vectors)
        return (vectors * values[:, None]) @ vectors.mT

    def prior_moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Exact."""
        w = self.log_weights.exp()
        mean = w @ self.means
        own = self.values if self.vectors is None else torch.einsum("kij,kj->ki", self.vectors.square(), self.values)
        variance = w @ (own + (self.means - mean).square())
        return mean.reshape(self.shape).to(like), variance.reshape(self.shape).to(like)

    def _log_joint(self, u: Tensor, s: Tensor) -> Tensor:
        if self.isotropic:
            spread = self.values[:, 0] + squared_column(s)
            distance, logs = _squared_distances(u.flatten(1), self.means) / spread, self.means.shape[1] * spread.log()
        else:
            spread = self.values + squared_column(s)[..., None]
            distance, logs = (self._turned(u).square() / spread).sum(2), spread.log().sum(2)
        constant = self.means.shape[1] * math.log(2 * math.pi)
        return self.log_weights - 0.5 * (distance + logs + constant)

    def _turned(self, u: Tensor) -> Tensor:
        """``[n, K, n]`` in each component's eigenbasis."""
        return torch.einsum("bki,kij->bkj", u.flatten(1)[:, None] - self.means, self._basis())

    def _basis(self) -> Tensor:
        if self.vectors is None:
            raise ShapeError("an isotropic mixture has no eigenbasis")
        return self.vectors


def kernel_density(points: Tensor, bandwidth: float) -> MixtureDenoiser:
    """The kernel density estimate ``p(x) = mean_i N(x; x_i, h^2 I)`` as a prior with an exact denoiser.

    Args:
        points: ``[N, *shape]``. bandwidth: ``h``.

    Example:
        >>> points = torch.zeros(3, 2, dtype=torch.float64)
        >>> round(float(kernel_density(points, 1.0).log_prob(points[:1])), 6)
        -1.837877
    """
    flat = points.flatten(1)
    return MixtureDenoiser(torch.ones_like(flat[:, 0]), flat, bandwidth**2, tuple(points.shape[1:]))


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """``[n, K]``, centred first so that nothing cancels, and differentiable."""
    centre = b.mean(0)
    a, b = a - centre, b - centre
    return (a.square().sum(1, keepdim=True) - 2 * a @ b.mT + b.square().sum(1)).clamp(min=0.0)
