"""Autoencoders with a sparse Gaussian-process prior, for series: ``sparse-gp-vae`` and ``nn-gp-vae``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..gp.kernels import parse_kernel
from ..gp.spatial import Covariance, Matern, as_covariance
from ..labelled.schema import Schema
from ..labelled.series import SeriesBatch
from ..likelihoods import Gaussian, Likelihood
from ..random import generator as stream
from .base import Draws, Loss, Model
from .grids import pad_for
from .modalities import build_likelihood, find_modalities
from .sparse_gp_vae_core import Latents, RowBatch, RowGPVAE
from .sparse_gp_vae_inducing import SparseGPVAE
from .sparse_gp_vae_neighbours import POSTERIORS, NeighbourGPVAE
from .stable_sde import positive_numbers, shares, whole_numbers

__entries__ = [
    {
        "kind": "models",
        "name": "sparse-gp-vae",
        "target": "sparse_gp_vae",
        "summary": "Gaussian-process autoencoder through inducing points, closed-form posterior from an encoder",
        "references": [
            "Jazbec et al. (2021), Scalable Gaussian process variational autoencoders",
            "Ashman et al. (2020), Sparse Gaussian process variational autoencoders",
        ],
        "options": {
            "latent": "latent processes; default as many as channels, at most 4",
            "kernel": "kernel of each latent as text; default Matern 3/2 with learned length-scales, spread out",
            "inducing": "inducing times, shared by all series",
            "hidden": "width of encoder and decoder nets; 0 (default): a linear decoder",
            "likelihood": "a registered likelihood, or one for each variable, {variable: name}",
            "noise": "starting noise standard deviation, in units of each channel's own",
            "warmup": "share of training over which the divergence fades in, 0 (default): none",
            "pairs": "antithetic pairs of draws per row, for decoders that are not linear",
        },
    },
    {
        "kind": "models",
        "name": "nn-gp-vae",
        "target": "nn_gp_vae",
        "summary": "Gaussian-process autoencoder with a nearest-neighbour prior, mean-field or structured posterior",
        "references": [
            "Shi et al. (2025), Neighbour-driven Gaussian process variational autoencoders",
            "Wu, Pleiss, Cunningham (2022), Variational nearest neighbor Gaussian process",
        ],
        "options": {
            "latent": "latent processes; default as many as channels, at most 4",
            "kernel": "kernel of each latent as text; default Matern 3/2 with learned length-scales, spread out",
            "neighbours": "earlier values that each value is conditioned on",
            "posterior": "structured (default, exact under the potentials) | mean-field (long series)",
            "hidden": "width of encoder and decoder nets; 0 (default): a linear decoder",
            "likelihood": "a registered likelihood, or one for each variable, {variable: name}",
            "noise": "starting noise standard deviation, in units of each channel's own",
            "warmup": "share of training over which the divergence fades in, 0 (default): none",
            "pairs": "antithetic pairs of draws per row, for decoders that are not linear",
        },
    },
]

#: starting length-scales, in typical gaps
_SHORTEST, _LONGEST = 3.0, 30.0


class RowSeriesModel(Model):
    """A :class:`RowGPVAE` whose only input is time; every series has latent paths of its own.

    Args:
        core: over one input. warmup: share of training over which the divergence fades in.
    """

    def __init__(self, core: RowGPVAE, *, warmup: float = 0.0) -> None:
        super().__init__()
        self.core, self.warmup = core, warmup

    @staticmethod
    def rows_of(batch: SeriesBatch, query: Tensor | None = None) -> RowBatch:
        """Time as the input of each row."""
        padded = pad_for(batch, query)
        return RowBatch(padded.time[..., None], padded.values, padded.mask)

    def initialise(self, batch: SeriesBatch) -> None:
        """Principal components, and the inducing times where there are any."""
        self.core.start(self.rows_of(batch))

    def elbo_terms(self, batch: SeriesBatch, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Expected log-likelihood and divergence, ``[S]``; without a generator by fixed points."""
        return self.core.elbo(self.rows_of(batch), generator)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative ELBO per observed entry."""
        fit, divergence = (part.sum() for part in self.elbo_terms(batch, generator=generator))
        count = max(batch.observed, 1)
        weight = 1.0 if self.warmup == 0 else min(1.0, progress / self.warmup)
        terms = {"fit": fit.detach() / count, "divergence": divergence.detach() / count}
        return Loss((weight * divergence - fit) / count, terms)

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint draws of the latent paths given the data, through decoder and likelihood."""
        found = self.core.latent(self.rows_of(batch, times), times[..., None], draws, generator)
        return self.core.observe(found, generator)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Draws from the prior."""
        z = self.core.prior(times[None, :, None], draws, generator)
        return self.core.observe(Latents(z), generator)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Adam on minibatches of series."""
        return {"optimiser": "adam", "steps": 400, "learning_rate": 0.02, "validation": 0.0, "batch_size": 32}

    def summary(self) -> dict[str, float]:
        """Length-scales and noise, where there are such."""
        found = {
            f"lengthscale[{k}]": float(covariance.lengthscale.detach())
            for k, covariance in enumerate(self.core.covariances)
            if isinstance(covariance, Matern)
        }
        if isinstance(self.core.likelihood, Gaussian):
            found |= {f"noise[{c}]": float(sd) for c, sd in enumerate(self.core.likelihood.noise.detach())}
        return found


def sparse_gp_vae(
    schema: Schema,
    *,
    seed: int = 0,
    latent: int | None = None,
    kernel: str | None = None,
    inducing: int = 32,
    hidden: int = 0,
    likelihood: str | Mapping[str, str] = "gaussian",
    noise: float = 0.3,
    warmup: float = 0.0,
    pairs: int = 1,
) -> RowSeriesModel:
    """Build a sparse Gaussian-process autoencoder. See :class:`SparseGPVAE`; options in the registry's entry.

    Raises:
        ConfigError: an option is out of range.
    """
    whole_numbers(inducing=inducing)
    core = SparseGPVAE(
        build_covariances(schema, latent, kernel),
        schema.n_channels,
        inducing=inducing,
        inputs=1,
        **parts_of(schema, hidden, likelihood, noise, pairs, warmup),
        generator=stream(seed, "weights"),
    )
    return RowSeriesModel(core, warmup=warmup)


def nn_gp_vae(
    schema: Schema,
    *,
    seed: int = 0,
    latent: int | None = None,
    kernel: str | None = None,
    neighbours: int = 10,
    posterior: str = POSTERIORS[0],
    hidden: int = 0,
    likelihood: str | Mapping[str, str] = "gaussian",
    noise: float = 0.3,
    warmup: float = 0.0,
    pairs: int = 1,
) -> RowSeriesModel:
    """Build a nearest-neighbour Gaussian-process autoencoder. See :class:`NeighbourGPVAE`; options in the entry.

    Raises:
        ConfigError: an option is out of range.
    """
    whole_numbers(neighbours=neighbours)
    core = NeighbourGPVAE(
        build_covariances(schema, latent, kernel),
        schema.n_channels,
        neighbours=neighbours,
        posterior=posterior,
        **parts_of(schema, hidden, likelihood, noise, pairs, warmup),
        generator=stream(seed, "weights"),
    )
    return RowSeriesModel(core, warmup=warmup)


def build_covariances(schema: Schema, latent: int | None, kernel: str | None) -> list[Covariance]:
    """One covariance for each latent: from text, or Matérn 3/2 of unit variance with length-scales spread out.

    Raises:
        ConfigError: the kernel cannot be read, or has no covariance as a function of the lag.
    """
    whole_numbers(latent=latent)
    count = min(schema.n_channels, 4) if latent is None else latent
    if kernel is not None:
        return [_from_text(kernel, schema) for _ in range(count)]
    scales = np.geomspace(_SHORTEST, _LONGEST, count) if count > 1 else [(_SHORTEST * _LONGEST) ** 0.5]
    return unit_maternes([float(scale) for scale in scales])


def unit_maternes(scales: list[float], nu: float = 1.5, inputs: int = 1) -> list[Covariance]:
    """Matérn covariances whose variance stays one, for the decoder scales the latents; a length-scale for each input.

    Example:
        >>> [k.lengthscale.tolist() for k in unit_maternes([0.5, 2.0], inputs=2) if isinstance(k, Matern)]
        [[0.5, 0.5], [2.0, 2.0]]
    """
    found = [Matern(nu, [scale] * inputs) for scale in scales]
    for covariance in found:
        covariance.log_variance.requires_grad_(False)
    return list(found)


def _from_text(kernel: str, schema: Schema) -> Covariance:
    found = parse_kernel(kernel, schema.time.duration)
    if not found.stationary or found.outputs != 1:
        raise ConfigError(
            f"{kernel!r} is not a stationary kernel of one output", variable="kernel", fix='kernel="matern32"'
        )
    return as_covariance(found)


def parts_of(
    schema: Schema, hidden: int, likelihood: str | Mapping[str, str], noise: float, pairs: int, warmup: float
) -> dict[str, Any]:
    """Checked options that all of these models share, as arguments of their cores."""
    whole_numbers(pairs=pairs, hidden=hidden or 1)
    positive_numbers(noise=noise)
    shares(warmup=warmup)
    found = find_modalities(schema, likelihood)
    gaussian = all(modality.likelihood == "gaussian" for modality in found)
    # side by side, Gaussians would lose their closed forms
    seen: Likelihood = Gaussian(schema.n_channels, noise=noise) if gaussian else build_likelihood(found, noise)
    return {"likelihood": seen, "hidden": (hidden,) * 2 if hidden else (), "pairs": pairs}
