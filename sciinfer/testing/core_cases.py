"""Conformance cases for the core's own entries. Imports nothing heavy: inputs are made when a case runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..extend.records import Case

Made = tuple[tuple[Any, ...], dict[str, Any]]


def core_cases() -> list[Case]:
    """All of them. Data sets, simulators, metrics and plots need none: the kit gives them its own inputs."""
    return [*_operators(), *_likelihoods(), *_kernels(), *_priors(), *_readers(), *_plots(), *_solvers(), *_methods()]


def _case(kind: str, name: str, make: Callable[[], Made], **inputs: Any) -> Case:
    return Case(kind=kind, name=name, make=make, inputs=inputs)


def _with(*args: Any, **kwargs: Any) -> Callable[[], Made]:
    return lambda: (args, dict(kwargs))


def _operators() -> list[Case]:
    return [
        _case("operators", "identity", _with(("t",), (4,))),
        _case("operators", "identity", _with(("y", "x"), (3, None))),
        _case("operators", "mask", _with([[True, False, True], [False, True, True]], ("y", "x"))),
        _case("operators", "matrix", _with([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])),
        _case("operators", "subsample", _with((7, 4), (3, 2))),
        _case("operators", "convolution", _with([0.2, 0.5, 0.3], (9,))),
        _case("operators", "convolution", _with([[0.1, 0.4], [0.3, 0.2]], (5, 6), mode="valid", dims=("y", "x"))),
        _case("operators", "composition", _composition),
        _case("operators", "sum", _sum),
        _case("operators", "function", _linear_function),
        _case("operators", "function", _nonlinear_function),
    ]


def _composition() -> Made:
    from ..operators import Convolution, Subsample

    return (Subsample((8,), 2), Convolution([1.0, -1.0, 0.5], (8,))), {}


def _sum() -> Made:
    from ..operators import Identity, Matrix

    return (Identity(("x",), (2,)), Matrix([[0.0, 1.0], [2.0, 0.0]])), {}


def _linear_function() -> Made:
    from ..operators import Spec

    return (lambda x: x.cumsum(-1), Spec(("t",), (6,))), {"linear": True}


def _nonlinear_function() -> Made:
    from ..operators import Spec

    return (lambda x: x.sin() + x**2, Spec(("t",), (6,))), {"linear": False}


def _likelihoods() -> list[Case]:
    cases = [
        _case("likelihoods", name, _with(1), channels=1)
        for name in ("gaussian", "student-t", "poisson", "bernoulli", "negative-binomial", "ordinal")
    ]
    return [*cases, _case("likelihoods", "gaussian", _with(3), channels=3)]


def _kernels() -> list[Case]:
    return [
        *(
            _case("kernels", name, _with(lengthscale=0.8, variance=1.3))
            for name in ("matern12", "matern32", "matern52")
        ),
        _case("kernels", "constant", _with(variance=2.0)),
        _case("kernels", "wiener", _with(rate=0.7)),
        _case("kernels", "integrated-wiener", _with(rate=0.4)),
        _case("kernels", "seasonal", _with(period=2.0, harmonics=2)),
        _case("kernels", "sho", _with(period=2.0, quality=0.8)),
        _case("kernels", "rbf", _with(lengthscale=0.8, variance=1.3)),
        _case("kernels", "cosine", _with(period=2.0)),
        _case("kernels", "periodic", _with(period=2.0, harmonics=3)),
        _case("kernels", "quasi-periodic", _with(period=2.0, lengthscale=3.0, harmonics=2)),
        _case("kernels", "hida-matern", _with(lengthscale=3.0, period=2.0)),
        _case("kernels", "linear", _with(variance=0.5)),
        _case("kernels", "fractional-ou", _with(hurst=0.3, relaxation=1.5, scale=0.8, terms=4)),
    ]


def _priors() -> list[Case]:
    covariance = [[1.0, 0.3], [0.3, 0.5]]
    return [
        _case("priors", "gaussian", _with([0.0, 2.0], covariance)),
        _case("priors", "gaussian-field", _with([[2.0, 1.0, 0.5], [1.0, 0.4, 0.2]], mean=1.0)),
        _case("priors", "gaussian-field", _with([2.0, 1.0, 0.5, 1.0], "periodic")),
    ]


def _methods() -> list[Case]:
    return [_case("methods", name, _with()) for name in ("exact", "laplace", "smc")]


def _solvers() -> list[Case]:
    names = ("euler-maruyama", "heun", "milstein", "midpoint", "reversible-heun", "srk", "implicit-euler")
    return [_case("solvers", name, _with(), exercise=_step) for name in names]


def _step(solver_class: Any) -> Any:
    """A few steps of an Ornstein-Uhlenbeck process with given noise."""
    import torch

    from ..integrate import sdeint

    z0 = torch.ones(2, 1, dtype=torch.float64)
    times = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    return sdeint(lambda t, z: -z, lambda t, z: 0.3 + 0 * z, z0, times, steps=8, noise=3, solver=solver_class()).z


def _plots() -> list[Case]:
    return [_case("plots", "latent", _with(var="latent")), _case("plots", "phase", _with(var="latent")), _loss_curve()]


def _loss_curve() -> Case:
    history = {"step": [0.0, 1.0, 2.0, 3.0], "loss": [3.0, 2.0, 1.5, 1.4]}
    return _case("plots", "loss_curve", lambda: ((history,), {}))


def _readers() -> list[Case]:
    writers = {
        "csv": _csv,
        "netcdf4": _netcdf4,
        "netcdf3": _netcdf3,
        "parquet": _parquet,
        "zarr": _zarr,
        "numpy": _numpy,
    }
    return [_case("readers", name, _with(), write=write) for name, write in writers.items()]


def _table() -> Any:
    import pandas as pd

    return pd.DataFrame({"time": [0.0, 1.0, 2.5, 3.0], "y": [1.5, float("nan"), 2.25, -1.0]})


def _dataset() -> Any:
    import numpy as np
    import xarray as xr

    y = xr.DataArray(np.linspace(0.0, 1.0, 60).reshape(20, 3), dims=("time", "x"), attrs={"units": "m"})
    return xr.Dataset({"y": y}, {"time": ("time", np.arange(20.0), {"units": "s"})})


def _csv(folder: Path) -> Path:
    path = folder / "table.csv"
    _table().to_csv(path, index=False)
    return path


def _netcdf4(folder: Path) -> Path:
    path = folder / "grid.nc"
    _dataset().to_netcdf(path, engine="h5netcdf")
    return path


def _netcdf3(folder: Path) -> Path:
    path = folder / "grid.nc3"
    _dataset().to_netcdf(path, engine="scipy", format="NETCDF3_64BIT")
    return path


def _parquet(folder: Path) -> Path:
    path = folder / "table.parquet"
    _table().to_parquet(path)
    return path


def _zarr(folder: Path) -> Path:
    path = folder / "grid.zarr"
    _dataset().to_zarr(path, zarr_format=3, consolidated=False)
    return path


def _numpy(folder: Path) -> Path:
    import numpy as np

    path = folder / "arrays.npz"
    np.savez(path, y=np.arange(6.0))
    return path
