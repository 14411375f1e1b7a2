"""Gaussian processes over labelled points: fields in the plane, in space, in space and time, of covariates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .. import __version__
from ..errors import CheckpointError, ConfigError, DataError, SchemaError
from ..gp.spatial.optimise import FitReport
from ..labelled.attributes import plain_attrs, plain_coords
from ..labelled.hashing import data_hash
from ..labelled.io import trusted_dataset
from ..labelled.schema import TimeAxis
from ..labelled.storage import load_folder, save_folder
from ..labelled.write import netcdf_bytes
from ..random import generator
from .points import Points, as_points_dataset, check_finite, input_axes, read_points, read_values, units_of
from .regressors import (
    METHODS,
    SCALED,
    build,
    choose_method,
    noise_sd,
    observe,
    predictor_level,
    restore,
    scaling,
    state,
)

_DATA_FILE = "data.nc"
_NAME = "gp-field"


@dataclass(frozen=True)
class FieldSpec:
    """All that is needed to take labels off and to put them back on. Plain data: it is saved with the model.

    Model values are ``(y - shift) / scale``; ``level`` is added to the predictor of counts and signs.
    """

    variable: str
    inputs: tuple[TimeAxis, ...]
    method: str
    kernel: str
    likelihood: str
    lengthscale: tuple[float, ...]
    noise: float
    options: dict[str, Any] = field(default_factory=dict)
    units: str | None = None
    shift: float = 0.0
    scale: float = 1.0
    level: float = 0.0
    seed: int = 0


def fit_field(
    data: Any,
    variable: str | None = None,
    *,
    inputs: Sequence[str],
    kernel: str = "matern32",
    lengthscale: float | Mapping[str, float] | None = None,
    noise: float | None = None,
    likelihood: str = "gaussian",
    method: str = "auto",
    options: Mapping[str, Any] | None = None,
    fit: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> FittedField:
    """Fit a Gaussian process to one variable as a function of named coordinates or other variables.

    The inputs may be the axes of a grid, coordinates along a dim of stations, or columns of a table. Each has a
    length-scale of its own. Distances are straight lines in the inputs: on the globe use x, y, z, or a projection.

    Args:
        data: Dataset, DataArray or DataFrame (a row for each point). NaN in the variable = missing.
        variable: which one; not needed if there is only one besides the inputs.
        inputs: names of coordinates or variables. Dates count in days.
        kernel: ``matern12``, ``matern32``, ``matern52`` or ``rbf``.
        lengthscale: starting one, in units of the inputs; or one for each input by name. Default: half its spread.
        noise: starting standard deviation, in units of the variable; default a third of its spread.
        likelihood: a registered one of one channel.
        method: ``dense``, ``vecchia``, ``dkl``, ``sparse``, or ``auto``: dense up to 2000 values, then Vecchia;
            double-KL for other likelihoods than the Gaussian.
        options: of the method (``neighbours``, ``rho``, ``inducing``). fit: of its ``fit`` (``iterations``, ...).
        seed: of the draws.

    Raises:
        SchemaError, DataError, UnitsError: data that cannot be used; says where. ConfigError: unknown options.

    Example:
        >>> x = np.linspace(0.0, 1.0, 6)
        >>> depth = xr.DataArray(np.sin(3 * x)[:, None] + x, {"x": x, "y": x}, ("x", "y"), name="depth")
        >>> fitted = fit_field(depth, inputs=["x", "y"], fit={"iterations": 5})
        >>> fitted.predict({"x": [0.25], "y": [0.1, 0.2]}, draws=3)["posterior"]["depth"].dims
        ('chain', 'draw', 'x', 'y')
    """
    ds, names = as_points_dataset(data), [inputs] if isinstance(inputs, str) else list(inputs)
    axes = tuple(input_axes(ds, names))
    variable = _only_variable(ds, names) if variable is None else variable
    X, y = _seen(ds, variable, axes, None)
    shift, scale = scaling(likelihood, y, variable)
    values = torch.as_tensor((y - shift) / scale)
    spec = FieldSpec(
        variable,
        axes,
        choose_method(method, likelihood, len(values)),
        kernel,
        likelihood,
        _starting(lengthscale, names, X),
        scale / 3 if noise is None else float(noise),
        dict(options or {}),
        units_of(ds[variable]),
        shift,
        scale,
        predictor_level(likelihood, values),
        seed,
    )
    return FittedField(build(spec).fit(X, values, **dict(fit or {})), spec, ds)


def _seen(ds: xr.Dataset, variable: str, axes: Sequence[TimeAxis], units: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Points ``[n, d]`` and values ``[n]`` where there is one."""
    points = read_points(ds, axes)
    y = read_values(ds, variable, points, units)
    seen = ~np.isnan(y)
    if not seen.any():
        raise DataError("every value is missing: nothing to fit", variable=variable, fix="pass some values")
    check_finite(points, [axis.name for axis in axes], seen)
    return points.X[seen], y[seen]


@dataclass
class FittedField:
    """A fitted field, what it was fitted to, and its labels. Made by :func:`fit_field` and :func:`load_field`."""

    gp: Any
    spec: FieldSpec
    data: xr.Dataset

    def predict(self, at: Any = None, *, draws: int = 200, seed: int | None = None) -> xr.DataTree:
        """The field at new points, given the data.

        Args:
            at: points as :func:`fit_field` takes them, without the variable: a Dataset, a table, or a mapping of
                coordinates (one-dimensional arrays: their grid). Default: the data's own.
            draws: joint draws. seed: default the fit's.

        Returns:
            DataTree with ``posterior`` (the expected observation), ``posterior_predictive`` (with noise),
            ``observed_data`` and ``sample_stats`` (exact ``mean`` and ``sd`` of the field without noise; of the
            predictor where the likelihood has a link); dims ``chain, draw`` and those of the points.

        Raises:
            SchemaError, DataError, UnitsError: points that cannot be used. ConfigError: no draws.
        """
        if not isinstance(draws, int) or isinstance(draws, bool) or draws < 1:
            raise ConfigError(f"draws must be a positive integer, got {draws!r}", variable="draws", fix="draws=200")
        points = read_points(self.data if at is None else as_points_dataset(at), self.spec.inputs)
        check_finite(points, self._names, np.ones(len(points.X), dtype=bool))
        seed, post, where = self.spec.seed if seed is None else seed, self._posterior(), torch.as_tensor(points.X)
        signal, noisy = observe(self.gp, post.sample(where, draws, seed=seed), generator(seed, "field", "noise"))
        sizes = (1, draws, *points.shape)
        groups = {
            "posterior": self._group(points, ("chain", "draw"), {self.spec.variable: signal.reshape(sizes)}),
            "posterior_predictive": self._group(points, ("chain", "draw"), {self.spec.variable: noisy.reshape(sizes)}),
            "sample_stats": self._moments(points, post, where),
            "observed_data": plain_coords(self.data),
        }
        return xr.DataTree.from_dict({"/": xr.Dataset(attrs=self._attrs(seed)), **groups})

    @property
    def parameters(self) -> dict[str, float]:
        """Length-scales in units of the inputs (days for dates), standard deviations in units of the variable."""
        scales = self.gp.covariance.lengthscale.detach().tolist()
        found = {f"lengthscale[{name}]": scale for name, scale in zip(self._names, scales, strict=True)}
        found["sd"] = float(self.gp.covariance.variance.detach().sqrt()) * self.spec.scale
        noise = noise_sd(self.gp)
        return found if noise is None else {**found, "noise": noise * self.spec.scale}

    def explain(self) -> str:
        """The method, and how the fit ended."""
        report = self.gp.report
        ended = "" if report is None else f"; fit {report.verdict} at {report.objective:.4f} nats"
        return f"{self.spec.method}: {METHODS[self.spec.method][0]}{ended}"

    def save(self, path: str | Path) -> Path:
        """Write a folder: ``config.toml``, ``weights.safetensors``, the data, ``manifest.json``. Atomic, no pickle."""
        report = None if self.gp.report is None else asdict(self.gp.report)
        config = {"model": {"name": _NAME}, "field": asdict(self.spec), "report": report}
        extra = {_DATA_FILE: netcdf_bytes(plain_coords(self.data))}
        save_folder(path, config=config, weights=state(self.gp), extra=extra)
        return Path(path)

    # -- internals -----------------------------------------------------------------------------------------------

    @property
    def _names(self) -> list[str]:
        return [axis.name for axis in self.spec.inputs]

    def _posterior(self) -> Any:
        X, y = _seen(self.data, self.spec.variable, self.spec.inputs, self.spec.units)
        return self.gp.condition(X, (y - self.spec.shift) / self.spec.scale)

    def _moments(self, points: Points, post: Any, where: Tensor) -> xr.Dataset:
        """In units of the variable, or of the predictor where there is a link."""
        mean = post.mean(where).reshape(points.shape) * self.spec.scale + self.spec.shift
        sd = post.variance(where).clamp(min=0.0).sqrt().reshape(points.shape) * self.spec.scale
        attrs = {"units": self.spec.units} if self.spec.units and self.spec.likelihood in SCALED else {}
        data = {name: (points.dims, values.numpy(), attrs) for name, values in (("mean", mean), ("sd", sd))}
        return plain_coords(xr.Dataset(data, coords=points.coords))

    def _group(self, points: Points, lead: tuple[str, ...], values: Mapping[str, Tensor]) -> xr.Dataset:
        attrs = {"units": self.spec.units} if self.spec.units else {}
        data = {
            name: ((*lead, *points.dims), (part * self.spec.scale + self.spec.shift).numpy(), attrs)
            for name, part in values.items()
        }
        draws = {"chain": [0], "draw": np.arange(next(iter(values.values())).shape[1])}
        return plain_coords(xr.Dataset(data, coords={**draws, **points.coords}))

    def _attrs(self, seed: int) -> dict[str, Any]:
        attrs = {"sciinfer_version": __version__, "torch_version": str(torch.__version__), "model": _NAME}
        more = {"config": asdict(self.spec), "explanation": self.explain(), "seed": seed}
        return plain_attrs({**attrs, **more, "data_sha256": data_hash(self.data)})


def load_field(path: str | Path) -> FittedField:
    """Read a folder written by :meth:`FittedField.save`; every file is checked against its SHA-256.

    Raises:
        CheckpointError: damaged, foreign, or not a field.
    """

    saved = load_folder(path)
    if saved.config.get("model", {}).get("name") != _NAME:
        raise CheckpointError(f"{path} holds no field", fix="load it with sciinfer.load")
    try:
        plain = dict(saved.config["field"])
        axes = tuple(TimeAxis(**{"units": None, **axis}) for axis in plain.pop("inputs"))
        spec = FieldSpec(**{**plain, "inputs": axes, "lengthscale": tuple(plain["lengthscale"])})
        gp = build(spec)
        restore(gp, saved.weights)
    except (KeyError, TypeError, RuntimeError) as err:
        raise CheckpointError(f"{path} is not a complete field: {err}", fix="restore it from a copy") from err
    report = saved.config.get("report")
    gp.report = None if report is None else FitReport(**report)
    return FittedField(gp, spec, trusted_dataset(saved.extra[_DATA_FILE]))


def _starting(
    lengthscale: float | Mapping[str, float] | None, names: Sequence[str], X: np.ndarray
) -> tuple[float, ...]:
    """One length-scale for each input.

    Raises:
        ConfigError: one for something that is no input.
    """
    spread = [float(value) if value > 0 else 1.0 for value in X.std(axis=0) / 2]
    if isinstance(lengthscale, int | float):
        return (float(lengthscale),) * len(names)
    given = dict(lengthscale or {})
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ConfigError(
            f"length-scale of {', '.join(unknown)}, which is no input", variable="lengthscale", fix=f"{list(names)}"
        )
    return tuple(float(given.get(name, start)) for name, start in zip(names, spread, strict=True))


def _only_variable(ds: xr.Dataset, inputs: Sequence[str]) -> str:
    found = [str(name) for name in ds.data_vars if name not in inputs]
    if len(found) != 1:
        raise SchemaError(f"which variable? found {', '.join(found) or 'none'}", fix='fit_field(data, "name", ...)')
    return found[0]
