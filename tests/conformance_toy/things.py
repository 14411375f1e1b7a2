"""What the toy plugin registers."""

import math
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from sciinfer.errors import DataError, ReadError
from sciinfer.operators import Operator, Spec
from sciinfer.random import numpy_generator


class Lag(Operator):
    """``y_t = x_t - w x_{t-1}``, with zero before the first."""

    self_check = False

    def __init__(self, n: int, weight: float = 1.0) -> None:
        super().__init__()
        self.domain = self.range = Spec(("time",), (n,))
        self.linear = True
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.domain.check(x)
        before = torch.nn.functional.pad(x, (1, 0))[..., :-1]
        return x - self.weight.to(x) * before

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        self.range.check(y)
        after = torch.nn.functional.pad(y, (0, 1))[..., 1:]
        return y - self.weight.to(y) * after


def read_numbers(path, *, limits):
    """Read one number per line."""
    path = Path(path)
    try:
        limits.check(path, path.stat().st_size)
        values = np.array([float(line) for line in path.read_text().split()])
    except (OSError, ValueError) as err:
        raise ReadError(f"{path}: {err}", fix="write one number per line") from err
    if not len(values):
        raise ReadError(f"{path} is empty", fix="write one number per line")
    if np.isinf(values).any():
        raise DataError("value is infinite", variable="y", fix="write nan")
    return xr.Dataset({"y": ("time", values, {"units": "m"})}, {"time": np.arange(len(values))})


def ramp():
    """Ten numbers that go up."""
    attrs = {"title": "ramp", "source": "made here", "license": "CC0-1.0"}
    return xr.Dataset({"y": ("time", np.arange(10.0), {"units": "m"})}, attrs=attrs)


def walk(*, seed: int, steps: int = 20):
    """A random walk."""
    y = numpy_generator(seed, "walk").normal(size=steps).cumsum()
    return xr.Dataset({"y": ("time", y, {"units": "m"})}, attrs={"seed": seed, "steps": steps})


class Normal(torch.nn.Module):
    """``y ~ N(eta, sd^2)``."""

    support = "real"

    def __init__(self, sd: float) -> None:
        super().__init__()
        self.sd = sd

    def log_prob(self, y, eta, mask):
        entries = -0.5 * ((y - eta) / self.sd) ** 2 - math.log(self.sd) - 0.5 * math.log(2 * math.pi)
        return torch.where(mask, entries, torch.zeros_like(entries)).sum(-1)

    def sample(self, eta, generator):
        return eta + self.sd * torch.randn(eta.shape, generator=generator, dtype=eta.dtype)


def ensemble_score(truth, sample, *, dim="draw"):
    """``E|x - y| - E|x - x'| / 2``, averaged over times."""
    error = abs(sample - truth).mean(dim)
    pairs = abs(sample - sample.rename({dim: "other_"})).sum([dim, "other_"])
    n = sample.sizes[dim]
    return (error - 0.5 * pairs / (n * (n - 1))).where(truth.notnull()).mean("time")
