"""The fractional Ornstein-Uhlenbeck process, drawn exactly from its stationary law."""

from __future__ import annotations

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError

from .common import Recipe, assemble, positive, real

__entries__ = [
    {
        "kind": "simulators",
        "name": "fractional_ou",
        "target": "fractional_ou",
        "summary": "Mean-reverting SDE driven by fractional Brownian motion, exact, at irregular times",
        "dims": ("series", "time"),
        "units": {"y": "1", "time": "s"},
        "license": "Apache-2.0",
        "options": {
            "n_series": "number of series",
            "n_times": "number of times, which all series share",
            "duration": "length, s",
            "hurst": "Hurst index, between 0.01 and 0.99",
            "theta": "rate of return, 1/s",
            "mu": "level",
            "sigma": "strength of the noise",
            "noise_sd": "sd of the observation noise",
            "missing": "share of the entries missing at random",
            "truth": "add truth_y",
        },
    },
]

RECIPE = Recipe("fractional_ou", "Fractional Ornstein-Uhlenbeck process", "1", "s")


def fractional_ou(
    *, seed: int = 0, n_series: int = 40, n_times: int = 200, duration: float = 20.0, hurst: float = 0.3,
    theta: float = 0.8, mu: float = 0.0, sigma: float = 1.2, noise_sd: float = 0.05, missing: float = 0.0,
    truth: bool = False,
) -> xr.Dataset:  # fmt: skip
    r"""Stationary paths of :math:`dx = \theta(\mu - x)\,dt + \sigma\,dB^H`, one factor of the exact covariance.

    Returns:
        ``y(series, time)``.

    Raises:
        ConfigError: an option out of its range.

    References:
        Cheridito, Kawaguchi, Maejima (2003), Fractional Ornstein-Uhlenbeck processes.

    Example:
        >>> fractional_ou(n_series=2, n_times=30)["y"].shape
        (2, 30)
    """
    positive(n_series=n_series, n_times=n_times, duration=duration, theta=theta, sigma=sigma, hurst=hurst)
    real(mu=mu)
    if not 0.01 <= hurst <= 0.99:
        raise ConfigError(f"option hurst is {hurst}", variable="hurst", fix="pass a number between 0.01 and 0.99")
    parameters = {"hurst": hurst, "theta": theta, "mu": mu, "sigma": sigma, "initial": "stationary"}
    times = np.sort(RECIPE.stream(seed, "times").uniform(0.0, duration, n_times))
    values, vectors = np.linalg.eigh(covariance(times[:, None] - times, hurst, theta, sigma))
    root = vectors * np.sqrt(np.clip(values, 0.0, None))
    path = mu + RECIPE.stream(seed, "path").standard_normal((n_series, n_times)) @ root.T
    return assemble(
        RECIPE, times, path, seed=seed, noise_sd=noise_sd, missing=missing, keep_truth=truth, parameters=parameters
    )


def covariance(lag: np.ndarray, hurst: float, theta: float, sigma: float) -> np.ndarray:
    r"""Stationary autocovariance, any shape.

    .. math:: \frac{\sigma^2}{2}\Big(\frac{\theta}{2}\int e^{-\theta|r-s|}|s|^{2H}\,ds - |r|^{2H}\Big)

    The integral over ``s`` between 0 and the lag is a confluent hypergeometric function, the rest incomplete gammas.

    Example:
        >>> float(covariance(np.array(0.0), 0.5, 2.0, 1.0))
        0.25
    """
    from scipy import special

    a = 2 * hurst + 1
    r = np.abs(np.asarray(lag, dtype=float))
    z = theta * r
    between = r**a / a * special.hyp1f1(1.0, a + 1, -z)
    outside = special.gamma(a) / theta**a * (np.exp(-z) + _scaled_upper_gamma(a, z))
    return 0.5 * sigma**2 * (0.5 * theta * (outside + between) - r ** (a - 1))


def _scaled_upper_gamma(a: float, z: np.ndarray) -> np.ndarray:
    """``e^z Q(a, z)``; far out by the asymptotic series, where both factors leave the floating-point range."""
    from scipy import special

    near = np.minimum(z, 100.0)
    far = np.maximum(z, 100.0)
    term, total = np.ones_like(far), np.ones_like(far)
    for k in range(1, 12):
        term = term * (a - k) / far
        total = total + term
    series = far ** (a - 1) / special.gamma(a) * total
    return np.where(z > 100.0, series, np.exp(near) * special.gammaincc(a, near))
