"""The stochastic Brusselator, seen now and then, sometimes in one channel only."""

from __future__ import annotations

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError

from ..layouts import contiguous_ragged
from .common import Recipe, finite, fraction, labelled, not_negative, positive, real

__entries__ = [
    {
        "kind": "simulators",
        "name": "brusselator",
        "target": "brusselator",
        "summary": "Stochastic Brusselator with correlated noise, sporadically observed, as a ragged array",
        "dims": ("obs",),
        "units": {"activator": "1", "inhibitor": "1", "time": "1"},
        "references": ("De Brouwer, Simm, Arany, Moreau (2019), GRU-ODE-Bayes",),
        "license": "Apache-2.0",
        "options": {
            "n_series": "number of series",
            "duration": "length",
            "dt": "step of the chain, which is also the grid of the times",
            "a": "parameter a",
            "b": "parameter b",
            "step_sd": "sd of the noise added at each step",
            "correlation": "of the noise of the two channels",
            "start_sd": "sd of the start about the fixed point (1, b / a)",
            "rate": "observed times per unit of time (at most 1 / dt)",
            "both": "share of the observed times at which both channels are seen",
            "truth": "add truth_activator and truth_inhibitor",
        },
    },
]

RECIPE = Recipe("brusselator", "Stochastic Brusselator, sporadically observed")
_CHANNELS = ("activator", "inhibitor")


def brusselator(
    *, seed: int = 0, n_series: int = 1000, duration: float = 50.0, dt: float = 0.1, a: float = 0.3, b: float = 1.4,
    step_sd: float = 1e-5**0.5, correlation: float = -0.99, start_sd: float = 0.3, rate: float = 0.5, both: float = 0.8,
    truth: bool = False,
) -> xr.Dataset:  # fmt: skip
    r"""The chain :math:`X' = X + (1 - (b+1)X + aX^2Y)\Delta,\; Y' = Y + (bX - aX^2Y)\Delta`, plus noise each step.

    The noise has covariance :math:`s^2 [[1, \rho], [\rho, 1]]` per step (not per unit of time), as in the published
    generator. There is no observation noise.

    Returns:
        CF contiguous ragged array: ``activator(obs)``, ``inhibitor(obs)``, NaN where only the other was seen.

    Raises:
        ConfigError: an option out of its range.

    Example:
        >>> list(brusselator(n_series=3).data_vars)
        ['activator', 'inhibitor', 'row_size']
    """
    positive(n_series=n_series, duration=duration, dt=dt, a=a, b=b, rate=rate)
    not_negative(step_sd=step_sd, start_sd=start_sd)
    real(correlation=correlation, both=both)
    fraction(correlation=abs(correlation))
    if not 0 < both <= 1:
        raise ConfigError(f"option both is {both}, it is a share", variable="both", fix="pass a number in (0, 1]")
    path = _path(seed, n_series, round(duration / dt), dt, (a, b), step_sd, correlation, start_sd)
    rng = RECIPE.stream(seed, "missing")
    seen = rng.random(path.shape[:2]) < rate * dt
    values = path[seen]
    hidden = np.where(rng.random(len(values)) < both, -1, rng.integers(0, 2, len(values)))
    variables = {name: np.where(hidden == k, np.nan, values[:, k]) for k, name in enumerate(_CHANNELS)}
    if truth:
        variables |= {f"truth_{name}": values[:, k] for k, name in enumerate(_CHANNELS)}
    times = np.broadcast_to(np.arange(path.shape[1]) * dt, seen.shape)[seen]
    parameters = {
        "a": a, "b": b, "dt": dt, "step_sd": step_sd, "correlation": correlation, "start_sd": start_sd, "rate": rate,
        "both": both, "noise_sd": 0.0,
    }  # fmt: skip
    return labelled(contiguous_ragged(seen.sum(axis=1), times, variables), RECIPE, seed, parameters)


def _path(
    seed: int, n_series: int, steps: int, dt: float, ab: tuple[float, float], sd: float, rho: float, start_sd: float
) -> np.ndarray:
    """``[S, steps, 2]``."""
    a, b = ab
    rng = RECIPE.stream(seed, "path")
    path = np.empty((n_series, steps, 2))
    path[:, 0] = np.array([1.0, b / a]) + start_sd * rng.standard_normal((n_series, 2))
    for k in range(1, steps):
        x, y = path[:, k - 1].T
        z, w = sd * rng.standard_normal((2, n_series))
        path[:, k, 0] = x + (1 - (b + 1) * x + a * x**2 * y) * dt + z
        path[:, k, 1] = y + (b * x - a * x**2 * y) * dt + rho * z + np.sqrt(1 - rho**2) * w
    return finite(path)
