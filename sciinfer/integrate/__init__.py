"""Differential equations: native solvers, counter-based Brownian paths, path divergences, and back-ends."""

from .brownian import BrownianPath
from .euler_maruyama import EulerMaruyama
from .girsanov import PathKL, control, girsanov
from .grid import StepGrid, step_grid
from .heun import Heun
from .milstein import Milstein
from .ode import odeint
from .rosenbrock import Rosenbrock
from .runge_kutta import RungeKutta
from .sde import sdeint
from .solver import NOISE_TYPES, Field, OdeSolver, Solver, Trajectory

__all__ = [
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
