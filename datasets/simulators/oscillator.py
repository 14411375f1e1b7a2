"""A damped harmonic oscillator kicked by white noise, seen at irregular times with gaps. Everything is exact."""

from __future__ import annotations

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError

from .common import Recipe, fraction, grid, not_negative, one_of, positive

__entries__ = [
    {
        "kind": "simulators",
        "name": "oscillator",
        "target": "oscillator",
        "summary": "Damped stochastic harmonic oscillator at irregular times, with contiguous gaps and a held-out part",
        "dims": ("series", "time"),
        "units": {"y": "m", "time": "s"},
        "license": "Apache-2.0",
        "options": {
            "n_series": "number of series",
            "n_times": "times in [0, duration]",
            "n_future": "times in (duration, duration + horizon]",
            "duration": "length of the conditioning window, s",
            "horizon": "length of the forecast window, s",
            "missing": "share of the window's entries withheld from each series",
            "gap_min": "shortest contiguous gap, s",
            "gap_max": "longest contiguous gap, s",
            "omega": "angular frequency, 1/s",
            "zeta": "damping ratio, in (0, 1)",
            "sigma": "strength of the kicks, m s^-3/2",
            "noise_sd": "sd of the observation noise, m",
            "part": "train, test (what train withholds, and the future) or full",
            "truth": "add truth_position and truth_velocity",
        },
    },
]

RECIPE = Recipe("oscillator", "Damped stochastic harmonic oscillator with gaps", "m", "s")
_DECIMALS = 6  # rounding far below the noise: the same bits on machines whose sin and exp differ in the last place


def oscillator(
    *, seed: int = 0, n_series: int = 20, n_times: int = 80, n_future: int = 20, duration: float = 12.0,
    horizon: float = 3.0, missing: float = 0.37, gap_min: float = 2.0, gap_max: float = 3.5, omega: float = 2.0,
    zeta: float = 0.05, sigma: float = 1.25, noise_sd: float = 0.2, part: str = "train", truth: bool = False,
) -> xr.Dataset:  # fmt: skip
    r"""Stationary paths of :math:`dx = v\,dt,\; dv = (-\omega^2 x - 2\zeta\omega v)\,dt + \sigma\,dW`.

    The transition over any time is the exact one, so a Kalman smoother with the parameters in ``attrs`` is the exact
    answer. ``y = x + noise``, rounded to 1e-6 m. The parts share times and noise: what ``train`` withholds, ``test``
    holds, and nothing else.

    Returns:
        ``y(series, time)`` in m, NaN where withheld.

    Raises:
        ConfigError: an option out of its range.

    References:
        Gillespie (1996), Exact numerical simulation of the Ornstein-Uhlenbeck process and its integral.

    Example:
        >>> ds = oscillator(seed=1, n_series=2)
        >>> float(ds["y"].isnull().mean())
        0.375
    """
    positive(
        n_series=n_series, n_times=n_times, duration=duration, horizon=horizon, omega=omega, zeta=zeta, sigma=sigma
    )
    positive(gap_min=gap_min, gap_max=gap_max)
    not_negative(noise_sd=noise_sd, n_future=n_future)
    fraction(missing=missing, zeta=zeta)
    one_of(("train", "test", "full"), part=part)
    if not gap_min <= gap_max:
        raise ConfigError("gap_min is above gap_max", variable="gap_min", fix="swap them")
    times = _times(seed, n_times, n_future, duration, horizon)
    path = _path(seed, n_series, times, omega, zeta, sigma)
    noise = noise_sd * RECIPE.stream(seed, "noise").standard_normal(path.shape[:2])
    y = np.round(path[..., 0] + noise, _DECIMALS)
    held = _withheld(seed, times, n_series, n_times, duration, missing, (gap_min, gap_max))
    keep = {"train": slice(0, n_times), "test": slice(None), "full": slice(None)}[part]
    hide = {"train": held, "test": ~held, "full": np.zeros_like(held)}[part]
    variables = {"y": np.where(hide, np.nan, y)[:, keep]}
    if truth:
        variables |= {"truth_position": path[:, keep, 0], "truth_velocity": path[:, keep, 1]}
    parameters = {
        "omega": omega, "zeta": zeta, "sigma": sigma, "noise_sd": noise_sd, "initial": "stationary", "missing": missing,
        "gap_min": gap_min, "gap_max": gap_max, "duration": duration, "horizon": horizon, "part": part,
    }  # fmt: skip
    ds = grid(RECIPE, times[keep], variables, seed, parameters)
    if truth:
        ds["truth_velocity"].attrs["units"] = "m s-1"
    return ds


def stationary(omega: float, zeta: float, sigma: float) -> np.ndarray:
    r"""Stationary covariance ``[2, 2]``: :math:`\frac{\sigma^2}{4\zeta\omega}\,\mathrm{diag}(\omega^{-2}, 1)`.

    Example:
        >>> stationary(omega=1.0, zeta=0.25, sigma=1.0).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    return np.diag([sigma**2 / (4 * zeta * omega**3), sigma**2 / (4 * zeta * omega)])


def transition(dt: float, omega: float, zeta: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    r"""Exact ``A [2, 2]`` and ``Q [2, 2]`` over ``dt``: :math:`A = e^{F\,dt}` in closed form, :math:`Q = P - A P A^T`.

    Example:
        >>> A, Q = transition(0.0, omega=2.0, zeta=0.05, sigma=1.0)
        >>> A.tolist(), Q.tolist()
        ([[1.0, 0.0], [-0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]])
    """
    decay, damped = zeta * omega, omega * np.sqrt(1 - zeta**2)
    cos, sin = np.cos(damped * dt), np.sin(damped * dt) / damped
    A = np.exp(-decay * dt) * np.array([[cos + decay * sin, sin], [-(omega**2) * sin, cos - decay * sin]])
    a, b = np.diag(stationary(omega, zeta, sigma))
    # written out entry by entry: no BLAS, whose order of summation depends on the machine
    Q_xx = a - A[0, 0] ** 2 * a - A[0, 1] ** 2 * b
    Q_xv = -A[0, 0] * A[1, 0] * a - A[0, 1] * A[1, 1] * b
    Q_vv = b - A[1, 0] ** 2 * a - A[1, 1] ** 2 * b
    return A, np.array([[Q_xx, Q_xv], [Q_xv, Q_vv]])


def _times(seed: int, n_times: int, n_future: int, duration: float, horizon: float) -> np.ndarray:
    rng = RECIPE.stream(seed, "times")
    now = np.sort(rng.uniform(0.0, duration, n_times))
    future = np.sort(rng.uniform(duration, duration + horizon, n_future))
    return np.round(np.concatenate([now, future]), _DECIMALS)


def _path(seed: int, n_series: int, times: np.ndarray, omega: float, zeta: float, sigma: float) -> np.ndarray:
    """``[S, T, 2]`` position and velocity, started from the stationary law."""
    kicks = RECIPE.stream(seed, "path").standard_normal((n_series, len(times), 2))
    path = np.empty_like(kicks)
    path[:, 0] = kicks[:, 0] * np.sqrt(np.diag(stationary(omega, zeta, sigma)))
    for k, dt in enumerate(np.diff(times), start=1):
        A, Q = transition(float(dt), omega, zeta, sigma)
        # factor with the velocity first: over a short step its variance is the one not lost to cancellation
        vv = np.sqrt(max(Q[1, 1], 0.0))
        xv = Q[0, 1] / vv if vv > 0 else 0.0
        xx = np.sqrt(max(Q[0, 0] - xv**2, 0.0))
        x, v, (z, w) = path[:, k - 1, 0], path[:, k - 1, 1], kicks[:, k].T
        path[:, k, 0] = A[0, 0] * x + A[0, 1] * v + xv * z + xx * w
        path[:, k, 1] = A[1, 0] * x + A[1, 1] * v + vv * z
    return path


def _withheld(
    seed: int, times: np.ndarray, n_series: int, n_times: int, duration: float, missing: float, gap: tuple[float, float]
) -> np.ndarray:
    """``[S, T]`` True where withheld: one gap per series, then random entries up to the share; and the future."""
    rng = RECIPE.stream(seed, "missing")
    length = rng.uniform(gap[0], gap[1], n_series)
    begin = rng.uniform(0.0, 1.0, n_series) * np.maximum(duration - length, 0.0)
    inside = (times[:n_times] >= begin[:, None]) & (times[:n_times] <= (begin + length)[:, None])
    priority = rng.random((n_series, n_times)) - inside  # the gap comes first
    rank = np.argsort(np.argsort(priority, axis=1), axis=1)
    held = np.ones((n_series, len(times)), dtype=bool)
    held[:, :n_times] = rank < round(missing * n_times)
    return held
