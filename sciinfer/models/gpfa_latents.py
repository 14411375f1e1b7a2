"""Latents of unit variance, their posterior at asked-for times, and the frame in which they are reported."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from ..gp.kernels import Kernel
from ..processes import Bridge, LatentGPs, build_bridge
from ..processes.bridge import take_paths
from ..statespace import matvec
from ..statespace.problem import symmetrise


class UnitGPs(LatentGPs):
    """``z_k ~ GP(0, k_k / k_k(0))``: independent and of variance one, so that scale lives in the loadings alone.

    Args:
        kernels: stationary, one for each latent. A variance that the whole kernel carries is set to one and kept.

    Raises:
        ConfigError: a kernel is not stationary.

    Example:
        >>> from sciinfer.gp.kernels import Matern12
        >>> process = UnitGPs([Matern12() + Matern12()])
        >>> G, P = process.readout(), process.initial()[1]
        >>> round(float((G @ P @ G.mT).detach()), 12)
        1.0
    """

    def __init__(self, kernels: list[Kernel]) -> None:
        super().__init__(kernels)
        for kernel in self.kernels:
            if not kernel.stationary:
                raise ConfigError(f"{type(kernel).__name__} is not stationary", variable="kernel", fix="matern32")
            hold_variance(kernel)

    def readout(self) -> Tensor:
        """``G [K, d]`` with ``z = G x``."""
        return torch.block_diag(*(_unit(kernel)[None] for kernel in self.kernels))


def hold_variance(kernel: Kernel) -> None:
    """A kernel's own variance is one and not learned; sums and products keep those of their parts."""
    held = kernel._parameters.get("log_variance")
    if held is not None:
        with torch.no_grad():
            held.zero_()
        held.requires_grad_(False)


def _unit(kernel: Kernel) -> Tensor:
    h = kernel.readout()
    return h / ((kernel.initial() @ h) @ h).sqrt()


class LatentPath(NamedTuple):
    """Posterior of the latents at grid positions ``where [S, n]`` of ``bridge``; ``readout`` ``G [K, d]``."""

    bridge: Bridge
    readout: Tensor
    where: Tensor

    def mean(self) -> Tensor:
        """``[S, n, K]``."""
        return matvec(self.readout, self.bridge.mean(self.where))

    def cov(self) -> Tensor:
        """``[S, n, K, K]``."""
        return symmetrise(self.readout @ self.bridge.cov(self.where) @ self.readout.mT)

    def sample(self, draws: int, generator: torch.Generator) -> Tensor:
        """Joint draws ``[n, S, n, K]``."""
        return take_paths(self.bridge.sample(draws, generator), self.where) @ self.readout.mT


def condition_rows(process: UnitGPs, time: Tensor, H: Tensor, y: Tensor, query: Tensor) -> LatentPath:
    """The posterior given whitened rows on the state, at ``query [S, n]`` in any order.

    Times that are those of the data, in whatever order, are not put into the grid a second time.
    """
    ordered, order = torch.sort(query, dim=1, stable=True)
    if ordered.shape == time.shape and torch.equal(ordered, time):
        bridge = build_bridge(process, time, H, y, query[:, :0])
        return LatentPath(bridge, process.readout(), bridge.at_data.gather(1, torch.argsort(order, dim=1)))
    bridge = build_bridge(process, time, H, y, query)
    return LatentPath(bridge, process.readout(), bridge.at_query)


class Frame(NamedTuple):
    """Reported latents ``z V`` and their loadings ``W V``.

    ``rotation`` ``V [K, K]`` is orthogonal; the columns of ``loading [C, K]`` are orthogonal, the largest first, each
    with its largest entry positive; ``explained [K]``: their squared lengths, what each latent adds to the predictors'
    prior variance, summed over channels.
    """

    rotation: Tensor
    loading: Tensor
    explained: Tensor


def orthogonal_frame(weight: Tensor) -> Frame:
    """The frame of loadings ``W [C, K]`` of latents of unit variance: their singular vectors.

    Example:
        >>> frame = orthogonal_frame(torch.tensor([[0.0, -2.0], [1.0, 0.0]], dtype=torch.float64))
        >>> frame.explained.tolist(), frame.loading.abs().tolist()
        ([4.0, 1.0], [[2.0, 0.0], [0.0, 1.0]])
    """
    values, vectors = torch.linalg.eigh(weight.mT @ weight)
    turned = weight @ vectors.flip(-1)
    largest = turned.gather(0, turned.abs().argmax(0, keepdim=True))
    sign = torch.where(largest < 0, -torch.ones_like(largest), torch.ones_like(largest))
    return Frame(vectors.flip(-1) * sign, turned * sign, values.flip(-1).clamp(min=0.0))
