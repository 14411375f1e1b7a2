"""Checks of kernels with a state-space form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..extend.records import Case, Entry
from . import toys
from .failures import build, expect, skip_unless


def _parts(case: Case, entry: Entry, dt: Tensor | None = None) -> tuple[Any, Tensor, Tensor]:
    kernel = build(case, entry)
    a, q = kernel.transition(toys.steps() if dt is None else dt)
    return kernel, a.detach(), q.detach()


def check_kernels_shapes(case: Case, entry: Entry) -> None:
    """``A, Q [..., d, d]``, ``P0 [d, d]``, ``h [d]``."""
    kernel, a, q = _parts(case, entry)
    d = int(kernel.state_dim)
    got = [tuple(t.shape) for t in (a, q, kernel.initial(), kernel.readout())]
    expect(got == [(6, d, d), (6, d, d), (d, d), (d,)], f"shapes are {got} with state_dim {d}")


def check_kernels_zero_step(case: Case, entry: Entry) -> None:
    """Nothing happens in no time: ``A(0) = I``, ``Q(0) = 0``."""
    _, a, q = _parts(case, entry)
    eye = torch.eye(a.shape[-1], dtype=a.dtype)
    expect(bool((a[0] - eye).abs().max() < 1e-10) and bool(q[0].abs().max() < 1e-10), "a step of zero does something")


def check_kernels_semigroup(case: Case, entry: Entry) -> None:
    """Two steps are one: ``A(s+t) = A(t)A(s)``, ``Q(s+t) = A(t)Q(s)A(t)' + Q(t)``."""
    _, a, q = _parts(case, entry, torch.tensor([0.3, 0.7, 1.0], dtype=torch.float64))
    expect(bool((a[1] @ a[0] - a[2]).abs().max() < 1e-9), "transitions do not compose")
    expect(bool((a[1] @ q[0] @ a[1].T + q[1] - q[2]).abs().max() < 1e-9), "process noise does not compose")


def check_kernels_noise_is_covariance(case: Case, entry: Entry) -> None:
    """``Q`` and ``P0`` are symmetric and positive semi-definite."""
    kernel, _, q = _parts(case, entry)
    for name, matrix in (("Q", q), ("P0", kernel.initial().detach()[None])):
        expect(bool((matrix - matrix.mT).abs().max() < 1e-10), f"{name} is not symmetric")
        smallest = float(torch.linalg.eigvalsh(matrix).min())
        expect(smallest > -1e-9 * max(1.0, float(matrix.abs().max())), f"{name} has the eigenvalue {smallest:.3g}")


def check_kernels_stationary(case: Case, entry: Entry) -> None:
    """A stationary kernel keeps its covariance: ``A P0 A' + Q = P0``."""
    kernel, a, q = _parts(case, entry)
    skip_unless(bool(kernel.stationary), "it is not stationary")
    p = kernel.initial().detach()
    expect(bool((a @ p @ a.mT + q - p).abs().max() < 1e-8 * (1 + float(p.abs().max()))), "P0 is not stationary")


def check_kernels_batch_equals_loop(case: Case, entry: Entry) -> None:
    """A batch of steps is the loop over them."""
    kernel, a, q = _parts(case, entry)
    for index, dt in enumerate(toys.steps()):
        one_a, one_q = (part.detach() for part in kernel.transition(dt))
        gap = max(float((one_a - a[index]).abs().max()), float((one_q - q[index]).abs().max()))
        expect(gap < 1e-10, f"step {float(dt)} alone differs from the batch by {gap:.1e}")


def check_kernels_gradient(case: Case, entry: Entry) -> None:
    """Every parameter moves the process, with a finite gradient."""
    kernel = build(case, entry)
    a, q = kernel.transition(toys.steps())
    p, h = kernel.initial(), kernel.readout()
    total = (a * a.sin()).sum() + q.cos().sum() + (p @ h).sin().sum() + p.cos().sum()
    named = dict(kernel.named_parameters())
    skip_unless(bool(named), "it has no parameters")
    slopes = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    for name, slope in zip(named, slopes, strict=True):
        expect(slope is not None and bool(slope.isfinite().all()), f"parameter {name!r} has no finite gradient")
