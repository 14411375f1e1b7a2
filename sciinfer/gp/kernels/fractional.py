"""The fractional Ornstein-Uhlenbeck process as a kernel: rough (H < 1/2) or persistent (H > 1/2) mean reversion."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ...integrate.fractional import geometric_rates
from ...integrate.fractional_ou import FractionalOU, fractional_ou, stationary, transition
from .base import Kernel, log_parameter, positive

__entries__ = [
    {
        "kind": "kernels",
        "name": "fractional-ou",
        "target": "FractionalKernel",
        "summary": "fractional Ornstein-Uhlenbeck process with a learnable Hurst index (Markov approximation)",
        "references": ["Cheridito, Kawaguchi, Maejima (2003), Fractional Ornstein-Uhlenbeck processes"],
        "options": {
            "hurst": "index in (0, 1): 1/2 is the ordinary process",
            "relaxation": "time, 1 / rate of return",
            "scale": "strength of the noise, signal units per unit of time to the power H",
            "fastest": "time, the shortest that the approximation resolves",
            "slowest": "time, the longest that it resolves",
            "terms": "number of Ornstein-Uhlenbeck processes",
        },
    },
]


class FractionalKernel(Kernel):
    """``dX = -X / relaxation dt + scale dB^H``, stationary; ``terms`` processes of rates ``1/slowest .. 1/fastest``.

    Args:
        hurst: in (0, 1). relaxation, fastest, slowest: time. scale: see the registry's entry. terms: at least 2.

    Raises:
        ConfigError: an option out of its range.

    References:
        Daems, Opper, Crevecoeur, Birdal (2024), Variational inference for SDEs driven by fractional noise.

    Example:
        >>> kernel = FractionalKernel(hurst=0.5, relaxation=2.0)
        >>> round(kernel.covariance(torch.tensor(2.0, dtype=torch.float64)).item(), 6)
        0.367879
    """

    def __init__(
        self,
        hurst: float = 0.5,
        relaxation: float = 1.0,
        scale: float = 1.0,
        fastest: float = 0.01,
        slowest: float = 1000.0,
        terms: int = 8,
    ) -> None:
        super().__init__()
        if not (isinstance(hurst, float) and 0 < hurst < 1):
            raise ConfigError(f"hurst must lie between 0 and 1, got {hurst!r}", variable="hurst", fix="hurst=0.5")
        if not isinstance(terms, int) or isinstance(terms, bool):
            raise ConfigError(f"terms must be a whole number, got {terms!r}", variable="terms", fix="terms=8")
        self.state_dim = 1 + terms
        self.logit_hurst = nn.Parameter(torch.tensor(math.log(hurst / (1 - hurst)), dtype=torch.float64))
        self.log_rate = log_parameter(1 / positive("relaxation", relaxation), "relaxation")
        self.log_scale = log_parameter(scale, "scale")
        rates = geometric_rates(terms, 1 / positive("fastest", fastest), 1 / positive("slowest", slowest))
        self.register_buffer("rates", rates)
        # a thirtieth of the slowest time is the span over which the weights are the best
        self.register_buffer("horizon", torch.tensor(0.03 * slowest, dtype=torch.float64))

    @property
    def hurst(self) -> Tensor:
        """``H`` in (0, 1)."""
        return torch.sigmoid(self.logit_hurst)

    def resolve(self, span: float, gap: float) -> None:
        """Choose the rates for data over ``span`` with gaps of about ``gap`` (the short ones), in units of time."""
        rates = self.get_buffer("rates")
        found = geometric_rates(len(rates), 100 / gap, 0.03 / max(span, 4 * gap))
        rates.copy_(found)
        self.get_buffer("horizon").fill_(max(span, 4 * gap))

    def process(self) -> FractionalOU:
        """Rates and weights, in double precision whatever that of the parameters: the system is ill-conditioned."""
        hurst, theta, sigma = (p.double() for p in (self.hurst, self.log_rate.exp(), self.log_scale.exp()))
        return fractional_ou(
            hurst, theta, sigma, self.get_buffer("rates").double(), self.get_buffer("horizon").double()
        )

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of exponentials, see :mod:`sciinfer.integrate.fractional_ou`."""
        A, Q = transition(self.process(), dt.double())
        return A.to(self.log_rate.dtype), Q.to(self.log_rate.dtype)

    def initial(self) -> Tensor:
        """Stationary covariance."""
        return stationary(self.process()).to(self.log_rate.dtype)

    def readout(self) -> Tensor:
        """``X`` is the first component."""
        return torch.nn.functional.one_hot(torch.tensor(0), self.state_dim).to(self.log_rate)
