"""The posterior of a fractional SDE: a feedback on the noise that drives ``X`` and its memory together.

Memory and ``X`` share their noise, so the diffusion is rank-deficient and a posterior may only act through that noise.
A step is ``s' = A s + c + B e`` with ``e`` standard normal; given what the later data say, ``e`` is normal with a mean
linear in ``s``. For a linear drift this is the exact posterior; a net corrects it where the drift is not linear.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..processes.fractional import FractionalSDE, Step
from ..statespace import discretise, matvec, symmetrise


class Feedback(NamedTuple):
    """``e ~ N(offset - gain s, root root^T)`` at each of ``N`` steps, and the start in whitened coordinates.

    ``gain [S, D, D]``, ``offset [S, D]``, ``root [S, D, D]``; ``log_root [S, N]``: logarithms of the roots'
    determinants; ``start [S, D]``, ``start_root [S, D, D]``, ``start_log_root [S]``.
    """

    gain: list[Tensor]
    offset: list[Tensor]
    root: list[Tensor]
    log_root: Tensor
    start: Tensor
    start_root: Tensor
    start_log_root: Tensor


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
        """``s' = A s + c + B e`` for ``s = (X, memory component by component)``, ``e`` component by component.

        Returns:
            ``A [S, D, D]``, ``c [S, D]``, ``B [S, D, D]``, ``D = d (1 + K)``.
        """
        d, K, S = prior.dim, prior.terms, len(step.size)
        augmented = torch.cat([self.matrix, self.offset[:, None]], dim=1)
        augmented = torch.cat([augmented, torch.zeros_like(augmented[:1])], dim=0)
        # the library's matrix_exp depends on the rest of the batch in the tenth digit
        flow, _ = discretise(augmented, torch.zeros_like(augmented), step.size)
        sigma = prior.log_scale.exp()
        eye = torch.eye(d, dtype=flow.dtype, device=flow.device)
        pull = torch.einsum("i,sk,ij->sijk", sigma, weights[1:] * (step.decay - 1), eye).reshape(S, d, d * K)
        keep = torch.diag_embed(step.decay.repeat(1, d))
        bottom = torch.cat([keep.new_zeros(S, d * K, d), keep], dim=-1)
        A = torch.cat([torch.cat([flow[:, :d, :d], pull], dim=-1), bottom], dim=-2)
        c = torch.cat([flow[:, :d, d], keep.new_zeros(S, d * K)], dim=-1)
        kick = torch.einsum("i,sk,ij->sijk", sigma, weights @ step.root, eye).reshape(S, d, -1)
        shake = torch.einsum("skl,ij->sikjl", step.root[:, 1:], eye).reshape(S, d * K, -1)
        return A, c, torch.cat([kick, shake], dim=-2)


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
    d = prior.dim
    D = d * (1 + prior.terms)
    eye = torch.eye(D, dtype=h.dtype, device=h.device)
    L, v = h.new_zeros(len(h), D, D), h.new_zeros(len(h), D)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for k in range(len(steps), -1, -1):
        if k < len(steps):
            A, c, B = guide.transition(prior, steps[k], weights)
            v, LB = v - matvec(L, c), L @ B
            inverse_root = torch.linalg.cholesky(eye + symmetrise(B.mT @ LB))
            both = torch.cat([LB.mT @ A, (B.mT @ v.unsqueeze(-1))], dim=-1)
            gain, offset = torch.cholesky_solve(both, inverse_root).split([D, 1], dim=-1)
            found.append((gain, offset.squeeze(-1), *_spread(inverse_root, eye)))
            v = matvec(A.mT, v - matvec(LB, offset.squeeze(-1)))
            closed = A - B @ gain
            # Joseph's form: sums of positive semi-definite terms only
            L = symmetrise(closed.mT @ L @ closed + gain.mT @ gain)
        L = L + torch.nn.functional.pad(J[:, k], (0, D - d, 0, D - d))
        v = v + torch.nn.functional.pad(h[:, k], (0, D - d))
    gains, offsets, roots, logs = ([row[i] for row in found[::-1]] for i in range(4))
    log_root = torch.stack(logs, dim=1) if logs else h.new_zeros(len(h), 0)
    return Feedback(gains, offsets, roots, log_root, *_start(prior, L, v, eye))


def _spread(inverse_root: Tensor, eye: Tensor) -> tuple[Tensor, Tensor]:
    """A root of ``M^{-1}`` for ``M = C C^T``, and the logarithm of its determinant."""
    root = torch.linalg.solve_triangular(inverse_root, eye.expand_as(inverse_root), upper=False).mT
    return root, -inverse_root.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _start(prior: FractionalSDE, L: Tensor, v: Tensor, eye: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    R = start_root(prior)
    mean0 = torch.cat([prior.start_mean, prior.start_mean.new_zeros(len(eye) - prior.dim)])
    inverse_root = torch.linalg.cholesky(eye + symmetrise(R.mT @ L @ R))
    right = matvec(R.mT, v - matvec(L, mean0)).unsqueeze(-1)
    return torch.cholesky_solve(right, inverse_root).squeeze(-1), *_spread(inverse_root, eye)


def surprise(shift: Tensor, root: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """``e = shift + root noise`` and ``log q(e) - log p(e)`` without the determinant, ``1/2 |e|^2 - 1/2 |noise|^2``.

    Taken at the draw and not on average: where the feedback is exact, the ELBO is then the same on every path.
    """
    e = shift + matvec(root, noise)
    return e, 0.5 * (e.square().sum(-1) - noise.square().sum(-1))
