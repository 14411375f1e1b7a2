"""One file a sampler: deterministic ones of the probability flow, stochastic ones of the reverse equation."""

from .adaptive import AdaptiveSDE
from .ancestral import Ancestral, ExactAncestral
from .base import Sampler, sample
from .deis import DEIS
from .dpm import DPMSolver
from .er_sde import ERSDE
from .euler import Euler
from .heun import Heun
from .langevin import Langevin, PredictorCorrector
from .unipc import UniPC

__all__ = [
    "DEIS",
    "ERSDE",
    "AdaptiveSDE",
    "Ancestral",
    "DPMSolver",
    "Euler",
    "ExactAncestral",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "Sampler",
    "UniPC",
    "sample",
]
