import json
import os
from pathlib import Path

import numpy as np
import pytest
from sciinfer_neuro.glm import deviance, poisson_glm

from sciinfer.errors import ConfigError, DataError, NumericalError, SciInferWarning, ShapeError

ROOT = Path(os.environ.get("SCIINFER_DATA", "")) / "gpvae"
needs_data = pytest.mark.skipif(
    "SCIINFER_DATA" not in os.environ or not (ROOT / "references_dev.json").exists(),
    reason="set SCIINFER_DATA to the folder of reference data (area gpvae)",
)


def simulated(rows: int = 4000, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)) * [1.0, 10.0, 0.1] + [0.0, 50.0, 2.0]
    b = np.array([0.4, -0.03, 2.0])
    e = rng.uniform(0.2, 1.0, rows)
    return x, rng.poisson(e * np.exp(-3.0 + x @ b)).astype(float), e, b


@needs_data
def test_place_cell() -> None:
    io = pytest.importorskip("scipy.io")
    want = json.loads((ROOT / "references_dev.json").read_text())["placecell"]["cell1"]
    mat = io.loadmat(ROOT / "placecell" / "placecell_1.mat")
    t, x, spikes = (mat[name].ravel().astype(float) for name in ("t", "X", "spiketimes"))
    y = np.zeros(len(t))
    np.add.at(y, np.searchsorted(t, spikes - 5e-4), 1.0)
    fit = poisson_glm(np.column_stack([x, x**2]), y)
    np.testing.assert_allclose([*fit.intercept, *fit.coefficients[:, 0]], want["x_x2"], rtol=0, atol=5.1e-7)
    assert fit.deviance[0] == pytest.approx(want["deviance"], abs=5.1e-5)
    assert fit.aic[0] == pytest.approx(want["AIC"], abs=5.1e-5)
    moving = np.concatenate([[0.0], np.diff(x)]) > 0
    fit = poisson_glm(np.column_stack([x, x**2, moving]), y)
    np.testing.assert_allclose([*fit.intercept, *fit.coefficients[:, 0]], want["with_dir_coef"], rtol=0, atol=5.1e-7)
    assert fit.deviance[0] == pytest.approx(want["with_dir_deviance"], abs=5.1e-5)


def test_agrees_with_statsmodels() -> None:
    sm = pytest.importorskip("statsmodels.api", reason="statsmodels is not installed")
    x, y, e, _ = simulated()
    theirs = sm.GLM(y, sm.add_constant(x), family=sm.families.Poisson(), exposure=e).fit(tol=1e-12)
    ours = poisson_glm(x, y, exposure=e)
    np.testing.assert_allclose([*ours.intercept, *ours.coefficients[:, 0]], theirs.params, rtol=1e-7)
    np.testing.assert_allclose(ours.standard_errors[:, 0], theirs.bse, rtol=1e-5)
    assert ours.deviance[0] == pytest.approx(theirs.deviance, rel=1e-10)
    assert ours.aic[0] == pytest.approx(theirs.aic, rel=1e-10)
    assert ours.null_deviance[0] == pytest.approx(theirs.null_deviance, rel=1e-8)


def test_ridge_is_the_penalised_optimum_and_free_of_units() -> None:
    x, y, e, _ = simulated(500)
    fit = poisson_glm(x, y, exposure=e, ridge=7.0)
    residual = e * np.exp(fit.intercept + x @ fit.coefficients[:, 0]) - y
    assert abs(residual.sum()) < 1e-5
    gradient = (x - x.mean(0)).T @ residual + 7.0 * x.var(0) * fit.coefficients[:, 0]
    np.testing.assert_allclose(gradient / x.std(0), 0.0, atol=1e-4)
    scaled = poisson_glm(x * [1e3, 1e-2, 1.0], y, exposure=e, ridge=7.0)
    np.testing.assert_allclose(scaled.coefficients[:, 0] * [1e3, 1e-2, 1.0], fit.coefficients[:, 0], rtol=1e-8)


def test_outputs_are_fitted_on_their_own_and_missing_is_deleted() -> None:
    x, y, e, _ = simulated(300)
    z = np.random.default_rng(1).poisson(0.7, 300).astype(float)
    gappy = y.copy()
    gappy[::4] = np.nan
    both = poisson_glm(x, np.column_stack([gappy, z]), exposure=e, ridge=[1.0, 2.0])
    keep = np.isfinite(gappy)
    first = poisson_glm(x[keep], y[keep], exposure=e[keep], ridge=1.0)
    second = poisson_glm(x, z, exposure=e, ridge=2.0)
    np.testing.assert_array_equal(both.coefficients, np.column_stack([first.coefficients, second.coefficients]))
    np.testing.assert_array_equal(both.deviance, [*first.deviance, *second.deviance])


def test_half_exposure_halves_the_expected_counts() -> None:
    x, y, e, b = simulated(20_000)
    fit = poisson_glm(x, y, exposure=e)
    assert np.all(np.abs(fit.coefficients[:, 0] - b) < 4 * fit.standard_errors[1:, 0])
    assert abs(fit.intercept[0] + 3.0) < 4 * fit.standard_errors[0, 0]
    np.testing.assert_allclose(fit.rates(x, exposure=e), fit.rates(x) * e[:, None])
    assert fit.rates(x, exposure=e).sum() == pytest.approx(y.sum(), rel=1e-6)


def test_a_constant_column_is_left_to_the_intercept() -> None:
    x, y, *_ = simulated(300)
    with_constant = poisson_glm(np.column_stack([x, np.full(300, 3.0)]), y)
    assert with_constant.coefficients[3, 0] == 0 and np.isnan(with_constant.standard_errors[4, 0])
    np.testing.assert_allclose(with_constant.deviance, poisson_glm(x, y).deviance)


def test_refusals() -> None:
    x, y, _, _ = simulated(50)
    with pytest.raises(DataError, match=r"-1.0") as caught:
        poisson_glm(x, np.where(np.arange(50) == 3, -1.0, y))
    assert caught.value.index == (3, 0)
    with pytest.raises(DataError, match="no spike"):
        poisson_glm(x, 0 * y)
    with pytest.raises(NumericalError, match="collinear"):
        poisson_glm(np.column_stack([x, 2 * x[:, 0]]), y)
    with pytest.raises(ShapeError):
        poisson_glm(x, y[:-1])
    with pytest.raises(ConfigError):
        poisson_glm(x, y, ridge=-1.0)
    with pytest.warns(SciInferWarning, match="convergence"):
        poisson_glm(x, y + 1, max_iterations=1)
    assert poisson_glm(x, 0 * y, ridge=1.0).rates(x).max() < 0.1


def test_deviance_of_a_perfect_fit_is_zero() -> None:
    assert deviance(np.array([0.0, 3.0]), np.array([0.0, 3.0])) == 0
