"""PhysioNet-2012, 24 h of history to the next 24 h: the structural latent SDE beside the trivial forecasts.

8,000 stays (sets a and b), a fixed split of whole stays (60/20/20 %), trained on the first part, scored on the last.
Needs the files that ``SCIINFER_DATA`` names; takes about three minutes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xarray as xr

from sciinfer import api
from sciinfer.errors import ResourceError

from .harness import Row, versions

KERNEL = "constant(variance=0.4) + matern12(lengthscale=40h, variance=0.3) + matern12(lengthscale=3h, variance=0.3)"
OPTIONS = {"process": "structural", "kernel": KERNEL, "noise": 0.4}
#: baseline -> least ratio of its error to ours that counts as reached
GOALS = {"persistence": 1.0, "constant": 1.0, "per_variable_linear": 1.0}


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Mean squared error (variables first, min-max units) and pooled CRPS against each baseline on the same split."""
    from sciinfer.datasets import split_series

    try:
        data = api.open_dataset("physionet2012", subset="a" if tiny else "a+b", static="drop")
    except ResourceError as err:
        yield Row(name="physionet/absent", ours=float("nan"), peer=None, unit="", note=str(err), versions=versions())
        return
    if tiny:
        data = split_series(data, (0.05, 0.05, 0.9), seed=0)[0]
    train, validation, test = split_series(data, seed=0)
    training = {"steps": 2} if tiny else {}
    fitted = api.fit(train, options=OPTIONS, training=training, progress="silent")
    scores = fitted.score(test, after=24.0)
    span = _spans(fitted.schema.variables, train, validation)
    for name, goal in GOALS.items():
        mse = {who: _mse(scores, who, span) for who in ("model", name)}
        crps = scores["crps_normalised"].sel(channel="all")
        for label, ours, peer, unit in (
            ("mse", mse["model"], mse[name], "min-max units squared, x 1e-3"),
            ("crps", float(crps.sel(forecaster="model")), float(crps.sel(forecaster=name)), "standard deviations"),
        ):
            yield Row(name=f"physionet/{label}-{name}", ours=ours, peer=peer, unit=unit, goal=goal, versions=versions())


def _spans(variables: Iterable, *parts: xr.Dataset) -> np.ndarray:
    ends = [[(float(part[v.name].min()), float(part[v.name].max())) for part in parts] for v in variables]
    return np.array([max(high for _, high in found) - min(low for low, _ in found) for found in ends])


def _mse(scores: xr.Dataset, forecaster: str, span: np.ndarray) -> float:
    rmse = scores["rmse"].sel(forecaster=forecaster).values[: len(span)]
    return float(np.nanmean((rmse / np.maximum(span, 1e-9)) ** 2) * 1e3)
