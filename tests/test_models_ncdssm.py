"""Continuous-discrete state-space models."""

from __future__ import annotations

import pytest
from support.model_walk import SCHEMA, check_model, sample_batch

from sciinfer.models.ncdssm import ncdssm

TINY = {"latent": 3, "hidden": 6, "features": 2, "matrices": 3}


@pytest.mark.parametrize("dynamics", ["linear", "mixed-linear", "nonlinear"])
@pytest.mark.parametrize("auxiliary", ["net", "identity"])
def test_walk(dynamics, auxiliary):
    def build(seed=0):
        return ncdssm(SCHEMA, seed=seed, dynamics=dynamics, auxiliary=auxiliary, **TINY)

    check_model(build, sample_batch())
