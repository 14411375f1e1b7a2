"""Differential equations: native solvers, counter-based Brownian paths, path divergences, and back-ends."""

from .brownian import BrownianPath
from .dyadic import NoisePath
from .euler_maruyama import EulerMaruyama
from .exponential import ExponentialEuler
from .flow import Flow, flow
from .girsanov import PathKL, control, girsanov
from .gradients import GRADIENTS
from .grid import StepGrid, step_grid
from .heun import Heun
from .implicit import ImplicitEuler
from .jumps import JumpPath, Jumps, StablePath
from .midpoint import Midpoint
from .milstein import Milstein
from .ode import odeint
from .reversible_heun import ReversibleHeun
from .rosenbrock import Rosenbrock
from .runge_kutta import RungeKutta
from .sde import sdeint
from .solver import NOISE_TYPES, Field, OdeReport, OdeSolver, Solver, Trajectory
from .space_time import SpaceTimePath
from .srk import srk
from .srk_additive import AdditiveSRK
from .srk_diagonal import DiagonalSRK
from .srk_general import GeneralSRK
from .tableau import EmbeddedRK, Tableau

__all__ = [
    "OdeReport",
    "Tableau",
    "EmbeddedRK",
    "flow",
    "Flow",
    "AdditiveSRK",
    "DiagonalSRK",
    "ExponentialEuler",
    "GRADIENTS",
    "GeneralSRK",
    "ImplicitEuler",
    "JumpPath",
    "Jumps",
    "Midpoint",
    "NoisePath",
    "ReversibleHeun",
    "SpaceTimePath",
    "StablePath",
    "srk",
    "NOISE_TYPES",
    "BrownianPath",
    "EulerMaruyama",
    "Field",
    "Heun",
    "Milstein",
    "OdeSolver",
    "PathKL",
    "Rosenbrock",
    "RungeKutta",
    "Solver",
    "StepGrid",
    "Trajectory",
    "control",
    "girsanov",
    "odeint",
    "sdeint",
    "step_grid",
]
