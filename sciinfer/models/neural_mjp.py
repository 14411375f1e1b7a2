"""``neural-mjp``: a hidden Markov jump process in continuous time, seen through noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..extend import registry
from ..labelled.schema import Schema
from ..labelled.series import Padded, SeriesBatch
from ..nets import ScanEncoder
from ..nets.mlp import linear
from ..processes.jump import JumpProcess, filter_states, gumbel_noise, simulate_states, smooth_states
from ..processes.jump_posterior import TiltedStates, data_steps, exact_potentials, on_grid, posterior_rates, tilt
from ..random import generator
from .base import Draws, Loss, Model
from .emissions import CategoricalEmission, Emission, PredictorEmission
from .grids import pad_for
from .jump_start import start_from_clusters

__entries__ = [
    {
        "kind": "models",
        "name": "neural-mjp",
        "target": "neural_mjp",
        "summary": "hidden Markov jump process with K states: exact forward-backward, or amortised posterior rates",
        "references": [
            "Seifner, Sanchez (2023), Neural Markov jump processes",
            "Opper, Sanguinetti (2007), Variational inference for Markov jump processes",
        ],
        "options": {
            "states": "number of hidden states, >= 2",
            "likelihood": "gaussian (default) | student-t | poisson | negative-binomial | bernoulli",
            "levels": "categorical data instead: values 0 .. levels - 1, a table of probabilities per state",
            "inference": "exact (default) | amortised",
            "noise": "starting noise standard deviation (gaussian, student-t)",
            "width": "width of the encoder (amortised)",
            "warmup": "fraction of training over which the divergences fade in (amortised)",
        },
    },
]

LIKELIHOODS = ("gaussian", "student-t", "poisson", "negative-binomial", "bernoulli")
INFERENCE = ("exact", "amortised")


def neural_mjp(
    schema: Schema,
    *,
    seed: int = 0,
    states: int = 3,
    likelihood: str = "gaussian",
    levels: int | None = None,
    inference: str = "exact",
    noise: float = 0.3,
    width: int = 16,
    warmup: float = 0.0,
) -> NeuralMJP:
    """Build a hidden Markov jump process for data of this schema.

    Args:
        schema: channels and time scale. seed: starting weights. The others are listed in the registry's entry.

    Raises:
        ConfigError: an option is unknown or out of range.

    References:
        Seifner, Sanchez (2023), Neural Markov jump processes.
    """
    _check({"states": (states, 2), "width": (width, 1), "levels": (levels, 2)})
    for option, value, known in (("likelihood", likelihood, LIKELIHOODS), ("inference", inference, INFERENCE)):
        if value not in known:
            raise ConfigError(f"unknown {option} {value!r}", variable=option, fix=f"one of: {', '.join(known)}")
    if not 0 <= warmup <= 1 or not noise > 0:
        raise ConfigError("warmup must lie in [0, 1] and noise above 0", fix="warmup=0.2, noise=0.3")
    if levels is not None and likelihood != "gaussian":
        raise ConfigError("levels asks for categorical data, which has no other likelihood", fix="leave likelihood out")
    g = generator(seed, "weights")
    process = JumpProcess(states, generator=g)
    emission = _emission(schema, states, likelihood, levels, noise, g)
    q = AmortisedStates(schema.n_channels, states, width, g) if inference == "amortised" else None
    return NeuralMJP(process, emission, q, warmup=warmup, seed_start=seed)


def _emission(
    schema: Schema, states: int, likelihood: str, levels: int | None, noise: float, g: torch.Generator
) -> Emission:
    C = schema.n_channels
    if levels is not None:
        # a copy: the schema's arrays are its own
        shift, scale = torch.tensor(schema.shift), torch.tensor(schema.scale)
        return CategoricalEmission(states, levels, shift.double(), scale.double(), generator=g)
    build = registry().get("likelihoods", likelihood)
    made = build(C, noise=noise) if likelihood in ("gaussian", "student-t") else build(C)
    return PredictorEmission(states, C, made, generator=g)


def _check(whole: dict[str, tuple[Any, int]]) -> None:
    for name, (value, least) in whole.items():
        if value is None and name == "levels":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(
                f"{name} must be a whole number >= {least}, got {value!r}", variable=name, fix=f"{name}={least}"
            )


class AmortisedStates(nn.Module):
    """Encoder and potentials ``[S, T, K]`` of what comes after each row; they start at none."""

    def __init__(self, channels: int, states: int, width: int, g: torch.Generator) -> None:
        super().__init__()
        self.encoder = ScanEncoder(channels, width, generator=g)
        self.head = linear(width, states, generator=g)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, padded: Padded) -> Tensor:
        """Zero in padding."""
        return self.head(self.encoder(padded)) * padded.rows[..., None]


class NeuralMJP(Model):
    """``z`` jumps among ``K`` states with rates ``Q``; ``y ~ p(y | z)`` at irregular times.

    Exact: ``log p(y) = log pi^T E_0 prod_k exp(Q dt_k) E_k 1``. Amortised:
    ``ELBO = sum_t E_q log p(y_t | z_t) - KL(q_0 || pi) - E_q int sum_j (q log(q/p) - q + p) dt``.

    Args:
        process, emission: the parts. amortised: None for exact inference.
        warmup: fraction of training over which the divergences fade in. seed_start: of the clustering at the start.
    """

    def __init__(
        self,
        process: JumpProcess,
        emission: Emission,
        amortised: AmortisedStates | None,
        *,
        warmup: float = 0.0,
        seed_start: int = 0,
    ) -> None:
        super().__init__()
        self.process, self.emission, self.amortised = process, emission, amortised
        self.warmup, self.seed_start = warmup, seed_start

    # -- training ------------------------------------------------------------------------------------------------

    def initialise(self, batch: SeriesBatch) -> None:
        """Cluster the values; count how often the clusters follow each other."""
        if isinstance(self.emission, CategoricalEmission):
            _check_levels(self.emission, batch)
        start_from_clusters(self.process, self.emission, batch, seed=self.seed_start)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative log-likelihood, or ELBO, per observed entry."""
        count = max(batch.observed, 1)
        if self.amortised is None:
            loglik = self.log_likelihood(batch).sum() / count
            return Loss(-loglik, {"loglik": loglik.detach()})
        fit, start, path = self.elbo_terms(batch, generator=generator)
        beta = min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0
        value = -(fit - beta * (start + path)).sum() / count
        terms = {"fit": fit, "start": start, "path": path}
        return Loss(value, {name: term.detach().sum() / count for name, term in terms.items()})

    def log_likelihood(self, batch: SeriesBatch) -> Tensor:
        """Exact ``log p(y)`` of each series ``[S]``, whichever inference trains the model."""
        padded, log_e = self._seen(batch)
        log_P = data_steps(self.process, padded.time)
        return filter_states(self.process.start(), log_P, log_e)[:, -1].logsumexp(-1)

    def elbo_terms(self, batch: SeriesBatch, *, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Expected log-likelihood, ``KL(q_0 || pi)`` and path divergence ``[S]``; nothing is random.

        With exact potentials ``fit - start - path`` is the log-likelihood.
        """
        padded, log_e = self._seen(batch)
        q = self._posterior(padded, log_e)
        fit = (q.log_marginal.exp() * log_e).sum((1, 2))
        start = (q.log_start.exp() * (q.log_start - self.process.start())).sum(-1)
        return fit, start, q.divergence

    def _seen(self, batch: SeriesBatch, times: Tensor | None = None) -> tuple[Padded, Tensor]:
        """The data, and their log-density in each state ``[S, T, K]``; a category unknown to the table is refused."""
        if isinstance(self.emission, CategoricalEmission):
            _check_levels(self.emission, batch)
        padded = pad_for(batch, times)
        return padded, self.emission.log_prob(padded.values, padded.mask)

    def _posterior(self, padded: Padded, log_e: Tensor) -> TiltedStates:
        if self.amortised is None:
            return tilt(self.process, padded.time, log_e, exact_potentials(self.process, padded.time, log_e))
        return tilt(self.process, padded.time, log_e, self.amortised(padded))

    # -- answers -------------------------------------------------------------------------------------------------

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint draws of the state's path; ``latent`` holds the posterior probabilities of the states."""
        padded, log_e = self._seen(batch, times)
        q = self._posterior(padded, log_e)
        grid, order = torch.sort(torch.cat([padded.time, times], dim=1), dim=1, stable=True)
        where = torch.argsort(order, dim=1)[:, padded.time.shape[1] :]
        log_alpha, log_P = on_grid(self.process, q, grid)
        noise = gumbel_noise((draws, *log_alpha.shape), generator, log_alpha)
        states, gamma = smooth_states(log_alpha, log_P, noise)
        z = states.gather(2, where.expand(draws, *where.shape))
        probability = gamma.gather(1, where[..., None].expand(*where.shape, gamma.shape[-1]))
        return self._draws(z, probability, generator)

    def posterior_rates(self, batch: SeriesBatch, times: Tensor) -> Tensor:
        """``q_ij(t)`` of each series at ``times [S, N]``: ``[S, N, K, K]``."""
        return posterior_rates(self.process, self._posterior(*self._seen(batch, times)), times)

    def _draws(self, z: Tensor, probability: Tensor, generator: torch.Generator) -> Draws:
        centres, spread = self.emission.mean(), self.emission.variance()
        mean = variance = None
        if spread is not None:
            mean = probability @ centres
            variance = probability @ (spread + centres.square()) - mean.square()
        latent = probability.expand(len(z), *probability.shape)
        return Draws(centres[z], self.emission.sample(z, generator), latent, mean, variance)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Draws from the prior; ``latent`` is one for the state that is occupied."""
        z = simulate_states(self.process, times, draws, generator)[:, None]
        latent = nn.functional.one_hot(z, self.process.states).to(times.dtype)
        return Draws(self.emission.mean()[z], self.emission.sample(z, generator), latent)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Exact: quasi-Newton on all data. Amortised: Adam."""
        if self.amortised is None:
            return {"optimiser": "lbfgs", "steps": 80, "learning_rate": 1.0, "validation": 0.0, "batch_size": None}
        return {"optimiser": "adam", "steps": 400, "learning_rate": 1e-2, "validation": 0.0, "batch_size": 64}

    def summary(self) -> dict[str, float]:
        """Rates per model time and the share of time spent in each state in the long run."""
        with torch.no_grad():
            Q, mu = self.process.rates(), self.process.stationary()
        K = self.process.states
        rates = {f"rate[{i}->{j}]": float(Q[i, j]) for i in range(K) for j in range(K) if i != j}
        return rates | {f"share[{k}]": float(mu[k]) for k in range(K)}


def _check_levels(emission: CategoricalEmission, batch: SeriesBatch) -> None:
    level = emission.level_of(batch.values)
    wrong = batch.mask & ((level - level.round()).abs() > 1e-3) | batch.mask & (
        (level.round() < 0) | (level.round() >= emission.levels)
    )
    if bool(wrong.any()):
        row, channel = (int(i) for i in torch.nonzero(wrong)[0])
        raise DataError(
            f"a value is {float(level[row, channel]):.6g}, the levels are 0 .. {emission.levels - 1}",
            index=(row, channel),
            fix="code the categories as 0, 1, 2, ... or give more levels",
        )
