"""Latents are known up to a gauge: align them on training data only, and say what is identified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError, DataError, ShapeError

Kind = Literal["affine", "orthogonal", "similarity"]


@dataclass(frozen=True)
class Alignment:
    """``y = x A + c``, fitted on training data.

    Attributes:
        matrix: ``[from, to]``. shift: ``[to]``. kind: of the gauge.
    """

    matrix: np.ndarray
    shift: np.ndarray
    kind: str

    def apply(self, latents: np.ndarray) -> np.ndarray:
        """``[..., from]`` to ``[..., to]``."""
        return np.asarray(latents, dtype=np.float64) @ self.matrix + self.shift

    def covariance(self, covariance: np.ndarray) -> np.ndarray:
        """Posterior covariances in the target's coordinates, ``[..., from, from]`` to ``[..., to, to]``."""
        return self.matrix.T @ np.asarray(covariance, dtype=np.float64) @ self.matrix

    def r2(self, latents: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Explained variance of each target column, ``[to]``; give data that the alignment has not seen."""
        x, y = _rows(latents, truth)
        error = ((y - self.apply(x)) ** 2).sum(0)
        return 1.0 - error / ((y - y.mean(0)) ** 2).sum(0)


def fit_alignment(latents: np.ndarray, truth: np.ndarray, *, kind: Kind = "affine", ridge: float = 0.0) -> Alignment:
    """Least squares from estimated to true latents over a gauge.

    Args:
        latents: ``[..., from]``. truth: ``[..., to]``; rows with NaN are left out.
        kind: ``affine`` (any matrix), ``orthogonal`` (rotation or reflection, Procrustes) or ``similarity`` (orthogonal
            times one scale); each with a shift. The last two need ``from == to``.
        ridge: of the affine map, relative to the mean variance of the latents.

    Raises:
        ShapeError: sizes differ. DataError: fewer rows than unknowns.

    References:
        Schönemann (1966), A generalized solution of the orthogonal Procrustes problem.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 2))
        >>> fit = fit_alignment(x, x[:, ::-1] + 1.0, kind="orthogonal")
        >>> np.abs(fit.matrix).round(9).tolist(), fit.shift.round(9).tolist()
        ([[0.0, 1.0], [1.0, 0.0]], [1.0, 1.0])
    """
    x, y = _rows(latents, truth)
    if kind not in ("affine", "orthogonal", "similarity"):
        raise ConfigError(f"there is no gauge {kind!r}", variable="kind", fix="affine, orthogonal or similarity")
    if len(x) <= x.shape[1]:
        raise DataError(f"{len(x)} rows for {x.shape[1]} latents", variable="latents", fix="align on more bins")
    centre, goal = x.mean(0), y.mean(0)
    a, b = x - centre, y - goal
    if kind == "affine":
        lift = np.sqrt(ridge * len(a) * a.var(0).mean()) * np.eye(a.shape[1])
        matrix = np.linalg.lstsq(np.vstack([a, lift]), np.vstack([b, np.zeros((len(lift), b.shape[1]))]), rcond=None)[0]
    else:
        matrix = _procrustes(a, b, scale=kind == "similarity")
    return Alignment(matrix, goal - centre @ matrix, kind)


def aligned_r2(
    latents: xr.DataArray,
    truth: xr.DataArray,
    *,
    train: Sequence[int] | slice | np.ndarray,
    test: Sequence[int] | slice | np.ndarray,
    kind: Kind = "affine",
    dim: str = "latent",
) -> xr.Dataset:
    """Align on the ``train`` trials, score on the ``test`` trials.

    Args:
        latents: ``trial, ...`` and ``dim``; draws must be averaged before. truth: the same with its own ``dim``.
        train, test: positions along ``trial``, without a trial in common.

    Returns:
        ``r2`` of each true latent on the test trials and ``train_r2``; attrs ``mean_r2`` and ``kind``.

    Example:
        >>> x = xr.DataArray(np.random.default_rng(0).normal(size=(4, 30, 2)), dims=("trial", "time", "latent"))
        >>> aligned_r2(2 * x, x, train=[0, 1], test=[2, 3]).r2.values.round(9).tolist()
        [1.0, 1.0]
    """
    from .arrays import disjoint, positions

    x, y = (a.transpose("trial", ..., dim) for a in (latents, truth))
    first, last = (positions(given, x.sizes["trial"], name) for given, name in ((train, "train"), (test, "test")))
    disjoint(first, last)
    fit = fit_alignment(x.values[first], y.values[first], kind=kind)
    held, seen = fit.r2(x.values[last], y.values[last]), fit.r2(x.values[first], y.values[first])
    labels = {dim: truth[dim]} if dim in truth.coords else {}
    attrs = {"mean_r2": float(held.mean()), "kind": kind}
    return xr.Dataset({"r2": (dim, held), "train_r2": (dim, seen)}, coords=labels, attrs=attrs)


def identifiability(
    loading: np.ndarray,
    latents: np.ndarray,
    *,
    lengthscales: Sequence[float] | None = None,
    close: float = 0.1,
) -> xr.Dataset:
    """Which directions of a linear readout the data can tell apart, in the gauge of the readout's principal axes.

    The signal ``C x`` is unchanged under ``x -> A x, C -> C A^-1``. Its own axes (singular vectors of ``C S^1/2`` with
    ``S`` the latents' covariance) are fixed up to sign, except that axes of nearly equal strength can rotate into each
    other. With distinct length-scales the prior fixes the latents too, up to sign; equal ones leave a rotation free.

    Args:
        loading: ``[unit, latent]``. latents: ``[..., latent]``, posterior means.
        lengthscales: of each latent's prior. close: relative difference below which two count as equal.

    Returns:
        By ``axis``, strongest first: ``variance`` of the summed signal, ``share``, ``identified`` (strength apart from
        both neighbours), and ``loading(unit, axis)``, sign fixed by the largest entry. By ``latent``:
        ``rotation_free`` if ``lengthscales`` are given. attrs: ``effective_dimension`` (participation ratio).

    Example:
        >>> x = np.random.default_rng(0).normal(size=(1000, 2))
        >>> report = identifiability(np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), x)
        >>> report.identified.values.tolist(), round(report.attrs["effective_dimension"], 1)
        ([True, True], 1.2)
    """
    c, x = np.asarray(loading, np.float64), np.asarray(latents, np.float64)
    if c.ndim != 2 or x.shape[-1] != c.shape[1]:
        raise ShapeError(
            f"the loading has shape {c.shape}, the latents {x.shape}", fix="pass [unit, latent], [..., latent]"
        )
    flat = x.reshape(-1, x.shape[-1])
    flat = flat[np.isfinite(flat).all(1)]
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(flat.T)))
    u, s, _ = np.linalg.svd(c @ (vectors * np.sqrt(np.maximum(values, 0.0))), full_matrices=False)
    u = u * np.sign(np.take_along_axis(u, np.abs(u).argmax(0)[None], 0))
    variance = s**2
    total = max(float(variance.sum()), 1e-300)
    attrs = {"effective_dimension": float(total**2 / max(float((variance**2).sum()), 1e-300))}
    found = {
        "variance": ("axis", variance),
        "share": ("axis", variance / total),
        "identified": ("axis", _apart(variance, close) & (variance > 1e-9 * total)),
        "loading": (("unit", "axis"), u * s),
    }
    if lengthscales is not None:
        found["rotation_free"] = ("latent", _close(np.asarray(lengthscales, np.float64), close))
    return xr.Dataset(found, attrs=attrs)


def subspace_angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Principal angles in degrees between the column spaces of two loadings: how far two fits agree, in any gauge.

    Example:
        >>> subspace_angles(np.eye(3)[:, :2], np.eye(3)[:, 1:]).round(6).tolist()
        [90.0, 0.0]
    """
    from scipy.linalg import subspace_angles as angles

    return np.degrees(angles(np.asarray(first, np.float64), np.asarray(second, np.float64)))


def _procrustes(a: np.ndarray, b: np.ndarray, *, scale: bool) -> np.ndarray:
    if a.shape[1] != b.shape[1]:
        raise ShapeError(f"{a.shape[1]} latents against {b.shape[1]}", variable="latents", fix="use kind='affine'")
    u, s, v = np.linalg.svd(a.T @ b)
    return (u @ v) * (s.sum() / (a**2).sum() if scale else 1.0)


def _rows(latents: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(latents, np.float64), np.asarray(truth, np.float64)
    if x.ndim < 2 or x.shape[:-1] != y.shape[:-1]:
        raise ShapeError(f"latents have shape {x.shape}, the truth {y.shape}", fix="only the last size may differ")
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    kept = np.isfinite(x).all(1) & np.isfinite(y).all(1)
    return x[kept], y[kept]


def _apart(variance: np.ndarray, close: float) -> np.ndarray:
    gaps = np.abs(np.diff(variance)) > close * np.maximum(variance[1:], variance[:-1])
    return np.concatenate([[True], gaps]) & np.concatenate([gaps, [True]])


def _close(scales: np.ndarray, close: float) -> np.ndarray:
    ratio = np.abs(np.log(scales[:, None] / scales)) < close
    return ratio.sum(1) > 1
