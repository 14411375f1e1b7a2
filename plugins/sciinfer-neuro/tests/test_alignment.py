import numpy as np
import pytest
import xarray as xr
from sciinfer_neuro.alignment import aligned_r2, fit_alignment, identifiability, subspace_angles

from sciinfer.errors import ConfigError, DataError, ShapeError

rng = np.random.default_rng(0)
LATENTS = rng.normal(size=(6, 80, 3))
TURN = np.linalg.qr(rng.normal(size=(3, 3)))[0]


def test_each_gauge_recovers_its_own_map() -> None:
    skew = rng.normal(size=(3, 2))
    for kind, matrix in (("affine", skew), ("orthogonal", TURN), ("similarity", 2.5 * TURN)):
        fit = fit_alignment(LATENTS, LATENTS @ matrix + 1.0, kind=kind)
        np.testing.assert_allclose(fit.matrix, matrix, atol=1e-12)
        np.testing.assert_allclose(fit.apply(LATENTS), LATENTS @ matrix + 1.0, atol=1e-12)


def test_procrustes_beats_random_rotations() -> None:
    goal = LATENTS @ TURN + rng.normal(size=LATENTS.shape)
    matrix = fit_alignment(LATENTS, goal, kind="orthogonal").matrix
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)

    def error(m: np.ndarray) -> float:
        moved = LATENTS @ m
        return float((((goal - goal.mean((0, 1))) - (moved - moved.mean((0, 1)))) ** 2).sum())

    others = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(200)]
    assert error(matrix) < min(map(error, others))


def test_covariances_move_with_the_means() -> None:
    fit = fit_alignment(LATENTS, LATENTS @ TURN)
    draws = rng.normal(size=(5000, 3)) * [1.0, 0.3, 2.0]
    np.testing.assert_allclose(fit.covariance(np.cov(draws.T)), np.cov(fit.apply(draws).T), atol=1e-10)


def test_fitted_on_train_only() -> None:
    noise = rng.normal(size=(6, 80, 3))
    x = xr.DataArray(noise, dims=("trial", "time", "latent"))
    y = xr.DataArray(LATENTS, dims=("trial", "time", "latent"))
    scores = aligned_r2(x, y, train=[0], test=slice(1, None))
    assert scores.attrs["mean_r2"] < 0 < float(scores.train_r2.min())
    changed = y.copy(deep=True)
    changed[1:] = changed[1:] * 100 + 7
    again = aligned_r2(x, changed, train=[0], test=slice(1, None))
    np.testing.assert_array_equal(again.train_r2, scores.train_r2)


def test_missing_rows_are_left_out_and_refusals() -> None:
    gappy = LATENTS.copy()
    gappy[0, :10, 1] = np.nan
    np.testing.assert_allclose(fit_alignment(gappy, LATENTS @ TURN).matrix, TURN, atol=1e-12)
    with pytest.raises(ConfigError, match="train and in test"):
        a = xr.DataArray(LATENTS, dims=("trial", "time", "latent"))
        aligned_r2(a, a, train=[0, 1], test=[1, 2])
    with pytest.raises(ShapeError, match="affine"):
        fit_alignment(LATENTS, LATENTS[..., :2], kind="orthogonal")
    with pytest.raises(DataError):
        fit_alignment(LATENTS[0, :2], LATENTS[0, :2])
    with pytest.raises(ConfigError):
        fit_alignment(LATENTS, LATENTS, kind="spline")  # type: ignore[arg-type]


def test_the_report_does_not_depend_on_the_gauge() -> None:
    c = rng.normal(size=(10, 3)) * [3.0, 1.0, 0.3]
    a = rng.normal(size=(3, 3))
    first = identifiability(c, LATENTS)
    second = identifiability(c @ np.linalg.inv(a), LATENTS @ a.T)
    for name in ("variance", "loading"):
        np.testing.assert_allclose(first[name], second[name], atol=1e-9)
    assert float(first.share.sum()) == pytest.approx(1.0)


def test_equal_strengths_and_equal_lengthscales_are_not_identified() -> None:
    white = np.linalg.qr(rng.normal(size=(500, 3)) - 0.0)[0] * 500**0.5
    report = identifiability(np.diag([2.0, 2.0, 1.0]), white, lengthscales=[1.0, 5.0, 1.01])
    assert report.identified.values.tolist() == [False, False, True]
    assert report.rotation_free.values.tolist() == [True, False, True]
    assert identifiability(np.diag([1.0, 0.0, 0.0]), white).identified.values.tolist() == [True, False, False]


def test_angles() -> None:
    c = rng.normal(size=(8, 2))
    np.testing.assert_allclose(subspace_angles(c, c @ rng.normal(size=(2, 2))), 0.0, atol=1e-5)
