"""Gaussian processes: exact in linear time on a line, dense for few points, Vecchia's approximation for many."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .kernels import (
    CARMA,
    RBF,
    SHO,
    Constant,
    Coregionalised,
    Cosine,
    Coupled,
    HidaMatern,
    IntegratedWiener,
    Kernel,
    Linear,
    Matern12,
    Matern32,
    Matern52,
    Periodic,
    QuasiPeriodic,
    Seasonal,
    Separable,
    Wiener,
    parse_kernel,
)

if TYPE_CHECKING:
    from .approximate import ApproximateMarkovGP
    from .dispatch import GP
    from .markov import MarkovGP
    from .mixture import MixedPosterior
    from .observations import averages, derivatives, differences, join, points
    from .posterior import Components, MarkovPosterior
    from .spatial import DKLGP, SparseGP, VecchiaGP
    from .whittle import whittle_start

__all__ = [
    "ApproximateMarkovGP",
    "CARMA",
    "DKLGP",
    "GP",
    "RBF",
    "SHO",
    "Components",
    "Constant",
    "Coregionalised",
    "Cosine",
    "Coupled",
    "HidaMatern",
    "IntegratedWiener",
    "Kernel",
    "Linear",
    "MarkovGP",
    "MarkovPosterior",
    "Matern12",
    "Matern32",
    "Matern52",
    "MixedPosterior",
    "Periodic",
    "QuasiPeriodic",
    "Seasonal",
    "Separable",
    "SparseGP",
    "VecchiaGP",
    "Wiener",
    "averages",
    "derivatives",
    "differences",
    "join",
    "parse_kernel",
    "points",
    "whittle_start",
]

#: read on first use: a model that needs a kernel does not load what it does not need
_LATER = {
    "ApproximateMarkovGP": "approximate",
    "GP": "dispatch",
    "MarkovGP": "markov",
    "Components": "posterior",
    "MarkovPosterior": "posterior",
    "MixedPosterior": "mixture",
    "whittle_start": "whittle",
    **dict.fromkeys(("DKLGP", "SparseGP", "VecchiaGP"), "spatial"),
    **dict.fromkeys(("averages", "derivatives", "differences", "join", "points"), "observations"),
}


def __getattr__(name: str) -> Any:
    """Import what is listed above when it is asked for."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
