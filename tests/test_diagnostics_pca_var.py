"""Principal components with a ridge autoregression: exact where the truth is one, shown in a score where it applies."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import sciinfer as si
from sciinfer.diagnostics import per_variable_linear, run_baselines
from sciinfer.diagnostics.pca_var import common_step, pca_var, pca_var_applies
from sciinfer.errors import ConfigError, ShapeError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.random import generator

F64 = torch.float64
FILE = Path(os.environ.get("SCIINFER_DATA", "")) / "sde" / "mujoco.npy"


def rotations(n: int = 24, steps: int = 30, noise: float = 0.0) -> torch.Tensor:
    """``[n, steps, 4]``: two damped planes, mixed into four channels."""
    g = generator(0, "rotations")
    turn = lambda a: torch.tensor([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])  # noqa: E731
    A = 0.97 * torch.block_diag(turn(0.3), turn(0.7)).to(F64)
    mix = torch.linalg.qr(torch.randn(4, 4, generator=g, dtype=F64)).Q
    z, path = torch.randn(n, 4, generator=g, dtype=F64), []
    for _ in range(steps):
        path.append(z @ mix)
        z = z @ A.T + noise * torch.randn(z.shape, generator=g, dtype=F64)
    return torch.stack(path, 1)


def batch_of(y: torch.Tensor) -> SeriesBatch:
    t = torch.arange(y.shape[1], dtype=F64)
    return SeriesBatch.of([t] * len(y), list(y)).drop_empty()


def test_a_linear_system_is_continued_exactly():
    y = rotations()
    train, test = batch_of(y[:16]), batch_of(y[16:])
    cond, future = test.keep(test.time < 10), test.keep(test.time >= 10).padded()
    answer = pca_var(train, cond, future.time, cutoff=9.0, ridges=[1e-9])
    torch.testing.assert_close(answer.mean, future.values, atol=1e-6, rtol=0)
    between = pca_var(train, cond, torch.full((8, 1), 10.5, dtype=F64), cutoff=9.0, ridges=[1e-9]).mean[:, 0]
    torch.testing.assert_close(between, future.values[:, :2].mean(1), atol=1e-6, rtol=0)


def test_noise_is_foreseen_and_gaps_are_bridged():
    y = rotations(120, 24, noise=0.2)
    y[:, :12][torch.rand(y[:, :12].shape, generator=generator(1, "gaps")) < 0.1] = float("nan")
    train, test = batch_of(y[:80]), batch_of(y[80:])
    cond, future = test.keep(test.time < 12), test.keep(test.time >= 12).padded()
    found = pca_var(train, cond, future.time, cutoff=11.0)
    error = lambda f: float(((f.mean - future.values) ** 2).mean())  # noqa: E731
    others = run_baselines(cond, future.time) | {"linear_2": per_variable_linear(train, cond, future.time, cutoff=11.0)}
    assert error(found) < 0.7 * min(map(error, others.values()))
    covered = ((found.mean - future.values).abs() < 1.645 * found.sd).double().mean()
    assert 0.86 < float(covered) < 0.94
    assert bool((found.sd[:, 0] < found.sd[:, 8]).all())


def test_a_series_alone_is_answered_as_in_a_batch():
    y = rotations(20, 20, noise=0.1)
    train, test = batch_of(y[:12]), batch_of(y[12:])
    cond, times = test.keep(test.time < 8), torch.tensor([[12.0, 3.0, 9.5]], dtype=F64).expand(8, 3)
    whole = pca_var(train, cond, times, cutoff=7.0)
    alone = pca_var(train, cond.select([5]), times[:1], cutoff=7.0)
    torch.testing.assert_close(alone.mean[0], whole.mean[5], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(alone.sd[0], whole.sd[5], rtol=1e-10, atol=1e-10)


def test_what_it_is_no_baseline_for():
    y = batch_of(rotations(10, 12))
    assert common_step(y) == 1.0 and pca_var_applies(y, 5.0)
    assert not pca_var_applies(y, 11.0), "nothing after the cutoff"
    assert not pca_var_applies(y.select(range(3)), 5.0), "too few series"
    assert not pca_var_applies(y.keep(torch.arange(len(y.time)) % 2 == 0)._replace(time=y.time[::2] ** 1.1), 5.0)
    with pytest.raises(ConfigError, match="step"):
        pca_var(y._replace(time=y.time**1.5), y, torch.ones(10, 1, dtype=F64), cutoff=5.0)
    with pytest.raises(ConfigError, match="after the cutoff"):
        pca_var(y, y, torch.ones(10, 1, dtype=F64), cutoff=50.0)
    with pytest.raises(ShapeError, match="channels"):
        pca_var(y, batch_of(rotations(10, 12)[..., :2]), torch.ones(10, 1, dtype=F64), cutoff=5.0)


def test_a_score_of_new_series_shows_it():
    y = rotations(12, 16, noise=0.1).numpy()
    ds = xr.Dataset({"y": (("series", "time", "state"), y)}, coords={"time": np.arange(16.0), "series": np.arange(12)})
    fitted = si.fit(ds.isel(series=slice(8)), training={"steps": 1}, progress="silent")
    scores = fitted.score(ds.isel(series=slice(8, 12)), after=7.0)
    rmse = scores["rmse_normalised"].sel(channel="all")
    assert bool(scores["is_baseline"].sel(forecaster="pca_var"))
    assert float(rmse.sel(forecaster="pca_var")) < float(rmse.sel(forecaster="persistence"))
    assert scores.attrs["best_baseline"] == "pca_var"


@pytest.mark.slow
@pytest.mark.skipif(not FILE.exists(), reason="SCIINFER_DATA with sde/mujoco.npy not set")
def test_the_hopper_figures_come_out():
    windows = torch.from_numpy(np.load(FILE).astype(np.float64)).unfold(1, 60, 1)[:, :40].transpose(2, 3).flatten(0, 1)
    centre, sd = windows[:2800].mean((0, 1)), windows[:2800].std((0, 1))
    train, test = batch_of((windows[:2800] - centre) / sd), batch_of((windows[3400:] - centre) / sd)
    cond, future = test.keep(test.time < 50), test.keep(test.time >= 50).padded()
    error = lambda f: float((((f.mean - future.values) * sd) ** 2).mean())  # noqa: E731
    assert error(run_baselines(cond, future.time)["persistence"]) == pytest.approx(1.58e-3, rel=5e-3)
    assert error(pca_var(train, cond, future.time, cutoff=49.0, step=1.0)) == pytest.approx(1.04e-3, rel=5e-2)
