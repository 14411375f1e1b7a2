"""Priors over latent paths: linear-Gaussian ones have transitions, nonlinear ones a drift and a diffusion."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class LinearProcess(nn.Module, ABC):
    """``z`` is Gauss-Markov: ``z(t + h) | z(t) ~ N(A(h) z(t), Q(h))``."""

    #: dimension of ``z``
    dim: int

    @abstractmethod
    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """``A, Q [..., d, d]`` over the steps ``dt [...]``."""

    @abstractmethod
    def initial(self) -> tuple[Tensor, Tensor]:
        """``m0 [d]``, ``P0 [d, d]`` at the start of a series."""


class NonlinearProcess(nn.Module, ABC):
    """``dz = drift(t, z) dt + diag(diffusion(t, z)) dW`` (Itô)."""

    #: dimension of ``z``
    dim: int
    #: does the diffusion not depend on ``z``
    additive: bool = True

    @abstractmethod
    def drift(self, t: Tensor, z: Tensor) -> Tensor:
        """``[..., d]``; ``t [...]``, ``z [..., d]``."""

    @abstractmethod
    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        """Diagonal of the diffusion, ``[..., d]``, positive."""

    @abstractmethod
    def initial(self) -> tuple[Tensor, Tensor]:
        """``m0 [d]``, ``P0 [d, d]`` at the start of a series."""

    def spread_divergence(self, t: Tensor, z: Tensor) -> Tensor:
        """``d g_i^2 / d z_i [..., d]``: zero when additive, by autograd otherwise."""
        if self.additive:
            return torch.zeros_like(z)
        with torch.enable_grad():
            at = z if z.requires_grad else z.detach().requires_grad_()
            squared = self.diffusion(t, at).square()
            # g_i may depend on every z_j: only the diagonal of the Jacobian enters
            parts = [
                torch.autograd.grad(squared[..., i].sum(), at, create_graph=True)[0][..., i] for i in range(self.dim)
            ]
        return torch.stack(parts, dim=-1)
