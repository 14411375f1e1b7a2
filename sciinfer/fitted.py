"""A fitted model with its data and its labels: predict, generate, score, save, report."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from . import __version__
from .diagnostics.latent_use import latent_use
from .errors import CheckpointError, ConfigError, SciInferWarning, StateError
from .extend import RunInfo, registry
from .labelled.frames import as_fitted
from .labelled.hashing import data_hash
from .labelled.ingest import Encoded, encode
from .labelled.io import trusted_dataset
from .labelled.result import build_tree
from .labelled.schema import Schema
from .labelled.series import SeriesBatch
from .labelled.storage import load_folder, save_folder
from .labelled.times import query_times
from .labelled.write import netcdf_bytes
from .models.base import Draws, Model
from .models.path_checks import quadratic_variation
from .models.path_model import PathModel
from .random import generator
from .scoring import score_forecasts, split_at
from .training import History

DATA_FILE = "data.nc"
#: numbers in one chunk of draws: keeps a prediction for thousands of series within memory
_CHUNK = 2e7


@dataclass
class Fitted:
    """A model, the schema it speaks, the data it was fitted to and how the fit went.

    Made by :func:`sciinfer.fit` and :func:`sciinfer.load`.
    """

    model: Model
    schema: Schema
    data: xr.Dataset
    name: str
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    history: History = field(default_factory=History)
    status: str = "finished"
    _encoded: Encoded | None = None

    # -- answers -------------------------------------------------------------------------------------------------

    def predict(self, data: Any = None, *, time: Any = None, draws: int = 200, seed: int | None = None) -> xr.DataTree:
        """Posterior at any times given ``data`` (default: what the model was fitted to).

        Smoothing, imputation and forecasting are one question: it only depends on where ``time`` lies.

        Args:
            data: anything that :func:`sciinfer.fit` takes, with the same variables.
            time: caller's times, any order; default: the data's own.
            draws: joint draws of the whole path. seed: default the fit's.

        Returns:
            DataTree with ``posterior`` (signal without noise, ``latent``), ``posterior_predictive`` (with noise),
            ``observed_data`` and ``sample_stats``; dims ``chain, draw, [series], time, ...``.

        Example:
            >>> import sciinfer as si
            >>> ds = si.open_dataset("oscillator_gappy").isel(series=[0])
            >>> fitted = si.fit(ds, options={"process": "structural"}, progress="silent")
            >>> fitted.predict(time=[1.0, 12.5], draws=10)["posterior_predictive"]["y"].sizes["time"]
            2
        """
        self._require_draws(draws)
        given = self.data if data is None else as_fitted(data, self.schema)
        encoded = self._conditioning() if data is None else encode(given, self.schema)
        caller, model_time = self._times(given, time)
        seed = self.seed if seed is None else seed
        answer = self._draw(encoded.batch, model_time, draws, seed)
        groups: dict[str, dict[str, Any]] = {"posterior": {"signal": answer.signal}}
        if answer.latent is not None:
            groups["posterior"]["latent"] = answer.latent
        groups["posterior_predictive"] = {"observation": answer.observation}
        tree = build_tree(
            self.schema,
            caller_time=caller,
            series_labels=encoded.series_labels,
            groups=groups,
            observed=given,
            stats=self._stats(encoded),
            attrs=self._attrs(seed, given),
        )
        return self._announce(tree, seed)

    def generate(self, *, time: Any, draws: int = 100, seed: int | None = None) -> xr.DataTree:
        """Draws from the learned prior, as if no data had been seen.

        Args:
            time: caller's times. draws: number of paths. seed: default the fit's.

        Returns:
            DataTree with ``prior`` and ``prior_predictive``; dims ``chain, draw, time, ...``.
        """
        self._require_draws(draws)
        caller, model_time = query_times(self.schema, time)
        order = np.argsort(model_time, kind="stable")
        seed = self.seed if seed is None else seed
        with torch.no_grad():
            answer = self.model.generate(
                self._tensor(model_time[order]), draws=draws, generator=self._generator(seed, "generate")
            )
        back = torch.as_tensor(np.argsort(order, kind="stable"))
        groups = {"prior": {"signal": answer.signal.cpu()[:, :, back]}}
        if answer.latent is not None:
            groups["prior"]["latent"] = answer.latent.cpu()[:, :, back]
        groups["prior_predictive"] = {"observation": answer.observation.cpu()[:, :, back]}
        tree = build_tree(
            self.schema, caller_time=caller, series_labels=None, groups=groups, attrs=self._attrs(seed, self.data)
        )
        return self._announce(tree, seed)

    def score(
        self,
        test: Any,
        *,
        given: Any = None,
        after: Any = None,
        season: Any = None,
        draws: int = 200,
        seed: int | None = None,
        references: Mapping[str, Model] | None = None,
    ) -> xr.Dataset:
        """The model and the trivial baselines on the same held-out entries, with the noise of every score.

        Args:
            test: data to be predicted.
            given: data to condition on; default what the model was fitted to (matched by series label).
            after: condition on the test data up to this time and predict what follows it (new series).
            season: length of a season, caller's time units or ``"365.25D"``; adds the seasonal baseline.
            draws: for models without closed-form moments. references: further models, scored beside (an exact one).

        Returns:
            See :func:`sciinfer.diagnostics.evaluate`; ``attrs["model_wins"]`` is wins, ties or loses.

        Raises:
            ConfigError: both ``given`` and ``after``. SchemaError: series of ``test`` that were never seen.
        """
        if given is not None and after is not None:
            raise ConfigError("give the conditioning data or a time to split at, not both", variable="given")
        truth = encode(test, self.schema)
        if after is not None:
            cutoff = float(query_times(self.schema, after)[1][0])
            conditioning, truth = split_at(truth, cutoff)
        else:
            cutoff = None
            conditioning = self._conditioning() if given is None else encode(given, self.schema)
        return score_forecasts(
            self,
            truth,
            conditioning,
            cutoff=cutoff,
            season=None if season is None else self.schema.time.duration(season),
            draws=draws,
            seed=self.seed if seed is None else seed,
            references=references or {},
        )

    def latent_report(self, *, draws: int = 50, seed: int | None = None) -> xr.Dataset:
        """How much of each latent dimension the data decide, and whether the diffusion moves as much as the paths do.

        ``share`` of its variance that the data decide, ``information`` (nats, at one time), ``active`` (share above
        1 %), ``quadratic_variation`` (squared innovations over those of the model: 1 if the diffusion is right, above
        if it has collapsed; only where the model has a nonlinear process).

        Args:
            draws: posterior draws, at least 2. seed: default the fit's.

        Returns:
            Dataset over ``latent_dim``.

        Raises:
            StateError: the model has no latent path, or was not trained.
        """
        self._require_draws(draws)
        batch, seed = self._conditioning().batch, self.seed if seed is None else seed
        rows = batch.padded()
        latents = [part.latent for part in self.draw_chunks(batch, rows.time.to(self._like().dtype), draws, seed)]
        if any(latent is None for latent in latents):
            raise StateError(f"model {self.name!r} has no latent path to report on", fix="use score for its forecasts")
        seen = torch.cat([latent for latent in latents if latent is not None], dim=1)[:, rows.rows]
        found: dict[str, Any] = latent_use(seen.double().numpy())._asdict()
        if isinstance(self.model, PathModel):
            like = self._like()
            variation = quadratic_variation(
                self.model, batch.to(like.device, like.dtype), generator=self._generator(seed, "variation")
            )
            found["quadratic_variation"] = variation.double().cpu().numpy()
        return xr.Dataset({name: ("latent_dim", value) for name, value in found.items()}, attrs={"model": self.name})

    def summary(self) -> str:
        """Model, data, how training ended, learned quantities.

        Example:
            >>> import sciinfer as si
            >>> nile = si.open_dataset("nile")
            >>> "latent-sde" in si.fit(nile, options={"process": "structural"}, progress="silent").summary()
            True
        """
        counts = self._conditioning().counts
        share = counts["missing"] / max(counts["missing"] + counts["observed"], 1)
        lines = [
            f"{self.name} on {counts['series']} series, {counts['observed']} observations, {share:.0%} missing",
            f"training: {len(self.history.loss)} steps, stopped by {self.history.stopped or self.status}",
        ]
        if self.history.loss:
            lines.append(f"loss per observation: {self.history.loss[0]:.4f} -> {self.history.loss[-1]:.4f}")
        lines += [f"  {key} = {value:.5g}" for key, value in self.model.summary().items()]
        return "\n".join([*lines, *(f"note: {text}" for text in self.history.notices)])

    def plot(self, var: str | None = None, *, series: Any = None, kind: str = "bands", **options: Any) -> Any:
        """A registered plot of the prediction at a fine grid of times; returns matplotlib Axes."""
        tree = self.predict(time=self.grid(), draws=100)
        name = var or self.schema.variables[0].name
        extra = {} if series is None else {"series": series}
        return registry().get("plots", kind)(tree, var=name, **extra, **options)

    def grid(self, count: int = 300, *, beyond: float = 0.0) -> np.ndarray:
        """Caller's times, evenly from the first datum to the last, and ``beyond`` of the span further."""
        span = self._conditioning().batch.time
        first, last = float(span.min()), float(span.max())
        return self.schema.time.from_model(np.linspace(first, last + beyond * (last - first), count))

    # -- files ---------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write a folder: ``config.toml``, ``weights.safetensors``, the data, ``manifest.json``. Atomic, no pickle."""
        folder = Path(path)
        config = {
            "model": {"name": self.name, "options": self.options},
            "schema": self.schema.to_dict(),
            "training": self.training,
            "seed": self.seed,
            "status": self.status,
            "history": _plain(self.history.to_tree()),
        }
        weights = {key: value.detach().cpu() for key, value in self.model.state_dict().items()}
        save_folder(folder, config=config, weights=weights, extra={DATA_FILE: netcdf_bytes(self.data)})
        return folder

    @classmethod
    def load(cls, path: str | Path) -> Fitted:
        """Read a folder written by :meth:`save`; every file is checked against its SHA-256."""
        saved = load_folder(path)
        schema = Schema.from_dict(saved.config["schema"])
        name, options, seed = saved.config["model"]["name"], saved.config["model"]["options"], saved.config["seed"]
        model = build_model(name, schema, options, seed)
        dtype = next((w.dtype for w in saved.weights.values() if w.is_floating_point()), torch.float64)
        try:
            model.to(dtype=dtype).load_state_dict(saved.weights)
        except RuntimeError as err:
            raise CheckpointError(f"the weights in {path} do not fit model {name!r}: {err}") from err
        data = trusted_dataset(saved.extra[DATA_FILE])
        history = History.from_tree(_tensors(saved.config["history"]))
        return cls(model, schema, data, name, seed, options, saved.config["training"], history, saved.config["status"])

    # -- internals -----------------------------------------------------------------------------------------------

    def _conditioning(self) -> Encoded:
        if self._encoded is None:
            with warnings.catch_warnings():
                # said once, at the fit
                warnings.simplefilter("ignore", SciInferWarning)
                self._encoded = encode(self.data, self.schema)
        return self._encoded

    def _times(self, given: xr.Dataset, time: Any) -> tuple[np.ndarray, np.ndarray]:
        if time is None:
            coord = given[self.schema.time.name]
            # the caller's own order on a shared grid; every distinct time of a ragged set
            time = coord.values if coord.dims == (self.schema.time.name,) else np.unique(coord.values[_present(coord)])
        return query_times(self.schema, time)

    def _draw(self, batch: SeriesBatch, model_time: np.ndarray, draws: int, seed: int) -> Draws:
        times = self._tensor(model_time).expand(batch.n_series, -1)
        parts = list(self.draw_chunks(batch, times, draws, seed))
        join = lambda name: _cat([getattr(part, name) for part in parts], name)  # noqa: E731
        return Draws(*(join(name) for name in Draws._fields))

    def draw_chunks(self, batch: SeriesBatch, times: Tensor, draws: int, seed: int, model: Model | None = None) -> Any:
        """Predictions of a few series at a time, on the CPU, in order."""
        model = model or self.model
        width = max(batch.n_channels, 8)
        size = max(1, int(_CHUNK / (draws * max(times.shape[1], 1) * width)))
        like = self._like()
        g = self._generator(seed, "predict")
        with torch.no_grad():
            for start in range(0, batch.n_series, size):
                which = torch.arange(start, min(start + size, batch.n_series))
                part = batch.select(which).to(like.device, like.dtype)
                asked = times[which].to(device=like.device, dtype=like.dtype)
                answer = model.predict(part, asked, draws=draws, generator=g)
                yield answer._replace(**{k: v.cpu() for k, v in answer._asdict().items() if v is not None})

    def _like(self) -> Tensor:
        return next(iter(self.model.parameters()), torch.zeros(1, dtype=torch.float64))

    def _tensor(self, values: np.ndarray) -> Tensor:
        like = self._like()
        return torch.as_tensor(values, dtype=like.dtype, device=like.device)

    def _generator(self, seed: int, *names: str) -> torch.Generator:
        return generator(seed, *names, device=self._like().device)

    def _stats(self, encoded: Encoded) -> dict[str, Any]:
        return {
            "observations": encoded.counts["observed"],
            "missing": encoded.counts["missing"],
            "final_loss": self.history.loss[-1] if self.history.loss else float("nan"),
        }

    def _attrs(self, seed: int, given: xr.Dataset) -> dict[str, Any]:
        return {
            "sciinfer_version": __version__,
            "torch_version": str(torch.__version__),
            "model": self.name,
            "config": {"options": self.options, "training": self.training},
            "seed": seed,
            "data_sha256": data_hash(given),
        }

    def _announce(self, tree: xr.DataTree, seed: int) -> xr.DataTree:
        failures = registry().manager.emit("sciinfer_on_result", tree=tree, run=RunInfo(model=self.name, seed=seed))
        for failure in failures:
            warnings.warn(f"a plugin failed on this result: {failure}", SciInferWarning, stacklevel=3)
        return tree

    def _require_draws(self, draws: int) -> None:
        if self.status == "started":
            raise StateError(
                "this model has not been trained yet", fix="sciinfer fit --resume, or si.fit(..., resume=True)"
            )
        if not isinstance(draws, int) or isinstance(draws, bool) or draws < 1:
            raise ConfigError(f"draws must be a positive integer, got {draws!r}", variable="draws")


def build_model(name: str, schema: Schema, options: Mapping[str, Any], seed: int) -> Model:
    """A registered model for this schema; unknown options are named, with those that exist."""
    entry = registry().entry("models", name)
    unknown = sorted(set(options) - set(entry.options))
    if unknown:
        known = ", ".join(entry.options) or "none"
        raise ConfigError(
            f"model {name!r} has no option {', '.join(unknown)}", variable="options", fix=f"options: {known}"
        )
    return registry().get("models", name)(schema, seed=seed, **options)


def resolved_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's options over the model's defaults: what is saved must not depend on defaults of a later release."""
    parameters = inspect.signature(registry().get("models", name)).parameters.values()
    known = set(registry().entry("models", name).options)
    defaults = {p.name: p.default for p in parameters if p.name in known and p.default is not p.empty}
    return {**defaults, **options}


def _present(coord: xr.DataArray) -> np.ndarray:
    return ~np.isnat(coord.values) if coord.dtype.kind == "M" else np.isfinite(coord.values)


def _cat(parts: list[Tensor | None], name: str) -> Any:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    return torch.cat(known, dim=0 if name in ("mean", "variance") else 1)


def _plain(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors of a history to lists, which a config file can hold."""
    return {
        key: value.tolist() if isinstance(value, Tensor) else _plain(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
    }


def _tensors(tree: Mapping[str, Any]) -> dict[str, Any]:
    numeric = {"steps", "loss", "seconds", "validation_steps", "validation"}
    out = {key: _exact(value) if key in numeric else value for key, value in tree.items()}
    return out | {"terms": {key: _exact(value) for key, value in tree["terms"].items()}}


def _exact(values: list[float]) -> Tensor:
    # torch's default would be float32, and a loaded fit would report another loss than the one that was saved
    return torch.tensor(values, dtype=torch.float64 if any(isinstance(v, float) for v in values) else torch.int64)
