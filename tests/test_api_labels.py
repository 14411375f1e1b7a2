"""Labels in, labels out: every layout through fit, predict, save and load."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import polars as pl
import pytest
import xarray as xr

import sciinfer as si

EXACT = {"process": "structural", "kernel": "matern12"}
QUICK = {"steps": 2}


def _values(*shape):
    y = np.random.default_rng(3).normal(2.0, 3.0, shape)
    y.reshape(-1)[3] = np.nan
    return y


TIMES = np.array([0.0, 0.3, 1.1, 1.2, 2.5, 4.0, 4.5, 7.0])
DATES = pd.to_datetime("2021-03-01") + pd.to_timedelta(TIMES, "D")


def _grid():
    return xr.Dataset(
        {"flux": (("star", "time"), _values(2, 8), {"units": "Jy"})},
        coords={"star": ["a", "b"], "time": ("time", TIMES + 50.0, {"units": "s"})},
    )


def _dates():
    return xr.Dataset({"level": ("time", _values(8))}, coords={"time": DATES})


def _further_dims():
    coords = {"when": TIMES, "site": [10, 20], "band": ["u", "v", "w"]}
    field = (("site", "band", "when"), _values(2, 3, 8), {"units": "K"})
    return xr.Dataset({"T": field, "p": (("when", "site"), _values(8, 2))}, coords=coords)


def _padded():
    time = np.stack([TIMES, np.concatenate([TIMES[:5] + 0.1, [np.nan] * 3])])
    y = _values(2, 8)
    y[1, 5:] = np.nan
    return xr.Dataset({"y": (("series", "obs"), y)}, coords={"time": (("series", "obs"), time), "series": [4, 7]})


def _long_frame():
    stations = np.repeat(["u", "v"], 4)
    return pd.DataFrame({"station": stations, "when": DATES, "temp": _values(8), "rain": _values(8)[::-1].copy()})


def _wide_frame():
    return pd.DataFrame({"x": _values(8), "y": _values(8)}, index=pd.DatetimeIndex(DATES, name="day"))


def _polars():
    return pl.from_pandas(_long_frame())


def _array():
    return xr.DataArray(_values(8), dims="time", coords={"time": TIMES}, name="depth", attrs={"units": "m"})


#: data, arguments of fit, dims of each variable of an answer, time coordinate, times to ask for
NUMBERS, DAYS = [5.0, 1.0, 9.5], ["2021-03-09", "2021-03-01T12:00", "2021-03-03"]
LAYOUTS = {
    "grid": (_grid, {"series": "star"}, {"flux": ("star", "time")}, "time", [55.0, 51.0, 59.5]),
    "dates": (_dates, {}, {"level": ("time",)}, "time", DAYS),
    "further dims": (
        _further_dims,
        {"time": "when", "series": "site"},
        {"T": ("site", "when", "band"), "p": ("site", "when")},
        "when",
        NUMBERS,
    ),
    "padded": (_padded, {}, {"y": ("series", "time")}, "time", NUMBERS),
    "long frame": (
        _long_frame,
        {"time": "when", "series": "station"},
        {"temp": ("station", "when"), "rain": ("station", "when")},
        "when",
        DAYS,
    ),
    "wide frame": (_wide_frame, {"time": "day"}, {"x": ("day",), "y": ("day",)}, "day", DAYS),
    "polars": (
        _polars,
        {"time": "when", "series": "station"},
        {"temp": ("station", "when"), "rain": ("station", "when")},
        "when",
        DAYS,
    ),
    "array": (_array, {}, {"depth": ("time",)}, "time", NUMBERS),
}


def _same(a, b):
    if isinstance(a, pl.DataFrame):
        return a.equals(b, null_equal=True)
    if isinstance(a, pd.DataFrame):
        return a.equals(b) and list(a.columns) == list(b.columns)
    return a.identical(b)


def _bits(a, b):
    """Two trees hold the same groups, variables, coordinates and bits."""
    assert set(a.children) == set(b.children)
    return all(a[name].to_dataset().identical(b[name].to_dataset()) for name in a.children)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_comes_back_in_its_own_labels(name, tmp_path):
    make, arguments, dims, time, asked = LAYOUTS[name]
    data = make()
    kept = copy.deepcopy(data) if not isinstance(data, pl.DataFrame) else data.clone()
    fitted = si.fit(data, options=EXACT, training=QUICK, progress="silent", **arguments)
    tree = fitted.predict(time=asked, draws=3)
    prior = fitted.generate(time=asked, draws=3)
    fitted.save(tmp_path / "run")
    again = si.load(tmp_path / "run")
    assert _same(data, kept), "the caller's data were changed"

    for group, found in (("posterior", tree), ("posterior_predictive", tree), ("prior", prior)):
        for variable, own in dims.items():
            array = found[group][variable]
            series = set(arguments.get("series", "series").split()) if group == "prior" else set()
            assert array.dims == ("chain", "draw", *(dim for dim in own if dim not in series))
            assert array.sizes["draw"] == 3
            assert bool(np.isfinite(array).all())
            wanted = np.array(asked, dtype="datetime64[ns]" if asked is DAYS else "float64")
            np.testing.assert_array_equal(found[group][time].values.astype(wanted.dtype), wanted)
            units = getattr(data.get(variable) if isinstance(data, xr.Dataset) else data, "attrs", {}).get("units")
            assert array.attrs.get("units") == units
    if isinstance(data, xr.Dataset):
        for coord in set(data.coords) & set(tree["posterior"].coords) - {time}:
            np.testing.assert_array_equal(tree["posterior"][coord], data[coord])

    assert _bits(again.predict(time=asked, draws=3), tree)
    assert _bits(again.generate(time=asked, draws=3), prior)
    # the same question with the data given anew
    assert _bits(fitted.predict(data, time=asked, draws=3), tree)
    # at the data's own times, whatever they are
    own = fitted.predict(draws=2)["posterior"]
    assert own.sizes[time] == len(np.unique(own[time]))


@pytest.mark.parametrize("options", [{"likelihood": "student-t"}, {"posterior": "hermite"}], ids=str)
def test_a_saved_neural_model_answers_the_same_bits(options, tmp_path):
    data = _grid()
    options = {"latent": 2, "hidden": 4, "width": 8, "decoder": "mlp", **options}
    fitted = si.fit(data, options=options, training={"steps": 3}, series="star", progress="silent")
    fitted.save(tmp_path / "a folder with spaces")
    again = si.load(tmp_path / "a folder with spaces")
    assert _bits(again.predict(time=[58.0, 51.0], draws=4), fitted.predict(time=[58.0, 51.0], draws=4))
    assert _bits(again.generate(time=[1.0, 2.0], draws=4), fitted.generate(time=[1.0, 2.0], draws=4))
    assert again.score(data, draws=8).identical(fitted.score(data, draws=8))
    assert again.summary() == fitted.summary()
    assert again.history.loss == fitted.history.loss


def test_units_are_those_of_the_fit_whatever_the_new_data_use():
    data = _grid()
    data.flux.attrs["units"] = "m"
    fitted = si.fit(data, options=EXACT, training=QUICK, progress="silent")
    other = data.assign(flux=(data.flux / 1000).assign_attrs(units="km"))
    a, b = fitted.predict(time=[52.0], draws=5), fitted.predict(other, time=[52.0], draws=5)
    assert b["posterior"]["flux"].attrs["units"] == "m"
    np.testing.assert_allclose(b["posterior"]["flux"], a["posterior"]["flux"], rtol=1e-10)


def test_scale_and_origin_of_the_data_do_not_matter():
    """Answers move with the data: shifted and stretched values, shifted and stretched times."""
    data = _grid()
    fitted = si.fit(data, options=EXACT, training={"steps": 15}, progress="silent")
    a = fitted.predict(time=[52.0, 60.0], draws=5)["posterior"]["flux"]
    moved = data.assign(flux=1e3 * data.flux + 1e5).assign_coords(time=data.time * 60 - 7)
    b = si.fit(moved, options=EXACT, training={"steps": 15}, progress="silent")
    b = b.predict(time=[52.0 * 60 - 7, 60.0 * 60 - 7], draws=5)["posterior"]["flux"]
    np.testing.assert_allclose((b - 1e5) / 1e3, a, rtol=1e-5, atol=1e-5)
