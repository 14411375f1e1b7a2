r"""The fractional Ornstein-Uhlenbeck process in closed Markov form.

``dX = -theta X dt + sigma dB^H`` with ``B^H`` of type I as in :mod:`~sciinfer.integrate.fractional`. With one shared
``W``, ``X = sigma (c V + sum_k c_k Y_k)``, ``V`` the process of rate ``theta``, ``c_k = w_k gamma_k / (gamma_k -
theta)``, ``c = w_0 - sum_k w_k theta / (gamma_k - theta)``: every transition is a sum of exponentials, for any number
of parameter sets side by side. The state is ``(X, y_1 .. y_K)``, ``y_k = sqrt(2 gamma_k) Y_k`` of unit variance.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .fractional import markov_weights

#: closest approach of a rate of the grid to ``theta``, in its logarithm: partial fractions need distinct poles
APART = 0.02


class FractionalOU(NamedTuple):
    """``theta, sigma [...]``; ``rates [..., K]``, kept away from ``theta``; ``weights [..., 1 + K]``."""

    theta: Tensor
    sigma: Tensor
    rates: Tensor
    weights: Tensor


def fractional_ou(hurst: Tensor, theta: Tensor, sigma: Tensor, rates: Tensor, horizon: Tensor | float) -> FractionalOU:
    """Move the grid off ``theta`` and find the weights.

    Args:
        hurst, theta, sigma: ``[...]``: index, rate of return, strength (``Var`` of the noise after unit time is
            ``sigma^2``). rates: ``[K]``, per unit of time. horizon: time over which the weights are the best.

    Example:
        >>> from sciinfer.integrate.fractional import geometric_rates
        >>> one = torch.tensor(1.0, dtype=torch.float64)
        >>> round(float(stationary(fractional_ou(0.7 * one, one, one, geometric_rates(6, 50.0, 0.01), 10.0))[0, 0]), 3)
        0.618
    """
    away = (rates / theta[..., None]).log()
    side = torch.where(away < 0, -1.0, 1.0).to(away.dtype)
    moved = theta[..., None] * (side * (away.square() + APART**2).sqrt()).exp()
    return FractionalOU(theta, sigma, moved, markov_weights(hurst, moved, horizon))


def transition(process: FractionalOU, dt: Tensor) -> tuple[Tensor, Tensor]:
    """``A, Q [..., 1 + K, 1 + K]`` over the steps ``dt [...]``, which broadcast with the parameters."""
    poles, mix = _poles(process), _mix(process)
    decay = (-poles * dt[..., None]).exp()
    # the row of X: c_k (e^{-gamma_k h} - e^{-theta h}), the difference taken without cancellation or overflow
    gap = process.rates - process.theta[..., None]
    slower = torch.minimum(process.rates, process.theta[..., None])
    fall = gap.sign() * (-slower * dt[..., None]).exp() * torch.expm1(-gap.abs() * dt[..., None])
    row = torch.cat([decay[..., :1], mix[..., 1:] * fall / _scale(process)], dim=-1)
    A = torch.cat([row.unsqueeze(-2), torch.diag_embed(decay)[..., 1:, :]], dim=-2)
    total = poles[..., :, None] + poles[..., None, :]
    return A, _mixed(process, -torch.expm1(-total * dt[..., None, None]) / total)


def stationary(process: FractionalOU) -> Tensor:
    """``P0 [..., 1 + K, 1 + K]``: the law that the transitions keep."""
    poles = _poles(process)
    return _mixed(process, 1 / (poles[..., :, None] + poles[..., None, :]))


def _poles(process: FractionalOU) -> Tensor:
    return torch.cat([process.theta[..., None], process.rates], dim=-1)


def _scale(process: FractionalOU) -> Tensor:
    return (2 * process.rates).sqrt()


def _mix(process: FractionalOU) -> Tensor:
    """``sigma (c, c_1 .. c_K)``."""
    share = process.weights[..., 1:] / (process.rates - process.theta[..., None])
    first = process.weights[..., :1] - (share * process.theta[..., None]).sum(-1, keepdim=True)
    return process.sigma[..., None] * torch.cat([first, share * process.rates], dim=-1)


def _mixed(process: FractionalOU, M: Tensor) -> Tensor:
    """Covariance of ``(X, y)`` from that of ``(V, Y)``."""
    mix, scale = _mix(process), _scale(process)
    column = (M @ mix.unsqueeze(-1)).squeeze(-1)
    corner = (column * mix).sum(-1)[..., None, None]
    edge = (column[..., 1:] * scale).unsqueeze(-1)
    inner = M[..., 1:, 1:] * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    return torch.cat([torch.cat([corner, edge.mT], -1), torch.cat([edge, inner], -1)], -2)
