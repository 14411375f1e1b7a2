"""Continuous-time autoregressive moving averages of any order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ...statespace.discretise import discretise
from .base import Kernel, log_parameter, positive

_MOST = 8


class CARMA(Kernel):
    """``alpha(D) x = white noise``, ``f = beta(D) x``, with ``D`` the derivative in time.

    ``alpha`` is a product of factors ``s^2 + b s + c`` and, for odd order, one ``s + c``; all numbers are positive, so
    every value of the parameters is stable, with real, complex or repeated roots alike.

    Args:
        autoregression: ``c1, b1, c2, b2, ...`` (``c``: per time squared, ``b``: per time); for odd order a last ``c``
            per time. Its length is the order ``p``.
        moving_average: ``beta_1 .. beta_q``, ``q < p``; ``beta_0 = 1``; ``beta_k`` in time to the ``k``.
        variance: ``k(0)``.

    Raises:
        ConfigError: orders out of range, or a factor is not positive.

    References:
        Kelly et al. (2014), Flexible and scalable methods for quantifying stochastic variability in the era of massive
        time-domain astronomical data sets.

    Example:
        >>> kernel = CARMA([4.0, 0.5, 1.0], moving_average=[0.3])
        >>> kernel.state_dim, round(kernel.covariance(torch.zeros((), dtype=torch.float64)).item(), 9)
        (3, 1.0)
    """

    def __init__(
        self, autoregression: Sequence[float], moving_average: Sequence[float] = (), variance: float = 1.0
    ) -> None:
        super().__init__()
        p, q = len(autoregression), len(moving_average)
        if not 1 <= p <= _MOST or q >= p:
            raise ConfigError(f"orders ({p}, {q}) are out of range", fix=f"0 <= q < p <= {_MOST}")
        logs = [math.log(positive("autoregression", value)) for value in autoregression]
        self.state_dim = p
        self.log_autoregression = nn.Parameter(torch.tensor(logs, dtype=torch.float64))
        beta = torch.tensor([1.0, *moving_average], dtype=torch.float64)[1:]
        if q:
            self.moving_average = nn.Parameter(beta)
        else:
            self.register_buffer("moving_average", beta)
        self.log_variance = log_parameter(variance, "variance")

    def polynomial(self) -> Tensor:
        """``alpha``'s coefficients, constant term first, leading one left out: ``[p]``."""
        numbers = self.log_autoregression.exp()
        one = torch.ones_like(numbers[:1])
        found = one
        for k in range(0, len(numbers), 2):
            factor = torch.cat([numbers[k : k + 2], one])
            product = found.new_zeros(len(found) + len(factor) - 1)
            for i, value in enumerate(factor):
                product = product + nn.functional.pad(found * value, (i, len(factor) - 1 - i))
            found = product
        return found[:-1]

    def _scaled(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Rate, ``F``, ``D``, ``P`` and ``h`` in time scaled by the rate, for a variance of one."""
        alpha, p = self.polynomial(), self.state_dim
        powers = torch.arange(p, dtype=alpha.dtype, device=alpha.device)
        # the roots' geometric mean; a constant here: the process does not depend on how its state is scaled
        rate = alpha[0].detach() ** (1.0 / p)
        last = -alpha * rate ** (powers - p)
        F = torch.cat([torch.eye(p, dtype=alpha.dtype, device=alpha.device)[1:], last[None]])
        D = torch.zeros_like(F)
        D[-1, -1] = 1.0
        P = _lyapunov(F, D)
        beta = torch.cat([torch.ones_like(alpha[:1]), self.moving_average])
        h = nn.functional.pad(beta * rate ** powers[: len(beta)], (0, p - len(beta)))
        size = h @ P @ h
        return rate, F, D / size, P / size, h

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Taylor series and doublings."""
        rate, F, D, _, _ = self._scaled()
        A, Q = discretise(F, D, rate * dt)
        return A, Q * self.log_variance.exp()

    def initial(self) -> Tensor:
        """Stationary covariance."""
        return self._scaled()[3] * self.log_variance.exp()

    def readout(self) -> Tensor:
        """``beta``, in the scale of the state."""
        return self._scaled()[4]


def _lyapunov(F: Tensor, D: Tensor) -> Tensor:
    """``P`` with ``F P + P F^T + D = 0``, by one linear solve."""
    n = F.shape[0]
    eye = torch.eye(n, dtype=F.dtype, device=F.device)
    system = torch.kron(F, eye) + torch.kron(eye, F)
    P = torch.linalg.solve(system, -D.reshape(-1)).reshape(n, n)
    return 0.5 * (P + P.mT)
