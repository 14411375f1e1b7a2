"""The state-space forecaster."""

from __future__ import annotations

import pytest
from support.model_walk import SCHEMA, check_model, sample_batch

from sciinfer.models.s5 import s5

TINY = {"width": 8, "states": 4, "layers": 2}


@pytest.mark.parametrize(
    "options", [{}, {"sides": "past"}, {"density": "student-t", "dropout": 0.2}, {"rank": 2, "beta": 0.5}]
)
def test_walk(options):
    check_model(lambda seed=0: s5(SCHEMA, seed=seed, **TINY, **options), sample_batch())
