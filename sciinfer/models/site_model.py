"""Gaussian processes of counts, grades, zeros and ones: one kernel and one likelihood for each channel."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..extend import registry
from ..gp.approximate import ApproximateMarkovGP
from ..gp.kernels import Kernel, parse_kernel
from ..labelled.schema import Schema
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Likelihood
from ..statespace.site_rules import Method
from .base import Draws, Loss, Model

__entries__ = [
    {
        "kind": "models",
        "name": "gp-sites",
        "target": "gp_sites",
        "summary": "Gaussian process in time with any likelihood, one for each channel, linear in the data",
        "references": ["Chang et al. (2020), Fast variational learning in state-space Gaussian process models"],
        "options": {
            "likelihood": "poisson (default), negative-binomial, bernoulli, ordinal, student-t or gaussian",
            "kernel": "a sum of kernels, e.g. 'matern32(lengthscale=30D) + seasonal(period=365.25D)'",
            "method": "cvi (default: variational) | ep | laplace",
            "noise": "starting scale of student-t and gaussian noise, in units of each channel's own",
        },
    },
]


def gp_sites(
    schema: Schema,
    *,
    seed: int = 0,
    likelihood: str = "poisson",
    kernel: str = "matern32",
    method: Method = "cvi",
    noise: float = 0.3,
) -> Model:
    """Build the model for data of this schema (nothing in it is random: ``seed`` is not used).

    Example:
        >>> import numpy as np, sciinfer as si, xarray as xr
        >>> ds = xr.Dataset({"n": ("t", [1.0, 0.0, 2.0, 4.0, 3.0])}, coords={"t": np.arange(5.0)})
        >>> fitted = si.fit(ds, model="gp-sites", options={"likelihood": "poisson"}, progress="silent")
        >>> fitted.predict(time=[2.5], draws=5)["posterior"]["n"].sizes["draw"]
        5
    """
    build = registry().get("likelihoods", likelihood)
    made = build(1, noise=noise) if likelihood in ("gaussian", "student-t") else build(1)
    return SiteModel(parse_kernel(kernel, schema.time.duration), made, schema.n_channels, method)


class SiteModel(Model):
    """``y_c(t) ~ p(y | eta_c(t))``, ``eta_c = level_c + f_c``, ``f_c ~ GP(0, k_c)``; channels are independent.

    Args:
        kernel, likelihood: starting ones, copied to every channel. channels: ``C``. method: of inference.
    """

    def __init__(self, kernel: Kernel, likelihood: Likelihood, channels: int, method: Method = "cvi") -> None:
        super().__init__()
        self._parts = nn.ModuleList(
            ApproximateMarkovGP(copy.deepcopy(kernel), copy.deepcopy(likelihood), method=method, mean="constant")
            for _ in range(channels)
        )

    @property
    def parts(self) -> list[ApproximateMarkovGP]:
        """One process for each channel."""
        return [part for part in self._parts if isinstance(part, ApproximateMarkovGP)]

    def initialise(self, batch: SeriesBatch) -> None:
        """Start each level at the best constant."""
        for c, part in enumerate(self.parts):
            padded = _channel(batch, c)
            if bool(padded.mask.any()):
                part.start_level(padded)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Few parameters, smooth objective: quasi-Newton on all data."""
        return {"optimiser": "lbfgs", "steps": 30, "learning_rate": 1.0, "validation": 0.0, "batch_size": None}

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """``-ELBO`` (or minus the evidence of the method) per observed entry."""
        total = torch.stack([part.series_objective(_channel(batch, c)).sum() for c, part in enumerate(self.parts)])
        value = total.sum() / max(batch.observed, 1)
        return Loss(-value, {"elbo": value.detach()})

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint draws of each predictor: ``signal`` is the likelihood's mean there, ``latent`` the predictor itself."""
        parts = enumerate(self.parts)
        eta = torch.cat([part.posterior(_channel(batch, c)).draw(times, draws, generator) for c, part in parts], dim=-1)
        return self._draws(eta, generator)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Draws from the learned prior."""
        blank = times.new_zeros(1, 1, 1)
        padded = Padded(times[None, :1], blank, blank.bool(), blank[..., 0].bool())
        eta = [part.posterior(padded).draw(times[None], draws, generator) for part in self.parts]
        return self._draws(torch.cat(eta, dim=-1), generator)

    def summary(self) -> dict[str, float]:
        """Parameters of the first channel."""
        found: dict[str, float] = {}
        for name, parameter in self.parts[0].named_parameters():
            logarithm = name.rsplit(".", 1)[-1].startswith("log_")
            values = parameter.detach().exp() if logarithm else parameter.detach()
            found |= {f"{name.replace('log_', '')}[{i}]": float(v) for i, v in enumerate(values.reshape(-1)[:8])}
        return found

    def _draws(self, eta: Tensor, generator: torch.Generator) -> Draws:
        with torch.no_grad():
            channels = list(zip(self.parts, eta.split(1, dim=-1), strict=True))
            signal = torch.cat([part.likelihood.mean(e) for part, e in channels], dim=-1)
            observation = torch.cat([part.likelihood.sample(e, generator) for part, e in channels], dim=-1)
        return Draws(signal, observation, eta)


def _channel(batch: SeriesBatch, c: int) -> Padded:
    """One channel of every series, unobserved rows dropped."""
    one = batch._replace(values=batch.values[:, c : c + 1], mask=batch.mask[:, c : c + 1], covariates=None)
    return one.keep(one.mask[:, 0]).padded()
