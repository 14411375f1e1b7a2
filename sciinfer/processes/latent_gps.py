"""Several independent Gaussian processes as one linear process, and the exact posterior under Gaussian potentials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..gp.kernels import Kernel
from ..gp.kernels.sum import block_diagonal
from ..statespace.discretise import unique_steps
from ..statespace.problem import matvec, symmetrise
from ..statespace.sites import SitePrior, Sites, site_rows
from .base import LinearProcess
from .bridge import Bridge, build_bridge, take_paths


class LatentGPs(LinearProcess):
    """``z_k ~ GP(0, k_k)``, independent; the state is the kernels' states one after the other.

    Args:
        kernels: one for each latent, of one output.

    Example:
        >>> from sciinfer.gp.kernels import Matern12, Matern32
        >>> process = LatentGPs([Matern12(), Matern32()])
        >>> process.dim, tuple(process.readout().shape)
        (3, (2, 3))
    """

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        super().__init__()
        if not kernels or any(kernel.outputs != 1 for kernel in kernels):
            raise ConfigError(f"{len(kernels)} kernels of one output each are needed", fix="one kernel for each latent")
        self._kernels = nn.ModuleList(kernels)
        self.dim, self.latents = sum(kernel.state_dim for kernel in kernels), len(kernels)

    @property
    def kernels(self) -> list[Kernel]:
        """One for each latent."""
        return [kernel for kernel in self._kernels if isinstance(kernel, Kernel)]

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Block-diagonal ``A`` and ``Q``."""
        return unique_steps(dt, self._transition)

    def _transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [kernel.transition(dt) for kernel in self.kernels]
        return block_diagonal([A for A, _ in pairs]), block_diagonal([Q for _, Q in pairs])

    def initial(self) -> tuple[Tensor, Tensor]:
        """``N(0, P0)``."""
        P0 = block_diagonal([kernel.initial() for kernel in self.kernels])
        return torch.zeros_like(P0[0]), P0

    def readout(self) -> Tensor:
        """``G [K, d]`` with ``z = G x``."""
        return torch.block_diag(*(kernel.readout()[None] for kernel in self.kernels))


class GaussianPath(NamedTuple):
    """``q(x) = p(x) prod t(z) / Z`` on the grid of ``bridge``; ``readout`` ``G [K, d]``, ``z = G x``.

    ``log_normaliser [S]`` is ``log Z``, ``divergence [S]`` is ``KL(q || p)`` of whole paths; both are exact.
    """

    bridge: Bridge
    readout: Tensor
    log_normaliser: Tensor
    divergence: Tensor

    def mean(self, where: Tensor) -> Tensor:
        """``E z``, ``[S, n, K]``, at grid positions ``[S, n]`` (``bridge.at_data`` or ``bridge.at_query``)."""
        return matvec(self.readout, self.bridge.mean(where))

    def cov(self, where: Tensor) -> Tensor:
        """``Cov z``, ``[S, n, K, K]``."""
        return symmetrise(self.readout @ self.bridge.cov(where) @ self.readout.mT)

    def sample(self, draws: int, generator: torch.Generator, where: Tensor) -> Tensor:
        """Joint draws of ``z``, ``[n, S, m, K]``.

        Slopes reach the draws through the posterior's mean and gains; the roots of the covariances that scale the
        noise carry none. What is learned through ``q`` goes by :meth:`mean` and :meth:`cov`, which are exact.
        """
        return take_paths(self.bridge.sample(draws, generator), where) @ self.readout.mT


def condition_potentials(
    process: LinearProcess, readout: Tensor, time: Tensor, potentials: Sites, query: Tensor
) -> GaussianPath:
    """Multiply a linear prior by ``t(z_i) = exp(shift_i z_i - precision_i z_i^2 / 2)`` at each time, exactly.

    ``KL(q || p) = E_q log prod t - log Z``. Potentials of several sources are summed before they come here; a
    precision and shift of zero say nothing.

    Args:
        process: zero-mean prior of the state, dim ``d``. readout: ``G [K, d]``. time: ``[S, T]``, ascending.
        potentials: ``[S, T, K]`` each. query: ``[S, Q]`` further times, any order.

    References:
        Khan, Lin (2017), Conjugate-computation variational inference.
        Johnson et al. (2016), Composing graphical models with neural networks for structured representations.

    Example:
        >>> from sciinfer.gp.kernels import Matern12
        >>> one = torch.ones(1, 1, 1, dtype=torch.float64)
        >>> process = LatentGPs([Matern12()])
        >>> path = condition_potentials(process, process.readout(), one[..., 0], Sites(one, one), one[..., 0])
        >>> round(float(path.mean(path.bridge.at_query).detach()), 6)
        0.5
    """
    prior = SitePrior(*process.transition(torch.zeros_like(time[:, :1])), process.initial()[1][None], readout)
    H, y = site_rows(prior, potentials)
    bridge = build_bridge(process, time, H, y, query)
    log_z = bridge.loglik + 0.5 * y.square().sum((-2, -1))
    path = GaussianPath(bridge, readout, log_z, log_z)
    mean, cov = path.mean(bridge.at_data), path.cov(bridge.at_data)
    spread = mean.square() + cov.diagonal(dim1=-2, dim2=-1)
    log_t = (potentials.shift * mean - 0.5 * potentials.precision * spread).sum((-2, -1))
    return path._replace(divergence=log_t - log_z)
