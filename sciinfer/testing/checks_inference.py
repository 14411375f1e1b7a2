"""Checks of priors, denoisers, inverse methods, schemas and solvers."""

from __future__ import annotations

import torch

from ..errors import SciInferError
from ..extend.records import Case, Entry, MethodEntry
from . import toys
from .compare import same
from .failures import build, expect, load, skip_unless


def check_priors_sample_shape(case: Case, entry: Entry) -> None:
    """``sample(n, generator)`` gives ``n`` finite draws."""
    found = build(case, entry).sample(5, toys.generator())
    expect(len(found) == 5 and bool(found.isfinite().all()), f"5 draws have shape {tuple(found.shape)}")


def check_priors_generator(case: Case, entry: Entry) -> None:
    """Another generator gives other draws."""
    prior = build(case, entry)
    expect(
        not same(prior.sample(2, toys.generator()), prior.sample(2, toys.generator("b"))), "the generator has no effect"
    )


def check_priors_moments(case: Case, entry: Entry) -> None:
    """Draws have the declared mean and variance."""
    prior = build(case, entry)
    skip_unless(hasattr(prior, "mean") and hasattr(prior, "variance"), "it declares no moments")
    n = 4000
    draws, variance = prior.sample(n, toys.generator()), prior.variance()
    error = (variance / n).sqrt() + 1e-12
    expect(bool(((draws.mean(0) - prior.mean).abs() < 5.5 * error).all()), "draws have another mean")
    gap = (draws.var(0) - variance).abs()
    expect(bool((gap <= 5.5 * variance * (2 / n) ** 0.5 + 1e-12).all()), "draws have another variance")


def check_denoisers_shape(case: Case, entry: Entry) -> None:
    """The denoised signal has the shape and dtype of the noisy one."""
    x = toys.randn(2, *case.inputs["shape"])
    clean = build(case, entry).denoise(x, 0.5)
    expect(clean.shape == x.shape and clean.dtype == x.dtype, f"{tuple(x.shape)} became {tuple(clean.shape)}")


def check_denoisers_no_noise(case: Case, entry: Entry) -> None:
    """Without noise there is nothing to remove."""
    x = toys.randn(2, *case.inputs["shape"])
    expect(bool((build(case, entry).denoise(x, 1e-6) - x).abs().max() < 1e-3), "it changes a signal without noise")


def check_denoisers_all_noise(case: Case, entry: Entry) -> None:
    """In nothing but noise the answer no longer depends on it."""
    denoiser = build(case, entry)
    a, b = (denoiser.denoise(1e6 * toys.randn(2, *case.inputs["shape"], name=n), 1e6) for n in "ab")
    expect(bool((a - b).abs().max() < 0.1 * (1 + a.abs().max())), "it takes pure noise for a signal")


def check_methods_class(case: Case, entry: MethodEntry) -> None:
    """The class is one of four, and travels with the answer."""
    expect(entry.kind in ("exact", "asymptotic", "biased", "point"), f"its class is {entry.kind!r}")
    stats = _solve(entry).stats
    expect(stats.get("class") == entry.kind, f"the answer says class {stats.get('class')!r}, the record {entry.kind!r}")


def _solve(entry: Entry, draws: int = 4):
    prior, observation, y = toys.linear_gaussian()
    return load(entry)(prior, observation, y, draws=draws, generator=toys.generator(), budget=None)


def check_methods_stats(case: Case, entry: Entry) -> None:
    """Evaluations and seconds are counted."""
    stats = _solve(entry).stats
    expect(stats.get("nfe", 0) > 0 and stats.get("seconds", -1.0) >= 0, f"stats are {stats}", fix="count nfe, seconds")


def check_methods_draws(case: Case, entry: Entry) -> None:
    """As many finite draws as asked for."""
    draws = _solve(entry, 7).draws
    expect(tuple(draws.shape) == (7, 3) and bool(draws.isfinite().all()), f"7 draws have shape {tuple(draws.shape)}")


def check_methods_against_closed_form(case: Case, entry: MethodEntry) -> None:
    """On a linear-Gaussian problem the mean is right: exactly for ``exact``, within 5 errors otherwise."""
    prior, observation, y = toys.linear_gaussian()
    a, c = observation.operator.matrix, prior.apply(torch.eye(3, dtype=torch.float64))
    gain = torch.linalg.solve(a @ c @ a.T + 0.09 * torch.eye(2, dtype=torch.float64), a @ c).T
    wanted = prior.mean + gain @ (y - a @ prior.mean)
    skip_unless(entry.kind in ("exact", "asymptotic"), "it does not promise the exact posterior")
    gap = float((_solve(entry, 200).mean - wanted).abs().max())
    expect(gap < (1e-8 if entry.kind == "exact" else 0.35), f"the posterior mean is off by {gap:.2e}")


def check_methods_budget(case: Case, entry: Entry) -> None:
    """A budget of no evaluations ends in an error of the package, never in a hang."""
    from ..inverse import Budget

    prior, observation, y = toys.linear_gaussian()
    try:
        load(entry)(prior, observation, y, draws=1, generator=toys.generator(), budget=Budget(evaluations=0))
    except SciInferError:
        return
    expect(False, "a budget of zero evaluations was ignored", fix="count evaluations and raise BudgetError")


def check_schemas_verdicts(case: Case, entry: Entry) -> None:
    """A valid data set has no violation, an invalid one has."""
    check = load(entry)
    expect(not list(check(case.inputs["valid"]())), "a valid data set is refused")
    told = list(check(case.inputs["invalid"]()))
    expect(bool(told) and all(isinstance(line, str) for line in told), "an invalid data set passes")


def check_commands_documented(case: Case, entry: Entry) -> None:
    """A command explains itself."""
    expect(bool((load(entry).__doc__ or "").strip()), "the command has no help text")
