"""Tiny seeded inputs that checks share."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..extend.records import Case
from ..random import generator as make_generator
from ..random import numpy_generator

if TYPE_CHECKING:
    import torch
    import xarray as xr


def generator(name: str = "conformance") -> torch.Generator:
    """A fresh stream, always the same."""
    return make_generator(0, name)


def randn(*shape: int, name: str = "x") -> torch.Tensor:
    """Standard normal, float64."""
    import torch

    return torch.randn(*shape, dtype=torch.float64, generator=generator(name))


def steps() -> torch.Tensor:
    """Time steps of very different length, zero among them."""
    import torch

    return torch.tensor([0.0, 0.1, 0.5, 1.0, 3.0, 10.0], dtype=torch.float64)


def limits(max_bytes: int | None = None) -> Any:
    """Limits for readers."""
    from ..labelled.io import Limits

    return Limits(max_bytes=max_bytes)


def eta(case: Case, rows: int = 4) -> torch.Tensor:
    """Predictors ``[rows, channels]`` of moderate size."""
    return 0.7 * randn(rows, int(case.inputs.get("channels", 1)), name="eta")


def ones_mask(y: torch.Tensor) -> torch.Tensor:
    """Everything observed."""
    import torch

    return torch.ones_like(y, dtype=torch.bool)


def forecast(
    draws: int = 40, times: int = 30, spread: float = 1.0, shift: float = 0.0
) -> tuple[xr.DataArray, xr.DataArray]:
    """A truth and draws of a forecast; calibrated with ``spread=1``, ``shift=0``."""
    import xarray as xr

    rng = numpy_generator(0, "toy forecast")
    centre, truth = rng.normal(size=times), rng.normal(size=times)
    noise = rng.normal(size=(draws, times))
    coords = {"time": range(times)}
    return (
        xr.DataArray(centre + truth, dims=("time",), coords=coords, name="y"),
        xr.DataArray(centre + shift + spread * noise, dims=("draw", "time"), coords=coords, name="y"),
    )


def tree(draws: int = 20, times: int = 25) -> xr.DataTree:
    """A result with posterior, predictive, observed data and history, one variable ``y``."""
    import numpy as np
    import xarray as xr

    rng = numpy_generator(0, "toy tree")
    time = ("time", np.linspace(0.0, 5.0, times), {"units": "s"})
    signal = np.sin(2 * time[1]) + 0.2 * rng.normal(size=(1, draws, times))
    observed = np.where(rng.random(times) < 0.3, np.nan, np.sin(2 * time[1]) + 0.1 * rng.normal(size=times))
    latent = rng.normal(size=(1, draws, times, 2)).cumsum(axis=2)
    sampled = ("chain", "draw", "time")
    coords = {"time": time, "chain": [0], "draw": np.arange(draws)}
    units = {"units": "m"}
    groups = {
        "posterior": xr.Dataset({"y": (sampled, signal, units), "latent": ((*sampled, "latent_dim"), latent)}, coords),
        "posterior_predictive": xr.Dataset(
            {"y": (sampled, signal + 0.1 * rng.normal(size=signal.shape), units)}, coords
        ),
        "observed_data": xr.Dataset({"y": ("time", observed, units)}, {"time": time}),
    }
    return xr.DataTree.from_dict({f"/{name}": ds for name, ds in groups.items()})


def linear_gaussian() -> tuple[Any, Any, torch.Tensor]:
    """Prior, observation and data of a 3-dimensional problem with a known answer."""
    import torch

    from ..inverse import GaussianPrior, Observation

    covariance = torch.tensor([[1.0, 0.5, 0.2], [0.5, 1.0, 0.5], [0.2, 0.5, 1.0]], dtype=torch.float64)
    observation = Observation([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], noise_sd=0.3)
    return GaussianPrior([0.0, 1.0, 2.0], covariance), observation, torch.tensor([0.5, 2.0], dtype=torch.float64)


@contextlib.contextmanager
def other_global_seeds() -> Iterator[None]:
    """Within: other global random states, as if the caller had seeded them; put back afterwards."""
    import numpy as np
    import torch

    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(987)
    np.random.seed(987)
    torch.manual_seed(987)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
