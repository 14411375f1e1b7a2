"""The simulated ELBO: posterior paths by Euler-Maruyama, the path divergence accumulated along them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..labelled.series import Padded
from ..processes import bridge_marginals, gaussian_divergence
from ..processes.bridge import take
from ..processes.posterior import BridgePosterior, Rows
from ..statespace import cholesky, matvec

if TYPE_CHECKING:
    from .path_model import PathModel

#: fewest Euler steps per gap
MIN_STEPS = 4


def simulated_elbo(
    model: PathModel, padded: Padded, context: Tensor, rows: Rows | None, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Expected log-likelihood, ``KL(q_0 || p_0)`` and path divergence ``[S]`` from one simulated path per series.

    The posterior drift at the left end of each step is the bridge's; ``1/2 |g^{-1}(f - h)|^2 dt`` is summed.
    """
    posterior = model.posterior
    if not isinstance(posterior, BridgePosterior):
        from ..errors import ConfigError

        raise ConfigError("simulated inference needs the bridge posterior", fix='posterior="bridge"')
    fine, at_data = refine(padded.time, model.step)
    bridge = posterior.bridge(padded, context, rows, fine)
    q = bridge_marginals(bridge, fine, bridge.at_query, posterior.tilted.matrix, posterior.tilted.spread)
    m0, S0 = bridge.mean(bridge.at_query[:, :1])[:, 0], bridge.cov(bridge.at_query[:, :1])[:, 0]
    noise = torch.randn((fine.shape[1], *m0.shape), generator=generator, dtype=m0.dtype, device=m0.device)
    z = m0 + matvec(cholesky(S0), noise[0])
    path, divergence = [z], torch.zeros_like(m0[:, 0])
    step = fine.diff(dim=1)
    for k in range(fine.shape[1] - 1):
        t, g = fine[:, k], model.process.diffusion(fine[:, k], z)
        centred = z - q.mean[:, k]
        pull = torch.cholesky_solve(centred.unsqueeze(-1), q.root[:, k]).squeeze(-1)
        f = q.velocity[:, k] + matvec(q.flow[:, k], centred) - 0.5 * g.square() * pull
        gap = ((f - model.process.drift(t, z)) / g).square().sum(-1)
        divergence = divergence + 0.5 * gap * step[:, k]
        z = z + f * step[:, k, None] + g * step[:, k, None].sqrt() * noise[k + 1]
        path.append(z)
    latent = take(torch.stack(path, dim=1), at_data)
    fit = model.likelihood.log_prob(padded.values, model.decoder(latent), padded.mask).sum(1)
    start = gaussian_divergence(m0, S0, *model.process.initial())
    return fit, start * padded.rows.any(dim=1), divergence


def refine(time: Tensor, step: float | Tensor, least: int = MIN_STEPS) -> tuple[Tensor, Tensor]:
    """A grid ``[S, N]`` with steps of at most ``step`` that holds the data's times, and their places in it ``[S, T]``.

    ``step`` may differ by gap, ``[S, T - 1]``; a gap gets at least ``least`` steps.
    Short series are padded by repeating their last time.
    """
    if time.shape[1] == 1:
        return time, torch.zeros_like(time, dtype=torch.int64)
    gaps = time.diff(dim=1)
    counts = torch.ceil(gaps / step).long().clamp(min=least) * (gaps > 0)
    ends = torch.cat([torch.zeros_like(counts[:, :1]), counts.cumsum(dim=1)], dim=1)
    number = torch.arange(int(ends[:, -1].max()) + 1, device=time.device).expand(len(time), -1).contiguous()
    last = time.shape[1] - 1
    gap = (torch.searchsorted(ends, number, right=True) - 1).clamp(0, last - 1)
    inside = (number - ends.gather(1, gap)).to(time.dtype) / counts.gather(1, gap).clamp(min=1)
    fine = time.gather(1, gap) + gaps.gather(1, gap) * inside.clamp(max=1.0)
    return torch.where(number >= ends[:, -1:], time[:, -1:], fine), ends
