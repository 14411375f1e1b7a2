"""``sgp-bae``: a sparse-GP Bayesian autoencoder, sampled by stochastic-gradient Hamiltonian Monte Carlo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..labelled.schema import Schema
from ..labelled.series import SeriesBatch
from ..random import generator as stream
from ..training.adam import Adam
from .base import Draws
from .sgp_bae_chain import Globals, draw_globals, draw_inducing
from .sparse_gp_vae import RowSeriesModel, build_covariances, parts_of
from .sparse_gp_vae_core import Latents
from .sparse_gp_vae_inducing import SparseGPVAE
from .stable_sde import positive_numbers, whole_numbers

__entries__ = [
    {
        "kind": "models",
        "name": "sgp-bae",
        "target": "sgp_bae",
        "summary": "Bayesian Gaussian-process autoencoder: decoder, kernels and inducing variables sampled by SGHMC",
        "references": [
            "Tran et al. (2023), Fully Bayesian autoencoders with latent sparse Gaussian processes",
            "Hensman, Matthews, Filippone, Ghahramani (2015), MCMC for variationally sparse Gaussian processes",
            "Chen, Fox, Guestrin (2014), Stochastic gradient Hamiltonian Monte Carlo",
        ],
        "options": {
            "latent": "latent processes; default as many as channels, at most 4",
            "kernel": "kernel of each latent as text; default Matern 3/2 with sampled length-scales, spread out",
            "inducing": "inducing times, shared by all series",
            "hidden": "width of the decoder net; 0 (default): a linear decoder",
            "likelihood": "a registered likelihood, or one for each variable, {variable: name}",
            "noise": "starting noise standard deviation, in units of each channel's own",
            "start": "Adam steps of the amortised bound before sampling",
            "burn": "sampler steps that are thrown away",
            "draws": "draws of decoder, kernels and noise that are kept",
            "thin": "sampler steps between kept draws",
            "step": "sampler's step, in units of the parameters' own scales",
            "refine": "sampler steps of the inducing variables in a prediction",
            "batch": "series that each slope looks at",
            "pairs": "antithetic pairs of draws per row, for decoders that are not linear",
        },
    },
]

#: step of the inducing variables' chains in a prediction, where they are about standard normal
_STEP = 0.3
#: learning rate of the start
_CLIMB = 0.02


class SGPBAE(RowSeriesModel):
    """``p(theta, u | y) prop p(theta) p(u) prod_i exp E_{p(z_i|u)} log p(y_i | z_i)``; theta: decoder, kernels, noise.

    No Gaussian is assumed for the posterior, only the inducing points approximate. Fitting starts with the amortised
    bound of :class:`SparseGPVAE`; then decoder, kernels, noise and all inducing variables are sampled together. The
    draws of ``theta`` are kept with the weights. A prediction for any data draws inducing variables for each of them,
    by chains that begin at the encoder's posterior, and averages.

    Args:
        core: the parts. kept: draws of ``theta``. plan: what :meth:`initialise` does. refine: see the entry. seed: of
            the fit's randomness.
    """

    draws: Tensor
    count: Tensor

    def __init__(self, core: SparseGPVAE, *, kept: int, plan: Mapping[str, Any], refine: int, seed: int) -> None:
        super().__init__(core)
        self.sparse, self.plan, self.refine, self.seed = core, dict(plan), refine, seed
        self.shared, centre = Globals.begin(core)
        self.register_buffer("centre", centre)
        self.register_buffer("draws", torch.zeros(kept, len(centre), dtype=centre.dtype))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def _globals(self) -> Globals:
        return Globals(self.sparse, self.shared, self.get_buffer("centre"))

    def initialise(self, batch: SeriesBatch) -> None:
        """The whole fit: the amortised start, then the sampler; nothing is left to train."""
        data, device = self.rows_of(batch), self.draws.device
        if batch.observed == 0:
            return
        self.core.start(data)
        g = stream(self.seed, "sgp-bae", device=device)
        self._climb(batch, self.plan["start"], g)
        shared = self._globals()
        options = {name: self.plan[name] for name in ("burn", "thin", "step", "batch")}
        found = draw_globals(self.sparse, shared, data, draws=len(self.draws), generator=g, **options)
        shared.write(found.mean(0))
        self.draws.copy_(found)
        self.count.fill_(len(found))
        self.requires_grad_(False)

    def _climb(self, batch: SeriesBatch, steps: int, generator: torch.Generator) -> None:
        optimiser = Adam([p for p in self.parameters() if p.requires_grad])
        with torch.enable_grad():
            for _ in range(steps):
                self.zero_grad()
                self.loss(batch, generator=generator).value.backward()
                optimiser.step(_CLIMB)
        self.zero_grad()

    # -- answers -------------------------------------------------------------------------------------------------

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint draws over the kept parameters and the inducing variables of these data."""
        data, query = self.rows_of(batch, times), times[..., None]

        def latent(chains: int) -> Tensor:
            e = draw_inducing(self.sparse, data, chains, self.refine, _STEP, generator)
            return self.sparse.latent_given(e, query, generator).to(data.values)

        return self._averaged(draws, latent, generator)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Draws from the prior of the latents, through the kept decoders."""
        return self._averaged(draws, lambda n: self.core.prior(times[None, :, None], n, generator), generator)

    @torch.no_grad()
    def _averaged(self, draws: int, latent: Any, generator: torch.Generator) -> Draws:
        shared, kept = self._globals(), int(self.count)
        vectors = self.draws[:kept] if kept else shared.read()[None]
        which = torch.arange(draws) * len(vectors) // draws if draws >= len(vectors) else (
            torch.linspace(0, len(vectors) - 1, draws).round().long()
        )  # fmt: skip
        parts = []
        for index, chains in zip(*(found.tolist() for found in torch.unique(which, return_counts=True)), strict=True):
            with shared.holding(vectors[index]):
                parts.append(self.core.observe(Latents(latent(chains)), generator))
        signal, observation, z = (torch.cat(list(x)) for x in zip(*(part[:3] for part in parts), strict=True))
        return Draws(signal, observation, z)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """No steps: :meth:`initialise` knows everything."""
        return {"optimiser": "adam", "steps": 0, "learning_rate": 0.01, "validation": 0.0, "batch_size": None}


def sgp_bae(
    schema: Schema,
    *,
    seed: int = 0,
    latent: int | None = None,
    kernel: str | None = None,
    inducing: int = 24,
    hidden: int = 0,
    likelihood: str | Mapping[str, str] = "gaussian",
    noise: float = 0.3,
    start: int = 300,
    burn: int = 600,
    draws: int = 20,
    thin: int = 40,
    step: float = 0.1,
    refine: int = 20,
    batch: int = 64,
    pairs: int = 1,
) -> SGPBAE:
    """Build a sparse-GP Bayesian autoencoder. See :class:`SGPBAE`; options in the registry's entry.

    Raises:
        ConfigError: an option is out of range.
    """
    whole_numbers(inducing=inducing, draws=draws, thin=thin, batch=batch)
    positive_numbers(step=step)
    for name, value in (("start", start), ("burn", burn), ("refine", refine)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ConfigError(f"{name} must be a whole number >= 0, got {value!r}", variable=name, fix=f"{name}=100")
    core = SparseGPVAE(
        build_covariances(schema, latent, kernel),
        schema.n_channels,
        inducing=inducing,
        inputs=1,
        **parts_of(schema, hidden, likelihood, noise, pairs, 0.0),
        generator=stream(seed, "weights"),
    )
    plan = {"start": start, "burn": burn, "thin": thin, "step": step, "batch": batch}
    return SGPBAE(core, kept=draws, plan=plan, refine=refine, seed=seed)
