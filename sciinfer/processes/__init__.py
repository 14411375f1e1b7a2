"""Priors over latent paths and their posteriors."""

from .base import LinearProcess, NonlinearProcess
from .bridge import Bridge, build_bridge
from .hermite import HermiteKnots, hermite_marginals
from .koopman import KoopmanProcess
from .latent_gps import GaussianPath, LatentGPs, condition_potentials
from .linear import KernelProcess, StationaryLinear
from .matching import Marginals, bridge_marginals, cubature, gap_nodes, gaussian_divergence, path_divergence
from .neural import NeuralSDE, TiltedLinear
from .physics import Parameter, Physics, register_physics
from .simulate import simulate

__all__ = [
    "Bridge",
    "GaussianPath",
    "HermiteKnots",
    "KernelProcess",
    "KoopmanProcess",
    "LatentGPs",
    "LinearProcess",
    "Marginals",
    "NeuralSDE",
    "NonlinearProcess",
    "Parameter",
    "Physics",
    "StationaryLinear",
    "TiltedLinear",
    "bridge_marginals",
    "build_bridge",
    "condition_potentials",
    "cubature",
    "gap_nodes",
    "gaussian_divergence",
    "hermite_marginals",
    "path_divergence",
    "register_physics",
    "simulate",
]
