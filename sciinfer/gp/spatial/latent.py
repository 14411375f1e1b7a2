"""What the approximations for any likelihood share: kernel, likelihood, mean, and how a fit ended."""

from __future__ import annotations

from torch import nn

from ...likelihoods import Likelihood
from ..kernels import Kernel
from .covariances import Covariance, as_covariance
from .inputs import likelihood_or_noise
from .optimise import FitReport


class LatentGP(nn.Module):
    """``y_i ~ p(y | mean + f(x_i))``, ``f ~ GP(0, kernel)``.

    Args:
        kernel: a covariance of ``sciinfer.gp.spatial``, or a kernel of time (Matérn kernels then act on distances).
        noise: variance of Gaussian observations (default 1), learnable. likelihood: instead of noise, one channel.
        mean: a number added to ``f``.

    Raises:
        ConfigError: both noise and likelihood, or no kernel.
    """

    def __init__(
        self, kernel: Covariance | Kernel, noise: float | None, mean: float, likelihood: Likelihood | None
    ) -> None:
        super().__init__()
        self.covariance = as_covariance(kernel)
        self.likelihood = likelihood_or_noise(likelihood, noise)
        self.mean = float(mean)
        self.report: FitReport | None = None

    def learned(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that a fit may move."""
        return [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]

    def _ended(self) -> list[str]:
        """How the fit ended, in words; nothing before one."""
        if self.report is None:
            return []
        return [f"fit {self.report.verdict} at an ELBO of {self.report.objective:.4f} nats"]
