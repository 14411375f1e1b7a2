"""The posterior of a fractional SDE: a feedback control that pushes the one Brownian motion behind ``X`` and memory.

Memory and ``X`` share their noise, so the diffusion is rank-deficient and a posterior may only act through it:
``dW -> dW + u dt``, at the price ``1/2 int |u|^2 dt``. For a linear drift and Gaussian rows the best ``u`` that is
constant over a step solves a linear-quadratic problem (a Riccati recursion backwards from the last datum); a net
corrects it where the drift is not linear.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..processes.fractional import FractionalSDE, Step
from ..statespace import matvec, symmetrise


class Feedback(NamedTuple):
    """``u = offset - gain s`` at each step; ``start_mean [S, D]``, ``start_cov [S, D, D]`` of the whitened start."""

    gain: list[Tensor]
    offset: list[Tensor]
    start_mean: Tensor
    start_cov: Tensor


class LinearGuide(nn.Module):
    """The linear drift ``B x + b`` under which the control is computed; it starts as the prior's linear part."""

    def __init__(self, prior: FractionalSDE) -> None:
        super().__init__()
        self.matrix = nn.Parameter(-torch.diag(prior.log_rate.detach().exp()))
        self.offset = nn.Parameter(torch.zeros_like(prior.log_rate))

    def follow(self, prior: FractionalSDE) -> None:
        """Take over the prior's linear drift."""
        with torch.no_grad():
            self.matrix.copy_(-torch.diag(prior.log_rate.exp()))

    def transition(self, prior: FractionalSDE, step: Step, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``s' = A s + c + G u`` for ``s = (X, memory component by component)``, ``D = d (1 + K)``.

        Returns:
            ``A [S, D, D]``, ``c [S, D]``, ``G [S, D, d]``.
        """
        d, K, S = prior.dim, prior.terms, len(step.size)
        augmented = torch.cat([self.matrix, self.offset[:, None]], dim=1)
        augmented = torch.cat([augmented, torch.zeros_like(augmented[:1])], dim=0)
        flow = torch.linalg.matrix_exp(augmented * step.size[:, None, None])
        sigma = prior.log_scale.exp()
        eye = torch.eye(d, dtype=flow.dtype, device=flow.device)
        pull = torch.einsum("i,sk,ij->sijk", sigma, weights[1:] * (step.decay - 1), eye).reshape(S, d, d * K)
        top = torch.cat([flow[:, :d, :d], pull], dim=-1)
        keep = torch.diag_embed(step.decay.repeat(1, d))
        A = torch.cat([top, torch.cat([keep.new_zeros(S, d * K, d), keep], dim=-1)], dim=-2)
        c = torch.cat([flow[:, :d, d], keep.new_zeros(S, d * K)], dim=-1)
        lift = weights[0] * step.size + (step.reach * weights[1:]).sum(-1)
        reach = torch.einsum("sk,ij->sikj", step.reach, eye).reshape(S, d * K, d)
        return A, c, torch.cat([lift[:, None, None] * torch.diag(sigma), reach], dim=-2)


def start_root(prior: FractionalSDE) -> Tensor:
    """``[D, D]``: ``s_0 = (m0, 0) + R e`` with ``e`` standard normal."""
    blocks = [torch.diag(prior.log_start.exp()), *(prior.memory_root() for _ in range(prior.dim))]
    return torch.block_diag(*blocks)


def riccati(
    prior: FractionalSDE, guide: LinearGuide, steps: list[Step], J: Tensor, h: Tensor, weights: Tensor
) -> Feedback:
    """Feedback of every step and the start, from what the data say about ``X``.

    Args:
        steps: ``N``. J: ``[S, N + 1, d, d]`` and h: ``[S, N + 1, d]``: information ``H^T H`` and ``H^T y`` of whitened
            rows, zero where nothing was observed.
    """
    S, d = h.shape[0], prior.dim
    D = d * (1 + prior.terms)
    L, v = h.new_zeros(S, D, D), h.new_zeros(S, D)
    gains: list[Tensor] = []
    offsets: list[Tensor] = []
    for k in range(len(steps), -1, -1):
        if k < len(steps):
            A, c, G = guide.transition(prior, steps[k], weights)
            v = v - matvec(L, c)
            price = torch.diag_embed(steps[k].size.clamp(min=1e-12)[:, None].expand(S, prior.dim))
            inner = symmetrise(price + G.mT @ L @ G)
            solved = torch.linalg.solve(inner, torch.cat([G.mT @ L @ A, (G.mT @ v.unsqueeze(-1))], dim=-1))
            gain, offset = solved[..., :-1], solved[..., -1]
            gains.append(gain)
            offsets.append(offset)
            v = matvec(A.mT, v - matvec(L @ G, offset))
            closed = A - G @ gain
            # Joseph's form: sums of positive semi-definite terms only
            L = symmetrise(closed.mT @ L @ closed + gain.mT @ price @ gain)
        L = L + torch.nn.functional.pad(J[:, k], (0, D - d, 0, D - d))
        v = v + torch.nn.functional.pad(h[:, k], (0, D - d))
    R = start_root(prior)
    mean0 = torch.cat([prior.start_mean, prior.start_mean.new_zeros(D - prior.dim)])
    precision = torch.eye(D, dtype=L.dtype, device=L.device) + R.mT @ L @ R
    cov = torch.cholesky_inverse(torch.linalg.cholesky(symmetrise(precision)))
    return Feedback(gains[::-1], offsets[::-1], matvec(cov @ R.mT, v - matvec(L, mean0)), cov)


def start_divergence(feedback: Feedback) -> Tensor:
    """``KL(N(mean, cov) || N(0, I))`` of the whitened start, ``[S]``."""
    mean, cov = feedback.start_mean, feedback.start_cov
    trace = cov.diagonal(dim1=-2, dim2=-1).sum(-1)
    return 0.5 * (trace + mean.square().sum(-1) - mean.shape[-1] - torch.linalg.slogdet(cov)[1])
