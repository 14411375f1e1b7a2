"""Reference posteriors of posteriordb: means within 3 Monte Carlo errors + 0.1 standard deviations, by VI and NUTS.

Each model is written from its formula; parameters are named as in the reference.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sciinfer.mcmc import Draws, nuts
from sciinfer.random import generator
from sciinfer.variational import Blocks, FullRank, Positive, Real, VariationalFit, fit_variational, pathfinder

Tensor = torch.Tensor
Model = tuple[Blocks, Callable[[dict[str, Tensor]], Tensor], dict[str, Any]]


def folder() -> Path:
    root = os.environ.get("SCIINFER_DATA")
    path = Path(root) / "gp" / "posteriordb" if root else None
    if path is None or not path.is_dir():
        pytest.skip("needs the reference posteriors: SCIINFER_DATA is not set or has no gp/posteriordb")
    return path


def data_of(name: str) -> dict[str, Any]:
    with zipfile.ZipFile(folder() / f"{name}.data.json.zip") as archive:
        raw = json.load(io.TextIOWrapper(archive.open(archive.namelist()[0])))
    return {k: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for k, v in raw.items()}


def reference(name: str) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Names, means, their Monte Carlo errors, standard deviations."""
    found = json.loads((folder() / f"{name}.mean.json").read_text())
    square = json.loads((folder() / f"{name}.mean_sq.json").read_text())
    mean = np.array(found["mean_value"])
    with zipfile.ZipFile(folder() / f"{name}.draws.json.zip") as archive:
        chains = json.load(io.TextIOWrapper(archive.open(archive.namelist()[0])))
    sd = np.array([np.concatenate([chain[n] for chain in chains]).std() for n in found["names"]])
    assert np.allclose(np.sqrt(np.array(square["mean_squared_value"])), np.hypot(mean, sd), rtol=1e-3)
    return found["names"], mean, np.array(found["mcse_mean"]), sd


def normal(x: Tensor, mean: Any, sd: Any) -> Tensor:
    sd = torch.as_tensor(sd, dtype=torch.float64)
    return -0.5 * ((x - mean) / sd).square() - sd.log() - 0.5 * math.log(2 * math.pi)


def half_cauchy(x: Tensor, scale: float) -> Tensor:
    return -torch.log1p((x / scale).square())


def gp_regr() -> Model:
    data = data_of("gp_pois_regr")
    x, y = data["x"], data["y"]
    squares = (x[:, None] - x[None]).square()
    eye = torch.eye(len(x), dtype=torch.float64)

    def log_density(p: dict[str, Tensor]) -> Tensor:
        rho, alpha, sigma = (p[n][:, None, None] for n in ("rho", "alpha", "sigma"))
        root = torch.linalg.cholesky(alpha.square() * torch.exp(-0.5 * squares / rho.square()) + sigma * eye)
        white = torch.linalg.solve_triangular(root, y.expand(len(root), -1)[..., None], upper=False)[..., 0]
        fit = -0.5 * white.square().sum(-1) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        gamma = 24 * p["rho"].log() - 4 * p["rho"]
        return fit + gamma + normal(p["alpha"], 0.0, 2.0) + normal(p["sigma"], 0.0, 1.0)

    scalar = (Positive(), 0)
    return (
        Blocks({"rho": scalar, "alpha": scalar, "sigma": scalar}),
        log_density,
        {"rho": 6.0, "alpha": 1.0, "sigma": 1.0},
    )


def ar() -> Model:
    data = data_of("arK")
    y, order = data["y"], data["K"]
    past = torch.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], dim=1)

    def log_density(p: dict[str, Tensor]) -> Tensor:
        mean = p["alpha"][:, None] + p["beta"] @ past.T
        fit = normal(y[order:], mean, p["sigma"][:, None]).sum(-1)
        return fit + normal(p["alpha"], 0.0, 10.0) + normal(p["beta"], 0.0, 10.0).sum(-1) + half_cauchy(p["sigma"], 2.5)

    blocks = Blocks({"alpha": (Real(), 0), "beta": (Real(), order), "sigma": (Positive(), 0)})
    return blocks, log_density, {"alpha": 0.0, "beta": [0.0] * order, "sigma": 0.5}


def kilpisjarvi() -> Model:
    data = data_of("kilpisjarvi_mod")
    x, y = data["x"], data["y"]

    def log_density(p: dict[str, Tensor]) -> Tensor:
        mean = p["alpha"][:, None] + p["beta"][:, None] * x
        prior = normal(p["alpha"], data["pmualpha"], data["psalpha"]) + normal(
            p["beta"], data["pmubeta"], data["psbeta"]
        )
        return normal(y, mean, p["sigma"][:, None]).sum(-1) + prior

    blocks = Blocks({"alpha": (Real(), 0), "beta": (Real(), 0), "sigma": (Positive(), 0)})
    return blocks, log_density, {"alpha": 9.0, "beta": 0.0, "sigma": 1.0}


def regression() -> Model:
    data = data_of("sblrc")
    X, y = data["X"], data["y"]

    def log_density(p: dict[str, Tensor]) -> Tensor:
        fit = normal(y, p["beta"] @ X.T, p["sigma"][:, None]).sum(-1)
        return fit + normal(p["beta"], 0.0, 10.0).sum(-1) + normal(p["sigma"], 0.0, 10.0)

    blocks = Blocks({"beta": (Real(), X.shape[1]), "sigma": (Positive(), 0)})
    return blocks, log_density, {"beta": [0.0] * X.shape[1], "sigma": 5.0}


MODELS: dict[str, Callable[[], Model]] = {
    "gp_pois_regr-gp_regr": gp_regr,
    "arK-arK": ar,
    "kilpisjarvi_mod-kilpisjarvi": kilpisjarvi,
    "sblrc-blr": regression,
}


def start_of(blocks: Blocks, values: dict[str, Any]) -> Tensor:
    return blocks.join({k: torch.as_tensor(v, dtype=torch.float64) for k, v in values.items()})


def columns(blocks: Blocks, u: Tensor) -> Tensor:
    """Constrained values in the order of the reference, ``[n, parameters]``."""
    return torch.cat([v.reshape(len(u), -1) for v in blocks.split(u).values()], dim=1)


def variational(name: str) -> tuple[Blocks, VariationalFit]:
    blocks, log_density, values = MODELS[name]()
    density = blocks.density(log_density)
    found = pathfinder(density, start_of(blocks, values)[None], generator=generator(0, name, "path"))
    family = FullRank(blocks.dim, mean=found.mean, covariance=found.covariance)
    return blocks, fit_variational(density, family, generator=generator(0, name), draws=512, check_draws=20_000)


def sampled(name: str, draws: int = 1000) -> tuple[Blocks, Draws]:
    blocks, log_density, values = MODELS[name]()
    density, g = blocks.density(log_density), generator(0, name, "nuts")
    found = pathfinder(density, start_of(blocks, values)[None], generator=g)
    starts = found.draws[:4]
    chains = nuts(density, starts, generator=g, draws=draws, warmup=500, metric="dense", covariance=found.covariance)
    return blocks, chains


def check_means(name: str, mean: np.ndarray, own_error: np.ndarray) -> None:
    names, wanted, error, sd = reference(name)
    assert len(names) == len(mean)
    allowed = 3 * np.hypot(error, own_error) + 0.1 * sd
    assert (np.abs(mean - wanted) < allowed).all(), dict(zip(names, (mean - wanted) / sd, strict=True))


def check_variational(name: str) -> None:
    blocks, fit = variational(name)
    mean, error = fit.expect(lambda u: columns(blocks, u))
    print(f"{name}: k-hat {fit.khat:.3f}, ELBO {fit.elbo:.4f} +- {fit.elbo_error:.4f}, {fit.label}, ESS {fit.ess:.0f}")
    assert fit.converged, fit.label
    assert fit.khat < 0.7
    check_means(name, mean.numpy(), error.numpy())
    own = columns(blocks, fit.sample(4000, generator(1, name))).mean(0).numpy()  # of q itself, without the weights
    check_means(name, own, np.zeros_like(own))


def check_sampled(name: str, draws: int = 1000) -> None:
    blocks, chains = sampled(name, draws)
    constrained = columns(blocks, chains.flat).reshape(*chains.draws.shape[:2], -1)
    from sciinfer.mcmc import summarise

    s = summarise(constrained)
    print(f"{name}: R-hat {s.rhat.max():.4f}, ESS {s.ess_bulk.min():.0f}, {chains.evaluations} gradients")
    assert (s.rhat < 1.01).all()
    assert s.ess_bulk.min() > 400
    assert chains.divergences <= 5, chains.problems()
    check_means(name, s.mean, s.mcse)
    sd = reference(name)[3]
    assert (np.abs(s.sd / sd - 1) < 0.15).all()


def test_a_regression_by_variational_inference() -> None:
    check_variational("sblrc-blr")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_reference_means_by_variational_inference(name: str) -> None:
    check_variational(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_reference_means_by_sampling(name: str) -> None:
    check_sampled(name)
