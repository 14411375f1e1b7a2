"""Simulators: the same seed gives the same bits, and what they simulate is what they say."""

import numpy as np
import pytest
import sciinfer.datasets as datasets
import xarray as xr
from sciinfer.datasets.oscillator_gappy import write_bundled
from sciinfer.datasets.simulators.oscillator import stationary, transition
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm

from sciinfer.errors import ConfigError, NumericalError
from sciinfer.extend import registry

SIMULATORS = [entry.name for entry in registry().entries("simulators") if "/" not in entry.name]
SMALL = {"n_series": 3}


def simulate(name: str, **options) -> xr.Dataset:
    return datasets.open_dataset(name, **options)


def bits(ds: xr.Dataset) -> dict:
    return {name: ds[name].values.tobytes() for name in ds.variables}


@pytest.mark.parametrize("name", SIMULATORS)
def test_same_seed_same_bits(name):
    first, second = simulate(name, seed=5, **SMALL), simulate(name, seed=5, **SMALL)
    assert bits(first) == bits(second) and first.attrs == second.attrs
    other = simulate(name, seed=6, **SMALL)
    assert any(bits(first)[v] != bits(other).get(v) for v in first.data_vars)


@pytest.mark.parametrize("name", SIMULATORS)
def test_global_random_state_is_neither_read_nor_written(name):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = simulate(name, **SMALL)
    assert (np.random.get_state()[1] == before).all()
    np.random.seed(1)
    assert bits(first) == bits(simulate(name, **SMALL))


@pytest.mark.parametrize("name", SIMULATORS)
def test_labels_parameters_and_numbers(name, tmp_path):
    ds, entry = simulate(name, **SMALL), registry().entry("simulators", name)
    assert ds.attrs["title"] and ds.attrs["source"] and ds.attrs["license"] == "Apache-2.0"
    assert ds.attrs["simulator"] == name and ds.attrs["seed"] == 0 and "noise_sd" in ds.attrs
    for variable, units in entry.units.items():
        assert ds[variable].dtype == np.float64 and ds[variable].attrs["units"] == units
    assert ds["time"].notnull().all() and not any(v.startswith("truth") for v in ds.data_vars)
    ds.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    back = xr.load_dataset(tmp_path / "x.nc", engine="h5netcdf", decode_times=False)
    assert set(back.attrs) == set(ds.attrs)
    xr.testing.assert_equal(back, ds)


@pytest.mark.parametrize("name", [n for n in SIMULATORS if n not in ("brusselator", "oscillator", "two_modalities")])
def test_noise_and_gaps_are_as_asked_and_leave_the_path(name):
    noisy = simulate(name, n_series=20, noise_sd=0.7, missing=0.4, truth=True)
    clean = simulate(name, n_series=20, noise_sd=0.0, truth=True)
    assert noisy["truth_y"].equals(clean["truth_y"]) and clean["y"].equals(clean["truth_y"])
    error = (noisy["y"] - noisy["truth_y"]).values
    error = error[~np.isnan(error)]
    assert abs(error.std() / 0.7 - 1) < 5 / np.sqrt(2 * error.size) and abs(error.mean()) < 3.5 / np.sqrt(error.size)
    assert abs(float(noisy["y"].isnull().mean()) - 0.4) < 2.5 / np.sqrt(noisy["y"].size)


@pytest.mark.parametrize(
    ("name", "options", "variable"),
    [
        ("ornstein_uhlenbeck", {"theta": 0.0}, "theta"),
        ("ornstein_uhlenbeck", {"layout": "wide"}, "layout"),
        ("ornstein_uhlenbeck", {"missing": 1.0}, "missing"),
        ("geometric_brownian", {"noise_sd": -0.1}, "noise_sd"),
        ("stochastic_lorenz", {"n_series": 2.5}, "n_series"),
        ("lotka_volterra", {"rate": float("nan")}, "rate"),
        ("lotka_volterra", {"n_series": 3.0}, "n_series"),
        ("double_well", {"dt": "0.1"}, "dt"),
        ("ornstein_uhlenbeck", {"mu": float("nan")}, "mu"),
        ("brusselator", {"both": 0.0}, "both"),
        ("van_der_pol", {"substeps": 0}, "substeps"),
        ("double_well", {"sigma": -1.0}, "sigma"),
        ("brusselator", {"correlation": 1.0}, "correlation"),
        ("damped_pendulum", {"damping": float("inf")}, "damping"),
        ("oscillator", {"zeta": 1.2}, "zeta"),
        ("oscillator", {"part": "training"}, "part"),
        ("oscillator", {"gap_min": 3.0, "gap_max": 2.0}, "gap_min"),
    ],
)
def test_bad_options_are_named(name, options, variable):
    with pytest.raises(ConfigError) as caught:
        simulate(name, **options)
    assert caught.value.variable == variable and caught.value.fix


def test_a_path_that_explodes_is_refused():
    with pytest.raises(NumericalError, match="substeps"):
        simulate("van_der_pol", n_series=2, mu=500.0, substeps=1)


# --- the oscillator -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dt", [1e-5, 0.01, 0.3, 2.0, 40.0])
def test_oscillator_transition_is_the_matrix_exponential(dt):
    omega, zeta, sigma = 2.0, 0.05, 1.25
    F, L = np.array([[0, 1], [-(omega**2), -2 * zeta * omega]]), np.array([[0.0, 0.0], [0.0, sigma**2]])
    van_loan = expm(np.block([[-F, L], [np.zeros((2, 2)), F.T]]) * min(dt, 2.0))  # longer ones overflow in digits
    A, Q = transition(dt, omega, zeta, sigma)
    np.testing.assert_allclose(A, expm(F * dt), atol=1e-13)
    if dt <= 2.0:
        np.testing.assert_allclose(Q, van_loan[2:, 2:].T @ van_loan[:2, 2:], atol=1e-13)
    else:
        half, Q_half = transition(dt / 2, omega, zeta, sigma)
        np.testing.assert_allclose(Q, half @ Q_half @ half.T + Q_half, atol=1e-13)


def test_bundled_oscillator_is_the_simulator_bit_for_bit(tmp_path):
    write_bundled(tmp_path)
    for name, part in (("oscillator_gappy", "train"), ("oscillator_gappy_test", "test")):
        shipped, made = datasets.open_dataset(name), simulate("oscillator", seed=0, part=part)
        assert bits(shipped) == bits(made)
        assert bits(xr.load_dataset(tmp_path / f"{name}.nc", engine="h5netcdf", decode_times=False)) == bits(made)
        known = {k: v for k, v in made.attrs.items() if k not in ("title", "source")}
        assert known.items() <= shipped.attrs.items()


def test_train_and_test_share_no_measurement_and_lose_none():
    train, test, full = (simulate("oscillator", part=p)["y"] for p in ("train", "test", "full"))
    assert full.notnull().all()
    seen = train.reindex(time=full["time"]).notnull()
    assert (seen ^ test.notnull()).all()
    assert train.equals(full.isel(time=slice(80)).where(seen.isel(time=slice(80))))
    assert test.equals(full.where(~seen))
    assert (test["time"].values[80:] > 12).all() and (train["time"] <= 12).all()


def test_oscillator_has_one_long_gap_per_series_and_the_asked_share():
    y = datasets.open_dataset("oscillator_gappy")["y"]
    assert (y.isnull().sum("time") == round(0.37 * 80)).all()
    for series in y:
        seen = series.dropna("time")["time"].values
        assert np.diff(np.concatenate([[0.0], seen, [12.0]])).max() > 1.9
    assert np.diff(y["time"]).std() > 0.5 * np.diff(y["time"]).mean()  # irregular


def kalman(y: np.ndarray, dt: np.ndarray, attrs: dict) -> tuple[np.ndarray, np.ndarray]:
    """One-step predictive mean and variance of y; NaN is skipped."""
    numbers = [attrs[k] for k in ("omega", "zeta", "sigma")]
    m, P = np.zeros(2), stationary(*numbers)
    mean, variance = np.empty(len(y)), np.empty(len(y))
    for k, value in enumerate(y):
        if k:
            A, Q = transition(dt[k - 1], *numbers)
            m, P = A @ m, A @ P @ A.T + Q
        mean[k], variance[k] = m[0], P[0, 0] + attrs["noise_sd"] ** 2
        if not np.isnan(value):
            gain = P[:, 0] / variance[k]
            m, P = m + gain * (value - m[0]), P - np.outer(gain, P[0])
    return mean, variance


def test_exact_filter_finds_the_oscillator_calibrated():
    train, test = datasets.open_dataset("oscillator_gappy"), datasets.open_dataset("oscillator_gappy_test")
    y = train["y"].reindex(time=test["time"]).values
    dt = np.diff(test["time"].values)
    moments = np.array([kalman(row, dt, train.attrs) for row in y])
    observed = np.where(np.isnan(y), test["y"].values, y)
    z = (observed - moments[:, 0]) / np.sqrt(moments[:, 1])
    inside = z[~np.isnan(y)]
    assert abs(inside.mean()) < 3.5 / np.sqrt(inside.size)
    assert abs(inside.var() - 1) < 3.5 * np.sqrt(2 / inside.size)
    lag = np.mean(inside[1:] * inside[:-1])
    assert abs(lag) < 3.5 / np.sqrt(inside.size)
    assert 0.84 < np.mean(np.abs(z[np.isnan(y)]) < 1.645) < 0.96


# --- the others -----------------------------------------------------------------------------------------------------


def test_ornstein_uhlenbeck_has_the_exact_covariance():
    ds = simulate(
        "ornstein_uhlenbeck", n_series=20000, n_times=3, duration=2.0, theta=0.8, mu=1.5, sigma=1.2, noise_sd=0.0
    )
    y, t = ds["y"].values, ds["time"].values
    exact = 1.2**2 / 1.6 * np.exp(-0.8 * np.abs(t[:, None] - t))
    np.testing.assert_allclose(y.mean(axis=0), 1.5, atol=4 * np.sqrt(0.9 / 20000))
    np.testing.assert_allclose(np.cov(y.T), exact, atol=4 * 0.9 * np.sqrt(2 / 20000))


def test_layouts_hold_the_same_series():
    ragged, padded = (
        simulate("ornstein_uhlenbeck", n_series=7, missing=0.2, layout=kind) for kind in ("ragged", "padded")
    )
    assert padded["y"].dims == padded["time"].dims == ("series", "obs") and padded["time"].attrs["units"] == "s"
    lengths = ragged["row_size"].values
    assert ragged["row_size"].attrs["sample_dimension"] == "obs" and lengths.sum() == ragged.sizes["obs"]
    assert len(set(lengths)) > 1
    inside = np.arange(padded.sizes["obs"]) < lengths[:, None]
    assert (padded["time"].notnull().values == inside).all()
    for name in ("time", "y"):
        np.testing.assert_array_equal(padded[name].values[inside], ragged[name].values)
    begin = np.cumsum(lengths) - lengths
    assert all((np.diff(ragged["time"].values[a : a + n]) > 0).all() for a, n in zip(begin, lengths, strict=True))


def test_geometric_brownian_grows_log_normally():
    y = simulate("geometric_brownian", n_series=2000)["y"].values
    steps = np.diff(np.log(y), axis=1)
    assert (y > 0).all()
    np.testing.assert_allclose(steps.mean(), (1.0 - 0.125) * 0.02, atol=4 * 0.5 * np.sqrt(0.02 / steps.size))
    np.testing.assert_allclose(steps.std(), 0.5 * np.sqrt(0.02), rtol=4 / np.sqrt(2 * steps.size))
    np.testing.assert_allclose(y[:, 0].mean(), 0.1, atol=4 * 0.03 / np.sqrt(2000))


def test_lorenz_without_noise_is_the_differential_equation():
    ds = simulate(
        "stochastic_lorenz", n_series=2, duration=0.5, noise=0.0, noise_sd=0.0, normalise=False, substeps=2000
    )
    exact = solve_ivp(
        lambda t, u: [10 * (u[1] - u[0]), u[0] * (28 - u[2]) - u[1], u[0] * u[1] - 8 / 3 * u[2]],
        (0, 0.5), ds["y"].values[0, 0], t_eval=ds["time"].values, rtol=1e-10, atol=1e-10,
    ).y.T  # fmt: skip
    np.testing.assert_allclose(ds["y"].values[0], exact, atol=0.02)


def test_lorenz_is_normalised_per_state_and_says_how():
    ds = simulate("stochastic_lorenz", n_series=50, truth=True)
    np.testing.assert_allclose(ds["truth_y"].mean(["series", "time"]), 0, atol=1e-12)
    np.testing.assert_allclose(ds["truth_y"].std(["series", "time"]), 1, atol=1e-12)
    raw = simulate("stochastic_lorenz", n_series=50, truth=True, normalise=False)["truth_y"].values
    np.testing.assert_allclose(ds["truth_y"].values * ds.attrs["scale"] + ds.attrs["shift"], raw, atol=1e-12)


def test_noise_of_lorenz_is_in_proportion_to_the_state():
    ds = simulate(
        "stochastic_lorenz", n_series=4000, duration=0.001, dt=0.001, noise_sd=0.0, normalise=False, substeps=1
    )
    x, step = ds["y"].values[:, 0, 0], np.diff(ds["y"].values, axis=1)[:, 0, 0]
    y = ds["y"].values[:, 0, 1]
    z = (step - 10 * (y - x) * 0.001) / (0.15 * np.abs(x) * np.sqrt(0.001))
    assert abs(z.std() - 1) < 4 / np.sqrt(2 * 4000)


def test_lotka_volterra_keeps_its_invariant_without_noise():
    ds = simulate("lotka_volterra", duration=10.0, noise=0.0, noise_sd=0.0, substeps=400)
    prey, predator = ds["y"].values[0].T
    invariant = prey - np.log(prey) + 4 / 3 * predator - 2 / 3 * np.log(predator)
    assert np.ptp(invariant) < 2e-3
    assert ds["y"].values[0, 0].tolist() == [0.9, 0.2] and ds["state"].values.tolist() == ["prey", "predator"]


def test_van_der_pol_reaches_its_limit_cycle():
    ds = simulate("van_der_pol", n_series=5, duration=40.0, sigma=0.0, noise_sd=0.0, substeps=50)
    late = np.abs(ds["y"].sel(state="position", time=slice(20, None)).values).max(axis=1)
    np.testing.assert_allclose(late, 2.02, atol=0.05)


def test_double_well_has_the_boltzmann_variance():
    y = (
        simulate("double_well", n_series=400, rate=1.0, duration=30.0, dt=0.5, noise_sd=0.0)["y"]
        .sel(time=slice(5, None))
        .values
    )

    def weight(x):
        return np.exp(2 * (x**2 / 2 - x**4 / 4) / 0.8**2)

    exact = quad(lambda x: x**2 * weight(x), -4, 4)[0] / quad(weight, -4, 4)[0]
    per_series = (y**2).mean(axis=1)
    assert abs(per_series.mean() - exact) < 4 * per_series.std() / np.sqrt(400) + 0.01
    assert 0.3 < np.mean(y[:, -1] > 0) < 0.7


def test_brusselator_is_sporadic_and_correlated():
    ds = simulate("brusselator", n_series=400, truth=True)
    seen = np.stack([ds["activator"].notnull(), ds["inhibitor"].notnull()])
    assert seen.any(axis=0).all() and abs(seen.all(axis=0).mean() - 0.8) < 0.02
    assert abs(ds["row_size"].values.mean() - 25) < 0.8
    both = ds["activator"].notnull()
    assert ds["activator"].where(both, 0).equals(ds["truth_activator"].where(both, 0).rename("activator"))
    dense = simulate("brusselator", n_series=200, duration=2.0, rate=10.0, both=1.0)
    x, y = (dense[v].values.reshape(200, 20) for v in ("activator", "inhibitor"))
    kick = np.stack([
        x[:, 1:] - x[:, :-1] - (1 - 2.4 * x + 0.3 * x**2 * y)[:, :-1] * 0.1,
        y[:, 1:] - y[:, :-1] - (1.4 * x - 0.3 * x**2 * y)[:, :-1] * 0.1,
    ]).reshape(2, -1)  # fmt: skip
    np.testing.assert_allclose(np.cov(kick), 1e-5 * np.array([[1, -0.99], [-0.99, 1]]), rtol=0.1)


def test_pendulum_follows_its_equation():
    ds = simulate("damped_pendulum", n_series=4, n_times=40, noise_sd=0.0)
    start = np.clip(datasets.simulators.damped_pendulum.RECIPE.stream(0, "path").standard_normal((4, 2)), -2, 2)
    for k in range(4):
        path = solve_ivp(
            lambda t, u: [u[1], -9.81 / 2 * np.sin(u[0]) - 0.25 * u[1]], (0, 4), [np.pi + start[k, 0], 4 * start[k, 1]],
            t_eval=ds["time"].values, rtol=1e-11, atol=1e-11,
        ).y[0]  # fmt: skip
        np.testing.assert_allclose(ds["y"].values[k], np.stack([np.sin(path), -np.cos(path)], axis=1), atol=1e-5)
    np.testing.assert_allclose((ds["y"] ** 2).sum("state"), 1.0, atol=1e-12)
