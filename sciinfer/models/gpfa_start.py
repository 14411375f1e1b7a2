"""Where factor analysis with Gaussian-process latents starts: moments for the loadings, Whittle for the time scales.

With log-linear rates the covariance of counts gives that of the predictors in closed form, ``Cov(eta_i, eta_j) =
log(1 + Cov(y_i, y_j) / (mu_i mu_j))``; other links are linearised. Principal axes of it are the loadings.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import SciInferError
from ..gp.kernels import Kernel
from ..gp.whittle import whittle_start
from ..labelled.series import Padded
from .gpfa_latents import hold_variance

#: counts that a smoothing window should hold, and zeros and ones that it should
_COUNTS, _TRIALS = 5.0, 8
#: times that enter the periodogram
_MOST = 20_000
_LOG = ("poisson", "negative-binomial")
#: how a likelihood's predictor relates to the mean: ``log``, ``logit``, or the mean itself
LINKS = {**dict.fromkeys(_LOG, "log"), "bernoulli": "logit"}


class Start(NamedTuple):
    """``weight [C, K]``, ``bias [C]``; ``noise [C]``: variance that the latents do not explain (real channels)."""

    weight: Tensor
    bias: Tensor
    noise: Tensor


class _Moments(NamedTuple):
    """``mean [C]``; ``scale [C]``: derivative of the predictor by the mean; ``shot [C]``: variance of the noise."""

    mean: Tensor
    scale: Tensor
    shot: Tensor


def factor_start(padded: Padded, links: Sequence[str], latents: int) -> Start:
    """Loadings and offsets by moments.

    Args:
        padded: ``values, mask [S, T, C]``. links: of each channel. latents: ``K``.

    References:
        Buesing, Macke, Sahani (2012), Spectral learning of linear dynamics from generalised-linear observations.
    """
    log = torch.tensor([link == "log" for link in links], device=padded.mask.device)
    moments = _moments(padded, links)
    window = _window(moments, links, padded.values.shape[1])
    values, seen = _smooth(padded, window)
    centred = torch.where(seen, values - moments.mean, torch.zeros_like(values)).flatten(0, 1)
    weights = seen.to(centred.dtype).flatten(0, 1)
    cov = centred.mT @ centred / (weights.mT @ weights).clamp(min=1.0)
    total = cov.diagonal().clone()
    R = cov * moments.scale[:, None] * moments.scale
    both = log[:, None] & log
    R = torch.where(both, R.clamp(min=-0.9).log1p(), R)
    excess = (total - moments.shot / window).clamp(min=0.05 * total).clamp(min=1e-4) * moments.scale.square()
    weight = _principal_axes(R, torch.where(log, excess.log1p(), excess), latents)
    common = weight.square().sum(1)
    bias = _predictor(moments.mean, links) - torch.where(log, 0.5 * common, torch.zeros_like(common))
    return Start(weight, bias, (total - common).maximum(0.05 * total).clamp(min=1e-6))


def _moments(padded: Padded, links: Sequence[str]) -> _Moments:
    count = padded.mask.sum((0, 1)).clamp(min=1)
    mean = (padded.values * padded.mask).sum((0, 1)) / count
    spread = ((padded.values - mean).square() * padded.mask).sum((0, 1)) / count
    least = 0.5 / count
    found = []
    for c, link in enumerate(links):
        if link == "log":
            m = mean[c].maximum(least[c])
            found.append((m, 1 / m, m))
        elif link == "logit":
            m = mean[c].maximum(least[c]).minimum(1 - least[c])
            found.append((m, 1 / (m * (1 - m)), m * (1 - m)))
        else:
            found.append((mean[c], torch.ones_like(mean[c]), 0.5 * spread[c]))
    return _Moments(*(torch.stack(part) for part in zip(*found, strict=True)))


def _predictor(mean: Tensor, links: Sequence[str]) -> Tensor:
    kinds = {"log": torch.log, "logit": torch.logit}
    return torch.stack([kinds.get(link, torch.clone)(m) for m, link in zip(mean, links, strict=True)])


def _window(moments: _Moments, links: Sequence[str], times: int) -> int:
    rates = [float(m) for m, link in zip(moments.mean, links, strict=True) if link == "log"]
    wanted = math.ceil(_COUNTS / sorted(rates)[len(rates) // 2]) if rates else _TRIALS if "logit" in links else 1
    return max(1, min(wanted, times // 10))


def _smooth(padded: Padded, window: int) -> tuple[Tensor, Tensor]:
    """Means over ``window`` rows ahead, and where there is one."""
    if window == 1:
        return padded.values, padded.mask
    both = torch.stack([padded.values * padded.mask, padded.mask.to(padded.values.dtype)])
    sums = torch.nn.functional.pad(both.cumsum(2), (0, 0, 1, 0))
    total, count = sums[:, :, window:] - sums[:, :, :-window]
    return total / count.clamp(min=1.0), count > 0.5


def _principal_axes(R: Tensor, diagonal: Tensor, latents: int, rounds: int = 20) -> Tensor:
    """``W [C, K]`` with ``W W^T`` near ``R`` off the diagonal; few channels keep the given diagonal."""
    channels = len(R)
    W = R.new_zeros(channels, latents)
    for _ in range(rounds if channels > 2 * latents else 1):
        values, vectors = torch.linalg.eigh(R - torch.diag(R.diagonal() - diagonal))
        kept = min(latents, channels)
        values, vectors = values.flip(0)[:kept], vectors.flip(1)[:, :kept]
        W[:, :kept] = vectors * values.clamp(min=1e-2 * float(values[0].clamp(min=1e-2))).sqrt()
        diagonal = W.square().sum(1)
    if latents > channels:
        # latents beyond the number of channels begin with little of what the others have
        W[:, channels:] = 0.1 * W[:, : latents - channels] if latents <= 2 * channels else 0.1 * W.mean()
    return W


def start_timescales(kernels: Sequence[Kernel], padded: Padded, start: Start, links: Sequence[str]) -> bool:
    """Set each kernel's parameters in place from the periodogram of the data projected on its loadings.

    Returns:
        False where there was too little data for a periodogram; nothing is changed then.
    """
    moments = _moments(padded, links)
    precision = _information(moments, start, links)
    residual = (padded.values - moments.mean) * moments.scale * padded.mask
    gram = (start.weight.mT * precision) @ start.weight
    lift = 1e-3 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device) * gram.diagonal().amax()
    scores = torch.linalg.solve(gram + lift, (residual * precision @ start.weight).flatten(0, 1).mT).mT
    series, step, span = _evenly(padded, scores.unflatten(0, padded.rows.shape))
    if step <= 0:
        return False
    try:
        fitted = [_fit_kernel(kernel, series[:, k], step, span) for k, kernel in enumerate(kernels)]
    except SciInferError:
        return False
    for kernel, found in zip(kernels, fitted, strict=True):
        kernel.load_state_dict(found.state_dict())
        hold_variance(kernel)
    return True


def column_noise(padded: Padded, start: Start, links: Sequence[str]) -> Tensor:
    """Expected squared length of a column of loadings that fits nothing but noise: one over each channel's Fisher
    information about its loading, summed over channels."""
    information = _information(_moments(padded, links), start, links) * padded.mask.sum((0, 1))
    return (1 / information[information > 0]).sum()


def _information(moments: _Moments, start: Start, links: Sequence[str]) -> Tensor:
    """What one entry of each channel says about its predictor, ``[C]``."""
    real = torch.tensor([link not in ("log", "logit") for link in links], device=moments.mean.device)
    return torch.where(real, 1 / start.noise, 1 / moments.scale)


def _evenly(padded: Padded, scores: Tensor) -> tuple[Tensor, float, float]:
    """All series on one even grid, one after the other with a gap of the longest between; NaN where nothing is."""
    lengths = padded.rows.sum(1)
    steps = padded.time.diff(dim=1)[padded.rows[:, 1:]]
    step = float(steps.mean()) if len(steps) else 0.0
    if step <= 0:
        return scores[0], 0.0, 0.0
    parts, used = [], 0
    for s in torch.argsort(lengths, descending=True, stable=True).tolist():
        rows = padded.rows[s] & padded.mask[s].any(-1)
        place = ((padded.time[s] - padded.time[s, 0]) / step).round().long()
        rows = rows & (place < _MOST)
        if used >= _MOST or not bool(rows.any()):
            break
        width = int(place[rows].max()) + 1
        total = scores.new_zeros(width, scores.shape[-1]).index_add_(0, place[rows], scores[s][rows])
        count = scores.new_zeros(width).index_add_(0, place[rows], torch.ones_like(scores[s, rows, 0]))
        parts.append(torch.where(count[:, None] > 0, total / count.clamp(min=1.0)[:, None], torch.nan))
        used += width
    blank = torch.full((max(len(p) for p in parts), scores.shape[-1]), torch.nan, dtype=scores.dtype) if parts else None
    if blank is None:
        return scores[0], 0.0, 0.0
    together = [piece for part in parts for piece in (part.cpu(), blank)]
    return torch.cat(together[:-1]).double(), step, step * len(blank)


def _fit_kernel(kernel: Kernel, y: Tensor, step: float, span: float) -> Kernel:
    start = copy.deepcopy(kernel).to(device="cpu", dtype=torch.float64)
    for parameter in start.parameters():
        parameter.requires_grad_(True)
    _bound(start, 2 * step, max(span, 3 * step))
    seen = y[~y.isnan()]
    variance = float(seen.var()) if len(seen) > 1 else 1.0
    found, _, _ = whittle_start(start, y, step, noise=max(0.3 * variance, 1e-6), iterations=40)
    _bound(found, step, max(span, 2 * step))
    return found


@torch.no_grad()
def _bound(kernel: Kernel, least: float, most: float) -> None:
    for name, parameter in kernel.named_parameters():
        if name.rpartition(".")[2] == "log_lengthscale":
            parameter.clamp_(math.log(least), math.log(most))
