"""Denoisers: ``D(u, s) = E[x | u]`` for ``u = x + s z``. The score, and the posterior covariance, follow from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ConfigError, NumericalError


class Denoiser(ABC):
    """``D(u, s) = E[x | x + s z = u]``.

    By Tweedie's formula the score of the noisy density is ``(D - u) / s^2`` and the covariance of ``x`` given ``u`` is
    ``s^2 dD/du``. Signals are ``[n, *shape]``; a denoiser treats them one by one.
    """

    #: of one signal
    shape: tuple[int, ...]
    #: is ``dD/du`` symmetric: that of an exact denoiser is
    symmetric: bool = True
    #: is ``log_prob(u, s)`` known
    density: bool = False

    @abstractmethod
    def denoise(self, u: Tensor, s: Tensor) -> Tensor:
        """``E[x | u]``, ``[n, *shape]``; ``s``: the noise, one number or ``[n, 1, ...]``, one for each."""

    def score(self, u: Tensor, s: Tensor) -> Tensor:
        """``grad log p_s(u)``, ``[n, *shape]``."""
        return (self.denoise(u, s) - u) / s**2

    def with_covariance(self, u: Tensor, s: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """``D`` and the product ``v -> Cov[x | u] v``, one evaluation of the denoiser for both.

        References:
            Efron (2011), Tweedie's formula and selection bias.
        """
        with torch.enable_grad():
            at = u.detach().requires_grad_()
            found = self.denoise(at, s)
        return found.detach(), Product(found, at, s)

    def covariance(self, u: Tensor, s: Tensor) -> Tensor:
        """``Cov[x | u]`` written out, ``[n, d, d]`` with ``d`` the numbers of a signal; ``d`` backward passes."""
        size = u[0].numel()
        product = self.with_covariance(u, s)[1]
        eye = torch.eye(size, dtype=u.dtype, device=u.device).reshape(size, 1, *u.shape[1:])
        return torch.stack([product(axis.expand_as(u)).flatten(1) for axis in eye], dim=2)

    def log_prob(self, u: Tensor, s: Tensor | float = 0.0) -> Tensor:
        """``log p_s(u)`` of the noisy signal, ``[n]``.

        Raises:
            ConfigError: the density is not known in closed form (see :func:`sciinfer.diffusion.log_prob`).
        """
        raise ConfigError(f"{type(self).__name__} has no density in closed form", fix="sciinfer.diffusion.log_prob")

    def prior_moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance ``[*shape]`` of the signal, to start from; zero and one if not known."""
        return like.new_zeros(self.shape), like.new_ones(self.shape)


def squared_column(s: Tensor) -> Tensor:
    """``s^2`` as a column: ``[1, 1]``, or ``[n, 1]`` where every signal has a noise of its own."""
    return s.square().reshape(-1, 1)


class Product:
    """``v -> s^2 (dD/du)^T v``; ``dD/du`` is symmetric for an exact denoiser."""

    def __init__(self, value: Tensor, at: Tensor, s: Tensor) -> None:
        self.value, self.at, self.s = value, at, s

    def __call__(self, v: Tensor) -> Tensor:
        """``[n, *shape]``."""
        (found,) = torch.autograd.grad(self.value, self.at, v, retain_graph=True)
        return self.s**2 * found


class Counted(Denoiser):
    """A denoiser that counts its evaluations and refuses what is not a number.

    Args:
        inner: the denoiser.
    """

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.shape, self.symmetric, self.evaluations = inner, inner.shape, inner.symmetric, 0

    def denoise(self, u: Tensor, s: Tensor) -> Tensor:
        """The inner one's.

        Raises:
            NumericalError: a value is not finite; names the evaluation, the noise and the sample.
        """
        self.evaluations += 1
        found = self.inner.denoise(u, s)
        bad = torch.nonzero(~found.detach().flatten(1).isfinite().all(1))
        if len(bad):
            raise NumericalError(
                f"the denoiser gave no number at evaluation {self.evaluations}, noise {float(s.max()):.3g}",
                index=int(bad[0]),
                fix="check the prior, shorten the steps or use float64",
            )
        return found

    def prior_moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The inner one's."""
        return self.inner.prior_moments(like)
