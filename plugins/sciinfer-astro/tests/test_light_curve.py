import bz2
import os
from pathlib import Path

import numpy as np
import pytest
from sciinfer_astro.light_curve import read_light_curve

from sciinfer.errors import DataError, ReadError, SchemaError, TimeError
from sciinfer.labelled.io import Limits

TWO = "object_id,time,flux,flux_err,band\nb,3.0,1.5,0.1,g\na,1.0,2.5,0.2,g\na,0.5,3.5,0.2,r\nb,4.0,,,r\n"


def read(tmp_path: Path, text: str, **options: str):
    path = tmp_path / "x.lc.csv"
    path.write_text(text)
    return read_light_curve(path, limits=Limits(), **options)


def test_objects_bands_and_order(tmp_path: Path) -> None:
    ds = read(tmp_path, TWO, flux_units="mJy")
    assert ds.series.values.tolist() == ["a", "b"] and ds.row_size.values.tolist() == [2, 2]
    assert ds.time.values.tolist() == [0.5, 1.0, 3.0, 4.0] and ds.band.values.tolist() == ["g", "r"]
    want = [[np.nan, 3.5], [2.5, np.nan], [1.5, np.nan], [np.nan, np.nan]]
    np.testing.assert_array_equal(ds.flux.values, want)
    assert ds.flux.attrs["units"] == ds.flux_err.attrs["units"] == "mJy"


def test_magnitudes_without_band_or_object(tmp_path: Path) -> None:
    ds = read(tmp_path, "MJD,Mag,MagErr\n2.0,18.0,0.1\n1.0,19.0,0.2\n")
    assert ds.mag.dims == ("obs",) and ds.mag.values.tolist() == [19.0, 18.0]
    assert ds.mag.attrs["units"] == "mag" and ds.time.attrs["units"] == "d"
    assert ds.time.attrs["long_name"] == "modified Julian date" and ds.row_size.values.tolist() == [2]


@pytest.mark.parametrize("bad", ["0.0", "-0.1", "", "nan"])
def test_error_bars_that_are_not_positive(tmp_path: Path, bad: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, f"time,mag,err\n1.0,18.0,0.1\n2.0,18.5,{bad}\n")
    assert (caught.value.code, caught.value.variable, caught.value.index) == ("data/noise", "err", 1)


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="no time column"):
        read(tmp_path, "phase,mag\n0.1,18.0\n")
    with pytest.raises(SchemaError, match="2 brightness"):
        read(tmp_path, "time,mag,flux\n0.1,18.0,1.0\n")
    with pytest.raises(TimeError) as caught:
        read(tmp_path, "time,mag\n0.1,18.0\n,18.0\n")
    assert caught.value.index == 1
    with pytest.raises(DataError, match="infinite"):
        read(tmp_path, "time,mag\n0.1,inf\n")
    with pytest.raises(DataError, match="not numeric"):
        read(tmp_path, "time,mag\n0.1,bright\n")
    with pytest.raises(DataError, match="no rows"):
        read(tmp_path, "time,mag\n")
    with pytest.raises(ReadError):
        read_light_curve(tmp_path / "absent.lc.csv", limits=Limits())


@pytest.mark.skipif(
    not os.environ.get("SCIINFER_DATA"), reason="SCIINFER_DATA is not set: the real light curves are not here"
)
def test_real_rr_lyrae(tmp_path: Path) -> None:
    packed = Path(os.environ["SCIINFER_DATA"]) / "astro" / "light_curves" / "s82_rrlyrae_ugriz.csv.bz2"
    ds = read(tmp_path, bz2.decompress(packed.read_bytes()).decode())
    assert ds.sizes == {"obs": 136_196, "series": 483, "band": 5}
    assert int(ds.row_size.sum()) == 136_196 and int(ds.mag.notnull().sum()) == 136_196
