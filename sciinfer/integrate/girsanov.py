"""Path divergence of two diffusions that share their noise, accumulated along simulated paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .gradients import solve
from .grid import step_grid
from .sde import Noise, check_drift, check_state, native, noise_width, prepare
from .solver import DIAGONAL, Field, Solver


class PathKL(NamedTuple):
    """``z [T, ..., d]``; ``kl [T, ...]``: divergence up to each output time; ``nfe``: posterior drift calls."""

    z: Tensor
    kl: Tensor
    nfe: int


def girsanov(
    posterior_drift: Field,
    prior_drift: Field,
    diffusion: Field,
    z0: Tensor,
    times: Tensor,
    *,
    steps: int | None = None,
    dt: float | None = None,
    noise: Noise,
    solver: str | Solver = "euler-maruyama",
    noise_type: str = DIAGONAL,
    keys: Tensor | None = None,
    check: bool = True,
    gradient: str = "backprop",
    checkpoint: int | None = None,
    params: Sequence[Tensor] | None = None,
) -> PathKL:
    """Simulate the posterior dz = f dt + g dW and accumulate its divergence from the prior dz = h dt + g dW.

    KL(path) = E int 1/2 |u|^2 dt,  u = g^-1 (f - h),  one sample of the integral for each path. The divergence of the
    initial laws is not included. f - h must lie in the range of g; if g is not square, u is the shortest solution.

    Args:
        posterior_drift, prior_drift: f and h of ``(t, z)``, in the calculus of the solver.
        diffusion: g, shared (else the divergence is infinite); keep it away from zero.
        z0, times, steps, dt, noise, solver, noise_type, keys, check: as in :func:`sciinfer.integrate.sdeint`.
        gradient, checkpoint, params: likewise.

    Returns:
        ``z [T, ..., d]`` and ``kl [T, ...]`` (nats, per path), differentiable.

    References: Girsanov (1960); Li, Wong, Chen, Duvenaud (2020), Scalable gradients for SDEs.

    Example:
        >>> import torch
        >>> z0, one = torch.zeros(4, 1, dtype=torch.float64), lambda t, z: torch.ones_like(z)
        >>> f, h, times = lambda t, z: 0 * z + 2.0, lambda t, z: 0 * z, torch.tensor([0.0, 3.0])
        >>> path = girsanov(f, h, one, z0, times, steps=30, noise=0)
        >>> [round(float(v), 12) for v in path.kl[-1]]
        [6.0, 6.0, 6.0, 6.0]
    """
    check_state(z0)
    grid, scheme = step_grid(times, steps=steps, dt=dt), native(solver, noise_type)
    noise_width(posterior_drift, diffusion, grid.times[0].to(z0), z0, scheme.noise_type)
    with torch.no_grad():
        check_drift(prior_drift(grid.times[0].to(z0), z0), z0, "prior_drift")
    drift, spread = _augmented(posterior_drift, prior_drift, diffusion, scheme.noise_type)
    # the accumulated divergence has no noise of its own
    problem = prepare(drift, spread, pad(z0, (0, 1)), grid, noise, scheme, keys, idle=1)
    problem = problem._replace(
        check=check,
        what="posterior drift, prior drift or 1/diffusion",
        named=(posterior_drift, prior_drift, diffusion),
    )
    states, _ = solve(problem, pad(z0, (0, 1)), gradient, checkpoint, params)
    return PathKL(states[..., :-1], states[..., -1], problem.evaluations)


def control(difference: Tensor, g: Tensor, noise_type: str) -> Tensor:
    """``[..., m]``: u with g u = difference, for a diffusion in the layout of the noise type.

    Example:
        >>> import torch
        >>> control(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]), "diagonal").tolist()
        [0.5, 0.5]
    """
    if noise_type == DIAGONAL:
        return difference / g
    if g.shape[-1] == g.shape[-2]:
        # the _ex form leaves a singular g to the check of the states, which names time and series
        matrix = g.expand(*difference.shape[:-1], *g.shape[-2:])
        return torch.linalg.solve_ex(matrix, difference.unsqueeze(-1)).result.squeeze(-1)
    return torch.matmul(torch.linalg.pinv(g), difference.unsqueeze(-1)).squeeze(-1)


def _augmented(posterior: Field, prior: Field, diffusion: Field, noise_type: str) -> tuple[Field, Field]:
    """Fields of the state ``[z, kl]``."""

    def drift(t: Tensor, state: Tensor) -> Tensor:
        z = state[..., :-1]
        f = posterior(t, z)
        u = control(f - prior(t, z), diffusion(t, z), noise_type)
        return torch.cat([f, 0.5 * (u * u).sum(-1, keepdim=True)], dim=-1)

    def spread(t: Tensor, state: Tensor) -> Tensor:
        z = state[..., :-1]
        g = diffusion(t, z)
        return pad(g.expand_as(z), (0, 1)) if noise_type == DIAGONAL else pad(g, (0, 0, 0, 1))

    return drift, spread
