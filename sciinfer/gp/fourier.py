"""Stationary Gaussian processes on an even grid as independent Fourier coefficients, and their exact posterior.

A window of ``T`` times is seen as a part of a circle of ``n >= T + 8 l / h`` times, so that its ends do not touch:
``z = B w`` with a real orthonormal Fourier basis ``B`` and independent ``w_f ~ N(0, s_f)``, few of which matter.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, TimeError
from ..statespace.sites import Sites
from .kernels import RBF, Kernel, Matern12, Matern32, Matern52

#: length-scales between the end of the window and its beginning on the circle
PADDING = 8.0
#: coefficients with less than this share of the largest variance are left out
CONDITION = 1e16
#: correlation across the padding below which heavy tails count as gone
_TAIL = 1e-13
#: how far from the grid a time may lie, steps; and most steps in a gap
_UNEVEN, _FINEST = 1e-5, 1e4
FOURIER_KERNELS = (RBF, Matern12, Matern32, Matern52)


class FourierPrior(NamedTuple):
    """``K`` independent processes on one circle.

    ``step``: of the grid, time. ``size``: ``n``, times on the circle. ``number [F]``: whole periods on the circle of
    each basis function; ``sine [F]``: is it a sine; ``height [F]``: its amplitude. ``spectrum [K, F]``: variances
    ``s_f`` of the coefficients.
    """

    step: float
    size: int
    number: Tensor
    sine: Tensor
    height: Tensor
    spectrum: Tensor

    def basis(self, time: Tensor) -> Tensor:
        """``B [..., F]`` at ``time [...]``, counted from the series' own start."""
        turn = 2 * math.pi / self.size * (time / self.step)[..., None] * self.number
        return self.height * torch.where(self.sine, turn.sin(), turn.cos())

    def covariance(self, time: Tensor) -> Tensor:
        """``B diag(s) B^T``, ``[K, T, T]``, of one window ``time [T]``."""
        B = self.basis(time)
        return (B * self.spectrum[:, None]) @ B.mT


class FourierPosterior(NamedTuple):
    """``q(w) = p(w) prod t(z) / Z``: the coefficients in units of their prior's spread, dense in the frequencies.

    ``mean [S, K, F]``; ``root [S, K, F, F]``: Cholesky factor of the precision; ``log_normaliser``, ``divergence [S]``:
    ``log Z`` and ``KL(q || p)`` of whole paths, both exact.
    """

    prior: FourierPrior
    mean: Tensor
    root: Tensor
    log_normaliser: Tensor
    divergence: Tensor

    def moments(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of ``z``, ``[S, n, K]`` each, at ``time [S, n]`` (the latents are independent)."""
        rows = _rows(self.prior, time)
        # plain products with the inverse factor: a batched triangular solve is slow for many right-hand sides
        spread = rows @ _inverse(self.root).mT
        return (rows @ self.mean[..., None])[..., 0].mT, spread.square().sum(-1).mT

    def sample(self, draws: int, generator: torch.Generator, time: Tensor) -> Tensor:
        """Joint draws of ``z``, ``[draws, S, n, K]``, at ``time [S, n]``, any order."""
        like = self.mean
        noise = torch.randn((draws, *like.shape), generator=generator, dtype=like.dtype, device=like.device)
        w = like + (_inverse(self.root).mT @ noise[..., None])[..., 0]
        return torch.einsum("skif,nskf->nsik", _rows(self.prior, time), w)


def circulant_size(times: int, lengthscale: float, *, padding: float = PADDING) -> int:
    """Times on the circle: the window and ``padding`` length-scales behind it, an even number.

    Args:
        times: of the window. lengthscale: in steps of the grid.

    Example:
        >>> circulant_size(60, 10.0), circulant_size(60, 20.0)
        (140, 220)
    """
    size = max(times, 1) + math.ceil(padding * lengthscale - 1e-9)
    return size + size % 2


def even_step(time: Tensor, rows: Tensor) -> float:
    """The step of the even grid that all times lie on; a grid may have gaps. 1 where there are no two times.

    Args:
        time: ``[S, T]`` ascending. rows: ``[S, T]``, False = padding.

    Raises:
        TimeError: the times lie on no even grid (of which no gap has more than ten thousand steps).

    Example:
        >>> time = torch.tensor([[0.0, 1.0, 1.5, 3.0]]); even_step(time, time >= 0)
        0.5
    """
    gaps = (time[:, 1:] - time[:, :-1])[rows[:, 1:]]
    noise = 64 * torch.finfo(time.dtype).eps * float(time.abs().max())
    gaps = gaps[gaps > noise]
    if not len(gaps):
        return 1.0
    longest, step = float(gaps.max()), float(gaps.min())
    while True:
        # Euclid: what is left of the gaps is divided in its turn
        rest = (gaps - step * (gaps / step).round()).abs()
        left = rest > max(_UNEVEN * step, noise)
        if not bool(left.any()):
            break
        step = float(rest[left].min())
        if longest / step > _FINEST:
            raise TimeError("the times lie on no even grid", fix='form="time", which takes any times')
    # the longest gap tells the step with the smallest relative error
    return longest / round(longest / step)


def fourier_prior(
    kernels: Sequence[Kernel], span: float, step: float, *, padding: float = PADDING, condition: float = CONDITION
) -> FourierPrior:
    """The prior for windows of length ``span`` on a grid of ``step``.

    The circle grows with the length-scales as they are now, so a prior is made anew whenever they have changed. RBF:
    ``s_f = sqrt(2 pi) v (l/h) exp(-(2 pi f l / (n h))^2 / 2)``, good at any time; Matérn: the exact eigenvalues of the
    covariance summed around the circle, good on the grid.

    Args:
        kernels: RBF or Matérn, one for each latent. padding: length-scales, 4 leaves an error of 2e-4.
        condition: coefficients of less than ``1 / condition`` of the largest variance are left out.

    Raises:
        ConfigError: another kernel.

    References:
        Gondur et al. (2024), Multi-modal Gaussian process variational autoencoders for neural and behavioral data.
        Dietrich, Newsam (1997), Fast and exact simulation of stationary Gaussian processes.

    Example:
        >>> prior = fourier_prior([RBF(lengthscale=10.0)], span=59.0, step=1.0, condition=1e8)
        >>> prior.size, prior.number.numel()
        (140, 27)
    """
    dense = _is_dense(kernels)
    times = round(span / step) + 1
    size = max(circulant_size(times, _scale(k) / step, padding=max(padding, _reach(type(k)))) for k in kernels)
    waves = max(_waves(kernel, size, step, condition) for kernel in kernels)
    like = kernels[0].readout()
    number = torch.arange(waves, device=like.device)
    # on a grid, the fastest wave has no sine; in continuous time it is nothing special
    single = (number == 0) if dense else (number == 0) | (2 * number == size)
    number = torch.cat([number, number[~single]])
    sine = torch.arange(len(number), device=like.device) >= waves
    height = torch.full_like(like[:1], math.sqrt(2 / size)).repeat(len(number))
    height[:waves][single] = math.sqrt(1 / size)
    spectrum = torch.stack([_spectrum(kernel, number, size, step) for kernel in kernels])
    return FourierPrior(step, size, number, sine, height, spectrum)


def condition_fourier(prior: FourierPrior, time: Tensor, potentials: Sites) -> FourierPosterior:
    """Multiply the prior by ``t(z_i) = exp(shift_i z_i - precision_i z_i^2 / 2)`` at each time, exactly.

    With ``H = B diag(s)^{1/2}`` and ``w`` in units of its prior's spread the precision is ``M = I + H^T J H``;
    ``log Z = (b^T M^{-1} b - log |M|) / 2`` with ``b = H^T j``.

    Args:
        time: ``[S, T]``, from the series' own start. potentials: ``[S, T, K]`` each; zeros say nothing.

    Example:
        >>> prior = fourier_prior([RBF()], span=0.0, step=1.0)
        >>> one = torch.ones(1, 1, 1, dtype=torch.float64)
        >>> mean, _ = condition_fourier(prior, one[..., 0], Sites(one, one)).moments(one[..., 0])
        >>> round(mean.item(), 6)
        0.5
    """
    rows = _rows(prior, time)
    J, j = potentials.precision.mT, potentials.shift.mT
    eye = torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)
    root = torch.linalg.cholesky(eye + (rows * J[..., None]).mT @ rows)
    b = rows.mT @ j[..., None]
    mean = torch.cholesky_solve(b, root)
    log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1))
    log_z = 0.5 * ((b * mean).sum((-3, -2, -1)) - log_det)
    trace = _inverse(root).square().sum((-2, -1)).sum(-1)
    mean = mean[..., 0]
    size = mean.shape[-2] * mean.shape[-1]
    divergence = 0.5 * (trace + mean.square().sum((-2, -1)) - size + log_det)
    return FourierPosterior(prior, mean, root, log_z, divergence)


def _rows(prior: FourierPrior, time: Tensor) -> Tensor:
    """``B diag(s)^{1/2}`` of each latent, ``[S, K, T, F]``."""
    return prior.basis(time)[:, None] * prior.spectrum.sqrt()[:, None]


def _inverse(root: Tensor) -> Tensor:
    eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
    return torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)


def _scale(kernel: Kernel) -> float:
    return math.exp(float(kernel.get_parameter("log_lengthscale").detach()))


@functools.cache
def _reach(kind: type[Kernel]) -> float:
    """Length-scales after which the correlation is below the tail's; the tails of Matérn kernels are exponential."""
    if kind is RBF:
        return 0.0
    lag = torch.arange(0.0, 64.0, 0.25, dtype=torch.float64)
    with torch.no_grad():
        return float(lag[kind().covariance(lag) > _TAIL].max())


def _is_dense(kernels: Sequence[Kernel]) -> bool:
    """Is the series that of continuous time (RBF), or of the grid (Matérn)."""
    for kernel in kernels:
        if not isinstance(kernel, FOURIER_KERNELS) or isinstance(kernel, RBF) != isinstance(kernels[0], RBF):
            raise ConfigError(
                f"no Fourier form of {type(kernel).__name__} beside {type(kernels[0]).__name__}",
                variable="kernel",
                fix="rbf for every latent, or matern12, matern32, matern52",
            )
    return isinstance(kernels[0], RBF)


def _waves(kernel: Kernel, size: int, step: float, condition: float) -> int:
    """Frequencies ``0, 1, ...`` whose variance is not negligible."""
    if not isinstance(kernel, RBF):
        return size // 2 + 1
    return 1 + math.floor(size * step * math.sqrt(2 * math.log(condition)) / (2 * math.pi * _scale(kernel)))


def _spectrum(kernel: Kernel, number: Tensor, size: int, step: float) -> Tensor:
    """Variances ``[F]`` of the coefficients."""
    if isinstance(kernel, RBF):
        scale = kernel.lengthscale / step
        turn = 2 * math.pi / size * number.to(scale.dtype)
        return math.sqrt(2 * math.pi) * kernel.variance * scale * (-0.5 * (turn * scale).square()).exp()
    lag = torch.arange(size, dtype=kernel.readout().dtype, device=number.device)
    # twice around the circle lies beyond the tail
    turns = [kernel.covariance(step * (lag + turn * size)) for turn in (-2, -1, 0, 1)]
    found = torch.fft.rfft(torch.stack(turns).sum(0)).real
    floor = torch.finfo(found.dtype).eps * found.detach().amax()
    found = torch.maximum(found, floor)
    return torch.where(number < len(found), found[number.clamp(max=len(found) - 1)], torch.zeros_like(found[:1]))
