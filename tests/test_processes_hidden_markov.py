"""Chains of hidden states, and linear-Gaussian chains under dense potentials."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sciinfer.errors import ConfigError
from sciinfer.processes import StationaryLinear, condition_potentials
from sciinfer.processes.hidden_markov import StepChain, choose_backend, condition_states, likeliest_path
from sciinfer.processes.jump import JumpProcess, log_matrix
from sciinfer.processes.jump_posterior import data_steps, exact_potentials, tilt
from sciinfer.processes.potential_chain import Potentials, condition_process
from sciinfer.random import generator
from sciinfer.statespace.sites import Sites

F64 = torch.float64


def _chain(S=2, T=6, K=3, seed=0):
    g = generator(seed, "chain")
    normal = lambda *shape: torch.randn(shape, generator=g, dtype=F64)  # noqa: E731
    return normal(S, K).log_softmax(-1), normal(S, T, K, K).mul(2).log_softmax(-1), normal(S, T, K).mul(3)


def _enumerated(log_start, log_P, log_e):
    """Every path of one series and its joint log-probability."""
    T, K = log_e.shape
    paths = torch.tensor(list(itertools.product(range(K), repeat=T)))
    total = log_start[paths[:, 0]] + log_e[torch.arange(T), paths].sum(1)
    for t in range(1, T):
        total = total + log_P[t][paths[:, t - 1], paths[:, t]]
    return paths, total


@pytest.mark.parametrize("backend", ["sequential", "scan"])
def test_everything_against_all_paths(backend):
    log_start, log_P, log_e = _chain()
    q = condition_states(log_start, log_P, log_e, backend=backend)
    best = likeliest_path(log_start, log_P, log_e)
    for s in range(2):
        paths, total = _enumerated(log_start[s], log_P[s], log_e[s])
        log_z, weight = total.logsumexp(0), total.softmax(0)
        torch.testing.assert_close(q.log_normaliser[s], log_z, rtol=0, atol=1e-10)
        hot = torch.nn.functional.one_hot(paths, 3).to(F64)
        marginal = torch.einsum("n,ntk->tk", weight, hot)
        pair = torch.einsum("n,nti,ntj->tij", weight, hot[:, :-1], hot[:, 1:])
        torch.testing.assert_close(q.log_marginal[s].exp(), marginal, rtol=0, atol=1e-10)
        torch.testing.assert_close(q.log_pair[s].exp(), pair, rtol=0, atol=1e-10)
        prior = total - log_e[s][torch.arange(6), paths].sum(1)
        divergence = (weight * (total - log_z - prior)).sum()
        torch.testing.assert_close(q.divergence[s], divergence, rtol=0, atol=1e-10)
        assert best[s].tolist() == paths[total.argmax()].tolist()


@pytest.mark.parametrize("T", [1, 2, 257])
def test_scan_is_the_loop(T):
    inputs = [x.requires_grad_() for x in _chain(3, T, 4)]
    found = [condition_states(*inputs, backend=backend) for backend in ("sequential", "scan")]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    slopes = [
        torch.autograd.grad(q.log_normaliser.sum() + q.divergence.sum(), inputs, allow_unused=T == 1) for q in found
    ]
    for one, other in zip(*slopes, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_derivative_of_the_normaliser_is_the_marginal():
    log_start, log_P, log_e = _chain()
    log_e.requires_grad_()
    q = condition_states(log_start, log_P, log_e)
    slope = torch.autograd.grad(q.log_normaliser.sum(), log_e)[0]
    torch.testing.assert_close(slope, q.log_marginal.exp(), rtol=1e-10, atol=1e-10)


def test_a_potential_of_zero_is_a_deleted_time():
    process = JumpProcess(3, generator=generator(0, "p"))
    time = torch.tensor([[0.0, 0.4, 1.7, 1.7, 4.0]], dtype=F64)
    log_e = torch.randn(1, 5, 3, generator=generator(0, "e"), dtype=F64)
    log_e[:, 2] = 0
    keep = [0, 1, 3, 4]
    whole = condition_states(process.start(), data_steps(process, time), log_e)
    less = condition_states(process.start(), data_steps(process, time[:, keep]), log_e[:, keep])
    torch.testing.assert_close(whole.log_normaliser, less.log_normaliser, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(whole.log_marginal[:, keep].exp(), less.log_marginal.exp(), rtol=1e-10, atol=1e-10)
    nothing = condition_states(process.start(), data_steps(process, time), 0 * log_e)
    torch.testing.assert_close(nothing.divergence, torch.zeros(1, dtype=F64), rtol=0, atol=1e-12)
    prior = process.start().exp() @ process.transition(time[0])
    torch.testing.assert_close(nothing.log_marginal[0].exp(), prior, rtol=1e-10, atol=1e-10)


def test_it_agrees_with_the_jump_process():
    process = JumpProcess(3, generator=generator(0, "p"))
    time = torch.rand(2, 7, generator=generator(0, "t"), dtype=F64).mul(5).sort(1).values
    log_e = torch.randn(2, 7, 3, generator=generator(0, "e"), dtype=F64)
    other = tilt(process, time, log_e, exact_potentials(process, time, log_e))
    q = condition_states(process.start(), data_steps(process, time), log_e)
    torch.testing.assert_close(q.log_marginal, other.log_marginal, rtol=1e-9, atol=1e-9)


def test_powers_of_a_step():
    chain = StepChain(3)
    with torch.no_grad():
        chain.logits.add_(torch.randn(3, 3, generator=generator(0, "c"), dtype=F64))
        P = chain.log_matrix().exp()
        found = chain.transition(torch.tensor([[0, 1], [5, 12]]))
    for n, one in zip((0, 1, 5, 12), found.flatten(0, 1), strict=True):
        torch.testing.assert_close(one, torch.linalg.matrix_power(P, n), rtol=1e-12, atol=1e-12)
    # a state left with probability p is held for 1 / p steps
    torch.testing.assert_close(chain.durations(), 1 / (1 - P.diagonal()), rtol=1e-10, atol=1e-10)


def test_gaps_by_powers_are_steps_without_data():
    chain, g = StepChain(2, stay=0.8), generator(0, "e")
    log_e = torch.randn(1, 5, 2, generator=g, dtype=F64)
    log_e[:, [1, 2]] = 0
    one = log_matrix(chain.transition(torch.tensor([[0, 1, 1, 1, 1]])))
    jump = log_matrix(chain.transition(torch.tensor([[0, 3, 1]])))
    whole = condition_states(chain.start(), one, log_e)
    less = condition_states(chain.start(), jump, log_e[:, [0, 3, 4]])
    torch.testing.assert_close(whole.log_normaliser, less.log_normaliser, rtol=1e-12, atol=1e-12)


def test_extreme_potentials_stay_finite():
    log_start, log_P, log_e = _chain(1, 40)
    log_P = log_matrix(torch.eye(3, dtype=F64)).expand_as(log_P)
    log_e = (1e4 * log_e).requires_grad_()
    for backend in ("sequential", "scan"):
        q = condition_states(log_start, log_P, log_e, backend=backend)
        assert bool(torch.isfinite(torch.autograd.grad(q.log_normaliser.sum(), log_e)[0]).all())


def test_an_unknown_backend():
    with pytest.raises(ConfigError, match="scan"):
        choose_backend(torch.zeros(1, 1, 2), "magic")


# -- linear-Gaussian chains under dense potentials ----------------------------------------------------------------


def _dense(S=2, T=6, d=3, rank=2, seed=0):
    g = generator(seed, "dense")
    normal = lambda *shape: torch.randn(shape, generator=g, dtype=F64)  # noqa: E731
    U = normal(S, T, d, rank)
    J = U @ U.mT
    J[:, 2] = 0
    return Potentials(J, normal(S, T, d) * (J.sum((-2, -1)) != 0)[..., None])


def _setting():
    g = generator(1, "t")
    time = torch.rand(2, 6, generator=g, dtype=F64).mul(4).sort(1).values
    time[:, 4] = time[:, 3]
    return StationaryLinear(3, generator=generator(0, "p")), time, torch.tensor([[0.5, -1.0, 9.0]] * 2, dtype=F64)


@pytest.mark.parametrize("backend", ["sequential", "scan"])
def test_dense_potentials_against_one_large_gaussian(backend):
    process, time, query = _setting()
    potentials = _dense()
    path = condition_process(process, time, potentials, query, backend=backend)
    for s in range(2):
        # a stationary process: Cov(z(a), z(b)) = A(a - b) for a >= b
        every = torch.cat([time[s], query[s]])
        gap = every[:, None] - every[None]
        K = process.transition(gap.clamp(min=0))[0] * (gap >= 0)[..., None, None]
        K = torch.where((gap >= 0)[..., None, None], K, K.transpose(0, 1).mT).permute(0, 2, 1, 3).reshape(27, 27)
        J = torch.zeros(27, 27, dtype=F64)
        J[:18, :18] = torch.block_diag(*potentials.precision[s])
        j = torch.cat([potentials.shift[s].flatten(), torch.zeros(9, dtype=F64)])
        inner = torch.eye(27, dtype=F64) + K @ J
        cov = torch.linalg.solve(inner, K)
        mean = cov @ j
        log_z = 0.5 * (j @ mean - torch.linalg.slogdet(inner).logabsdet)
        torch.testing.assert_close(path.log_normaliser[s], log_z.detach(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(path.mean(path.at_query)[s], mean[18:].reshape(3, 3), rtol=1e-9, atol=1e-9)
        block = torch.stack([cov[18 + 3 * i : 21 + 3 * i, 18 + 3 * i : 21 + 3 * i] for i in range(3)])
        torch.testing.assert_close(path.cov(path.at_query)[s], block, rtol=1e-9, atol=1e-9)
        neighbours = cov[:18, :18].reshape(6, 3, 6, 3)
        alone = condition_process(process, time, potentials, query[:, :0], backend=backend)
        crossed = torch.stack([neighbours[t + 1, :, t] for t in range(5)])
        torch.testing.assert_close(alone.crossed()[s], crossed, rtol=1e-9, atol=1e-9)


def test_diagonal_precisions_are_the_potentials_of_the_sites():
    process, time, query = _setting()
    g = generator(2, "d")
    diagonal, shift = torch.rand(2, 6, 3, generator=g, dtype=F64), torch.randn(2, 6, 3, generator=g, dtype=F64)
    eye = torch.eye(3, dtype=F64)
    one = condition_process(process, time, Potentials(torch.diag_embed(diagonal), shift), query)
    other = condition_potentials(process, eye, time, Sites(diagonal, shift), query)
    torch.testing.assert_close(one.log_normaliser, other.log_normaliser, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(one.divergence, other.divergence, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(one.mean(one.at_query), other.mean(other.bridge.at_query), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(one.cov(one.at_data), other.cov(other.bridge.at_data), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("T", [1, 3, 100])
def test_dense_scan_is_the_loop_with_its_gradients(T):
    process = StationaryLinear(3, generator=generator(0, "p"))
    time = torch.rand(2, T, generator=generator(1, "t"), dtype=F64).mul(T).sort(1).values
    inputs = [x.requires_grad_() for x in _dense(T=max(T, 3))]
    parameters = [*inputs, *process.parameters()]
    found, slopes = [], []
    for backend in ("sequential", "scan"):
        q = condition_process(process, time, Potentials(*(x[:, :T] for x in inputs)), time[:, :0], backend=backend)
        found.append((q.log_normaliser, q.divergence, *q.smoothed[:2]))
        total = q.log_normaliser.sum() + q.smoothed.cov.square().sum()
        slopes.append(torch.autograd.grad(total, parameters, allow_unused=True))
    for one, other in (*zip(*found, strict=True), *zip(*slopes, strict=True)):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_potential_that_says_nothing_changes_nothing_and_draws_have_the_moments():
    process, time, query = _setting()
    potentials = _dense()
    keep = [0, 1, 3, 4, 5]
    whole = condition_process(process, time, potentials, query)
    less = condition_process(process, time[:, keep], Potentials(*(x[:, keep] for x in potentials)), query)
    torch.testing.assert_close(whole.log_normaliser, less.log_normaliser, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(whole.divergence, less.divergence, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(whole.mean(whole.at_query), less.mean(less.at_query), rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        z = whole.sample(20000, generator(0, "draws"), whole.at_query)
        error = (z.mean(0) - whole.mean(whole.at_query)) / whole.cov(whole.at_query).diagonal(dim1=-2, dim2=-1).sqrt()
    assert float(error.abs().max()) < 5 / np.sqrt(20000)
