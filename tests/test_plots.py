"""Every registered plot on every kind of result; the numbers behind the calibration figures."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import xarray as xr

from sciinfer import plots
from sciinfer.errors import DataError, DependencyError, SchemaError, ShapeError, TimeError
from sciinfer.extend import registry
from sciinfer.plots.access import panel, points
from sciinfer.plots.calibrate import binomial_range, central_coverage, mass, pit_spans
from sciinfer.plots.style import plain, unit_text
from sciinfer.random import numpy_generator

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

ROWS, KNOWN, DRAWS = 40, 32, 30


def _attrs(units: str | None) -> dict[str, str]:
    return {"units": units} if units else {}


def make(*, dates: bool = False, series: int = 0, extra: int = 0, units: str | None = "W m-2", gaps: bool = True):
    """A made-up result; observed data are a grid that ends before the forecast."""
    rng = numpy_generator(1, "plots", series, extra)
    time = (
        np.datetime64("2020-01-05", "ns") + np.arange(ROWS) * np.timedelta64(7, "D") if dates else np.arange(ROWS) * 0.5
    )
    dims = [*(["series"] if series else []), "time", *(["band"] if extra else [])]
    shape = [*([series] if series else []), ROWS, *([extra] if extra else [])]
    draws = rng.standard_normal((1, DRAWS, *shape)).cumsum(2 + bool(series)) * 0.2
    axis = ("time", time, {} if dates else {"units": "d"})
    coords = {"time": axis, **({"series": [f"s{i}" for i in range(series)]} if series else {})}
    coords |= {"band": list("ugrizy")[:extra]} if extra else {}
    data = draws[0, 3].copy()
    if gaps:
        data[rng.random(data.shape) < 0.2] = np.nan
    full = {"chain": [0], "draw": np.arange(DRAWS), **coords}
    sample = (("chain", "draw", *dims), draws, _attrs(units))
    hidden = (
        ("chain", "draw", *dims[: 1 + bool(series)], "latent_dim"),
        rng.standard_normal((1, DRAWS, *shape[: 1 + bool(series)], 2)),
    )
    observed = xr.Dataset({"flux": (dims, data, _attrs(units))}, coords).isel(time=slice(0, KNOWN))
    steps = np.arange(30.0)
    return xr.DataTree.from_dict({
        "/posterior": xr.Dataset({"flux": sample, "latent": hidden}, full),
        "/posterior_predictive": xr.Dataset({"flux": sample}, full),
        "/observed_data": observed,
        "/training": xr.Dataset({"loss": ("step", np.exp(-steps))}, {"step": steps}),
    })  # fmt: skip


TREES = {
    "float": {},
    "dates": {"dates": True},
    "series": {"series": 3},
    "series-extra": {"series": 2, "extra": 3, "dates": True},
    "extra": {"extra": 2},
    "unitless": {"units": None},
    "whole": {"gaps": False},
}


def png(ax) -> np.ndarray:
    buffer = io.BytesIO()
    ax.figure.savefig(buffer, format="png", dpi=50)
    assert buffer.getvalue().startswith(b"\x89PNG")
    from matplotlib.image import imread

    buffer.seek(0)
    return imread(buffer)


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("name", [name for name in registry().names("plots") if "/" not in name])
def test_every_plot_on_every_result(name, kind):
    import matplotlib
    from matplotlib.axes import Axes

    tree = make(**TREES[kind])
    before, rc = tree.copy(deep=True), dict(matplotlib.rcParams)
    ax = registry().get("plots", name)(tree, var="flux")
    assert isinstance(ax, Axes)
    assert ax.get_xlabel() and ax.get_ylabel()
    assert len(np.unique(png(ax).reshape(-1, 4), axis=0)) > 20  # not blank
    assert tree.identical(before) and tree.attrs == before.attrs
    assert dict(matplotlib.rcParams) == rc


@pytest.mark.parametrize("name", ["bands", "forecast", "latent", "residuals"])
def test_labels_carry_units(name):
    ax = getattr(plots, name)(make(), var="flux")
    assert ax.get_xlabel() == "time (d)"
    assert ax.get_ylabel() == ("residual (sd)" if name == "residuals" else "flux (W m⁻²)")
    assert getattr(plots, name)(make(dates=True), var="flux").get_xlabel() == "time"


def test_own_axes_are_used_and_pyplot_is_left_alone():
    import sys

    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert plots.bands(make(), var="flux", ax=ax) is ax
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_bands_show_data_gaps_bands_forecast_and_truth():
    tree = make()
    late = tree["posterior_predictive"].to_dataset()[["flux"]].isel(chain=0, draw=5, time=slice(KNOWN, None), drop=True)
    ax = plots.bands(tree, var="flux", truth=late)
    labels = ax.get_legend_handles_labels()[1]
    assert set(labels) == {"90 % band", "50 % band", "median", "held-out truth", "data", "missing"}
    lines = {line.get_label(): line for line in ax.get_lines()}
    seen = tree["observed_data"].flux.values
    np.testing.assert_array_equal(lines["data"].get_ydata(), seen[np.isfinite(seen)])
    assert len(lines["missing"].get_xdata()) == np.isnan(seen).sum() > 0
    np.testing.assert_array_equal(lines["held-out truth"].get_ydata(), late.flux.values)
    sample = tree["posterior_predictive"].flux.values[0]
    np.testing.assert_allclose(lines["median"].get_ydata(), np.median(sample, axis=0))
    assert "forecast" in [text.get_text() for text in ax.texts]


def test_band_edges_are_the_quantiles():
    tree = make()
    ax = plots.bands(tree, var="flux", draws=0)
    outer = next(c for c in ax.collections if c.get_label() == "90 % band")
    sample = tree["posterior_predictive"].flux.values[0]
    low, high = np.quantile(sample, [0.05, 0.95], axis=0)
    y = outer.get_paths()[0].vertices[:, 1]
    assert y.min() == pytest.approx(low.min()) and y.max() == pytest.approx(high.max())


def test_forecast_zooms_and_draws_baselines():
    tree = make(dates=True, gaps=False)
    time = tree["posterior_predictive"].time[KNOWN:]
    flat = xr.DataArray(np.zeros(ROWS - KNOWN), {"time": time}, "time")
    ax = plots.forecast(tree, var="flux", baselines={"persistence": flat, "drift": (flat + 1).to_dataset(name="flux")})
    assert {"persistence", "drift"} <= set(ax.get_legend_handles_labels()[1])
    low, high = ax.get_xlim()
    assert high - low == pytest.approx(3 * 7 * (ROWS - KNOWN), rel=0.05)
    assert ax.get_ylim()[1] >= 1.0


def _layouts(value: np.ndarray, time: np.ndarray) -> dict[str, xr.Dataset]:
    padded_time = np.full((2, 5), np.nan)
    padded = np.full((2, 5), np.nan)
    padded_time[0, :3], padded[0, :3] = time[:3], value[0, :3]
    padded_time[1, :5], padded[1, :5] = time, value[1]
    rows = xr.Dataset(
        {
            "y": ("obs", np.concatenate([value[0, :3], value[1]])),
            "row_size": ("series", [3, 5], {"sample_dimension": "obs"}),
        },
        {"time": ("obs", np.concatenate([time[:3], time])), "series": ["a", "b"]},
    )
    grid = np.where(np.arange(5) < 3 + 2 * np.arange(2)[:, None], value, np.nan)
    return {
        "grid": xr.Dataset({"y": (("time", "series"), grid.T)}, {"time": time, "series": ["a", "b"]}),
        "padded": xr.Dataset(
            {"y": (("series", "obs"), padded)}, {"time": (("series", "obs"), padded_time), "series": ["a", "b"]}
        ),
        "ragged": rows,
        "other order": rows.isel(obs=[3, 4, 5, 6, 7, 0, 1, 2], series=[1, 0]),
    }


@pytest.mark.parametrize("layout", ["grid", "padded", "ragged", "other order"])
def test_observed_data_of_any_layout(layout):
    time, value = np.arange(5.0), numpy_generator(0, "layout").standard_normal((2, 5))
    da = xr.DataArray(
        np.zeros((1, 4, 2, 5)), {"time": time, "series": ["a", "b"]}, ("chain", "draw", "series", "time"), name="y"
    )
    tree = xr.DataTree.from_dict({
        "/posterior_predictive": da.to_dataset(), "/observed_data": _layouts(value, time)[layout]
    })  # fmt: skip
    for series, n in ((0, 3), (1, 5)):
        one = panel(tree, "y", series=series)
        seen = np.isfinite(one.data)
        np.testing.assert_array_equal(one.data_time[seen], time[:n])
        np.testing.assert_array_equal(one.data[seen], value[series, :n])


def test_unsorted_times_are_drawn_in_order():
    tree = make()
    order = numpy_generator(0, "order").permutation(ROWS)
    shuffled = xr.DataTree.from_dict({
        "/posterior_predictive": tree["posterior_predictive"].to_dataset().isel(time=order),
        "/observed_data": tree["observed_data"].to_dataset(),
    })  # fmt: skip
    a, b = panel(tree, "flux"), panel(shuffled, "flux")
    np.testing.assert_array_equal(a.time, b.time)
    np.testing.assert_array_equal(a.sample, b.sample)


def test_result_without_data_or_with_missing_draws():
    tree = make()
    ds = tree["posterior_predictive"].to_dataset().copy(deep=True)
    ds["flux"][0, :, 4] = np.nan
    ds["flux"][0, :5, 6] = np.nan
    bare = xr.DataTree.from_dict({"/prior_predictive": ds})
    ax = plots.bands(bare, var="flux")
    assert "data" not in ax.get_legend_handles_labels()[1]
    png(ax)
    with pytest.raises(DataError, match="no datum lies at a time"):
        plots.pit(bare, var="flux")


def test_errors_say_what_and_where():
    tree = make(series=2, extra=2)
    with pytest.raises(SchemaError, match="variables there: flux") as unknown:
        plots.bands(tree, var="fluxx")
    assert unknown.value.variable == "fluxx"
    with pytest.raises(ShapeError, match="there are 2 series") as series:
        plots.bands(tree, var="flux", series=2)
    assert series.value.dim == "series" and series.value.index == 2
    with pytest.raises(ShapeError, match="no dim 'wave'"):
        plots.bands(tree, var="flux", cell={"wave": 0})
    with pytest.raises(ShapeError, match="its size is 2"):
        plots.bands(tree, var="flux", cell={"band": 7})
    with pytest.raises(SchemaError, match="no 'loss'"):
        plots.loss_curve({"seconds": [1.0]})
    names = np.array(["a", "b"], object)
    text = xr.Dataset({"y": (("chain", "draw", "time"), np.zeros((1, 2, 2)))}, {"time": names})
    strange = xr.DataTree.from_dict({"/posterior": text})
    with pytest.raises(TimeError, match="cannot draw times"):
        plots.bands(strange, var="y")


def test_missing_matplotlib_says_how_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DependencyError, match=r"sciinfer\[plots\]"):
        plots.bands(make(), var="flux")


def test_importing_plots_does_not_import_matplotlib():
    import subprocess
    import sys

    code = (
        "import sys, sciinfer.plots, sciinfer.report; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_hostile_names_are_drawn_as_they_are():
    tree = xr.DataTree.from_dict({
        f"/{group}": make()[group].to_dataset()[["flux"]].rename(flux=r"$\frac{a$ % _^")
        for group in ("posterior_predictive", "observed_data")
    })  # fmt: skip
    png(plots.bands(tree, var=r"$\frac{a$ % _^", title="$x^2$"))
    assert plain("x" * 500) and len(plain("word " * 100)) < 100


@pytest.mark.parametrize(
    ("units", "shown"),
    [("m s-1", "m s⁻¹"), ("m2", "m2"), ("kg m^-3", "kg m⁻³"), ("m**2", "m²"), ("1", None), (" ", None), (None, None)],
)
def test_unit_text(units, shown):
    assert unit_text(units) == shown


# --- calibration ------------------------------------------------------------------------------------------------------


def calibrated(n: int, draws: int, *, spread: float = 1.0, shift: float = 0.0) -> xr.DataTree:
    rng = numpy_generator(0, "calibrated", n, draws)
    time = np.arange(float(n))
    sample = spread * rng.standard_normal((1, draws, n)) + shift
    ds = xr.Dataset({"y": (("chain", "draw", "time"), sample)}, {"time": time})
    data = xr.Dataset({"y": ("time", rng.standard_normal(n))}, {"time": time})
    return xr.DataTree.from_dict({"/posterior_predictive": ds, "/observed_data": data})


@pytest.mark.parametrize("draws", [3, 50])
def test_coverage_is_unbiased_for_any_number_of_draws(draws):
    n = 4000
    low, high = pit_spans(calibrated(n, draws), "y")
    for prob in (0.5, 0.9):
        assert abs(central_coverage(low, high, prob) - prob) < 4 * np.sqrt(prob * (1 - prob) / n)


def test_coverage_sees_narrow_and_wide_bands():
    narrow = central_coverage(*pit_spans(calibrated(2000, 50, spread=0.5), "y"), 0.9)
    wide = central_coverage(*pit_spans(calibrated(2000, 50, spread=2.0), "y"), 0.9)
    assert narrow < 0.65 and wide > 0.97


def test_pit_mass_sums_to_one_and_shows_bias():
    low, high = pit_spans(calibrated(500, 20, shift=1.0), "y")
    edges = np.linspace(0, 1, 11)
    parts = [mass(low, high, a, b) for a, b in itertools.pairwise(edges)]
    assert sum(parts) == pytest.approx(1.0, abs=1e-12)
    assert parts[0] > 3 * parts[-1]


def test_pit_of_ties_and_by_hand():
    ds = xr.Dataset({"y": (("chain", "draw", "time"), [[[0.0], [1.0], [1.0], [2.0]]])}, {"time": [0.0]})
    tree = xr.DataTree.from_dict({
        "/posterior_predictive": ds, "/observed_data": xr.Dataset({"y": ("time", [1.0])}, {"time": [0.0]})
    })  # fmt: skip
    low, high = pit_spans(tree, "y")
    assert low.tolist() == [1 / 5] and high.tolist() == [4 / 5]


def test_only_exactly_matching_times_count():
    tree = make(gaps=False)
    first = tree["posterior_predictive"].to_dataset()[["flux"]].isel(chain=0, draw=0, drop=True)
    truth = first.isel(time=slice(KNOWN, None))
    assert len(pit_spans(tree, "flux")[0]) == KNOWN
    assert len(pit_spans(tree, "flux", truth)[0]) == ROWS - KNOWN
    with pytest.raises(DataError):
        pit_spans(tree, "flux", truth.assign_coords(time=truth.time + 0.1))
    da = tree["posterior_predictive"].to_dataset().flux
    from sciinfer.plots.access import layout_of

    assert points(None, da, layout_of(da), 0, {})[0].size == 0


def test_binomial_range_holds_its_level():
    from math import comb

    for n, p in ((20, 0.1), (151, 0.1), (7, 0.5)):
        low, high = binomial_range(n, p)
        inside = sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(low, high + 1))
        assert inside >= 0.99
    assert binomial_range(5, 0.0) == (0, 0) and binomial_range(5, 1.0) == (5, 5)
    low, high = binomial_range(100_000, 0.1)
    assert abs(low - 9757) <= 3 and abs(high - 10244) <= 3


def test_residuals_by_hand():
    tree = calibrated(50, 40)
    line = next(line for line in plots.residuals(tree, var="y").get_lines() if line.get_label() == "y")
    sample, data = tree["posterior_predictive"].y.values[0], tree["observed_data"].y.values
    np.testing.assert_allclose(line.get_ydata(), (data - sample.mean(0)) / sample.std(0, ddof=1))


def test_loss_curve_of_lists_of_different_length():
    history = {"steps": [10, 20, 30, 40], "loss": [4.0, 3.0, np.nan, 2.0], "validation": [3.5, 2.5]}
    lines = {line.get_label(): line for line in plots.loss_curve(history).get_lines()}
    assert lines["training loss"].get_xdata().tolist() == [10, 20, 40]
    assert lines["validation loss"].get_xdata().tolist() == [20, 40]
    assert lines["best validation"].get_ydata().tolist() == [2.5]


def test_phase_of_two_variables_and_rate():
    tree = make()
    tree["posterior"]["heat"] = (tree["posterior"].to_dataset().flux * 2).assign_attrs(units="K")
    ax = plots.phase(tree, var="flux", against="heat")
    assert ax.get_xlabel() == "flux (W m⁻²)" and ax.get_ylabel() == "heat (K)"
    assert plots.phase(tree, var="flux").get_ylabel() == "rate of change of flux (W m⁻² / d)"
