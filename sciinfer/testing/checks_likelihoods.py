"""Checks of likelihoods: ``log_prob(y [..., C], eta [..., C], mask [..., C]) -> [...]``, ``sample(eta, generator)``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..extend.records import Case, Entry
from . import toys
from .compare import same
from .failures import build, expect, skip_unless


def _made(case: Case, entry: Entry, rows: int = 4) -> tuple[Any, Tensor, Tensor, Tensor]:
    likelihood = build(case, entry)
    eta = toys.eta(case, rows)
    y = likelihood.sample(eta, toys.generator())
    return likelihood, y, eta, toys.ones_mask(y)


def check_likelihoods_batch_shape(case: Case, entry: Entry) -> None:
    """One number per row."""
    likelihood, y, eta, mask = _made(case, entry)
    got = tuple(likelihood.log_prob(y, eta, mask).shape)
    expect(got == (4,), f"log_prob of [4, C] has shape {got}, expected (4,)")


def check_likelihoods_finite(case: Case, entry: Entry) -> None:
    """Its own draws have finite log-density."""
    likelihood, y, eta, mask = _made(case, entry, 200)
    expect(bool(likelihood.log_prob(y, eta, mask).isfinite().all()), "a draw has no finite log-density")


def check_likelihoods_batch_equals_loop(case: Case, entry: Entry) -> None:
    """A batch is the loop over its members."""
    likelihood, y, eta, mask = _made(case, entry)
    loop = torch.stack([likelihood.log_prob(a, b, c) for a, b, c in zip(y, eta, mask, strict=True)])
    expect(bool((likelihood.log_prob(y, eta, mask) - loop).abs().max() < case.tolerance), "batch and loop differ")


def check_likelihoods_masked_is_deleted(case: Case, entry: Entry) -> None:
    """A masked entry counts nothing, whatever stands there."""
    likelihood, y, eta, mask = _made(case, entry)
    hidden = mask.clone()
    hidden[1] = False
    full, part = likelihood.log_prob(y, eta, mask), likelihood.log_prob(y, eta, hidden)
    expect(float(part[1].detach().abs()) == 0.0, "a row that is masked entirely has a log-density")
    rows = torch.tensor([0, 2, 3])
    expect(same(full[rows].detach(), part[rows].detach()), "masking one row changes another")


def check_likelihoods_masked_gradient(case: Case, entry: Entry) -> None:
    """A masked entry has no gradient."""
    likelihood, y, eta, mask = _made(case, entry)
    hidden = mask.clone()
    hidden[1] = False
    moving = eta.clone().requires_grad_()
    (slope,) = torch.autograd.grad(likelihood.log_prob(y, moving, hidden).sum(), moving)
    expect(bool((slope[1] == 0).all()) and bool(slope.isfinite().all()), "a masked entry has a gradient")


def check_likelihoods_gradient(case: Case, entry: Entry) -> None:
    """Derivatives in eta agree with finite differences."""
    likelihood, y, eta, mask = _made(case, entry)
    fine = torch.autograd.gradcheck(
        lambda e: likelihood.log_prob(y, e, mask), (eta.clone().requires_grad_(),), raise_exception=False
    )
    expect(fine, "autograd disagrees with finite differences")


def check_likelihoods_dtype(case: Case, entry: Entry) -> None:
    """Draws have the dtype of eta."""
    y = _made(case, entry)[1]
    expect(y.dtype == torch.float64, f"draws are {y.dtype}")


def check_likelihoods_same_generator(case: Case, entry: Entry) -> None:
    """Equal generators give equal draws, another one others."""
    likelihood, y, eta, _ = _made(case, entry, 50)
    expect(same(likelihood.sample(eta, toys.generator()), y), "one generator gives two results")
    expect(not same(likelihood.sample(eta, toys.generator("other")), y), "the generator has no effect")


def check_likelihoods_leaves_inputs(case: Case, entry: Entry) -> None:
    """The inputs are not written to."""
    likelihood, y, eta, mask = _made(case, entry)
    kept = [t.clone() for t in (y, eta, mask)]
    likelihood.log_prob(y, eta, mask)
    expect(all(same(a, b) for a, b in zip((y, eta, mask), kept, strict=True)), "an input was changed")


def check_likelihoods_integrates_to_one(case: Case, entry: Entry) -> None:
    """The density has total mass one (each channel alone)."""
    likelihood = build(case, entry)
    points, weight = _points(getattr(likelihood, "support", case.inputs.get("support", "real")))
    eta = toys.eta(case, 1)[0].expand(len(points), -1)
    y = points[:, None].expand(eta.shape)
    for channel in range(eta.shape[1]):
        mask = torch.zeros_like(eta, dtype=torch.bool)
        mask[:, channel] = True
        mass = float((likelihood.log_prob(y, eta, mask).detach().exp() * weight).sum())
        expect(abs(mass - 1) < 1e-3, f"channel {channel} has total mass {mass:.6f}")


def _points(support: str) -> tuple[Tensor, Tensor | float]:
    if support == "binary":
        return torch.tensor([0.0, 1.0], dtype=torch.float64), 1.0
    if support == "count":
        return torch.arange(0.0, 400.0, dtype=torch.float64), 1.0
    u = torch.linspace(-11.0, 11.0, 20001, dtype=torch.float64)  # sinh spacing reaches heavy tails
    if support == "positive":
        return u.exp(), u.exp() * (u[1] - u[0])
    return torch.sinh(u), torch.cosh(u) * (u[1] - u[0])


def check_likelihoods_sample_matches_log_prob(case: Case, entry: Entry) -> None:
    """The mean log-density of draws is minus the entropy that the density itself gives."""
    likelihood = build(case, entry)
    points, weight = _points(getattr(likelihood, "support", case.inputs.get("support", "real")))
    skip_unless(int(case.inputs.get("channels", 1)) == 1, "one channel is enough")
    eta = toys.eta(case, 1)
    grid = points[:, None]
    log = likelihood.log_prob(grid, eta.expand(len(points), -1), torch.ones_like(grid, dtype=torch.bool)).detach()
    mass = log.exp() * weight
    mean = float((mass * log.clamp(min=-700)).sum())
    spread = float((mass * (log.clamp(min=-700) - mean) ** 2).sum()) ** 0.5
    n = 20_000
    y = likelihood.sample(eta.expand(n, -1), toys.generator())
    found = float(likelihood.log_prob(y, eta.expand(n, -1), toys.ones_mask(y)).detach().mean())
    expect(abs(found - mean) < 5 * spread / n**0.5 + 1e-6, f"draws have mean log-density {found:.4f}, not {mean:.4f}")
