"""What the sites should be, given the posterior they make: variational inference, expectation propagation, Laplace."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .sites import Sites

Method = Literal["cvi", "ep", "laplace"]
METHODS: tuple[Method, ...] = ("cvi", "ep", "laplace")
#: least site precision, in units of the marginal one: a row of the engine has no room for none or less
FLOOR = 1e-5
_HUGE = 1e12


class Observed(Protocol):
    """The part of a likelihood that sites need."""

    def entry_log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """``log p(y | eta)``, entry by entry."""
        ...

    def expected_log_prob(self, y: Tensor, mean: Tensor, variance: Tensor, mask: Tensor) -> Tensor:
        """``sum_c mask_c E log p(y_c | eta_c)``."""
        ...


class Data(NamedTuple):
    """``y, mask [B, T, C]``; ``offset`` broadcastable to them: the predictor is ``eta = offset + f``."""

    likelihood: Observed
    y: Tensor
    mask: Tensor
    offset: Tensor


def make_data(likelihood: Observed, y: Tensor, mask: Tensor, offset: Tensor | float = 0.0) -> Data:
    """``y`` made finite where masked."""
    return Data(likelihood, torch.where(mask, y, torch.zeros_like(y)), mask, torch.as_tensor(offset, dtype=y.dtype))


def target(method: Method, data: Data, mean: Tensor, variance: Tensor, sites: Sites, power: float) -> Sites:
    """The sites that the current marginals ask for.

    Args:
        mean, variance: ``[B, T, C]`` of ``f``. sites: the ones in place. power: of power EP, 1 = EP.
    """
    if method == "ep":
        precision, shift = _ep_target(data, mean, variance, sites, power)
    elif method == "laplace":
        slope, curvature = derivatives(data, mean)
        precision, shift = -curvature, slope
    else:
        precision, shift = _cvi_target(data, mean, variance)
    floor = FLOOR / variance.clamp(min=1e-300)
    precision = precision.nan_to_num(nan=0.0).clamp(max=_HUGE).maximum(floor)
    if method != "ep":
        shift = shift + precision * mean
    return Sites(_kept(precision, data.mask), _kept(shift.nan_to_num(nan=0.0, posinf=_HUGE, neginf=-_HUGE), data.mask))


def correction(method: Method, data: Data, mean: Tensor, variance: Tensor, sites: Sites, power: float) -> Tensor:
    """What is added to the sites' log-normaliser, ``[B]``.

    ``cvi``: ``sum E log p - E log t`` (gives the ELBO); ``laplace``: the same at the mean (the Laplace evidence);
    ``ep``: ``sum (log int p^a cavity - log int t^a cavity) / a`` (the power-EP evidence).
    """
    if method == "ep":
        cavity_mean, cavity_var = cavity(mean, variance, sites, power)
        entries = (_tilted(data, mean, variance, cavity_mean, cavity_var, power)[0]
                   - _site_integral(sites, cavity_mean, cavity_var, power)) / power  # fmt: skip
        return _kept(entries, data.mask).sum((-2, -1))
    spread = mean.square() if method == "laplace" else mean.square() + variance
    log_site = sites.shift * mean - 0.5 * sites.precision * spread
    if method == "laplace":
        entries = data.likelihood.entry_log_prob(data.y, _kept(mean + data.offset, data.mask))
        return _kept(entries - log_site, data.mask).sum((-2, -1))
    expected = data.likelihood.expected_log_prob(data.y, mean + data.offset, variance, data.mask)
    return expected.sum(-1) - _kept(log_site, data.mask).sum((-2, -1))


def derivatives(data: Data, mean: Tensor, *, orders: int = 2, graph: bool = False) -> list[Tensor]:
    """First derivatives of ``log p(y | offset + f)`` in ``f``, ``[B, T, C]`` each, zero where masked.

    Args:
        orders: how many. graph: keep what they owe to the likelihood's parameters and the offset (not to ``mean``).
    """
    with torch.enable_grad():
        offset = data.offset if graph else data.offset.detach()
        at = mean.detach().requires_grad_()
        current = data.likelihood.entry_log_prob(data.y, _kept(at + offset, data.mask))
        found: list[Tensor] = []
        for order in range(orders):
            if current.requires_grad:
                further = graph or order + 1 < orders
                (current,) = torch.autograd.grad(current.sum(), at, create_graph=further, materialize_grads=True)
            else:
                current = torch.zeros_like(at)
            found.append(_kept(current if graph else current.detach(), data.mask))
    return found


def _cvi_target(data: Data, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """``precision = -2 dE/dv``, ``shift - precision * mean = dE/dm``: the natural gradient's fixed point.

    References:
        Khan, Lin (2017), Conjugate-computation variational inference.
    """
    with torch.enable_grad():
        m, v = mean.detach().requires_grad_(), variance.detach().requires_grad_()
        total = data.likelihood.expected_log_prob(data.y, m + data.offset.detach(), v, data.mask).sum()
        slope, spread = torch.autograd.grad(total, (m, v), materialize_grads=True)
    return -2 * spread, slope


def cavity(mean: Tensor, variance: Tensor, sites: Sites, power: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of the marginal without ``power`` of its own site."""
    precision = (1 / variance - power * sites.precision).clamp(min=1e-12)
    return (mean / variance - power * sites.shift) / precision, 1 / precision


def _ep_target(data: Data, mean: Tensor, variance: Tensor, sites: Sites, power: float) -> tuple[Tensor, Tensor]:
    """Match the first two moments of the tilted distribution.

    References:
        Minka (2004), Power EP.
    """
    cavity_mean, cavity_var = cavity(mean, variance, sites, power)
    _, m, v = _tilted(data, mean, variance, cavity_mean, cavity_var, power)
    return (1 / v - 1 / cavity_var) / power, (m / v - cavity_mean / cavity_var) / power


def _tilted(
    data: Data, mean: Tensor, variance: Tensor, cavity_mean: Tensor, cavity_var: Tensor, power: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``log int p^a N(cavity)``, and mean and variance of that density; nodes where the marginal has its mass."""
    x, w = np.polynomial.hermite_e.hermegauss(32)
    nodes = torch.as_tensor(x, dtype=mean.dtype, device=mean.device)
    log_w = torch.as_tensor(np.log(w / math.sqrt(2 * math.pi)), dtype=mean.dtype, device=mean.device)
    f = mean[..., None, :] + variance.sqrt()[..., None, :] * nodes[:, None]
    y = data.y[..., None, :].expand_as(f)
    eta = torch.where(
        data.mask[..., None, :], f + data.offset[..., None, :] if data.offset.ndim > 1 else f + data.offset, 0.0
    )
    log_p = power * data.likelihood.entry_log_prob(y, eta)
    ratio = 0.5 * nodes.square()[:, None] + 0.5 * (variance / cavity_var).log()[..., None, :]
    distance = 0.5 * (f - cavity_mean[..., None, :]).square() / cavity_var[..., None, :]
    log_weight = log_p + log_w[:, None] + ratio - distance
    log_z = torch.logsumexp(log_weight, dim=-2)
    share = (log_weight - log_z[..., None, :]).exp().detach()
    m = (share * f).sum(-2)
    return log_z, m, (share * (f - m[..., None, :]).square()).sum(-2).clamp(min=1e-300)


def _site_integral(sites: Sites, mean: Tensor, variance: Tensor, power: float) -> Tensor:
    """``log int t(f)^a N(f | mean, variance)``."""
    a, b = power * sites.shift, power * sites.precision
    grown = 1 + b * variance
    return 0.5 * (2 * a * mean + variance * a.square() - b * mean.square()) / grown - 0.5 * grown.log()


def _kept(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, torch.zeros_like(values))
