r"""Fractional Brownian motion as a weighted sum of Ornstein-Uhlenbeck processes that share one Brownian motion.

``B^H(t) ~ w_0 W(t) + sum_k w_k (Y_k(t) - Y_k(0))``, ``dY_k = -gamma_k Y_k dt + dW``. Type I has stationary increments
(``W`` reaches back to minus infinity, ``Y_k(0)`` is stationary); type II starts at zero. The weights minimise the mean
squared error of the path over ``[0, T]``; they solve a linear system and are smooth in ``H``.

References:
    Harms, Stefanovits (2019), Affine representations of fractional processes.
    Daems, Opper, Crevecoeur, Birdal (2024), Variational inference for SDEs driven by fractional noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ConfigError

#: the two kinds of fractional Brownian motion
TYPES = ("I", "II")
#: relative ridge of the linear system, scaled to a unit diagonal: its condition number grows past 1e16 with the terms
RIDGE = 1e-14


def geometric_rates(terms: int, fastest: float, slowest: float | None = None) -> Tensor:
    """``[K]`` rates in geometric progression, by default from ``1 / fastest`` to ``fastest`` (per unit of time).

    Raises:
        ConfigError: fewer than two terms, or not ``0 < slowest < fastest``.

    Example:
        >>> [round(rate, 3) for rate in geometric_rates(3, 20.0).tolist()]
        [0.05, 1.0, 20.0]
    """
    low = 1.0 / fastest if slowest is None and fastest > 0 else slowest
    if terms < 2 or low is None or not 0 < low < fastest < math.inf:
        raise ConfigError(
            f"{terms} rates from {low} to {fastest} are no geometric grid", fix="terms >= 2, 0 < slowest < fastest"
        )
    return torch.logspace(math.log10(low), math.log10(fastest), terms, dtype=torch.float64)


def check_type(kind: str) -> str:
    """``kind`` if it is one of :data:`TYPES`.

    Raises:
        ConfigError: it is not.
    """
    if kind not in TYPES:
        raise ConfigError(f"unknown type {kind!r} of fractional Brownian motion", fix="one of: I, II")
    return kind


def markov_weights(
    hurst: Tensor, rates: Tensor, horizon: Tensor | float, *, kind: str = "I", brownian: bool = True, unit: bool = True
) -> Tensor:
    """Optimal weights ``[..., 1 + K]`` of ``W`` and of the ``K`` processes; differentiable in ``hurst`` and ``rates``.

    Args:
        hurst: ``[...]`` in (0, 1). rates: ``[..., K]``, per unit of time. horizon: ``T``, unit of time.
        kind: ``"I"`` or ``"II"``. brownian: may ``W`` itself take part (free of cost, exact at ``H = 1/2``); otherwise
            its weight is zero, as published. unit: scale so that ``Var B^H(1) = 1``; otherwise the moving-average
            kernel is ``s^(H - 1/2) / Gamma(H + 1/2)``, as published.

    Raises:
        ConfigError: unknown kind.

    Example:
        >>> half = torch.tensor(0.5, dtype=torch.float64)
        >>> markov_weights(half, geometric_rates(3, 20.0), 1.0).round(decimals=6).abs().tolist()
        [1.0, 0.0, 0.0, 0.0]
    """
    # too ill-conditioned for float32, whose weights would be off by tens of per cent
    dtype, hurst, rates = torch.result_type(hurst, rates), hurst.double(), rates.double()
    A, b = normal_equations(hurst, rates, horizon, kind=check_type(kind))
    if not brownian:
        A, b = A[..., 1:, 1:], b[..., 1:]
    size = A.diagonal(dim1=-2, dim2=-1).sqrt()
    scaled = A / (size[..., :, None] * size[..., None, :])
    factor = torch.linalg.cholesky(scaled + RIDGE * torch.eye(A.shape[-1], dtype=A.dtype, device=A.device))
    weights = torch.cholesky_solve((b / size).unsqueeze(-1), factor).squeeze(-1) / size
    if not brownian:
        weights = torch.nn.functional.pad(weights, (1, 0))
    return (weights / (variance(hurst, kind).sqrt()[..., None] if unit else 1.0)).to(dtype)


def error_variance(
    weights: Tensor, hurst: Tensor, rates: Tensor, horizon: Tensor | float, *, kind: str = "I"
) -> Tensor:
    """Mean over ``[0, T]`` of ``E (B^H - approximation)^2`` for weights ``[..., 1 + K]`` that are not unit-scaled.

    Example:
        >>> H, rates = torch.tensor(0.3, dtype=torch.float64), geometric_rates(5, 20.0)
        >>> w = markov_weights(H, rates, 1.0, kind="II", brownian=False, unit=False)
        >>> round(float(error_variance(w, H, rates, 1.0, kind="II")), 8)
        0.00596506
    """
    A, b = normal_equations(hurst, rates, horizon, kind=kind)
    total = variance(hurst, kind) * horizon ** (2 * hurst + 1) / (2 * hurst + 1)
    square = (weights.unsqueeze(-2) @ A @ weights.unsqueeze(-1))[..., 0, 0]
    return (total - 2 * (b * weights).sum(-1) + square) / horizon


def variance(hurst: Tensor, kind: str) -> Tensor:
    """``Var B^H(1)`` when the moving-average kernel is ``s^(H - 1/2) / Gamma(H + 1/2)``."""
    if kind == "I":
        return 1 / (torch.lgamma(2 * hurst + 1).exp() * torch.sin(math.pi * hurst))
    return 1 / (2 * hurst * (2 * torch.lgamma(hurst + 0.5)).exp())


def normal_equations(hurst: Tensor, rates: Tensor, horizon: Tensor | float, *, kind: str) -> tuple[Tensor, Tensor]:
    """``A [..., 1 + K, 1 + K]`` and ``b [..., 1 + K]``: integrals over ``[0, T]`` of the second moments of ``W`` and
    the ``Y_k``, among themselves and with ``B^H``."""
    T = torch.as_tensor(horizon, dtype=rates.dtype, device=rates.device)
    T = T[..., None]
    lost = -torch.expm1(-rates * T) / rates  # int_0^T exp(-gamma t) dt
    total = rates[..., :, None] + rates[..., None, :]
    if kind == "I":
        inner = (2 * T[..., None] - lost[..., :, None] - lost[..., None, :]) / total
        with_target = _target_one(hurst, rates, T)
    else:
        inner = (T[..., None] + torch.expm1(-total * T[..., None]) / total) / total
        with_target = _target_two(hurst, rates, T)
    mixed = (T - lost) / rates
    corner = 0.5 * T.square().expand_as(mixed[..., :1])
    top = torch.cat([corner, mixed], dim=-1).unsqueeze(-2)
    A = torch.cat([top, torch.cat([mixed.unsqueeze(-1), inner], dim=-1)], dim=-2)
    a = hurst[..., None] + 0.5
    first = T ** (a + 1) / torch.lgamma(a + 2).exp()
    leading = torch.broadcast_shapes(first.shape[:-1], with_target.shape[:-1])
    return A, torch.cat([first.expand(*leading, 1), with_target.expand(*leading, -1)], dim=-1)


def _target_one(hurst: Tensor, rates: Tensor, T: Tensor) -> Tensor:
    """``gamma^-a (2 T - (1 - e^-x) / gamma - (e^x Q(a + 1, x) - 1) / gamma)`` with ``a = H + 1/2``, ``x = gamma T``."""
    a, x = (hurst + 0.5)[..., None], rates * T
    return rates**-a * (2 * T + torch.expm1(-x) / rates - (_scaled_upper_gamma(a + 1, x) - 1) / rates)


def _scaled_upper_gamma(a: Tensor, x: Tensor) -> Tensor:
    """``e^x Q(a, x) = int_0^inf (x + u)^(a - 1) e^-u du / Gamma(a)`` by the double exponential rule: it has a
    derivative in ``a``, which the library's incomplete gamma function lacks."""
    s = torch.linspace(-3.8, 4.0, 200, dtype=x.dtype, device=x.device)
    u = (s - (-s).exp()).exp()
    weight = (s[1] - s[0]) * u * (1 + (-s).exp()) * (-u).exp()
    log_rise = (a - 1).unsqueeze(-1) * (x.unsqueeze(-1) + u).log()
    return (log_rise.exp() * weight).sum(-1) / torch.lgamma(a).exp()


def _target_two(hurst: Tensor, rates: Tensor, T: Tensor) -> Tensor:
    """``int_0^T (T - s) s^(H - 1/2) e^(-gamma s) ds / Gamma(H + 1/2)`` by the double exponential rule."""
    s = torch.linspace(-4.2, 4.2, 161, dtype=rates.dtype, device=rates.device)
    z = math.pi * s.sinh()
    log_left, right = torch.nn.functional.logsigmoid(z), torch.sigmoid(-z)
    weight = (s[1] - s[0]) * math.pi * s.cosh() * right.square()
    a = (hurst + 0.5)[..., None]
    # s = T left, T - s = T right, ds = T left right pi cosh
    inside = (a.unsqueeze(-1) * log_left - (rates * T).unsqueeze(-1) * log_left.exp()).exp()
    return T ** (a + 1) * (inside * weight).sum(-1) / torch.lgamma(a).exp()
