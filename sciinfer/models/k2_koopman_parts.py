"""Parts of ``k2-koopman``: the operator of one window, its powers, and the filter that corrects them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: penalty of the window's own operator, in shares of its mean square; squarings for the bound on its radius
_RIDGE, _SQUARINGS = 0.1, 6


def local_operator(z: Tensor) -> Tensor:
    """Least squares with a penalty, in float64: ``K [B, d, d]`` with ``z[n + 1] = z[n] K`` in each window.

    Args:
        z: ``[B, N, d]``.

    Example:
        >>> z = torch.tensor([[[1.0], [1.0], [1.0], [1.0]]])
        >>> round(local_operator(z).item(), 3)
        0.968
    """
    now, later = z[:, :-1].double(), z[:, 1:].double()
    gram = now @ now.mT
    size = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-9
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    # fewer pairs than dimensions: the dual form
    return (now.mT @ torch.linalg.solve(gram + _RIDGE * size * eye, later)).to(z.dtype)


def bounded(k: Tensor) -> Tensor:
    """``k [..., d, d]`` divided by a bound of its spectral radius where that is above one: no power explodes.

    The bound is the root of the Frobenius norm of the 64th power, at most ``d^(1/128)`` above the radius. It is a
    constant to gradients.
    """
    with torch.no_grad():
        power, log = k.detach(), k.new_zeros(k.shape[:-2], dtype=torch.float64)
        for _ in range(_SQUARINGS):
            norm = torch.linalg.matrix_norm(power).clamp(min=1e-30)
            power = power / norm[..., None, None]
            log = 2 * (log + norm.double().log())
            power = power @ power
        log = log + torch.linalg.matrix_norm(power).clamp(min=1e-30).double().log()
        radius = (log / 2**_SQUARINGS).exp().clamp(min=1.0).to(k.dtype)
    return k / radius[..., None, None]


class LearnedFilter(nn.Module):
    r"""Kalman filter that reads the powers of an operator as observations of a state of its own.

    :math:`x_i = F x_{i-1} + w`, :math:`\hat z_i = H x_i + v`, ``w ~ N(0, Q)``, ``v ~ N(0, R)``; covariances in Joseph's
    form do not depend on the data.

    Args:
        dim: ``d``. ``F`` and ``H`` start as the identity.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        eye = torch.eye(dim, dtype=torch.float64)
        self.transition = nn.Parameter(eye.clone())
        self.observation = nn.Parameter(eye.clone())
        self.process = nn.Parameter(0.3 * eye)
        self.measurement = nn.Parameter(0.3 * eye)

    def covariances(self, steps: int) -> tuple[list[Tensor], list[Tensor]]:
        """Gains and covariances ``[d, d]`` of each step, in float64; the start is known."""
        f, h, q, r = (p.double() for p in (self.transition, self.observation, self.process, self.measurement))
        f, eye = bounded(f), torch.eye(len(f), dtype=torch.float64, device=f.device)
        q, r = q.tril() @ q.tril().mT + 1e-6 * eye, r.tril() @ r.tril().mT + 1e-4 * eye
        p, gains, found = torch.zeros_like(f), [], []
        for _ in range(steps):
            p = f @ p @ f.mT + q
            gain = torch.linalg.solve(h @ p @ h.mT + r, h @ p).mT
            keep = eye - gain @ h
            p = keep @ p @ keep.mT + gain @ r @ gain.mT
            p = 0.5 * (p + p.mT)
            gains.append(gain)
            found.append(p)
        return gains, found

    def forward(self, start: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """States ``[B, M, d]`` and covariances ``[M, d, d]`` from ``start [B, d]`` and rollouts ``seen [B, M, d]``."""
        gains, covariances = self.covariances(seen.shape[1])
        f, h, x, found = bounded(self.transition), self.observation, start, []
        for i, gain in enumerate(gains):
            x = x @ f.mT
            x = x + (seen[:, i] - x @ h.mT) @ gain.to(x.dtype).mT
            found.append(x)
        return torch.stack(found, 1), torch.stack(covariances)
