"""Poisson regression by iteratively reweighted least squares, with exposure, ridge and standard errors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, xlogy

from sciinfer.errors import ConfigError, DataError, NumericalError, SciInferWarning, ShapeError

_LARGEST = 30.0  # of |log rate| while iterating; e^30 spikes in a bin is beyond any neuron


@dataclass(frozen=True)
class PoissonGLM:
    """A fitted Poisson regression of ``m`` outputs on ``p`` features.

    Attributes:
        intercept: ``[m]``, log rate per unit of exposure where all features are 0.
        coefficients: ``[p, m]``, in units of one over the feature's.
        standard_errors: ``[1 + p, m]``, intercept first; with a ridge: of the penalised estimate.
        deviance, null_deviance, log_likelihood, aic: ``[m]``; the null has an intercept alone.
        ridge: ``[m]``. iterations: ``[m]``. converged: ``[m]``.
    """

    intercept: np.ndarray
    coefficients: np.ndarray
    standard_errors: np.ndarray
    deviance: np.ndarray
    null_deviance: np.ndarray
    log_likelihood: np.ndarray
    aic: np.ndarray
    ridge: np.ndarray
    iterations: np.ndarray
    converged: np.ndarray

    def rates(self, design: np.ndarray, *, exposure: np.ndarray | float = 1.0) -> np.ndarray:
        """Expected counts ``exposure exp(b0 + X b)``, ``[..., p]`` to ``[..., m]``; ``exposure`` is ``[...]``."""
        eta = np.asarray(design, dtype=np.float64) @ self.coefficients + self.intercept
        return np.exp(np.clip(eta, -_LARGEST, _LARGEST)) * np.asarray(exposure)[..., None]


@dataclass(frozen=True)
class Standardised:
    """A design with centred columns of unit spread, and the way back."""

    columns: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    used: np.ndarray

    @classmethod
    def of(cls, design: np.ndarray) -> Standardised:
        """Columns that do not vary are left out: the intercept stands for them."""
        centre, spread = design.mean(0), design.std(0)
        used = spread > 1e-12 * np.maximum(np.abs(centre), 1e-300)
        columns = np.ones((len(design), 1 + int(used.sum())))
        columns[:, 1:] = (design[:, used] - centre[used]) / spread[used]
        return cls(columns, centre, spread, used)

    def back(self) -> np.ndarray:
        """``[1 + p, 1 + used]``: the linear map from standardised to plain coefficients."""
        slopes = np.zeros((len(self.used), int(self.used.sum())))
        slopes[np.flatnonzero(self.used), np.arange(slopes.shape[1])] = 1.0 / self.spread[self.used]
        top = np.concatenate([[1.0], -self.centre @ slopes])
        return np.vstack([top, np.column_stack([np.zeros(len(slopes)), slopes])])


def poisson_glm(
    design: np.ndarray,
    counts: np.ndarray,
    *,
    exposure: np.ndarray | float = 1.0,
    ridge: float | Sequence[float] | np.ndarray = 0.0,
    max_iterations: int = 50,
    tolerance: float = 1e-10,
) -> PoissonGLM:
    r"""Fit ``y ~ Poisson(e exp(b0 + x b))`` by penalised maximum likelihood, for each output on its own.

    .. math:: \max_b \sum_i [y_i \eta_i - e_i \exp \eta_i] - \tfrac{r}{2} \sum_j (s_j b_j)^2

    ``s_j`` is the standard deviation of feature ``j``, so that the ridge does not depend on units. The intercept is
    free.

    Args:
        design: ``[n, p]`` without the intercept. counts: ``[n]`` or ``[n, m]``; NaN = missing.
        exposure: ``[n]``, the share of a bin in which spikes could be seen; 0 leaves the row out.
        ridge: one, or one for each output.
        max_iterations, tolerance: of Newton steps; relative change of the objective.

    Returns:
        The fit; a column that does not vary has the coefficient 0 and the standard error NaN.

    Raises:
        DataError: negative or infinite counts, a feature that is not finite, no spike and no ridge.
        NumericalError: collinear features without a ridge.

    References:
        McCullagh, Nelder (1989), Generalized Linear Models.

    Example:
        >>> fit = poisson_glm(np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([1.0, 3.0, 4.0, 8.0]))
        >>> np.exp(fit.intercept).round(9).tolist(), np.exp(fit.coefficients).round(9).tolist()
        ([2.0], [[3.0]])
    """
    x, y, e = _checked(design, counts, exposure)
    ridges = np.broadcast_to(np.asarray(ridge, dtype=np.float64), (y.shape[1],))
    if not (np.isfinite(ridges).all() and (ridges >= 0).all()):
        raise ConfigError("the ridge must be finite and not negative", variable="ridge", fix="pass 0 or more")
    parts = []
    for j, r in enumerate(ridges):
        rows = np.isfinite(y[:, j]) & (e > 0)
        _check_spikes(y[rows, j], float(r), j)
        scaled = Standardised.of(x[rows])
        state = newton(
            scaled.columns, y[rows, j], e[rows], float(r), max_iterations=max_iterations, tolerance=tolerance
        )
        parts.append(_report(scaled, y[rows, j], e[rows], *state))
    columns = [np.stack(part, -1) for part in zip(*parts, strict=True)]
    if not columns[-1].all():
        failed = np.flatnonzero(~columns[-1]).tolist()
        warnings.warn(f"no convergence for outputs {failed}; raise the ridge", SciInferWarning, stacklevel=2)
    b, errors, fit, null, likelihood, aic, iterations, converged = columns
    return PoissonGLM(b[0], b[1:], errors, fit, null, likelihood, aic, ridges.copy(), iterations, converged)


def newton(
    columns: np.ndarray,
    y: np.ndarray,
    exposure: np.ndarray,
    ridge: float,
    start: np.ndarray | None = None,
    *,
    max_iterations: int = 50,
    tolerance: float = 1e-10,
) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """Newton's method with halved steps on a standardised design (column 0 is the intercept).

    Returns:
        Coefficients, information matrix with the penalty, iterations, converged.
    """
    penalty = np.full(columns.shape[1], ridge)
    penalty[0] = 0.0
    b = _start(columns, y, exposure) if start is None else start
    value, mean = _objective(columns, y, exposure, penalty, b)
    information, converged, used = np.diag(penalty), False, 0
    while not converged and used < max_iterations:
        used += 1
        information = (columns.T * mean) @ columns + np.diag(penalty)
        step = _solve(information, columns.T @ (mean - y) + penalty * b)
        b, new, mean = _descend(columns, y, exposure, penalty, b, step, value)
        converged, value = abs(value - new) <= tolerance * (1.0 + abs(new)), new
    return b, information, used, converged


def _start(columns: np.ndarray, y: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    b = np.zeros(columns.shape[1])
    b[0] = np.log(max(y.sum(), 0.5) / exposure.sum())
    return b


def _objective(x: np.ndarray, y: np.ndarray, e: np.ndarray, penalty: np.ndarray, b: np.ndarray) -> tuple:
    eta = np.clip(x @ b, -_LARGEST, _LARGEST)
    mean = e * np.exp(eta)
    return float(mean.sum() - y @ eta + 0.5 * penalty @ b**2), mean


def _descend(
    x: np.ndarray, y: np.ndarray, e: np.ndarray, penalty: np.ndarray, b: np.ndarray, step: np.ndarray, value: float
) -> tuple[np.ndarray, float, np.ndarray]:
    for halving in range(30):
        trial = b - step / 2**halving
        new, mean = _objective(x, y, e, penalty, trial)
        if new <= value + 1e-12 * abs(value):
            return trial, new, mean
    return b, *_objective(x, y, e, penalty, b)


def _solve(information: np.ndarray, right: np.ndarray) -> np.ndarray:
    try:
        if np.linalg.cond(information) > 1e14:
            raise np.linalg.LinAlgError
        return np.linalg.solve(information, right)
    except np.linalg.LinAlgError as err:
        raise NumericalError("the features are collinear", fix="drop one of them, or pass ridge > 0") from err


def _report(
    scaled: Standardised,
    y: np.ndarray,
    e: np.ndarray,
    b: np.ndarray,
    information: np.ndarray,
    iterations: int,
    converged: bool,
) -> tuple[np.ndarray, ...]:
    mean = e * np.exp(np.clip(scaled.columns @ b, -_LARGEST, _LARGEST))
    back = scaled.back()
    errors = np.sqrt(np.einsum("ij,jk,ik->i", back, np.linalg.inv(information), back))
    errors[1:][~scaled.used] = np.nan
    likelihood = float((xlogy(y, mean) - mean - gammaln(y + 1)).sum())
    null = e * (y.sum() / e.sum())
    values = (deviance(y, mean), deviance(y, null), likelihood, 2.0 * len(b) - 2.0 * likelihood)
    return back @ b, errors, *map(np.asarray, values), np.asarray(iterations), np.asarray(converged)


def deviance(y: np.ndarray, mean: np.ndarray) -> float:
    """``2 sum [y log(y / m) - y + m]`` of Poisson counts.

    Example:
        >>> deviance(np.array([2.0, 0.0]), np.array([2.0, 0.5]))
        1.0
    """
    ratio = np.divide(y, mean, out=np.ones_like(mean), where=(y > 0) & (mean > 0))
    return float(2.0 * (y * np.log(ratio) - y + mean).sum())


def _checked(design: np.ndarray, counts: np.ndarray, exposure: np.ndarray | float) -> tuple[np.ndarray, ...]:
    x, y = np.asarray(design, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    y = y[:, None] if y.ndim == 1 else y
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
        raise ShapeError(f"the design has shape {x.shape}, the counts {y.shape}", fix="pass [n, p] and [n, m]")
    e = np.broadcast_to(np.asarray(exposure, dtype=np.float64), (len(x),))
    for name, array, bad in (
        ("design", x, ~np.isfinite(x)),
        ("counts", y, np.isinf(y) | (y < 0)),
        ("exposure", e, ~np.isfinite(e) | (e < 0)),
    ):
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            what = f"the value is {array[index]}"
            raise DataError(
                what, variable=name, index=index, fix="mask it with NaN" if name == "counts" else "correct it"
            )
    return x, y, e


def _check_spikes(y: np.ndarray, ridge: float, output: int) -> None:
    if not len(y) or (y.sum() == 0 and ridge == 0):
        raise DataError(
            "the output has no spike, so its log rate is minus infinity",
            variable="counts",
            index=output,
            fix="leave the unit out, or pass ridge > 0",
        )
