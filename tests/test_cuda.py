"""The numeric core on a CUDA device: the same answers as on the CPU. Models are walked in their own tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

import sciinfer as si
from sciinfer.gp import MarkovGP
from sciinfer.gp.kernels import Matern32, parse_kernel
from sciinfer.gp.spatial import Matern, VecchiaGP
from sciinfer.integrate import BrownianPath, odeint, sdeint
from sciinfer.inverse import GaussianPrior
from sciinfer.likelihoods import Poisson
from sciinfer.processes import LatentGPs, condition_potentials
from sciinfer.random import generator
from sciinfer.statespace import LinearGaussian, exact_loglik, kalman_filter, kalman_smoother, sample_paths
from sciinfer.statespace.site_inference import infer_sites
from sciinfer.statespace.site_rules import make_data
from sciinfer.statespace.sites import SitePrior, Sites

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to PyTorch")
F64 = torch.float64
KERNELS = ("matern12", "matern32", "matern52", "matern32 * cosine(period=2.0)", "seasonal(period=3.0)", "rbf", "sho")


def close(away: Tensor, here: Tensor, tolerance: float = 1e-9) -> None:
    assert away.device.type == "cuda"
    torch.testing.assert_close(away.cpu(), here, rtol=tolerance, atol=tolerance)


def problem(count: int = 300, series: int = 3) -> LinearGaussian:
    g = generator(0, "problem")
    step = torch.rand(series, count, generator=g, dtype=F64).mul(0.3)
    with torch.no_grad():
        A, Q = Matern32(lengthscale=1.5).transition(step)
    H = torch.randn(series, count, 1, 2, generator=g, dtype=F64)
    y = torch.randn(series, count, 1, generator=g, dtype=F64)
    P0 = torch.eye(2, dtype=F64).expand(series, 2, 2)
    return LinearGaussian(A, Q, H, y, torch.zeros(series, 2, dtype=F64), P0)


def moved(parts: LinearGaussian) -> LinearGaussian:
    return LinearGaussian(*(part if part is None else part.cuda() for part in parts))


@pytest.mark.parametrize("count", [1, 7, 300])
def test_filter_smoother_and_draws(count: int) -> None:
    here = problem(count)
    away = moved(here)
    noise = torch.randn(2000, 3, count, 2, generator=generator(0, "noise"), dtype=F64)
    found = []
    for one in (here, away):
        filtered = kalman_filter(one)
        smoothed = kalman_smoother(one, filtered)
        draws = sample_paths(one, filtered, smoothed.gain, draws=2000, noise=noise.to(one.y.device))
        # roots by eigenvectors differ in sign between devices: draws agree in distribution only
        spread = smoothed.cov.diagonal(dim1=-2, dim2=-1).sqrt()
        assert float(((draws.mean(0) - smoothed.mean) / spread).abs().max()) < 5.5 / 2000**0.5
        found.append((filtered.loglik, filtered.mean, filtered.cov, smoothed.mean, smoothed.cov))
    for left, right in zip(*found, strict=True):
        close(right, left)


def test_score() -> None:
    def value(one: LinearGaussian) -> tuple[Tensor, Tensor]:
        leaves = one._replace(A=one.A.clone().requires_grad_(), y=one.y.clone().requires_grad_())
        loglik = exact_loglik(leaves)
        slopes = torch.autograd.grad(loglik.sum(), (leaves.A, leaves.y))
        return loglik.detach(), torch.cat([slope.flatten() for slope in slopes])

    here, away = value(problem()), value(moved(problem()))
    for left, right in zip(here, away, strict=True):
        close(right, left, 1e-8)


@pytest.mark.parametrize("text", KERNELS)
def test_kernels(text: str) -> None:
    here, away = parse_kernel(text), parse_kernel(text).cuda()
    step = torch.tensor([0.0, 1e-3, 0.7, 20.0], dtype=F64)
    with torch.no_grad():
        for left, right in zip(here.transition(step), away.transition(step.cuda()), strict=True):
            close(right, left)
        close(away.initial(), here.initial())


def test_sites_and_potentials() -> None:
    g = generator(0, "sites")
    y = torch.poisson(torch.full((2, 40, 3), 1.5, dtype=F64), generator=g)
    loading = torch.randn(3, 2, generator=g, dtype=F64) * 0.5
    potentials = Sites(torch.rand(2, 40, 2, generator=g, dtype=F64), torch.randn(2, 40, 2, generator=g, dtype=F64))
    time = torch.rand(2, 40, generator=g, dtype=F64).sort(1).values

    def run(device: str) -> tuple[Tensor, ...]:
        process = LatentGPs([Matern32(lengthscale=0.5), Matern32(lengthscale=0.2)]).to(device)
        grid = time.to(device)
        with torch.no_grad():
            step = torch.cat([torch.zeros_like(grid[:, :1]), grid.diff(dim=1)], 1)
            A, Q = process.transition(step)
            P0 = process.initial()[1].expand(2, 4, 4)
            prior = SitePrior(A, Q, P0, process.readout(), loading.to(device))
            data = make_data(Poisson(3).to(device), y.to(device), torch.ones_like(y, dtype=torch.bool).to(device))
            fit = infer_sites(prior, data)
            path = condition_potentials(
                process, process.readout(), grid, Sites(*(part.to(device) for part in potentials)), grid[:, :3]
            )
        return fit.objective, fit.marginals.mean, path.divergence, path.mean(path.bridge.at_query)

    for left, right in zip(run("cpu"), run("cuda"), strict=True):
        close(right, left, 1e-7)


def test_brownian_paths_are_the_same_numbers() -> None:
    times = torch.tensor([0.1, 0.35, 0.9], dtype=F64)
    here, away = (BrownianPath(7, dim=2, t0=0.0, t1=1.0, batch=5, dtype=F64, device=d) for d in ("cpu", "cuda"))
    close(away.at(times.cuda()), here.at(times), 1e-12)


SOLVERS = ("euler-maruyama", "heun", "midpoint", "milstein", "srk", "reversible-heun")


@pytest.mark.parametrize("solver", SOLVERS)
def test_sde_solvers(solver: str) -> None:
    def run(device: str) -> Tensor:
        z0 = torch.ones(4, 2, dtype=F64, device=device)
        times = torch.linspace(0, 1, 5, dtype=F64, device=device)
        return sdeint(lambda t, z: -z, lambda t, z: 0.3 * torch.cos(z), z0, times, steps=40, noise=3, solver=solver).z

    close(run("cuda"), run("cpu"), 1e-10)


@pytest.mark.parametrize("solver", ["tsit5", "dopri5", "kvaerno5"])
def test_ode_solvers(solver: str) -> None:
    def run(device: str) -> Tensor:
        z0 = torch.tensor([[1.0, 0.0], [2.0, 0.5]], dtype=F64, device=device)
        times = torch.linspace(0, 3, 4, dtype=F64, device=device)
        field: Callable[[Tensor, Tensor], Tensor] = lambda t, z: torch.stack([z[..., 1], -z[..., 0]], -1)  # noqa: E731
        return odeint(field, z0, times, solver=solver).z

    close(run("cuda"), run("cpu"), 1e-9)


def test_markov_gp_and_vecchia() -> None:
    t = np.linspace(0, 5, 30)
    y = np.sin(t)
    here, away = MarkovGP(Matern32(), noise=0.1), MarkovGP(Matern32(), noise=0.1).cuda()
    with torch.no_grad():
        close(away.log_likelihood(t, y), here.log_likelihood(t, y))
        places = torch.rand(40, 2, generator=generator(0, "places"), dtype=F64)
        values = places.sum(1).sin()
        one = VecchiaGP(Matern(1.5), noise=0.01, neighbours=8)
        two = VecchiaGP(Matern(1.5), noise=0.01, neighbours=8).cuda()
        close(two.log_likelihood(places.cuda(), values.cuda()), one.log_likelihood(places, values))


def test_exact_solve() -> None:
    def run(device: str) -> Tensor:
        prior = GaussianPrior(0.0, torch.eye(4, dtype=F64, device=device))
        A = torch.randn(3, 4, generator=generator(0, "A"), dtype=F64).to(device)
        tree = si.solve(np.ones(3), operator=A, noise=0.1, prior=prior, draws=2)
        return torch.as_tensor(tree["sample_stats"]["mean"].values)

    torch.testing.assert_close(run("cuda"), run("cpu"), rtol=1e-9, atol=1e-9)


def series() -> xr.Dataset:
    t = np.linspace(0, 6, 25)
    y = np.sin(t + np.arange(4)[:, None])
    y[1, 4] = np.nan
    return xr.Dataset({"y": (("series", "time"), y)}, coords={"time": t})


@pytest.mark.parametrize("model", ["latent-sde", "gp", "s5"])
def test_fit_on_the_device_is_read_on_the_cpu(model: str, tmp_path) -> None:
    fitted = si.fit(
        series(), model=model, training={"device": "cuda", "steps": 3}, out=tmp_path / "run", progress="silent"
    )
    loaded = si.load(tmp_path / "run")
    for one in (fitted, loaded):
        tree = one.predict(time=[0.5, 7.0], draws=3)
        assert np.isfinite(tree["posterior"]["y"].values).all()
