"""Structured variational autoencoders: one walk for all, what each bound is, segments, filling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, move, sample_batch

import sciinfer as si
from sciinfer.models.svae import svae

F64 = torch.float64
TINY = {"latent": 2, "hidden": 5, "states": 2}
CASES = {
    "lds": {},
    "lds-exact": {"decoder": "linear"},
    "lds-rank": {"rank": 1, "encoder": "scan", "hide": 0.3, "warmup": 0.5},
    "lds-poisson": {"likelihood": "poisson"},
    "hmm": {"prior": "hmm"},
    "hmm-encoder": {"prior": "hmm", "potentials": "encoder", "hide": 0.2},
    "slds": {"prior": "slds"},
    "slds-encoder": {"prior": "slds", "decoder": "mlp", "rank": 1},
}


def _model(case="lds", seed=0, **more):
    return move(svae(SCHEMA, seed=seed, **{**TINY, **CASES[case], **more}), seed=seed)


@pytest.mark.parametrize("case", CASES)
def test_walk(case):
    options = {**TINY, **CASES[case]}
    batch = sample_batch(options.get("likelihood", "gaussian"))
    check_model(lambda seed=0: svae(SCHEMA, seed=seed, **options), batch)


@pytest.mark.parametrize("case", ["lds", "hmm", "slds"])
def test_fit_save_load_predict(case, tmp_path):
    t = np.linspace(0, 5, 12)
    y = np.sin(3 * t + np.arange(2)[:, None]) + 0.1 * np.cos(17 * t)
    y[1, 4] = np.nan
    ds = xr.Dataset({"y": (("series", "time"), y)}, coords={"series": list("ab"), "time": t})
    options = {**TINY, **CASES[case]} | ({"natural": 2} if case == "slds" else {})
    fitted = si.fit(ds, model="svae", options=options, training={"steps": 3}, progress="silent")
    fitted.save(tmp_path / "run")
    one, two = (f.predict(time=[2.2, 6.0], draws=3) for f in (fitted, si.load(tmp_path / "run")))
    xr.testing.assert_identical(one["posterior_predictive"].to_dataset(), two["posterior_predictive"].to_dataset())
    assert all(np.isfinite(value) for value in fitted.model.summary().values())
