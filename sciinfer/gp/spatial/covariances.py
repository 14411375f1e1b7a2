"""Covariances of points in R^d, with one length-scale per input or a shared one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ..kernels import Kernel, Matern12, Matern32, Matern52
from ..kernels.base import log_parameter, positive


class Covariance(nn.Module, ABC):
    """``k(a, b)`` of points in ``R^d``, a function of the distance in units of the length-scales."""

    @abstractmethod
    def scaled(self, X: Tensor) -> Tensor:
        """``X [..., d]`` over the length-scales: near and far are judged in these units."""

    @abstractmethod
    def profile(self, squared: Tensor) -> Tensor:
        """``k`` as a function of the squared scaled distance."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``K [..., n, m]`` between ``a [..., n, d]`` and ``b [..., m, d]``."""
        a, b = self.scaled(a), self.scaled(b)
        # differences, not |a|^2 + |b|^2 - 2ab: near points keep their digits
        return self.profile((a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1))

    def variance_at(self, X: Tensor) -> Tensor:
        """``k(x, x) [..., n]``."""
        return self.profile(torch.zeros(X.shape[:-1], dtype=X.dtype, device=X.device))


class _ARD(Covariance):
    """Shared parameters: one ``lengthscale`` per input (or one for all) and ``variance``."""

    def __init__(self, lengthscale: float | Sequence[float] = 1.0, variance: float = 1.0) -> None:
        super().__init__()
        scales = [lengthscale] if isinstance(lengthscale, (int, float)) else list(lengthscale)
        logs = [math.log(positive("lengthscale", float(scale))) for scale in scales]
        self.log_lengthscale = nn.Parameter(torch.tensor(logs, dtype=torch.float64))
        self.log_variance = log_parameter(variance, "variance")

    @property
    def lengthscale(self) -> Tensor:
        """Length-scales ``[d]`` or ``[1]``, in units of the inputs."""
        return self.log_lengthscale.exp()

    @property
    def variance(self) -> Tensor:
        """``k(x, x)``."""
        return self.log_variance.exp()

    def scaled(self, X: Tensor) -> Tensor:
        """``X / l``.

        Raises:
            ConfigError: as many length-scales as inputs are needed, or one.
        """
        if len(self.log_lengthscale) not in (1, X.shape[-1]):
            raise ConfigError(
                f"{len(self.log_lengthscale)} length-scales for {X.shape[-1]} inputs", fix="pass one per input, or one"
            )
        return X / self.lengthscale


class Matern(_ARD):
    """Matérn covariance of smoothness 1/2, 3/2 or 5/2 with one length-scale per input.

    ``k = s2 p(a) exp(-a)``, ``a = sqrt(2 nu) |x - x'|_l``, ``p = 1``, ``1 + a``, ``1 + a + a^2/3``.

    Args:
        nu: smoothness. lengthscale: one, or one per input. variance: ``s2``.

    Example:
        >>> k = Matern(1.5, lengthscale=[1.0, 2.0])
        >>> k(torch.zeros(3, 2, dtype=torch.float64), torch.zeros(4, 2, dtype=torch.float64)).shape
        torch.Size([3, 4])
    """

    def __init__(self, nu: float = 1.5, lengthscale: float | Sequence[float] = 1.0, variance: float = 1.0) -> None:
        super().__init__(lengthscale, variance)
        if nu not in (0.5, 1.5, 2.5):
            raise ConfigError(f"smoothness nu must be 0.5, 1.5 or 2.5, got {nu!r}", fix="nu=1.5")
        self.nu = float(nu)

    def profile(self, squared: Tensor) -> Tensor:
        """``s2 p(a) exp(-a)``."""
        return self.variance * matern_profile(self.nu, squared)


class SquaredExponential(_ARD):
    """``k = s2 exp(-|x - x'|_l^2 / 2)``.

    Args:
        lengthscale: one, or one per input. variance: ``s2``.

    Example:
        >>> k = SquaredExponential(lengthscale=2.0)
        >>> x = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
        >>> round(k(x, x)[0, 1].item(), 4)
        0.6065
    """

    def profile(self, squared: Tensor) -> Tensor:
        """``s2 exp(-r^2 / 2)``."""
        return self.variance * (-0.5 * squared).exp()


class Isotropic(Covariance):
    """A Matérn kernel of time used on distances in ``R^d``; the parameters stay the kernel's own.

    Args:
        kernel: Matern12, Matern32 or Matern52.

    Example:
        >>> from sciinfer.gp.kernels import Matern32
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> round(Isotropic(Matern32(lengthscale=1.0))(x, x)[0, 1].item(), 4)
        0.4834
    """

    def __init__(self, kernel: Matern12 | Matern32 | Matern52) -> None:
        super().__init__()
        self.kernel = kernel
        self.nu = {Matern12: 0.5, Matern32: 1.5, Matern52: 2.5}[type(kernel)]

    def scaled(self, X: Tensor) -> Tensor:
        """``X / l``."""
        return X / self.kernel.lengthscale

    def profile(self, squared: Tensor) -> Tensor:
        """``s2 p(a) exp(-a)``."""
        return self.kernel.variance * matern_profile(self.nu, squared)


class OneInput(Covariance):
    """Any stationary kernel of time over one input; distances are in the input's own units."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel

    def scaled(self, X: Tensor) -> Tensor:
        """``X`` itself."""
        if X.shape[-1] != 1:
            raise ConfigError(
                f"{type(self.kernel).__name__} is a kernel of one input, the points have {X.shape[-1]}",
                fix="use Matern(nu, lengthscale=...) or SquaredExponential of sciinfer.gp.spatial",
            )
        return X

    def profile(self, squared: Tensor) -> Tensor:
        """The kernel's own covariance."""
        return self.kernel.covariance(_root(squared))


def matern_profile(nu: float, squared: Tensor) -> Tensor:
    """Matérn correlation of smoothness ``nu`` at the squared scaled distance; gradients at zero are zero, not NaN."""
    a = _root(2 * nu * squared)
    if nu == 0.5:
        return (-a).exp()
    return (1 + a if nu == 1.5 else 1 + a + a.square() / 3) * (-a).exp()


def _root(squared: Tensor) -> Tensor:
    """The root, of the least positive number where there is none: its gradient at zero is zero, not NaN."""
    return squared.clamp(min=torch.finfo(squared.dtype).tiny).sqrt()


def as_covariance(kernel: Covariance | Kernel) -> Covariance:
    """A covariance in ``R^d`` from itself or from a kernel of time (Matérn: by distance; others: one input only).

    Raises:
        ConfigError: neither.
    """
    if isinstance(kernel, Covariance):
        return kernel
    if isinstance(kernel, (Matern12, Matern32, Matern52)):
        return Isotropic(kernel)
    if isinstance(kernel, Kernel):
        return OneInput(kernel)
    raise ConfigError(f"{type(kernel).__name__} is no covariance", fix="use Matern or SquaredExponential")
