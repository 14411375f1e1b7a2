"""What the simulators share: checked options, Euler-Maruyama, noise, gaps and labels."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError, NumericalError
from sciinfer.random import numpy_generator

Field = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """Labels of a simulated data set: registered name, title, units, and the names of the states (none: scalar)."""

    name: str
    title: str
    units: str = "1"
    time_units: str = "1"
    states: tuple[str, ...] = ()

    def stream(self, seed: int, purpose: str) -> np.random.Generator:
        """An independent stream, so that other noise or other gaps leave the path as it is."""
        return numpy_generator(seed, self.name, purpose)


def real(**options: float) -> None:
    """Refuse options that are not finite numbers."""
    for name, value in options.items():
        _number(name, value)


def positive(**options: float) -> None:
    """Refuse options that are not above zero."""
    for name, value in options.items():
        if _number(name, value) <= 0:
            raise ConfigError(f"option {name} is {value}, it must be above zero", variable=name, fix=f"pass {name} > 0")


def not_negative(**options: float) -> None:
    """Refuse options below zero."""
    for name, value in options.items():
        if _number(name, value) < 0:
            raise ConfigError(
                f"option {name} is {value}, it must not be negative", variable=name, fix=f"pass {name} >= 0"
            )


def fraction(**options: float) -> None:
    """Refuse shares outside [0, 1)."""
    for name, value in options.items():
        if not 0 <= _number(name, value) < 1:
            raise ConfigError(f"option {name} is {value}, it is a share", variable=name, fix="pass a number in [0, 1)")


def one_of(allowed: tuple[str, ...], **options: str) -> None:
    """Refuse options that are not one of the words."""
    for name, value in options.items():
        if value not in allowed:
            raise ConfigError(f"option {name} is {value!r}", variable=name, fix=f"one of {', '.join(allowed)}")


def _number(name: str, value: Any) -> float:
    """``value`` as a finite float; names that count things (``n_...``, ``substeps``) take integers only."""
    counts = name.startswith("n_") or name == "substeps"
    wanted = numbers.Integral if counts else numbers.Real
    if isinstance(value, bool) or not isinstance(value, wanted) or not np.isfinite(float(value)):
        kind = "an integer" if counts else "a finite number"
        raise ConfigError(f"option {name} is {value!r}", variable=name, fix=f"pass {kind}")
    return float(value)


def euler_maruyama(
    drift: Field, diffusion: Field, start: np.ndarray, times: np.ndarray, substeps: int, rng: np.random.Generator
) -> np.ndarray:
    r"""Ito paths of :math:`dx = f(x)\,dt + g(x)\,dW` with diagonal noise, ``substeps`` equal steps between two times.

    Args:
        drift, diffusion: ``[S, d]`` to ``[S, d]``.
        start: ``[S, d]`` at ``times[0]``.
        times: ``[T]`` ascending.

    Returns:
        ``[S, T, d]``.

    Raises:
        NumericalError: the path left the finite numbers.
    """
    path = np.empty((len(start), len(times), start.shape[1]))
    path[:, 0] = state = start
    with np.errstate(over="ignore", invalid="ignore"):
        for index, gap in enumerate(np.diff(times), start=1):
            step = gap / substeps
            for _ in range(substeps):
                kick = np.sqrt(step) * rng.standard_normal(state.shape)
                state = state + drift(state) * step + diffusion(state) * kick
            path[:, index] = state
    return finite(path)


def finite(path: np.ndarray) -> np.ndarray:
    """``path [S, T, d]``, if it is finite everywhere."""
    bad = np.argwhere(~np.isfinite(path))
    if len(bad):
        raise NumericalError(
            "the simulated path left the finite numbers",
            dim="time",
            index=int(bad[0][1]),
            fix="use more substeps or less noise",
        )
    return path


def observed(truth: np.ndarray, recipe: Recipe, seed: int, noise_sd: float, missing: float) -> np.ndarray:
    """``truth`` with Gaussian noise, and a share ``missing`` of its entries NaN at random."""
    not_negative(noise_sd=noise_sd)
    fraction(missing=missing)
    y = truth + noise_sd * recipe.stream(seed, "noise").standard_normal(truth.shape)
    y[recipe.stream(seed, "missing").random(truth.shape) < missing] = np.nan
    return y


def grid(
    recipe: Recipe, times: np.ndarray, variables: Mapping[str, np.ndarray], seed: int, parameters: Mapping[str, Any]
) -> xr.Dataset:
    """Series on one time grid.

    Args:
        times: ``[T]``.
        variables: name to ``[S, T]``, or ``[S, T, d]`` with ``d`` named states.
        parameters: what the truth is made of; kept in ``attrs``.
    """
    dims = ("series", "time", "state")
    n_series = len(next(iter(variables.values())))
    ds = xr.Dataset(
        {name: (dims[: values.ndim], values) for name, values in variables.items()},
        coords={"series": np.arange(n_series), "time": ("time", times, {"axis": "T"})},
    )
    if any(values.ndim == 3 for values in variables.values()):
        ds = ds.assign_coords(state=list(recipe.states))
    return labelled(ds, recipe, seed, parameters)


def labelled(ds: xr.Dataset, recipe: Recipe, seed: int, parameters: Mapping[str, Any]) -> xr.Dataset:
    """Units, title, source, licence, seed and parameters."""
    for name in ds.data_vars:
        ds[name].attrs.setdefault("units", recipe.units)
    ds["time"].attrs["units"] = recipe.time_units
    made = f"simulated by sciinfer ({recipe.name})"
    ds.attrs.update(
        title=recipe.title, source=made, license="Apache-2.0", simulator=recipe.name, seed=seed, **parameters
    )
    return ds


def assemble(
    recipe: Recipe, times: np.ndarray, truth: np.ndarray, *, seed: int, noise_sd: float, missing: float,
    keep_truth: bool, parameters: Mapping[str, Any],
) -> xr.Dataset:  # fmt: skip
    """The usual end of a simulator: noise, gaps, labels; ``truth_y`` beside ``y`` only when asked for."""
    variables = {"y": observed(truth, recipe, seed, noise_sd, missing)}
    if keep_truth:
        variables["truth_y"] = truth
    return grid(recipe, times, variables, seed, {**parameters, "noise_sd": noise_sd, "missing": missing})
