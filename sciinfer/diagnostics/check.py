"""Calibration report of a result: do the predictive intervals hold what they promise?"""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..errors import SchemaError
from ..random import numpy_generator
from . import cores
from .align import prepared
from .ess import bulk_ess
from .pit import pit_uniformity

PROBS = (0.5, 0.8, 0.9, 0.95)
_BINS = 10
#: with fewer values no miscalibration short of a gross one can show
_FEWEST = 20
_TOO_FAR = 3.0  # binomial standard errors
_MOST_ESS = 500  # entries whose effective sample size is computed
_IN_SAMPLE = (
    "in-sample: the model was conditioned on these data, so they say that the fit is not contradicted, "
    "not that forecasts are calibrated; pass held_out= for that"
)


def check(
    tree: xr.DataTree, *, held_out: xr.Dataset | None = None, probs: tuple[float, ...] = PROBS, seed: int = 0
) -> xr.Dataset:
    """Compare ``posterior_predictive`` with the data at exactly the same labels.

    Args:
        tree: a result with groups ``posterior_predictive`` (dims ``chain, draw, ...``) and ``observed_data``.
        held_out: data that the model has not seen, to be used instead of ``observed_data``.
        probs: probabilities of the equal-tailed intervals.
        seed: of the randomised ranks.

    Returns:
        Dims ``variable, prob, bin``: ``coverage`` and its binomial ``coverage_se``, ``pit_count``, ``pit_chi2`` and
        its ``pit_pvalue``, ``chi2_per_datum`` (mean of ((y - mean) / sd)^2, near 1), ``n``, and with several chains
        the bulk ``ess_min`` and ``ess_median``. attrs: ``verdict``, ``notes`` (one sentence a line), ``in_sample``.

    Raises:
        SchemaError: a group is missing, or nothing observed is at a predicted label.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> y = xr.Dataset({"y": ("time", rng.normal(size=99))}, {"time": np.arange(99)})
        >>> x = xr.Dataset({"y": (("chain", "draw", "time"), rng.normal(size=(1, 50, 99)))}, {"time": np.arange(99)})
        >>> check(xr.DataTree.from_dict({"posterior_predictive": x, "observed_data": y})).attrs["verdict"]
        'calibrated'
    """
    predictive = _group(tree, "posterior_predictive")
    observed = _group(tree, "observed_data") if held_out is None else held_out
    reports, notes = {}, []
    for name in [str(v) for v in predictive.data_vars if v in observed.data_vars]:
        pair = _matched(observed[name], predictive[name])
        if pair is None:
            notes.append(f"{name}: nothing was observed at the predicted labels")
            continue
        reports[name] = _report(*pair, probs, seed)
    if not reports:
        raise SchemaError(
            "no variable was both predicted and observed at the same labels",
            fix="predict at the times of the data, or pass held_out= with the predicted times",
            details={"predicted": list(predictive.data_vars), "observed": list(observed.data_vars)},
        )
    ds = xr.concat(list(reports.values()), "variable", join="outer").assign_coords(variable=list(reports))
    in_sample = held_out is None and not bool(tree["observed_data"].attrs.get("held_out", False))
    notes += [_IN_SAMPLE] if in_sample else []
    return _judged(ds, notes, in_sample)


def _group(tree: xr.DataTree, name: str) -> xr.Dataset:
    if name not in tree.children:
        raise SchemaError(f"the result has no group {name!r}", fix="pass what predict() or solve() returned")
    return tree[name].to_dataset()


def _matched(truth: xr.DataArray, sample: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray] | None:
    """Both at the labels they share, draws stacked last; None where no truth is left."""
    draws = [d for d in ("chain", "draw") if d in sample.dims]
    if not draws or set(truth.dims) | set(draws) != set(sample.dims) or truth.dtype.kind not in "fiub":
        return None
    truth, sample = xr.align(truth.compute(), sample.compute(), join="inner")
    truth = _blank_other_times(truth.astype(np.float64), sample)
    if not bool(truth.notnull().any()):
        return None
    truth, sample = truth.reset_coords(drop=True), sample.reset_coords(drop=True)
    checked, ordered, _ = prepared(truth, sample, draws)
    return checked, ordered


def _blank_other_times(truth: xr.DataArray, sample: xr.DataArray) -> xr.DataArray:
    """NaN where a coordinate of several dims (each series its own times) differs between truth and sample."""
    for name, coord in truth.coords.items():
        if coord.ndim > 1 and name in sample.coords and sample.coords[name].sizes == coord.sizes:
            truth = truth.where(xr.DataArray(coord.values == sample.coords[name].values, dims=coord.dims))
    return truth


def _report(truth: xr.DataArray, sample: xr.DataArray, probs: tuple[float, ...], seed: int) -> xr.Dataset:
    kept = truth.notnull().values
    y = truth.values[kept]
    chains = sample.sizes.get("chain", 1)
    x = sample.values[kept].reshape(len(y), chains, -1)
    draws = x.reshape(len(y), -1)
    low, high = cores.ranks(y, draws)
    u = numpy_generator(seed, "check").random(len(y))
    uniform = (low + u * (high - low + 1)) / (cores.need_draws(draws) + 1)
    report = {
        "n": len(y),
        "coverage": ("prob", [float(cores.covered(y, draws, p).mean()) for p in probs]),
        "coverage_se": ("prob", [float(np.sqrt(p * (1 - p) / len(y))) for p in probs]),
        "pit_count": ("bin", np.histogram(uniform, bins=_BINS, range=(0.0, 1.0))[0]),
        "chi2_per_datum": _chi2(y, draws),
        "pit_chi2": np.nan,
        "pit_pvalue": np.nan,
    }
    if len(y) >= 10:
        report["pit_chi2"], report["pit_pvalue"], _ = pit_uniformity(uniform, bins=_BINS)
    edges = (np.arange(_BINS) + 0.5) / _BINS
    return xr.Dataset({**report, **_ess(x)}, {"prob": list(probs), "bin": edges})


def _chi2(y: np.ndarray, draws: np.ndarray) -> float:
    variance = draws.var(axis=1, ddof=1)
    usable = variance > 0
    square = (y - draws.mean(axis=1))[usable] ** 2 / variance[usable]
    return float(square.mean()) if usable.any() else float("nan")


def _ess(x: np.ndarray) -> dict[str, float]:
    """Least and median bulk effective sample size over at most 500 entries, where there are several chains."""
    if x.shape[1] < 2 or x.shape[2] < 4:
        return {}
    some = x[:: -(-len(x) // _MOST_ESS)]
    ess = bulk_ess(np.moveaxis(some, 0, -1))
    ess = ess[~np.isnan(ess)]
    return {"ess_min": float(ess.min()), "ess_median": float(np.median(ess))} if len(ess) else {}


def _judged(ds: xr.Dataset, notes: list[str], in_sample: bool) -> xr.Dataset:
    off = ((ds["coverage"] - ds["prob"]) / ds["coverage_se"]).transpose("variable", "prob")
    kinds = []
    for name, row in zip(ds["variable"].values, off.values, strict=True):
        worst = int(np.abs(row).argmax())
        if abs(row[worst]) > _TOO_FAR:
            kinds.append("overconfident" if row[worst] < 0 else "underconfident")
            one = ds.sel(variable=name).isel(prob=worst)
            share, error = 100 * float(one["coverage"]), 100 * float(one["coverage_se"])
            notes.append(
                f"{name}: {kinds[-1]}: the {100 * float(one['prob']):g} % interval holds {share:.1f} % "
                f"of {int(one['n'])} values (binomial error {error:.1f} points)"
            )
    few = int(ds["n"].max()) < _FEWEST
    fine = "too few values to judge" if few else "calibrated"
    verdict = fine if not kinds else " and ".join(sorted(set(kinds)))
    return ds.assign_attrs(verdict=verdict, notes="\n".join(notes), in_sample=int(in_sample))
