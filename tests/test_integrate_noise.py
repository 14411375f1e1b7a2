"""The hash, and Brownian paths made from it: law, consistency, independence of the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sciinfer.errors import ConfigError, ShapeError, TimeError
from sciinfer.integrate import BrownianPath
from sciinfer.integrate.hashing import _box_muller, mix64, node_codes, normal_pairs, path_codes

F64 = torch.float64


def normals(seed=0, paths=1000, nodes=500, dim=1):
    codes = path_codes(seed, torch.arange(paths), dim).flatten()
    return normal_pairs(codes, node_codes(torch.tensor(0), torch.arange(nodes)))


def all_increments(path, level):
    return torch.cat(list(path.uniform(level)))


# --- the hash


def test_mixer_is_the_published_finaliser():
    # Stafford's variant 13 on Python integers, as in the literature
    def reference(x):
        mask = (1 << 64) - 1
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    words = [0, 1, 2, 12345, 2**63 - 1, -1, -(2**63), -987654321]
    ours = [w & (2**64 - 1) for w in mix64(torch.tensor(words)).tolist()]
    assert ours == [reference(w & (2**64 - 1)) for w in words]


def test_every_bit_of_the_counter_reaches_every_bit_of_the_word():
    counters = torch.arange(4000) * 7919
    base = mix64(counters.clone())
    for bit in (0, 1, 17, 40, 62):
        changed = mix64(counters ^ (1 << bit)) ^ base
        flips = torch.stack([(changed >> k) & 1 for k in range(64)]).double().mean(dim=1)
        assert float((flips - 0.5).abs().max()) < 5 * 0.5 / math.sqrt(4000)


def test_moments_are_gaussian():
    z = normals().flatten()
    n = len(z)
    for power, value, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs(float((z**power).mean()) - value) < 5 * math.sqrt(variance / n), power


def test_distribution_by_kolmogorov_and_smirnov():
    z = normals(seed=5).flatten().sort().values
    n = len(z)
    cdf = torch.special.ndtr(z)
    ranks = torch.arange(n, dtype=F64)
    distance = max(float((cdf - ranks / n).abs().max()), float((cdf - (ranks + 1) / n).abs().max()))
    assert distance * math.sqrt(n) < 2.69  # exceeded once in a million


@pytest.mark.parametrize("lag", [1, 2, 3, 8, 64])
def test_no_correlation_between_nodes_or_between_paths(lag):
    z = normals(seed=1)[:, 0]
    bound = 5 / math.sqrt(z[lag:].numel())
    assert abs(float((z[lag:] * z[:-lag]).mean())) < bound
    assert abs(float((z[:, lag:] * z[:, :-lag]).mean())) < 5 / math.sqrt(z[:, lag:].numel())
    squares = z**2 - 1
    assert abs(float((squares[lag:] * squares[:-lag]).mean())) < 2 * bound


def test_no_correlation_within_a_pair_between_dims_or_between_seeds():
    pair = normals(dim=2, paths=500)
    bound = 5 / math.sqrt(pair[:, 0].numel())
    assert abs(float((pair[:, 0] * pair[:, 1]).mean())) < bound
    assert abs(float(((pair[:, 0] ** 2 - 1) * (pair[:, 1] ** 2 - 1)).mean())) < 2 * bound
    dims = pair[:, 0].reshape(-1, 500, 2)
    assert abs(float((dims[..., 0] * dims[..., 1]).mean())) < math.sqrt(2) * bound
    assert abs(float((normals(seed=0) * normals(seed=1)).mean())) < 5 / math.sqrt(1_000_000)


def test_far_and_negative_seeds_and_keys():
    for seed in (0, 2**63 - 1, 2**64 + 3, -1):
        z = normals(seed=seed, paths=100)
        assert torch.isfinite(z).all() and abs(float(z.var()) - 1) < 0.03
    spread = torch.tensor([0, 1, -1, 2**62, -(2**63)])
    codes = path_codes(0, spread, 3)
    assert len(set(codes.flatten().tolist())) == 15


# --- law of the path


def test_covariance_is_the_earlier_time():
    times = torch.tensor([0.1, 0.37, 0.5, 0.9, 2.0], dtype=F64)
    path = BrownianPath(3, dim=1, t1=2.0, batch=40_000)
    w = path.at(times)[..., 0]
    assert bool((w.mean(dim=1).abs() < 5 * (times / 40_000).sqrt()).all())
    expected = torch.minimum(times[:, None], times)
    spread = ((times[:, None] * times + expected**2) / 40_000).sqrt()
    assert bool(((w @ w.T / 40_000 - expected).abs() < 5 * spread).all())


def test_increments_of_uneven_cells_have_their_own_variance():
    knots = torch.tensor([0.0, 0.1, 1.0, 1.5], dtype=F64)
    steps = all_increments(BrownianPath(0, dim=1, knots=knots, batch=20_000), 2)[..., 0]
    lengths = knots.diff().repeat_interleave(4) / 4
    assert bool(((steps.var(dim=1) / lengths - 1).abs() < 5 * math.sqrt(2 / 20_000)).all())
    correlation = torch.corrcoef(steps) - torch.eye(12, dtype=F64)
    assert float(correlation.abs().max()) < 5 / math.sqrt(20_000)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_lowest_and_highest_words_give_finite_normals(dtype):
    # high halves -2^31 .. -2^31 + 200 and 2^31 - 200 .. 2^31 - 1: in single precision they round
    edges = torch.cat([torch.arange(-(2**31), -(2**31) + 200), torch.arange(2**31 - 200, 2**31)])
    out = torch.empty(1, 2, 400, dtype=dtype)
    _box_muller((edges << 32)[None] + 12345, out)
    assert bool(torch.isfinite(out).all()) and 6.0 < float(out.abs().max()) < 6.8
    assert len(out[0, 0, :200].unique()) == 200  # and the tail keeps its resolution


# --- consistency


@pytest.mark.parametrize("level", [0, 1, 2, 3, 6, 11])
def test_bulk_equals_single_queries(level):
    path = BrownianPath(7, dim=2, t0=-1.0, t1=2.0, batch=3)
    grid = torch.linspace(-1, 2, 2**level + 1, dtype=F64)
    assert float((path.at(grid).diff(dim=0) - all_increments(path, level)).abs().max()) < 2e-15


def test_bulk_in_many_blocks_equals_single_queries(monkeypatch):
    whole = all_increments(BrownianPath(1, dim=1, batch=4), 9)
    monkeypatch.setattr("sciinfer.integrate.dyadic._BLOCK", 1)
    assert torch.equal(all_increments(BrownianPath(1, dim=1, batch=4), 9), whole)


def test_refined_increments_add_up_to_coarse_ones():
    path = BrownianPath(0, dim=2, batch=5, knots=torch.tensor([0.0, 0.4, 1.0]))
    fine = all_increments(path, 8)
    for level in range(8):
        coarse = fine.reshape(2 << level, 1 << (8 - level), 5, 2).sum(dim=1)
        assert float((coarse - all_increments(path, level)).abs().max()) < 1e-14


def test_increments_take_the_same_path_whatever_the_grid():
    path = BrownianPath(2, dim=1, batch=2)
    for steps in (200, 256, 300):
        grid = torch.linspace(0, 1, steps + 1, dtype=F64)
        walked = torch.cat(list(path.increments(grid))).cumsum(0)
        assert float((walked[-1] - path(1.0)).abs().max()) < 1e-13
        assert float((walked[steps // 2 - 1] - path(0.5)).abs().max()) < 1e-13


def test_descending_grid_walks_the_path_back():
    path = BrownianPath(2, dim=3, batch=2)
    grid = torch.linspace(0, 1, 65, dtype=F64)
    forward, backward = torch.cat(list(path.increments(grid))), torch.cat(list(path.increments(grid.flip(0))))
    assert float((forward + backward.flip(0)).abs().max()) < 2e-15


def test_a_longer_horizon_leaves_the_path_before_it():
    short = BrownianPath(4, dim=1, batch=2, knots=torch.tensor([0.0, 1.0, 2.0]))
    longer = BrownianPath(4, dim=1, batch=2, knots=torch.tensor([0.0, 1.0, 2.0, 5.0]))
    times = torch.tensor([0.2, 1.0, 1.7])
    assert torch.equal(short.at(times), longer.at(times))


def test_order_of_the_times_does_not_matter():
    path, times = BrownianPath(4, dim=1, knots=torch.linspace(0, 3, 8)), torch.tensor([2.9, 0.0, 1.1, 3.0, 0.3])
    assert torch.equal(path.at(times)[[1, 4, 2, 0, 3]], path.at(times.sort().values))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_path_is_the_same_bits_alone_and_in_any_batch(dtype):
    knots, times = torch.linspace(0, 1, 26, dtype=F64), torch.rand(9, generator=torch.Generator().manual_seed(0))
    batch = BrownianPath(9, dim=3, batch=(31, 7), knots=knots, dtype=dtype)
    for key in (0, 100, 216):
        alone = BrownianPath(9, dim=3, keys=torch.tensor(key), knots=knots, dtype=dtype)
        where = divmod(key, 7)
        assert torch.equal(all_increments(batch, 3)[:, where[0], where[1]], all_increments(alone, 3))
        assert torch.equal(batch.at(times)[:, where[0], where[1]], alone.at(times))


def test_number_of_threads_does_not_matter():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = all_increments(BrownianPath(0, dim=8, batch=500), 6)
        torch.set_num_threads(2)
        assert torch.equal(one, all_increments(BrownianPath(0, dim=8, batch=500), 6))
    finally:
        torch.set_num_threads(before)


def test_single_precision_is_the_same_path():
    double, single = (BrownianPath(0, dim=2, batch=50, dtype=dtype) for dtype in (F64, torch.float32))
    assert all_increments(single, 8).dtype == torch.float32
    scale = 2.0**-4  # of an increment
    assert float((all_increments(double, 8) - all_increments(single, 8)).abs().max()) < 1e-5 * scale
    assert float((double(0.3) - single(0.3)).abs().max()) < 1e-5


def test_seeds_and_keys_tell_paths_apart():
    first, second = BrownianPath(0, dim=1, batch=100), BrownianPath(1, dim=1, batch=100)
    together = torch.cat([first(1.0), second(1.0)]).flatten()
    assert len(together.unique()) == 200


def test_global_random_state_is_neither_read_nor_written():
    torch.manual_seed(1)
    np.random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    value = BrownianPath(0, dim=2, batch=3)(0.77)
    assert torch.equal(torch.get_rng_state(), states[0]) and (np.random.get_state()[1] == states[1]).all()
    torch.manual_seed(2)
    assert torch.equal(BrownianPath(0, dim=2, batch=3)(0.77), value)


# --- refusals


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: BrownianPath(0.5, dim=1), ConfigError),
        (lambda: BrownianPath(0, dim=0), ConfigError),
        (lambda: BrownianPath(0, dim=1, levels=60), ConfigError),
        (lambda: BrownianPath(0, dim=1, dtype=torch.float16), ConfigError),
        (lambda: BrownianPath(0, dim=1, t0=1.0, t1=0.0), TimeError),
        (lambda: BrownianPath(0, dim=1, t1=float("nan")), TimeError),
        (lambda: BrownianPath(0, dim=1, knots=torch.zeros(2, 2)), ShapeError),
        (lambda: BrownianPath(0, dim=1)(1.5), TimeError),
        (lambda: BrownianPath(0, dim=1).at(torch.tensor([0.5, float("nan")])), TimeError),
        (lambda: BrownianPath(0, dim=1).at(torch.zeros(2, 2)), ShapeError),
        (lambda: next(BrownianPath(0, dim=1).uniform(50)), ConfigError),
    ],
)
def test_unusable_arguments_are_refused(make, error):
    with pytest.raises(error, match="Fix"):
        make()


def test_a_time_outside_is_named():
    with pytest.raises(TimeError) as caught:
        BrownianPath(0, dim=1).at(torch.tensor([0.5, 0.7, 1.2]))
    assert caught.value.index == 2
