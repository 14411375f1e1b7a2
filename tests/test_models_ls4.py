"""The latent state-space model."""

from __future__ import annotations

import pytest
from support.model_walk import SCHEMA, check_model, sample_batch

from sciinfer.models.ls4 import ls4

TINY = {"width": 8, "states": 4, "latent": 2}


@pytest.mark.parametrize("options", [{}, {"layers": 2, "likelihood": "student-t", "hide": 0.0, "warmup": 0.0}])
def test_walk(options):
    check_model(lambda seed=0: ls4(SCHEMA, seed=seed, **TINY, **options), sample_batch())
