"""Space-time areas and jumps: law, refinement, batches, refusals; torchsde on the same noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sciinfer.errors import ConfigError, ShapeError, TimeError
from sciinfer.integrate import BrownianPath, JumpPath, SpaceTimePath, StablePath, sdeint

F64 = torch.float64
#: halving these cells is exact in floating point: a single time meets its node
DYADIC = torch.tensor([0.0, 0.5, 1.5], dtype=F64)
KNOTS = torch.tensor([0.0, 0.4, 1.0], dtype=F64)


def all_pairs(path, level):
    return torch.cat(list(path.uniform_pairs(level)))


def merged(pairs):
    """Pairs of twice the length: (D, H) of unions of neighbours of equal length."""
    (left, a), (right, b) = pairs[::2].unbind(1), pairs[1::2].unbind(1)
    return torch.stack([left + right, (a + b) / 2 + (left - right) / 4], dim=1)


# --- space-time areas


def test_increments_and_areas_have_their_joint_law():
    pairs = all_pairs(SpaceTimePath(1, dim=1, batch=20_000), 2)[..., 0].flatten(0, 1)
    wanted = torch.tensor([1 / 4, 1 / 48], dtype=F64).repeat(4).sqrt()
    scaled = pairs / wanted[:, None]
    assert float((torch.cov(scaled) - torch.eye(8, dtype=F64)).abs().max()) < 5 * math.sqrt(2 / 20_000)
    assert float(scaled.mean(1).abs().max()) < 5 / math.sqrt(20_000)


def test_areas_are_refined_as_the_path_is():
    path = SpaceTimePath(0, dim=2, batch=3, knots=KNOTS)
    for level in range(6):
        assert float((merged(all_pairs(path, level + 1)) - all_pairs(path, level)).abs().max()) < 1e-14


def test_the_area_is_the_mean_height_above_the_chord():
    path, n = SpaceTimePath(4, dim=1, batch=200), 2**12
    walk = torch.cat([torch.zeros(1, 200, 1, dtype=F64), all_pairs(path, 12)[:, 0].cumsum(0)])
    height = walk - walk[-1] * torch.linspace(0, 1, n + 1, dtype=F64)[:, None, None]
    assert float((height[:-1].mean(0) - all_pairs(path, 0)[0, 1]).abs().max()) < 5 * math.sqrt(1 / 12) / n**0.5


@pytest.mark.parametrize("level", [0, 1, 3, 7])
def test_bulk_window_and_single_times_agree(level):
    path, plain = (kind(3, dim=2, batch=3, knots=DYADIC) for kind in (SpaceTimePath, BrownianPath))
    bulk, increments = all_pairs(path, level), torch.cat(list(plain.uniform(level)))
    n = len(bulk)
    for first, stop in ((0, n), (n // 3, n // 3 + 1), (n // 2, n)):
        assert torch.equal(path.window_pairs(level, first, stop), bulk[first:stop])
        assert torch.equal(plain.window(level, first, stop), increments[first:stop])
    halves = [torch.linspace(a, b, n // 2 + 1, dtype=F64) for a, b in ((0.0, 0.5), (0.5, 1.5))]
    grid = torch.cat([halves[0], halves[1][1:]])
    uneven = torch.cat([grid[:1], grid[1:2] / 3, grid[1:]])  # one more time, and the grid is regular no more
    singles = torch.cat(list(path.pairs(uneven)))
    assert len(singles) == n + 1 and float((singles[2:] - bulk[1:]).abs().max()) < 1e-12
    assert float((path.at(grid).diff(dim=0) - bulk[:, 0]).abs().max()) < 1e-14


def test_blocks_of_any_size_hold_the_same_path(monkeypatch):
    whole = all_pairs(SpaceTimePath(1, dim=1, batch=4), 9)
    monkeypatch.setattr("sciinfer.integrate.dyadic._BLOCK", 1)
    assert torch.equal(all_pairs(SpaceTimePath(1, dim=1, batch=4), 9), whole)


def test_a_path_with_areas_is_the_same_alone_and_descends():
    times = torch.tensor([0.0, 0.11, 0.35, 0.9, 1.0], dtype=F64)
    batch = SpaceTimePath(9, dim=2, batch=(5, 7))
    alone = SpaceTimePath(9, dim=2, keys=torch.tensor(23))
    assert torch.equal(torch.cat(list(batch.pairs(times)))[:, :, 3, 2], torch.cat(list(alone.pairs(times))))
    up, down = (torch.cat(list(alone.pairs(t))) for t in (times, times.flip(0)))
    assert torch.equal(up[:, 0], -down.flip(0)[:, 0]) and float((up[:, 1] - down.flip(0)[:, 1]).abs().max()) < 1e-14


def test_both_kinds_of_path_agree_at_the_knots():
    one, two = SpaceTimePath(2, dim=2, batch=3, knots=KNOTS), BrownianPath(2, dim=2, batch=3, knots=KNOTS)
    assert torch.equal(one.at(KNOTS), two.at(KNOTS)) and not torch.equal(one(0.2), two(0.2))


@pytest.mark.parametrize("times", [[0.0, 2.0], [0.0, 0.3, 1.1, 2.0]])
def test_srk_takes_the_same_path_when_steps_are_halved(times):
    ends = torch.tensor(times, dtype=F64)
    walks = [
        sdeint(
            lambda t, z: 0 * z,
            lambda t, z: 1 + 0 * z,
            torch.zeros(4, 2, dtype=F64),
            ends,
            steps=n,
            noise=3,
            solver="srk",
        ).z
        for n in (50, 100, 200)
    ]
    assert float((walks[0] - walks[1]).abs().max()) < 1e-13 and float((walks[0] - walks[2]).abs().max()) < 1e-13


# --- compound Poisson


def test_jumps_have_the_moments_of_a_compound_poisson_process():
    rate, t, n = 3.0, 2.0, 20_000
    path = JumpPath(0, dim=1, rate=rate, t1=t, batch=n, size=lambda z: 0.5 + 0.2 * z)
    value = path.increments(torch.tensor([0.0, t]))[0, :, 0]
    mean, variance = rate * t * 0.5, rate * t * (0.25 + 0.04)
    assert abs(float(value.mean()) - mean) < 4 * math.sqrt(variance / n)
    assert abs(float(value.var()) / variance - 1) < 6 * math.sqrt(2 / n)
    counts = JumpPath(0, dim=1, rate=rate, t1=t, batch=n, size=torch.ones_like).increments(torch.tensor([0.0, t]))
    share = float((counts == 4).double().mean())
    wanted = math.exp(-6) * 6**4 / 24
    assert abs(share - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / n)


def paths(**more):
    yield JumpPath(5, dim=2, rate=7.0, t1=1.0, **more)
    yield StablePath(5, dim=2, alpha=1.6, beta=0.3, cells=256, **more)


@pytest.mark.parametrize("kind", [0, 1])
def test_jumps_are_the_same_on_any_grid_and_in_any_batch(kind):
    batch = list(paths(batch=9))[kind]
    alone = list(paths(keys=torch.tensor([4])))[kind]
    fine = batch.increments(torch.linspace(0, 1, 257))
    for n in (1, 4, 64):
        coarse = batch.increments(torch.linspace(0, 1, n + 1))
        assert float((fine.reshape(n, -1, 9, 2).sum(1) - coarse).abs().max()) < 1e-12
        assert torch.equal(alone.increments(torch.linspace(0, 1, n + 1))[:, 0], coarse[:, 4])
    down = batch.increments(torch.linspace(1, 0, 65))
    assert torch.equal(down, -batch.increments(torch.linspace(0, 1, 65)).flip(0))
    assert torch.equal(batch.increments(torch.linspace(0, 1, 257)[100:140]), fine[100:139])


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 0.0), (1.5, 0.0), (1.5, 0.7), (1.0, 0.0), (0.8, -0.5)])
def test_stable_increments_have_their_characteristic_function(alpha, beta):
    n, t, scale = 20_000, 2.0, 0.6
    path = StablePath(0, dim=1, alpha=alpha, beta=beta, scale=scale, t1=t, cells=4, batch=n)
    value = path.increments(torch.tensor([0.0, t]))[0, :, 0]
    for u in (0.3, 1.0):
        power = t * (scale * u) ** alpha
        lean = beta * math.tan(0.5 * math.pi * alpha) if alpha != 1 else 0.0
        wanted = complex(np.exp(-power * (1 - 1j * lean)))
        found = complex(torch.exp(1j * u * value).mean())
        assert abs(found - wanted) < 5 / math.sqrt(n)


def test_jumps_move_the_state():
    path = JumpPath(1, dim=1, rate=4.0, t1=2.0, batch=50, size=lambda z: 1 + 0 * z)
    z0, ends = torch.zeros(50, 1, dtype=F64), torch.tensor([0.0, 1.0, 2.0])
    for solver in ("euler-maruyama", "srk", "heun"):
        out = sdeint(
            lambda t, z: 0 * z, lambda t, z: 0 * z, z0, ends, steps=20, noise=0, solver=solver,
            jumps=path, jump_size=lambda t, z: 2.0 + 0 * z,
        )  # fmt: skip
        assert torch.equal(out.z.diff(dim=0), 2 * path.increments(ends))


def test_mean_reversion_with_jumps_has_its_stationary_mean():
    n, theta, rate, jump = 4000, 1.0, 3.0, 0.5
    path = JumpPath(2, dim=1, rate=rate, t1=8.0, batch=n, size=lambda z: jump + 0 * z)
    z = sdeint(
        lambda t, z: -theta * z, lambda t, z: 0 * z, torch.zeros(n, 1, dtype=F64), torch.tensor([0.0, 8.0]),
        steps=400, noise=0, jumps=path,
    ).z[-1]  # fmt: skip
    spread = math.sqrt(rate * jump**2 / (2 * theta))
    assert abs(float(z.mean()) - rate * jump / theta) < 4 * spread / math.sqrt(n) + 0.02
    assert abs(float(z.std()) / spread - 1) < 0.06


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: JumpPath(0, dim=1, rate=0.0), ConfigError),
        (lambda: JumpPath(0, dim=0, rate=1.0), ConfigError),
        (lambda: JumpPath(0, dim=1, rate=1.0, t0=1.0, t1=0.0), TimeError),
        (lambda: StablePath(0, dim=1, alpha=2.5), ConfigError),
        (lambda: StablePath(0, dim=1, alpha=1.0, beta=0.5), ConfigError),
        (lambda: StablePath(0, dim=1, alpha=1.5, scale=-1.0), ConfigError),
        (lambda: JumpPath(0, dim=1, rate=1.0).increments(torch.tensor([0.0, 2.0])), TimeError),
    ],
)
def test_unusable_jumps_are_refused(make, error):
    with pytest.raises(error, match="Fix"):
        make()


def test_jumps_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match="jumps"):
        sdeint(
            lambda t, z: -z, lambda t, z: 0 * z, torch.ones(3, 2, dtype=F64), torch.tensor([0.0, 1.0]),
            steps=4, noise=0, jumps=JumpPath(0, dim=1, rate=1.0, batch=3),
        )  # fmt: skip


# --- torchsde as an oracle: its own methods on our increments


@pytest.mark.parametrize(
    ("ours", "theirs", "noise_type"),
    [
        ("euler-maruyama", "euler", "diagonal"),
        ("euler-maruyama", "euler", "general"),
        ("milstein", "milstein", "diagonal"),
        ("midpoint", "midpoint", "diagonal"),
        ("midpoint", "midpoint", "general"),
        ("heun", "heun", "diagonal"),
        ("reversible-heun", "reversible_heun", "diagonal"),
        ("reversible-heun", "reversible_heun", "general"),
        ("srk", "srk", "additive"),
    ],
)
def test_torchsde_gives_the_same_states_on_the_same_noise(ours, theirs, noise_type):
    pytest.importorskip("torchsde", reason="torchsde is an optional peer")
    ends = torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    path = SpaceTimePath(3, dim=2, batch=4)
    mixing = torch.tensor([[0.5, 0.2], [0.1, 0.4]], dtype=F64)

    def diffusion(t, z):
        if noise_type == "additive":
            return ((1 + t) * mixing).expand(*z.shape, 2)
        g = 0.3 + 0.2 * torch.sin(z)
        return g if noise_type == "diagonal" else torch.cos(z)[..., None] * mixing

    def solve(solver):
        return sdeint(
            lambda t, z: torch.sin(t - 2 * z), diffusion, torch.ones(4, 2, dtype=F64), ends,
            steps=16, noise=path, solver=solver, noise_type=noise_type,
        ).z.detach()  # fmt: skip

    assert float((solve(ours) - solve(f"torchsde:{theirs}")).abs().max()) < 1e-12


def test_torchsde_srk_and_ours_approach_the_same_path():
    # another scheme of the same order: they agree to the order, far closer than Milstein does
    pytest.importorskip("torchsde", reason="torchsde is an optional peer")
    path, ends = SpaceTimePath(3, dim=1, batch=200), torch.tensor([0.0, 1.0], dtype=F64)

    def solve(solver):
        return sdeint(
            lambda t, z: z,
            lambda t, z: 0.5 * z,
            torch.ones(200, 1, dtype=F64),
            ends,
            steps=64,
            noise=path,
            solver=solver,
        ).z[-1]

    ours, theirs, rough = solve("srk"), solve("torchsde:srk"), solve("milstein")
    assert float((ours - theirs).abs().mean()) < 0.1 * float((ours - rough).abs().mean())
    with pytest.raises(ConfigError, match="SpaceTimePath"):
        sdeint(
            lambda t, z: z, lambda t, z: z, torch.ones(2, 1, dtype=F64), ends,
            steps=4, noise=BrownianPath(0, dim=1, batch=2), solver="torchsde:srk",
        )  # fmt: skip
