"""The hooks. A registration hook returns data; an event hook returns nothing. Each has a test and a docs section."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from .records import Case, DatasetEntry, Entry, MethodEntry, MetricEntry, PluginInfo, ReaderEntry, RunInfo

if TYPE_CHECKING:
    import xarray as xr

hookspec = pluggy.HookspecMarker("sciinfer")
hookimpl = pluggy.HookimplMarker("sciinfer")

# A hook specification has no body: pluggy calls the implementations. pyright therefore sees functions that return None.
# pyright: reportReturnType=false


@hookspec
def sciinfer_plugin_info() -> PluginInfo:
    """Say who you are: name, version, API version, domain prefix, citation. Required."""


@hookspec
def sciinfer_register_datasets() -> Iterable[DatasetEntry]:
    """Data sets: ``target() -> xarray.Dataset``."""


@hookspec
def sciinfer_register_simulators() -> Iterable[Entry]:
    """Simulators: ``target(*, seed, **options) -> xarray.Dataset`` with the parameters used in ``attrs``."""


@hookspec
def sciinfer_register_readers() -> Iterable[ReaderEntry]:
    """File readers: ``target(path, *, limits) -> xarray.Dataset``."""


@hookspec
def sciinfer_register_schemas() -> Iterable[Entry]:
    """Layout checks of a domain: ``target(ds) -> Iterable[str]``, one sentence per violation."""


@hookspec
def sciinfer_register_likelihoods() -> Iterable[Entry]:
    """Likelihoods: a class with ``log_prob(y, eta, mask)`` and ``sample(eta, generator)``."""


@hookspec
def sciinfer_register_kernels() -> Iterable[Entry]:
    """Covariance functions of time with a state-space form."""


@hookspec
def sciinfer_register_operators() -> Iterable[Entry]:
    """Forward operators: a class with ``forward(x)``, ``adjoint(y)`` or none, ``domain``, ``range`` and ``linear``."""


@hookspec
def sciinfer_register_priors() -> Iterable[Entry]:
    """Priors over signals: ``sample(n, generator)`` and any of ``log_prob``, ``score``, ``mean``/``covariance``."""


@hookspec
def sciinfer_register_denoisers() -> Iterable[Entry]:
    """Denoisers: ``denoise(x, sigma) -> E[x0 | x]``."""


@hookspec
def sciinfer_register_models() -> Iterable[Entry]:
    """Models: ``target(schema, **options) -> torch.nn.Module`` that satisfies ``sciinfer.models.base.Model``."""


@hookspec
def sciinfer_register_methods() -> Iterable[MethodEntry]:
    """Inverse methods: ``target(prior, observation, y, *, draws, generator, budget)``."""


@hookspec
def sciinfer_register_solvers() -> Iterable[Entry]:
    """ODE and SDE integrators."""


@hookspec
def sciinfer_register_metrics() -> Iterable[MetricEntry]:
    """Metrics: ``target(truth, sample, *, dim) -> xarray.DataArray``."""


@hookspec
def sciinfer_register_plots() -> Iterable[Entry]:
    """Plots of a result: ``target(tree, *, var, ax=None) -> matplotlib Axes``."""


@hookspec
def sciinfer_register_commands() -> Iterable[Entry]:
    """Further CLI commands: ``target`` is a function that typer accepts."""


@hookspec
def sciinfer_conformance_cases() -> Iterable[Case]:
    """Tiny inputs for the conformance kit; at least one case for each registered entry."""


@hookspec
def sciinfer_on_log(step: int, metrics: Mapping[str, float], run: RunInfo) -> None:
    """Called when the training loop logs (adapters for tensorboard, mlflow, wandb)."""


@hookspec
def sciinfer_on_checkpoint(path: Path, step: int) -> None:
    """Called after a checkpoint has been written and is valid."""


@hookspec
def sciinfer_on_result(tree: xr.DataTree, run: RunInfo) -> None:
    """Called with every result of ``predict``, ``generate`` and ``solve``."""


#: kind -> registration hook
KINDS: dict[str, str] = {
    "models": "sciinfer_register_models",
    "methods": "sciinfer_register_methods",
    "operators": "sciinfer_register_operators",
    "likelihoods": "sciinfer_register_likelihoods",
    "kernels": "sciinfer_register_kernels",
    "datasets": "sciinfer_register_datasets",
    "simulators": "sciinfer_register_simulators",
    "readers": "sciinfer_register_readers",
    "metrics": "sciinfer_register_metrics",
    "plots": "sciinfer_register_plots",
    "priors": "sciinfer_register_priors",
    "denoisers": "sciinfer_register_denoisers",
    "solvers": "sciinfer_register_solvers",
    "schemas": "sciinfer_register_schemas",
    "commands": "sciinfer_register_commands",
}
