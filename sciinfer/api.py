"""The verbs: fit, load, solve, open_dataset, check, names. Labels in, labels out."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from . import __version__
from .diagnostics import check
from .errors import ConfigError, SciInferWarning, ShapeError, StateError
from .extend import RunInfo, registry
from .fitted import Fitted, build_model, resolved_options
from .inverse import Observation, choose_method
from .labelled.frames import as_dataset
from .labelled.ingest import encode, infer_schema
from .labelled.support import check_support
from .random import generator
from .training import TrainingConfig, reporter, train

__all__ = ["Fitted", "check", "fit", "load", "names", "open_dataset", "solve"]

CHECKPOINTS = "checkpoints"
_LOG = logging.getLogger("sciinfer")


def _one_thread() -> None:
    torch.set_num_threads(1)


# the threads of a process do not survive a fork, and a child that counts on them waits for ever
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread)


def names(kind: str) -> list[str]:
    """Registered names of one kind: models, methods, operators, likelihoods, kernels, datasets, simulators, readers,
    metrics, plots, ...

    Example:
        >>> "latent-sde" in names("models")
        True
    """
    return registry().names(kind)


def open_dataset(name: str, **options: Any) -> xr.Dataset:
    """A data set or a simulated one by name. Offline unless ``download=True``.

    Example:
        >>> open_dataset("oscillator_gappy")["y"].dims
        ('series', 'time')
    """
    from .datasets import open_dataset as opener  # pyright: ignore[reportMissingImports] - lives beside the package

    return opener(name, **options)


def fit(
    data: Any,
    model: str = "latent-sde",
    *,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    time: str | None = None,
    series: str | None = None,
    variables: Sequence[str] | None = None,
    out: str | Path | None = None,
    progress: str = "auto",
) -> Fitted:
    """Fit a model to labelled data.

    Args:
        data: Dataset, DataArray, pandas or polars frame (long or wide). NaN = missing; times may be irregular.
        model: a registered model. options: its options (see ``names("models")`` and the docs).
        seed: of every random number. training: fields of :class:`sciinfer.training.TrainingConfig`.
        time, series, variables: names, where they are not plain to see.
        out: folder for the model and its checkpoints; the fit can be resumed from it.
        progress: ``"auto"``, ``"bar"``, ``"lines"`` or ``"silent"``.

    Returns:
        The fitted model.

    Raises:
        DataError, SchemaError, TimeError: data that cannot be used; says where.
        ConfigError: unknown options. NumericalError: training diverged.

    Example:
        >>> fitted = fit(open_dataset("nile"), options={"process": "structural"}, progress="silent")
        >>> fitted.status
        'finished'
    """
    options = dict(options or {})
    ds = as_dataset(data, time=time, series=series)
    support = _support(resolved_options(model, options))
    schema = infer_schema(ds, time=time, series=series, variables=variables, **_scaling(support))
    check_support(ds, schema, support)
    encoded = encode(ds, schema)
    _say_missing(encoded.counts)
    built = build_model(model, schema, options, seed)
    options = resolved_options(model, options)
    config = TrainingConfig.with_defaults(built.training_defaults(encoded.batch), training or {})
    ready = Fitted(built, schema, ds, model, seed, options, config.to_dict(), status="started", _encoded=encoded)
    if out is not None:
        ready.save(out)
        # checkpoints of an earlier fit in this folder must not be taken for this one's
        shutil.rmtree(Path(out) / CHECKPOINTS, ignore_errors=True)
    return _train(ready, config, out, progress, resume=False)


def resume(folder: str | Path, *, training: Mapping[str, Any] | None = None, progress: str = "auto") -> Fitted:
    """Go on with an interrupted fit from its newest valid checkpoint; bit-equal on a CPU.

    Args:
        folder: the ``out`` of the fit. training: fields to change (``steps``, ``time_limit``, ``device``, ...).

    Raises:
        StateError: the fit is already finished.
    """
    ready = Fitted.load(folder)
    if ready.status == "finished" and not training:
        raise StateError(f"the fit in {folder} is finished", fix="predict from it, or give more steps")
    config = TrainingConfig.from_dict({**ready.training, **dict(training or {})})
    ready.training = config.to_dict()
    return _train(ready, config, folder, progress, resume=True)


def load(folder: str | Path) -> Fitted:
    """A saved model with its data; every file is checked against its SHA-256.

    Raises:
        CheckpointError: damaged, foreign, a pickle, or of a newer format.
    """
    return Fitted.load(folder)


def solve(
    y: Any,
    *,
    operator: Any,
    noise: Any,
    prior: Any,
    method: str = "auto",
    draws: int = 64,
    seed: int = 0,
) -> xr.DataTree:
    """Posterior over signals behind an indirect, noisy measurement.

    Args:
        y: the measurement: DataArray, array or tensor in the operator's range; NaN = not measured.
        operator: a registered name, an operator object or a matrix. noise: standard deviation, one or one per datum.
        prior: a prior over signals (object or registered name).
        method: a registered method, or ``"auto"``: exact where the structure allows; the reason is reported.
        draws, seed: of the posterior sample.

    Returns:
        DataTree: ``posterior`` (``signal``; dims ``chain, draw, ...`` of the operator's domain), ``observed_data``,
        ``sample_stats`` with exact ``mean`` and ``sd`` where known; attrs hold the method, its class and the reason.

    Raises:
        ConfigError: no method suits. ShapeError: the measurement does not fit the operator.

    Example:
        >>> from sciinfer.inverse import GaussianPrior
        >>> tree = solve([2.0], operator=[[1.0]], noise=1.0, prior=GaussianPrior(0.0, [[1.0]]))
        >>> round(tree["sample_stats"]["mean"].item(), 9)
        1.0
    """
    operator = registry().get("operators", operator)() if isinstance(operator, str) else operator
    prior = registry().get("priors", prior)() if isinstance(prior, str) else prior
    observation = Observation(operator, noise_sd=np.asarray(noise, dtype=np.float64))
    chosen, reason = choose_method(prior, observation) if method == "auto" else (method, "asked for")
    if isinstance(y, xr.DataArray) and set(y.dims) == set(observation.operator.range.dims):
        y = y.transpose(*observation.operator.range.dims)
    values = torch.tensor(np.asarray(y.values if isinstance(y, xr.DataArray) else y, dtype=np.float64))
    answer = registry().get("methods", chosen)(
        prior, observation, values, draws=draws, generator=generator(seed, "solve"), budget=None
    )
    dims = observation.operator.domain.dims
    if len(dims) != answer.mean.ndim:
        raise ShapeError(f"the signal has shape {tuple(answer.mean.shape)}, the operator's domain dims {dims}")
    tree = _solution_tree(answer, dims, y, observation, {"method": chosen, "reason": reason, "seed": seed})
    for failure in registry().manager.emit("sciinfer_on_result", tree=tree, run=RunInfo(model=chosen, seed=seed)):
        warnings.warn(f"a plugin failed on this result: {failure}", SciInferWarning, stacklevel=2)
    return tree


def _solution_tree(answer: Any, dims: tuple[str, ...], y: Any, observation: Observation, attrs: dict[str, Any]) -> Any:
    scalars = {key: value for key, value in answer.stats.items() if isinstance(value, int | float)}
    texts = {key: value for key, value in answer.stats.items() if isinstance(value, str)}
    stats: dict[str, Any] = {key: ((), float(value)) for key, value in scalars.items()}
    stats["mean"] = (dims, answer.mean.cpu().numpy())
    stats["sd"] = (dims, answer.variance.clamp(min=0.0).sqrt().cpu().numpy())
    observed = y if isinstance(y, xr.DataArray) else xr.DataArray(np.asarray(y), dims=observation.operator.range.dims)
    root = xr.Dataset(attrs={"sciinfer_version": __version__, **attrs, **texts})
    draws = {"signal": (("chain", "draw", *dims), answer.draws.cpu().numpy()[None])}
    return xr.DataTree.from_dict(
        {
            "/": root,
            "posterior": xr.Dataset(draws, coords={"chain": [0], "draw": np.arange(len(answer.draws))}),
            "observed_data": observed.to_dataset(name=observed.name or "y"),
            "sample_stats": xr.Dataset(stats),
        }
    )


def _train(ready: Fitted, config: TrainingConfig, out: str | Path | None, progress: str, *, resume: bool) -> Fitted:
    folder = None if out is None else Path(out) / CHECKPOINTS
    if resume and folder is not None:
        folder.mkdir(exist_ok=True)  # killed before its first checkpoint, a fit starts anew
    run = RunInfo(model=ready.name, seed=ready.seed, folder=None if out is None else str(out))
    manager = registry().manager

    def on_log(step: int, metrics: Mapping[str, float]) -> None:
        manager.emit("sciinfer_on_log", step=step, metrics=metrics, run=run)

    def on_checkpoint(path: Path, step: int) -> None:
        manager.emit("sciinfer_on_checkpoint", path=path, step=step)

    with reporter(_mode(progress), description=f"fitting {ready.name}") as show:
        ready.history = train(
            ready.model,
            ready._conditioning().batch,
            config,
            seed=ready.seed,
            folder=folder,
            resume=resume,
            on_log=on_log,
            on_checkpoint=on_checkpoint,
            progress=show,
        )
    ready.model.eval()
    ready.status = "interrupted" if ready.history.stopped in ("interrupted", "time") else "finished"
    if out is not None:
        ready.save(out)
    return ready


def _mode(progress: str) -> Any:
    if progress not in ("auto", "bar", "lines", "silent"):
        raise ConfigError(f"unknown progress mode {progress!r}", fix="auto, bar, lines or silent")
    return progress


def _support(options: Mapping[str, Any]) -> str | dict[str, str]:
    """Where values may lie: of all variables, or of those that are named."""
    chosen = options.get("likelihood", "gaussian")
    if isinstance(chosen, Mapping):
        return {str(name): registry().get("likelihoods", one).support for name, one in chosen.items()}
    return registry().get("likelihoods", chosen).support if isinstance(chosen, str) else "real"


def _scaling(support: str | dict[str, str]) -> dict[str, Any]:
    """Which variables are not kept as they are."""
    if isinstance(support, str):
        return {"scale": support == "real"}
    return {"keep": [name for name, one in support.items() if one != "real"]}


def _say_missing(counts: Mapping[str, int]) -> None:
    if counts["missing"]:
        total = counts["missing"] + counts["observed"]
        _LOG.info("%d of %d values are missing and are inferred", counts["missing"], total)
