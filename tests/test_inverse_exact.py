"""The exact posterior against hand-written dense formulas, in all three forms, and its refusals."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciinfer.errors import BudgetError, ConfigError, DataError, NumericalError, ShapeError
from sciinfer.inverse import Budget, GaussianField, GaussianPrior, Observation, choose_method, solve_exact
from sciinfer.inverse.field import whittle_matern
from sciinfer.inverse.linalg import conjugate_gradients
from sciinfer.operators import Composition, Convolution, Identity, Mask, Matrix, Spec, from_function
from sciinfer.random import generator

F64 = torch.float64
FORMS = ["data", "signal", "cg"]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=F64, generator=generator(seed, "inverse-test", *shape))


def problem(n: int, m: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    root = randn(n, n, seed=seed)
    cov = root @ root.T / n + 0.1 * torch.eye(n, dtype=F64)
    a, mean, sd = randn(m, n, seed=seed + 1), randn(n, seed=seed + 2), randn(m, seed=seed + 3).exp()
    y = a @ mean + randn(m, seed=seed + 4)
    return mean, cov, a, sd, y


def by_hand(mean, cov, a, sd, y):  # type: ignore[no-untyped-def]
    k = a @ cov @ a.T + torch.diag(sd**2)
    gain = torch.linalg.solve(k, a @ cov).T
    post = cov - gain @ a @ cov
    evidence = torch.distributions.MultivariateNormal(a @ mean, k).log_prob(y)
    return mean + gain @ (y - a @ mean), post, float(evidence)


@given(n=st.integers(1, 12), m=st.integers(1, 15), seed=st.integers(0, 50), form=st.sampled_from(FORMS))
@settings(max_examples=40, deadline=None)
def test_dense_formula(n: int, m: int, seed: int, form: str) -> None:
    mean, cov, a, sd, y = problem(n, m, seed)
    found = solve_exact(GaussianPrior(mean, cov), Observation(a, sd), y, form=form, tolerance=1e-13)  # type: ignore[arg-type]
    want_mean, want_cov, evidence = by_hand(mean, cov, a, sd, y)
    torch.testing.assert_close(found.mean, want_mean, atol=1e-10, rtol=1e-10)
    assert found.stats["residual"] < 1e-10
    if form != "cg":
        torch.testing.assert_close(found.variance, want_cov.diagonal(), atol=1e-10, rtol=1e-10)
        assert abs(found.stats["log_evidence"] - evidence) < 1e-9 * (1 + abs(evidence))


@pytest.mark.parametrize("form", FORMS)
def test_draws_have_the_posterior_covariance(form: str) -> None:
    mean, cov, a, sd, y = problem(4, 3)
    n = 20_000
    found = solve_exact(GaussianPrior(mean, cov), Observation(a, sd), y, draws=n, generator=generator(1), form=form)  # type: ignore[arg-type]
    want_mean, want_cov, _ = by_hand(mean, cov, a, sd, y)
    sd_mean = want_cov.diagonal().sqrt() / math.sqrt(n)
    assert bool(((found.draws.mean(0) - want_mean).abs() < 5 * sd_mean).all())
    spread = torch.outer(want_cov.diagonal(), want_cov.diagonal())
    error = ((spread + want_cov**2) / n).sqrt()  # standard error of a Gaussian sample covariance
    assert bool(((torch.cov(found.draws.T) - want_cov).abs() < 5 * error).all())


@pytest.mark.parametrize("form", FORMS)
def test_missing_equals_deleted(form: str) -> None:
    mean, cov, a, sd, y = problem(5, 7)
    keep = torch.tensor([True, False, True, True, False, True, True])
    gappy = torch.where(keep, y, torch.full_like(y, math.nan))
    prior = GaussianPrior(mean, cov)
    options = {"draws": 3, "form": form}
    deleted = solve_exact(prior, Observation(a[keep], sd[keep]), y[keep], generator=generator(0), **options)  # type: ignore[arg-type]
    nan = solve_exact(prior, Observation(a, sd), gappy, generator=generator(0), **options)  # type: ignore[arg-type]
    masked = solve_exact(prior, Observation(a, sd, mask=keep), y, generator=generator(0), **options)  # type: ignore[arg-type]
    for other in (nan, masked):
        torch.testing.assert_close(other.mean, deleted.mean, atol=1e-12, rtol=0)
        torch.testing.assert_close(other.draws, deleted.draws, atol=1e-10, rtol=0)
        assert other.stats["log_evidence"] == pytest.approx(deleted.stats["log_evidence"], abs=1e-10)
        assert other.stats["missing"] == 2


@pytest.mark.parametrize("form", FORMS)
def test_nothing_measured_gives_the_prior(form: str) -> None:
    mean, cov, a, sd, y = problem(4, 3)
    found = solve_exact(GaussianPrior(mean, cov), Observation(a, sd), y * math.nan, form=form)  # type: ignore[arg-type]
    torch.testing.assert_close(found.mean, mean)
    if form != "cg":
        torch.testing.assert_close(found.variance, cov.diagonal())
        assert found.stats["log_evidence"] == 0.0


def test_tiny_noise_keeps_the_variance_positive() -> None:
    prior = GaussianPrior(torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64))
    for form in ("data", "signal"):
        found = solve_exact(prior, Observation(Identity(("t",), (3,)), 1e-9), torch.ones(3), form=form)  # type: ignore[arg-type]
        torch.testing.assert_close(found.variance, torch.full((3,), 1e-18, dtype=F64), atol=0, rtol=1e-6)


def test_two_dims_subset_of_a_field() -> None:
    field = whittle_matern((6, 5), alpha=2.0, tau=3.0)
    dense = field.apply(torch.eye(30, dtype=F64).reshape(30, 6, 5)).reshape(30, 30)
    torch.testing.assert_close(dense.diagonal().reshape(6, 5), field.variance(), atol=1e-12, rtol=0)
    root = field.root(torch.eye(30, dtype=F64)).reshape(30, 30)
    torch.testing.assert_close(root.T @ root, dense, atol=1e-12, rtol=0)
    mask = torch.zeros(6, 5, dtype=torch.bool)
    mask[::2, 1:4] = True
    op, y, sd = Mask(mask, ("y", "x")), randn(9), torch.full((9,), 0.1, dtype=F64)
    found = solve_exact(field, Observation(op, 0.1), y)
    want = by_hand(torch.zeros(30, dtype=F64), dense, torch.eye(30, dtype=F64)[mask.flatten()], sd, y)
    torch.testing.assert_close(found.mean.flatten(), want[0], atol=1e-10, rtol=0)
    torch.testing.assert_close(found.variance.flatten(), want[1].diagonal(), atol=1e-10, rtol=0)


def test_periodic_field_is_circulant_and_large_problems_go_matrix_free() -> None:
    amplitude = 1 / (1 + 50 * torch.fft.fftfreq(64).abs().double())
    field = GaussianField(amplitude, "periodic", mean=2.0)
    column = field.apply(torch.eye(64, dtype=F64))
    torch.testing.assert_close(column[3].roll(5), column[8], atol=1e-12, rtol=0)
    torch.testing.assert_close(column.diagonal(), field.variance(), atol=1e-12, rtol=0)
    obs = Observation(Convolution([0.25, 0.5, 0.25], (64,), dims=("x",)), 0.1)
    y = obs.sample(field.sample(1, generator(0))[0], generator(1))
    exact, free = solve_exact(field, obs, y, form="data"), solve_exact(field, obs, y, form="cg", tolerance=1e-12)
    torch.testing.assert_close(free.mean, exact.mean, atol=1e-9, rtol=0)
    assert free.stats["log_evidence"] is None and free.stats["iterations"] > 1
    with pytest.raises(ShapeError, match="even"):
        GaussianField(torch.arange(1.0, 6.0), "periodic")


def test_same_seed_same_bits_and_global_state_untouched() -> None:
    mean, cov, a, sd, y = problem(4, 3)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, two = (
        solve_exact(GaussianPrior(mean, cov), Observation(a, sd), y, draws=4, generator=generator(3)).draws
        for _ in range(2)
    )
    assert torch.equal(one, two) and torch.equal(torch.get_rng_state(), state)


def test_callers_objects_are_not_mutated() -> None:
    mean, cov, a, sd, y = problem(4, 3)
    copies = [t.clone() for t in (mean, cov, a, sd, y)]
    solve_exact(GaussianPrior(mean, cov), Observation(a, sd), y, draws=2, generator=generator(0))
    assert all(torch.equal(p, q) for p, q in zip(copies, (mean, cov, a, sd, y), strict=True))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_fault_15_unusable_error_bars(bad: float) -> None:
    sd = torch.tensor([1.0, bad, 1.0])
    with pytest.raises(DataError) as caught:
        Observation(torch.eye(3), sd)
    assert caught.value.code == "data/noise" and caught.value.index == (1,) and caught.value.variable == "noise_sd"
    with pytest.raises(DataError):
        Observation(torch.eye(3), variance=bad)


def test_fault_20_jitter_ladder_then_eigenvalue() -> None:
    duplicate = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=F64)
    prior = GaussianPrior(0.0, duplicate)
    found = solve_exact(prior, Observation(Identity(("t",), (2,)), 0.1), [1.0, 1.0])
    assert 0 < found.stats["jitter"] <= 1e-8
    with pytest.raises(NumericalError, match="smallest eigenvalue is -1") as caught:
        GaussianPrior(0.0, [[1.0, 2.0], [2.0, 1.0]])
    assert caught.value.details["eigenvalue"] == pytest.approx(-1.0) and caught.value.fix


def test_structure_errors() -> None:
    prior = GaussianPrior(0.0, torch.eye(3))
    sine = from_function(torch.sin, Spec(("t",), (3,)), linear=False)
    with pytest.raises(ConfigError, match="linear operator") as caught:
        solve_exact(prior, Observation(sine, 0.1), torch.zeros(3))
    assert "laplace" in str(caught.value.fix)
    with pytest.raises(ConfigError, match="Gaussian prior"):
        solve_exact("field", Observation(torch.eye(3), 0.1), torch.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="prior is over signals"):
        solve_exact(prior, Observation(torch.eye(4), 0.1), torch.zeros(4))
    with pytest.raises(ShapeError, match="y has shape"):
        solve_exact(prior, Observation(torch.eye(3), 0.1), torch.zeros(4))
    with pytest.raises(ShapeError, match="does not fit"):
        Observation(torch.eye(3), torch.ones(2))
    with pytest.raises(DataError, match="infinite") as inf:
        solve_exact(prior, Observation(torch.eye(3), 0.1), [0.0, math.inf, 0.0])
    assert inf.value.index == (1,)
    with pytest.raises(DataError, match="complex"):
        solve_exact(prior, Observation(torch.eye(3), 0.1), torch.zeros(3, dtype=torch.complex128))
    with pytest.raises(ConfigError, match="generator"):
        solve_exact(prior, Observation(torch.eye(3), 0.1), torch.zeros(3), draws=2)
    with pytest.raises(DataError, match="symmetric"):
        GaussianPrior(0.0, [[1.0, 0.5], [0.0, 1.0]])


def test_budget_returns_the_partial_mean() -> None:
    field = whittle_matern((200,), alpha=1.0, tau=10.0)
    obs = Observation(Identity(("x",), (200,)), 0.01)
    with pytest.raises(BudgetError) as caught:
        solve_exact(field, obs, randn(200), form="cg", budget=Budget(evaluations=10))
    assert caught.value.details["partial"].shape == (200,)
    with pytest.raises(BudgetError, match="operator evaluations are needed"):
        solve_exact(field, obs, randn(200), form="data", budget=Budget(evaluations=10))
    with pytest.raises(BudgetError):
        solve_exact(field, obs, randn(200), form="cg", budget=Budget(seconds=0.0))


def test_conjugate_gradients_solve_many_sides() -> None:
    root = randn(20, 20)
    k, b = root @ root.T + torch.eye(20, dtype=F64), randn(3, 20)
    found = conjugate_gradients(lambda rows, _: rows @ k, b, tolerance=1e-12, iterations=200)
    torch.testing.assert_close(found.x @ k, b, atol=1e-9, rtol=0)
    assert float(found.residual.max()) < 1e-11


def test_choice_of_method() -> None:
    prior = GaussianPrior(0.0, torch.eye(3))
    name, reason = choose_method(prior, Observation(torch.eye(3), 0.1))
    assert name == "exact" and "closed form" in reason
    sine = Observation(from_function(torch.sin, Spec(("t",), (3,)), linear=False), 0.1)
    assert choose_method(prior, sine)[0] == "laplace"
    with pytest.raises(ConfigError, match="no method"):
        choose_method(object(), sine)


def test_observation_log_prob_and_sample() -> None:
    obs = Observation(torch.eye(2), [0.5, 2.0])
    x, y = torch.zeros(4, 2, dtype=F64), torch.tensor([1.0, math.nan], dtype=F64)
    want = torch.distributions.Normal(0.0, 0.5).log_prob(torch.tensor(1.0))
    torch.testing.assert_close(obs.log_prob(y, x), want.expand(4), check_dtype=False)
    noise = obs.sample(torch.zeros(20_000, 2, dtype=F64), generator(0)).std(0)
    torch.testing.assert_close(noise, torch.tensor([0.5, 2.0], dtype=F64), rtol=0.03, atol=0)


# --- reference posteriors -------------------------------------------------------------------------------------------

DATA = os.environ.get("SCIINFER_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="SCIINFER_DATA is not set: the reference posteriors are not here")


def elliptic_rows(index: np.ndarray, n: int, shift: float) -> torch.Tensor:
    """Rows of (Laplacian + shift)^-1 with zero borders, 5-point stencil, h = 1/(n-1), at the flat grid places."""
    inner, h = n - 2, 1 / (n - 1)
    k = np.arange(1, inner + 1)
    basis = np.sqrt(2 / (inner + 1)) * np.sin(np.pi * np.outer(k, k) / (inner + 1))
    eig = -4 / h**2 * np.sin(np.pi * k / (2 * (inner + 1))) ** 2
    rows = np.zeros((len(index), n, n))
    i, j = np.divmod(index, n)
    inside = (i > 0) & (i < n - 1) & (j > 0) & (j < n - 1)
    modes = basis[:, i[inside] - 1].T[:, :, None] * basis[:, j[inside] - 1].T[:, None, :]
    modes = modes / (eig[:, None] + eig[None, :] + shift)
    rows[inside, 1:-1, 1:-1] = np.einsum("ka,mkl,lb->mab", basis, modes, basis)
    return torch.from_numpy(rows.reshape(len(index), n * n))


@needs_data
@pytest.mark.parametrize("name", ["poisson64_dev", "helmholtz64_dev"])
def test_reference_posterior(name: str) -> None:
    d = np.load(Path(str(DATA)) / "pde" / "reference_posteriors" / f"{name}.npz")
    field = whittle_matern((64, 64), alpha=float(d["alpha"]), tau=float(d["tau"]))
    rows = elliptic_rows(d["obs_index"], 64, float(d["shift"]))
    obs = Observation(Matrix(rows, Spec(("y", "x"), (64, 64))), float(d["noise_sd"]))
    found = solve_exact(field, obs, torch.from_numpy(d["y"]))
    scale = float(np.abs(d["post_mean"]).max())
    assert float(np.abs(found.mean.numpy() - d["post_mean"]).max()) < 1e-6 * scale
    assert float(np.abs(found.variance.sqrt().numpy() - d["post_std"]).max()) < 1e-6 * float(d["post_std"].max())
    assert abs(found.stats["log_evidence"] - float(d["log_evidence"])) < 1e-4


@needs_data
def test_deconvolution_demo() -> None:
    d = np.load(Path(str(DATA)) / "pde" / "cuqipy" / "Deconvolution_demo.npz")
    a, y, truth = (torch.from_numpy(np.ascontiguousarray(d[k])) for k in ("A", "data", "phantom"))
    prior = GaussianPrior(torch.zeros(128, dtype=F64), 0.04 * torch.eye(128, dtype=F64))
    found = solve_exact(prior, Observation(Composition(Matrix(a)), 0.05), y, form="signal")
    sd = torch.full((128,), 0.05, dtype=F64)
    want, cov, evidence = by_hand(prior.mean, 0.04 * torch.eye(128, dtype=F64), a, sd, y)
    torch.testing.assert_close(found.mean, want, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.variance, cov.diagonal(), atol=1e-6, rtol=0)
    assert found.stats["log_evidence"] == pytest.approx(evidence, abs=1e-6)
    assert float((found.mean - truth).norm() / truth.norm()) < 0.5
