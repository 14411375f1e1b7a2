"""Dynamic mode decompositions: reference eigenvalues, noise bias, automatic rank, gaps, inputs, bagged intervals."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from sciinfer.errors import ConfigError, DataError, ShapeError, StateError
from sciinfer.processes.dmd import DMD, METHODS, operator_of
from sciinfer.processes.dmd_extended import EDMD
from sciinfer.processes.dmd_optimised import OptimisedDMD
from sciinfer.random import numpy_generator

FOLDER = Path(os.environ.get("SCIINFER_DATA", "/nonexistent")) / "koopman" / "dmd"
needs_data = pytest.mark.skipif(not FOLDER.exists(), reason="SCIINFER_DATA does not hold koopman/dmd")
SPIRAL = np.array([[1.0, 1.0], [-1.0, 2.0]]) / math.sqrt(3)


def spiral(steps: int = 100, start: tuple[float, float] = (0.5, 1.0)) -> np.ndarray:
    found = [np.array(start)]
    for _ in range(steps - 1):
        found.append(SPIRAL @ found[-1])
    return np.array(found)


def relative(found: torch.Tensor, truth: np.ndarray) -> float:
    return float(np.linalg.norm(found.numpy() - truth) / np.linalg.norm(truth))


@needs_data
@pytest.mark.parametrize("method", METHODS)
def test_two_waves_in_400_channels(method):
    """Guide, case 1."""
    x = np.load(FOLDER / "input_sample.npy").T
    model = DMD(rank=2, method=method, dt=4 * math.pi / 14).fit(x)
    wanted = torch.tensor([-0.80901699 + 0.58778525j, -0.47386866 + 0.88059553j], dtype=torch.complex128)
    for value in wanted:
        assert float((model.eigenvalues - value).abs().min()) < 1e-6
    torch.testing.assert_close(model.frequencies.sort().values, torch.tensor([2.3, 2.8]).double(), atol=1e-6, rtol=0)
    optimised = OptimisedDMD(rank=2).fit(x, np.linspace(0, 4 * math.pi, 15))
    wanted = torch.tensor([2.3j, 2.8j], dtype=torch.complex128)
    torch.testing.assert_close(optimised.exponents, wanted, atol=1e-6, rtol=0)
    assert relative(optimised.predict(np.linspace(0, 4 * math.pi, 15)), x) < 1e-8


def slow_manifold(generator: np.random.Generator, mu: float = -0.05, decay: float = -1.0) -> list[np.ndarray]:
    """Fifty exact trajectories of x' = mu x, y' = decay (y - x^2), dt .1."""
    found, t, share = [], 0.1 * np.arange(20), decay / (decay - 2 * mu)
    for x, y in generator.uniform(-1, 1, (50, 2)):
        curve = share * x**2
        found.append(np.stack([x * np.exp(mu * t), (y - curve) * np.exp(decay * t) + curve * np.exp(2 * mu * t)], 1))
    return found


def test_extended_on_the_slow_manifold():
    """Guide, case 2: the order of trajectories changes nothing, so no pair crosses them."""
    many = slow_manifold(numpy_generator(0, "slow"))
    wanted = torch.tensor([0.99501248, 0.99004983, 0.90483742], dtype=torch.float64)
    for order in (range(50), reversed(range(50))):
        model = EDMD(lambda x: torch.cat([x, x[:, :1].square()], 1)).fit([many[i] for i in order])
        torch.testing.assert_close(model.eigenvalues.real, wanted, atol=1e-6, rtol=0)
    assert relative(model.predict(many[0][:5], 15), many[0][5:]) < 1e-8
    with pytest.raises(ShapeError, match="dictionary"):
        EDMD(lambda x: x[0]).fit(many)


def test_noise_bias():
    """Guide, case 3: 2000 runs; least squares shrinks, the default does not."""
    noise = numpy_generator(1, "noise").standard_normal((2000, 100, 2))
    y = torch.as_tensor(spiral() + 0.1 * noise)

    def size(method: str) -> torch.Tensor:
        return torch.linalg.eigvals(operator_of(y[:, :-1], y[:, 1:], 2, method)[1]).abs().mean(1)

    assert float(size("total").mean()) == pytest.approx(1.0, abs=2e-3)
    assert float(size("forward-backward").mean()) == pytest.approx(0.99991, abs=5e-4)
    assert float(size("exact").mean()) == pytest.approx(0.97385, abs=4e-4)
    assert float(size("exact").std()) == pytest.approx(0.0038, abs=3e-4)
    own = [DMD().fit(run) for run in y[:100]]
    assert {model.rank for model in own} == {2}
    found = torch.stack([model.eigenvalues.abs().mean() for model in own])
    torch.testing.assert_close(found, size("total")[:100])


@needs_data
def test_cylinder_wake():
    """Guide, case 4: the rank is found, and the forecasts hold for hundreds of steps."""
    data = np.loadtxt(FOLDER / "vonKarman_a.dat")
    for columns in (slice(1, 9), slice(1, 10)):
        x = data[:, columns]
        model = DMD(delays=10, dt=0.1).fit(x[2500:2800])
        assert model.rank == 9
        turns = model.frequencies[model.frequencies > 0.01].sort().values
        wanted = torch.tensor([1.12502, 2.25003, 3.37499, 4.5002], dtype=torch.float64)
        torch.testing.assert_close(turns, wanted, atol=2e-5, rtol=0)
        assert relative(model.predict(x[2500:2800], 200), x[2800:]) <= 1e-3
        early = DMD(delays=10, dt=0.1).fit(x[2000:2300])
        assert early.rank == 9
        assert relative(early.predict(x[2000:2300], 700), x[2300:]) <= 2e-3
    seven = DMD(rank=7, delays=10, dt=0.1, method="exact").fit(data[2500:2800, 1:9])
    assert relative(seven.predict(data[2500:2800, 1:9], 200), data[2800:, 1:9]) == pytest.approx(3.6e-2, rel=0.02)


def test_rank_of_two_oscillations_in_noise():
    g = numpy_generator(2, "rank")
    t = np.arange(400.0)
    for k in range(10):
        x = np.stack([np.cos(0.3 * t + k) + 0.5 * np.cos(0.77 * t), np.sin(0.3 * t + k) + 0.3 * np.sin(0.77 * t)], 1)
        model = DMD(delays=20).fit(x + 0.3 * g.standard_normal(x.shape))
        assert model.rank == 4
        turns = model.frequencies[model.frequencies > 0].sort().values
        torch.testing.assert_close(turns, torch.tensor([0.3, 0.77]).double(), atol=3e-3, rtol=0)


def test_rank_without_noise():
    t = np.arange(50.0)
    assert DMD().fit(np.stack([np.cos(0.3 * t), np.sin(0.3 * t)], 1)).rank == 2
    assert DMD(delays=8).fit(np.cos(0.3 * t) + 1).rank == 3
    assert DMD().fit(0.9**t).rank == 1


def test_trajectories_and_gaps():
    one, two = spiral(30), spiral(30, (1.0, -0.5))
    both = DMD(rank=2).fit([one, two])
    wanted = torch.linalg.eigvals(torch.as_tensor(SPIRAL)).imag.sort().values
    torch.testing.assert_close(both.eigenvalues.imag.sort().values, wanted)
    holes = one.copy()
    holes[[3, 11], [0, 1]] = np.nan
    torch.testing.assert_close(DMD(rank=2).fit(holes).eigenvalues.imag.sort().values, wanted)
    torch.testing.assert_close(both.predict(one[:10], 20), torch.as_tensor(one[10:]))
    crossed = DMD(rank=2).fit(np.concatenate([one, two])).eigenvalues.imag.sort().values
    assert float((crossed - wanted).abs().max()) > 1e-3, "a pair across two trajectories would be seen"


@pytest.mark.parametrize("method", METHODS)
def test_with_control(method):
    g = numpy_generator(3, "control")
    push = np.array([[0.3], [-1.0]])
    u, x = g.standard_normal((80, 1)), [np.array([0.5, 1.0])]
    for k in range(79):
        x.append(0.9 * SPIRAL @ x[-1] + push @ u[k])
    x = np.array(x)
    model = DMD(rank=2, method=method).fit(x, u)
    wanted = torch.linalg.eigvals(torch.as_tensor(0.9 * SPIRAL)).imag.sort().values
    torch.testing.assert_close(model.eigenvalues.imag.sort().values, wanted)
    assert relative(model.predict(x[:40], 40, u[39:]), x[40:]) < 1e-9
    with pytest.raises(ShapeError, match="inputs"):
        model.predict(x[:40], 40)


def test_optimised_takes_any_times_and_finds_its_rank():
    g = numpy_generator(4, "irregular")
    t = np.sort(g.uniform(0, 30, 90))
    x = np.stack([np.exp(-0.03 * t) * np.cos(0.9 * t), 0.5 * np.exp(-0.03 * t) * np.sin(0.9 * t)], 1)
    truth = x.copy()
    x += 0.05 * g.standard_normal(x.shape)
    x[g.random(x.shape) < 0.2] = np.nan
    model = OptimisedDMD(bags=20).fit(x, t)
    assert len(model.exponents) == 2
    assert abs(complex(model.exponents[1]) - (-0.03 + 0.9j)) < 5e-3
    assert relative(model.predict(t), truth) < 0.05
    assert model.noise.numpy() == pytest.approx([0.05, 0.05], rel=0.3)
    ahead = model.spread(np.array([30.0, 60.0, 90.0])).numpy()
    assert (ahead >= model.noise.numpy()).all()
    assert model.interval(0.95).frequency_low[1] < 0.9 < model.interval(0.95).frequency_high[1]
    assert model.modes.shape == (2, 2)


def test_optimised_shares_exponents_between_trajectories():
    t = [np.linspace(0, 20, 50), np.linspace(0, 14, 41)]
    x = [np.cos(0.8 * t[0]) + 0.3 * np.cos(2.1 * t[0]), 2 * np.sin(0.8 * t[1]) + np.sin(2.1 * t[1])]
    model = OptimisedDMD(rank=4).fit(x, t)
    torch.testing.assert_close(model.exponents.imag, torch.tensor([-2.1, -0.8, 0.8, 2.1]).double(), atol=1e-6, rtol=0)
    for k in range(2):
        assert relative(model.predict(t[k], k)[:, 0], x[k]) < 1e-6
    growing = OptimisedDMD(rank=1, stable=True).fit(np.exp(0.1 * t[0]), t[0])
    assert float(growing.exponents.real.max()) <= 0


@pytest.mark.slow
def test_bagged_intervals_cover():
    """95 % intervals of frequency and damping hold the truth in at least 90 of 100 draws of the noise."""
    g = numpy_generator(5, "cover")
    hits, widths, found = np.zeros(2), [], []
    for k in range(100):
        t = np.sort(g.uniform(0, 30, 80))
        x = np.stack([np.exp(-0.03 * t) * np.cos(0.9 * t + k), np.exp(-0.03 * t) * np.sin(0.9 * t + k)], 1)
        model = OptimisedDMD(rank=2, bags=40, seed=k).fit(x + 0.2 * g.standard_normal(x.shape), t)
        low_rate, high_rate, low, high = (part[1] for part in model.interval(0.95))
        hits += [bool(low < 0.9 < high), bool(low_rate < -0.03 < high_rate)]
        widths.append(float(high - low) / 3.92)
        found.append(float(model.exponents[1].imag))
    assert hits.min() >= 90
    assert np.mean(widths) == pytest.approx(np.std(found), rel=0.25), "the intervals are not merely wide"


def test_refusals():
    x = spiral(20)
    for options in ({"rank": 0}, {"rank": "all"}, {"delays": 0}, {"method": "magic"}, {"dt": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            DMD(**options)
    with pytest.raises(StateError):
        _ = DMD().rank
    with pytest.raises(StateError, match="bags"):
        OptimisedDMD(rank=2).fit(x, np.arange(20.0)).interval()
    with pytest.raises(DataError, match="complete"):
        DMD(delays=30).fit(x)
    with pytest.raises(DataError, match="infinite"):
        DMD().fit(np.array([[1.0], [np.inf], [2.0]]))
    with pytest.raises(ShapeError, match="inputs"):
        DMD().fit(x, np.zeros((3, 1)))
    with pytest.raises(ShapeError, match="length"):
        OptimisedDMD().fit(x, np.arange(3.0))
    with pytest.raises(DataError, match="ascend"):
        OptimisedDMD().fit(x, np.arange(20.0)[::-1].copy())
    with pytest.raises(DataError, match="must be complete"):
        DMD(delays=2).fit(x).predict(x[:1], 3)
    with pytest.raises(ConfigError, match="bags"):
        OptimisedDMD(bags=-1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    x = torch.as_tensor(spiral(40), device="cuda")
    for method in METHODS:
        model = DMD(rank=2, method=method).fit(x)
        assert model.predict(x, 3).device.type == "cuda"
        torch.testing.assert_close(model.eigenvalues.abs().cpu(), torch.ones(2).double())
    optimised = OptimisedDMD(rank=2, bags=3).fit(x, torch.arange(40.0, device="cuda"))
    assert optimised.exponents.device.type == "cuda"
    assert optimised.spread(torch.arange(3.0, device="cuda")).device.type == "cuda"
