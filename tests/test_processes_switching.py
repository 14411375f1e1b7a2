"""Switching linear dynamics: both updates, the bound, its gradient, draws, and the closed-form updates."""

from __future__ import annotations

import itertools

import pytest
import torch

from sciinfer.processes.hidden_markov import condition_states
from sciinfer.processes.potential_chain import Potentials
from sciinfer.processes.switching import (
    SwitchingLinear,
    average_chain,
    chain_steps,
    expected_log_steps,
    infer_switching,
    natural_tables,
    path_given,
    step_moments,
)
from sciinfer.processes.switching_draws import roll_out, sample_switching, simulate_switching
from sciinfer.processes.switching_updates import gather_statistics, update_process
from sciinfer.random import generator

F64 = torch.float64
S, N, K, D = 2, 5, 2, 2


def _process(seed=0, K=K, stay=0.8, moved=0.3):
    process, g = SwitchingLinear(K, D, stay=stay, generator=generator(seed, "p")), generator(seed, "move")
    with torch.no_grad():
        for parameter in process.parameters():
            parameter.add_(moved * torch.randn(parameter.shape, generator=g, dtype=F64))
    return process


def _potentials(N=N, seed=0):
    g = generator(seed, "potentials")
    U = torch.randn(S, N, D, D, generator=g, dtype=F64)
    J, j = U @ U.mT, 2 * torch.randn(S, N, D, generator=g, dtype=F64)
    J[:, 2], j[:, 2] = 0, 0
    return Potentials(J, j)


def _moves(N=N):
    moves = torch.ones(S, N, dtype=torch.bool)
    moves[:, 0] = False
    return moves


def _all_paths(process, potentials, moves):
    """``log p(s, potentials)`` of each path of the regimes ``[n, S]``, exactly."""
    tables, log_P = natural_tables(process.laws()), process.chain.log_matrix()
    paths = torch.tensor(list(itertools.product(range(process.states), repeat=moves.shape[1])))
    total = []
    for s in paths:
        prior = process.chain.start()[s[0]] + log_P[s[:-1], s[1:]].sum()
        weight = torch.nn.functional.one_hot(s, process.states).to(F64).expand(S, -1, -1)
        path, constant = path_given(process, tables, potentials, moves, weight)
        total.append(prior + path.log_normaliser + constant)
    return paths, torch.stack(total)


def test_with_known_regimes_the_averaged_chain_is_the_chain():
    process, moves = _process(), _moves()
    A, b, Q = process.laws()
    s = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]])
    weight = torch.nn.functional.one_hot(s, K).to(F64)
    problem, extra, constant = average_chain(process, natural_tables(process.laws()), weight, moves)
    for part, expected in ((problem.A, A), (problem.b, b), (problem.Q, Q)):
        torch.testing.assert_close(part[:, 1:], expected[s][:, 1:], rtol=1e-10, atol=1e-10)
    for part in (*extra, constant):
        torch.testing.assert_close(part, torch.zeros_like(part), rtol=0, atol=1e-9)


def test_the_averaged_chain_is_the_average_of_log_densities():
    process, moves, g = _process(), _moves(), generator(0, "x")
    weight = torch.rand(S, N, K, generator=g, dtype=F64)
    weight = weight / weight.sum(-1, keepdim=True)
    problem, extra, constant = average_chain(process, natural_tables(process.laws()), weight, moves)
    x = torch.randn(S, N, D, generator=g, dtype=F64)
    normal = lambda m, C: torch.distributions.MultivariateNormal(m, C)  # noqa: E731
    A, b, Q = process.laws()
    new, old = x[:, 1:], x[:, :-1]
    each = torch.stack([normal(old @ A[k].mT + b[k], Q[k]).log_prob(new) for k in range(K)], -1)
    expected = (weight[:, 1:] * each).sum((1, 2))
    mean = (problem.A[:, 1:] @ old[..., None])[..., 0] + problem.b[:, 1:]
    still = torch.zeros(S, N, D, D, dtype=F64)
    found = normal(mean, problem.Q[:, 1:]).log_prob(new).sum(1) + extra.expected(x, still) + constant
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    # and the same densities are the potentials of the regimes
    steps = step_moments(x, still, still[:, 1:])
    torch.testing.assert_close(expected_log_steps(natural_tables(process.laws()), steps, moves)[:, 1:], each)


def test_the_bound_is_below_the_evidence_and_rises_with_every_sweep():
    process, potentials, moves = _process(), _potentials(), _moves()
    with torch.no_grad():
        evidence = _all_paths(process, potentials, moves)[1].logsumexp(0)
        bounds = torch.stack([infer_switching(process, potentials, moves, sweeps=n).surrogate for n in range(12)])
    assert bool((bounds <= evidence).all())
    assert bool((bounds.diff(dim=0) >= -1e-10).all())
    assert bool((evidence - bounds[-1] < 1.0).all())


def test_the_bound_is_exact_with_one_regime_or_equal_ones():
    process, potentials, moves = _process(), _potentials(), _moves()
    with torch.no_grad():
        for parameter in (process.matrix, process.offset, process.log_scale, process.lower):
            parameter[1] = parameter[0]
        q = infer_switching(process, potentials, moves)
        evidence = _all_paths(process, potentials, moves)[1].logsumexp(0)
    torch.testing.assert_close(q.surrogate, evidence, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.switching, torch.zeros(S, dtype=F64), rtol=0, atol=1e-9)


def test_without_data_nothing_diverges_where_regimes_agree_and_the_bound_is_its_parts():
    process, potentials, moves = _process(), _potentials(), _moves()
    with torch.no_grad():
        q = infer_switching(process, potentials, moves)
        seen = potentials.expected(q.path.smoothed.mean, q.path.smoothed.cov)
    torch.testing.assert_close(seen - q.switching - q.moving, q.surrogate, rtol=1e-10, atol=1e-10)
    assert bool((q.switching >= -1e-10).all())


def test_the_gradient_at_the_fixed_point_is_that_of_the_converged_bound():
    process, potentials, moves = _process(), _potentials(), _moves()

    near = infer_switching(process, potentials, moves, sweeps=200).states.log_marginal.exp().detach()

    def bound():
        # from nearby, so that few sweeps are left
        return infer_switching(process, potentials, moves, sweeps=200, tolerance=1e-11, weight=near).surrogate.sum()

    parameters = [*process.parameters(), potentials.precision.requires_grad_(), potentials.shift.requires_grad_()]
    slopes = torch.autograd.grad(bound(), parameters)
    g = generator(0, "direction")
    for parameter, slope in zip(parameters, slopes, strict=True):
        direction = torch.randn(parameter.shape, generator=g, dtype=F64)
        direction = direction + direction.mT if parameter is potentials.precision else direction
        with torch.no_grad():
            ends = []
            for h in (1e-5, -1e-5):
                parameter.add_(h * direction)
                ends.append(float(bound()))
                parameter.sub_(h * direction)
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float((slope * direction).sum()), rel=1e-5, abs=1e-6)


def test_steps_that_are_not_there_change_nothing():
    process, potentials, moves = _process(), _potentials(), _moves()
    longer = Potentials(*(torch.cat([x, torch.zeros_like(x[:, :3])], 1) for x in potentials))
    padded = torch.cat([moves, torch.zeros(S, 3, dtype=torch.bool)], 1)
    with torch.no_grad():
        one, other = infer_switching(process, potentials, moves), infer_switching(process, longer, padded)
        alone = infer_switching(process, Potentials(*(x[:1] for x in potentials)), moves[:1])
    for part in ("surrogate", "switching", "moving"):
        torch.testing.assert_close(getattr(one, part), getattr(other, part), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(getattr(one, part)[:1], getattr(alone, part), rtol=1e-10, atol=1e-10)


def test_gibbs_sampling_goes_from_mean_field_to_the_exact_posterior():
    process, potentials, moves = _process(seed=0), _potentials(), _moves()
    g, n = generator(0, "draws"), 2000
    with torch.no_grad():
        paths, total = _all_paths(process, potentials, moves)
        exact = torch.einsum("ns,nt->st", total.softmax(0), (paths == 1).to(F64))
        q = infer_switching(process, potentials, moves)
        far = (q.states.log_marginal[..., 1].exp() - exact).abs().max()
        s, x = sample_switching(process, q, potentials, moves, draws=n, generator=g, rounds=0)
        mean_field = (s == 1).to(F64).mean(0)
        torch.testing.assert_close(mean_field, q.states.log_marginal[..., 1].exp(), rtol=0, atol=4 * 0.5 / n**0.5)
        s, x = sample_switching(process, q, potentials, moves, draws=n, generator=g, rounds=15)
    assert x.shape == (n, S, N, D)
    assert float(far) > 0.05
    torch.testing.assert_close((s == 1).to(F64).mean(0), exact, rtol=0, atol=4 * 0.5 / n**0.5)


def test_draws_from_the_prior_have_its_moments():
    process, n = _process(), 6000
    with torch.no_grad():
        s, x = simulate_switching(process, 3, n, generator(0, "prior"))
        A, b, _ = process.laws()
        m0, P0 = process.initial()
        share = process.chain.start().exp() @ process.chain.log_matrix().exp()
        torch.testing.assert_close((s[:, 1] == 1).to(F64).mean(), share[1], rtol=0, atol=4 * 0.5 / n**0.5)
        expected = (share[:, None] * ((A @ m0) + b)).sum(0)
        assert float(((x[:, 1].mean(0) - expected) / x[:, 1].std(0)).abs().max()) < 4 / n**0.5
        assert float(((x[:, 0].mean(0) - m0) / P0.diagonal().sqrt()).abs().max()) < 4 / n**0.5
        later, path = roll_out(process, s[None, :, -1], x[None, :, -1], 0, generator(0, "none"))
    assert later.shape == (1, n, 0)
    assert path.shape == (1, n, 0, D)


def test_no_regime_grows():
    process = _process(moved=2.0)
    with torch.no_grad():
        assert float(torch.linalg.eigvals(process.laws().A).abs().max()) < 1


def test_closed_form_updates_recover_what_made_the_path_and_never_lower_the_bound():
    truth = _process(seed=1, stay=0.95)
    with torch.no_grad():
        s, x = simulate_switching(truth, 1500, 2, generator(0, "x"))
        moves = _moves(1500)
        still = torch.zeros(2, 1500, D, D, dtype=F64)
        tables = natural_tables(truth.laws())
        steps = step_moments(x, still, still[:, 1:])
        states = condition_states(
            truth.chain.start(), chain_steps(truth.chain, moves), expected_log_steps(tables, steps, moves)
        )
        assert float((states.log_marginal.argmax(-1) == s).to(F64).mean()) > 0.9
        learned = _process(seed=1)
        update_process(
            learned, gather_statistics(steps, x, still, states.log_marginal.exp(), states.log_pair.exp(), moves)
        )
        torch.testing.assert_close(learned.laws().A, truth.laws().A, rtol=0, atol=0.1)
        torch.testing.assert_close(learned.laws().Q, truth.laws().Q, rtol=0.1, atol=0.02)
        torch.testing.assert_close(learned.chain.log_matrix().exp(), truth.chain.log_matrix().exp(), rtol=0, atol=0.03)
        potentials, short = Potentials(*(20 * p for p in _potentials(60))), _moves(60)
        bounds, process = [], _process(seed=2)
        for _ in range(8):
            q = infer_switching(process, potentials, short)
            bounds.append(float(q.surrogate.sum()))
            moments = q.path.smoothed
            steps = step_moments(moments.mean, moments.cov, q.path.crossed())
            weight, pairs = q.states.log_marginal.exp(), q.states.log_pair.exp()
            update_process(process, gather_statistics(steps, moments.mean, moments.cov, weight, pairs, short))
    assert bounds[-1] > bounds[0] + 10
