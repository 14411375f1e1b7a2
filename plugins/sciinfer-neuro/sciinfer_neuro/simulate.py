"""Spikes with known latents: Lorenz and van der Pol paths behind log-linear Poisson neurons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError
from sciinfer.random import numpy_generator

from .binned import binned_dataset

_SIGMA, _RHO, _BETA = 10.0, 28.0, 8.0 / 3.0


def lorenz_spikes(
    *, seed: int = 0, n_trials: int = 10, n_bins: int = 250, n_units: int = 50, bin_width: float = 0.02,
    mean_rate: float = 15.0, gain: float = 1.0, speed: float = 1.0, shortest: float = 1.0,
) -> xr.Dataset:  # fmt: skip
    r"""Counts of neurons that a Lorenz system drives, each trial from a state of its own on the attractor.

    .. math:: \dot z = f(z),\quad y_{tn} \sim \mathrm{Poisson}(w\, e^{c_n^\top x_t + d_n})

    ``x`` is ``z`` standardised over all trials and bins, ``w`` the width of a bin.

    Args:
        seed: of every random number.
        n_trials, n_bins, n_units: sizes. bin_width: seconds.
        mean_rate: Hz, about, of every neuron (at the mean latent state).
        gain: length of each loading vector; log rate per standard deviation of the latents.
        speed: Lorenz time units per second.
        shortest: length of the shortest trial, as a share; below 1, trials end at random (NaN after their end).

    Returns:
        ``counts(trial, time, unit)`` and the truth: ``latent(trial, time, latent_dim)``, ``rate`` in Hz,
        ``loading(unit, latent_dim)``, ``offset(unit)`` (log Hz).

    References:
        Lorenz (1963), Deterministic nonperiodic flow.

    Example:
        >>> lorenz_spikes(n_trials=2, n_bins=20, n_units=3).sizes["unit"]
        3
    """
    _check(n_trials=n_trials, n_bins=n_bins, n_units=n_units, bin_width=bin_width, mean_rate=mean_rate, speed=speed)
    if not 0.0 < shortest <= 1.0:
        raise ConfigError(f"shortest is {shortest}", variable="shortest", fix="a share, above 0, up to 1")
    rng = numpy_generator(seed, "neuro/lorenz_spikes")
    start = np.array([0.0, 1.0, 25.0]) + rng.normal(size=(n_trials, 3)) * [5.0, 5.0, 3.0]
    warm = _runge_kutta(_lorenz, start, 20.0, 2000)[-1]
    path = np.stack(_trajectory(_lorenz, warm, bin_width * speed, n_bins), axis=1)
    latent = _standardised(path)
    loading = rng.normal(size=(n_units, 3))
    loading *= gain / np.linalg.norm(loading, axis=1, keepdims=True)
    offset = np.full(n_units, np.log(mean_rate))
    ends = rng.integers(max(int(np.ceil(shortest * n_bins)), 1), n_bins + 1, n_trials)
    told = {"mean_rate": mean_rate, "gain": gain, "speed": speed, "shortest": shortest}
    return _dataset(
        "Lorenz spikes", rng, latent, loading, offset, bin_width, seed=seed, ends=ends, names=("x", "y", "z"), told=told
    )


def van_der_pol_spikes(
    *, seed: int = 0, n_trials: int = 10, n_bins: int = 500, n_units: int = 50, dt: float = 0.02, mu: float = 1.0,
    noise: float = 0.05, mean_count: float = 5.0,
) -> xr.Dataset:  # fmt: skip
    r"""Counts of neurons that a noisy van der Pol oscillator drives.

    .. math:: \dot x = v,\quad \dot v = \mu (1 - x^2) v - x,\quad y_{tn} \sim \mathrm{Poisson}(e^{c_n^\top x_t + d})

    Euler steps of ``dt`` with noise ``noise sqrt(dt)`` on both states, from ``(2, 0)`` with sd 0.1; latents are
    standardised over all trials; each column of the loading has unit length; ``d = log(mean_count)`` per bin.

    Args:
        seed: of every random number.
        n_trials, n_bins, n_units: sizes. dt: seconds, of a step and of a bin.
        mu: strength of the nonlinear damping. noise: of the states. mean_count: spikes per bin at the mean state.

    Returns:
        ``counts(trial, time, unit)`` and the truth, as :func:`lorenz_spikes`.

    References:
        Dowling, Zhao, Park (2023), Linear time GPs for inferring latent trajectories from neural spike trains.

    Example:
        >>> float(van_der_pol_spikes(n_trials=1, n_bins=20).counts.mean().round())
        5.0
    """
    _check(n_trials=n_trials, n_bins=n_bins, n_units=n_units, dt=dt, mean_count=mean_count)
    if mu < 0 or noise < 0:
        raise ConfigError(f"mu is {mu}, noise is {noise}", variable="mu", fix="pass numbers that are not negative")
    rng = numpy_generator(seed, "neuro/van_der_pol_spikes")
    state = np.array([2.0, 0.0]) + 0.1 * rng.normal(size=(n_trials, 2))
    path = np.empty((n_trials, n_bins, 2))
    for step in range(n_bins):
        path[:, step] = state
        x, v = state.T
        drift = np.stack([v, mu * (1.0 - x**2) * v - x], axis=1)
        state = state + dt * drift + noise * np.sqrt(dt) * rng.normal(size=state.shape)
    loading = rng.normal(size=(n_units, 2))
    loading /= np.linalg.norm(loading, axis=0, keepdims=True)
    offset = np.full(n_units, np.log(mean_count / dt))
    told = {"mu": mu, "noise": noise, "mean_count": mean_count}
    names = ("position", "velocity")
    return _dataset(
        "van der Pol spikes", rng, _standardised(path), loading, offset, dt, seed=seed, names=names, told=told
    )


def place_cells(
    *, seed: int = 0, n_trials: int = 20, n_units: int = 25, bin_width: float = 0.02, duration: float = 4.0,
    length: float = 100.0, field_width: float = 8.0, peak_rate: float = 20.0, base_rate: float = 0.5,
    direction_gain: float = 0.5,
) -> xr.Dataset:  # fmt: skip
    r"""Place cells of an animal that runs up and down a linear track; a trial is one run.

    .. math:: \lambda_n(x, h) = b + p\, e^{-(x - m_n)^2 / 2 s^2} \, e^{g_n h},\quad h = \pm 1

    The run's speed varies from trial to trial and within it; runs alternate in direction.

    Args:
        seed: of every random number.
        n_trials, n_units: sizes. bin_width, duration: seconds.
        length: of the track, cm. field_width: standard deviation ``s`` of a place field, cm.
        peak_rate, base_rate: ``p`` and ``b``, Hz. direction_gain: standard deviation of ``g``.

    Returns:
        ``counts(trial, time, unit)``, ``position(trial, time)`` (cm), ``direction(trial)`` (1 up, -1 down), and the
        truth: ``rate(trial, time, unit)`` (Hz), ``centre(unit)`` (cm), ``direction_effect(unit)``.

    References:
        O'Keefe, Dostrovsky (1971), The hippocampus as a spatial map.

    Example:
        >>> place_cells(n_trials=2, n_units=3, duration=1.0).position.dims
        ('trial', 'time')
    """
    _check(n_trials=n_trials, n_units=n_units, bin_width=bin_width, duration=duration, length=length,
           field_width=field_width, peak_rate=peak_rate)  # fmt: skip
    if base_rate < 0 or direction_gain < 0:
        raise ConfigError(
            f"base_rate is {base_rate}, direction_gain is {direction_gain}", variable="base_rate", fix="not negative"
        )
    rng = numpy_generator(seed, "neuro/place_cells")
    n_bins = max(round(duration / bin_width), 1)
    direction = np.where(np.arange(n_trials) % 2 == 0, 1.0, -1.0)
    position = _runs(rng, n_trials, n_bins, length, direction)
    centre = np.sort(rng.uniform(0.0, length, n_units))
    effect = direction_gain * rng.normal(size=n_units)
    field = np.exp(-0.5 * ((position[..., None] - centre) / field_width) ** 2)
    rate = base_rate + peak_rate * field * np.exp(effect * direction[:, None, None])
    counts = rng.poisson(rate * bin_width).astype(np.float64)
    time = (np.arange(n_bins) + 0.5) * bin_width
    ds = binned_dataset(counts, np.arange(n_trials), time, np.arange(n_units), bin_width, np.ones(counts.shape[:2]))
    ds["position"] = (("trial", "time"), position, {"units": "cm", "long_name": "position on the track"})
    ds["direction"] = ("trial", direction, {"units": "1", "long_name": "direction of the run"})
    ds["rate"] = (("trial", "time", "unit"), rate, {"units": "Hz", "long_name": "true firing rate"})
    ds["centre"] = ("unit", centre, {"units": "cm", "long_name": "centre of the place field"})
    ds["direction_effect"] = ("unit", effect, {"units": "1", "long_name": "log gain of the direction"})
    told = {"length": length, "field_width": field_width, "peak_rate": peak_rate, "base_rate": base_rate}
    told |= {"direction_gain": direction_gain, "duration": duration, "bin_width": bin_width}
    return ds.assign_attrs(title="place cells", simulator="neuro/place_cells", seed=seed, **told)


def _check(**values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise ConfigError(f"{name} is {value}", variable=name, fix="pass a number above zero")


def _lorenz(z: np.ndarray) -> np.ndarray:
    x, y, w = z[..., 0], z[..., 1], z[..., 2]
    return np.stack([_SIGMA * (y - x), x * (_RHO - w) - y, x * y - _BETA * w], axis=-1)


def _runge_kutta(field: Callable[[np.ndarray], np.ndarray], z: np.ndarray, span: float, steps: int) -> list[np.ndarray]:
    h, states = span / steps, [z]
    for _ in range(steps):
        a = field(z)
        b = field(z + 0.5 * h * a)
        c = field(z + 0.5 * h * b)
        z = z + h / 6.0 * (a + 2 * b + 2 * c + field(z + h * c))
        states.append(z)
    return states


def _trajectory(
    field: Callable[[np.ndarray], np.ndarray], z: np.ndarray, step: float, bins: int, longest: float = 0.01
) -> list[np.ndarray]:
    """The states at the bins, with substeps of at most ``longest``."""
    parts = max(int(np.ceil(step / longest)), 1)
    return _runge_kutta(field, z, step * (bins - 1), parts * (bins - 1))[::parts] if bins > 1 else [z]


def _standardised(path: np.ndarray) -> np.ndarray:
    spread = path.std(axis=(0, 1))
    return (path - path.mean(axis=(0, 1))) / np.where(spread > 0, spread, 1.0)


def _runs(rng: np.random.Generator, trials: int, bins: int, length: float, direction: np.ndarray) -> np.ndarray:
    """Monotone runs from end to end whose speed varies smoothly."""
    phase = np.linspace(0.0, np.pi, bins)
    wiggle = rng.uniform(-0.3, 0.3, (trials, 3, 1)) * np.sin(phase * (np.arange(3)[:, None] + 1))
    speed = np.exp(wiggle.sum(axis=1)) * (0.1 + np.sin(phase))  # slow at both ends
    way = np.cumsum(speed, axis=1) - 0.5 * speed
    share = way / speed.sum(axis=1, keepdims=True)
    return length * np.where(direction[:, None] > 0, share, 1.0 - share)


def _dataset(
    title: str, rng: np.random.Generator, latent: np.ndarray, loading: np.ndarray, offset: np.ndarray, width: float, *,
    seed: int, names: tuple[str, ...], told: dict[str, float], ends: np.ndarray | None = None,
) -> xr.Dataset:  # fmt: skip
    trials, bins, _ = latent.shape
    rate = np.exp(latent @ loading.T + offset)
    counts = rng.poisson(rate * width).astype(np.float64)
    share = np.ones((trials, bins)) if ends is None else (np.arange(bins) < ends[:, None]).astype(np.float64)
    counts[share == 0] = np.nan
    time = (np.arange(bins) + 0.5) * width
    ds = binned_dataset(counts, np.arange(trials), time, np.arange(len(loading)), width, share)
    ds = ds.assign_coords(latent_dim=("latent_dim", list(names)))
    ds["latent"] = (("trial", "time", "latent_dim"), latent, {"units": "1", "long_name": "true latent"})
    ds["rate"] = (("trial", "time", "unit"), rate, {"units": "Hz", "long_name": "true firing rate"})
    ds["loading"] = (("unit", "latent_dim"), loading, {"units": "1", "long_name": "log rate per unit of the latent"})
    ds["offset"] = ("unit", offset, {"units": "1", "long_name": "log rate (Hz) at the mean latent"})
    name = "neuro/" + title.lower().replace(" ", "_")
    return ds.assign_attrs(title=title, simulator=name, seed=seed, bin_width=width, **told)
