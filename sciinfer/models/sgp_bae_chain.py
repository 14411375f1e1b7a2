"""What the chains of a sparse-GP Bayesian autoencoder move in: shared parameters, and inducing variables by series."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..mcmc.sghmc import sghmc
from .sparse_gp_vae_core import RowBatch, Whitened
from .sparse_gp_vae_inducing import SparseGPVAE


class Globals:
    """Decoder, kernels and likelihood as one vector ``[P]``, with independent normal priors of unit deviation.

    Weights of the decoder are centred at zero; logarithms of length-scales, noise and the like where they began.
    """

    def __init__(self, core: SparseGPVAE, names: list[str], centre: Tensor) -> None:
        known = dict(core.named_parameters())
        self.parameters, self.centre = [known[name] for name in names], centre

    @staticmethod
    def begin(core: SparseGPVAE) -> tuple[list[str], Tensor]:
        """Names of what is sampled, and the centre ``[P]`` of its prior, of a model that has seen no data."""
        inside = ("decoder.", "_covariances.", "likelihood.")
        found = {name: p for name, p in core.named_parameters() if name.startswith(inside) and p.requires_grad}
        parts = [torch.zeros_like(p) if name.startswith("decoder.") else p for name, p in found.items()]
        return list(found), torch.cat([part.detach().flatten() for part in parts])

    def read(self) -> Tensor:
        """``[P]``."""
        return torch.cat([p.detach().flatten() for p in self.parameters])

    @torch.no_grad()
    def write(self, vector: Tensor) -> None:
        """Set all parameters."""
        sizes = [p.numel() for p in self.parameters]
        for parameter, part in zip(self.parameters, vector.split(sizes), strict=True):
            parameter.copy_(part.view_as(parameter))

    @contextmanager
    def holding(self, vector: Tensor) -> Iterator[None]:
        """The parameters at ``vector`` for a while."""
        before = self.read()
        self.write(vector)
        try:
            yield
        finally:
            self.write(before)


class Frame(NamedTuple):
    """``u = mean + root^-T w``: inducing variables in the coordinates of an approximate posterior, ``w [.., S, K, M]``.

    Any frame gives the same posterior of ``u``; in a good one ``w`` is about standard normal.
    """

    q: Whitened

    @property
    def shape(self) -> torch.Size:
        """``S, K, M``."""
        return self.q.mean.shape

    def inducing(self, w: Tensor) -> Tensor:
        """``[n, S, K, M]`` from flat ``w [n, S K M]``."""
        return self.q.at(w.view(len(w), *self.shape))


def frame_of(core: SparseGPVAE, data: RowBatch) -> Frame:
    """The encoder's posterior under the current parameters."""
    with torch.no_grad():
        return Frame(core.infer(data, core.sites(data))[0])


def repeated(data: RowBatch, times: int) -> RowBatch:
    """The same rows for each of several chains."""
    return data if times == 1 else RowBatch(*(part.repeat(times, 1, 1) for part in data))


def log_joint(
    core: SparseGPVAE, data: RowBatch, u: Tensor, A: Tensor, rest: Tensor, generator: torch.Generator | None
) -> Tensor:
    """``log N(u; 0, I) + sum_i E_{p(z_i|u)} log p(y_i | z_i)`` of ``u [n, S, K, M]``, ``[n, S]``, up to a constant."""
    n, S = u.shape[:2]
    mean = (A.mT @ u.unsqueeze(-1)).squeeze(-1).mT.flatten(0, 1).to(data.values)
    left = rest.expand(n, *rest.shape).flatten(0, 1).to(data.values)
    fit = core.expected(repeated(data, n), mean, left, generator).sum(-1).view(n, S)
    return fit - 0.5 * u.square().sum((-2, -1))


def draw_inducing(
    core: SparseGPVAE, data: RowBatch, chains: int, steps: int, step: float, generator: torch.Generator
) -> Tensor:
    """Inducing variables ``[n, S, K, M]`` given the current parameters: one draw of each chain after ``steps``."""
    frame = frame_of(core, data)
    A, rest = (part.detach() for part in core.project(data.x))

    def slope(w: Tensor, g: torch.Generator) -> Tensor:
        with torch.enable_grad():
            w = w.detach().requires_grad_()
            return torch.autograd.grad(log_joint(core, data, frame.inducing(w), A, rest, g).sum(), w)[0]

    size, like = frame.shape.numel(), frame.q.mean
    start = torch.randn((chains, size), generator=generator, dtype=like.dtype, device=like.device)
    if steps == 0:
        return frame.inducing(start)
    found = sghmc(slope, start, generator=generator, draws=1, burn=steps - 1, step=step)
    return frame.inducing(found.draws[:, -1])


def draw_globals(
    core: SparseGPVAE,
    shared: Globals,
    data: RowBatch,
    *,
    draws: int,
    burn: int,
    thin: int,
    step: float,
    batch: int,
    generator: torch.Generator,
) -> Tensor:
    """Draws of the shared parameters, ``[J, P]``, together with the inducing variables of all series.

    Args:
        batch: series that each slope looks at; the others' part is made up for by weight.
    """
    frame, P, parameters = frame_of(core, data), len(shared.centre), shared.parameters
    S = len(data.x)

    def slope(position: Tensor, g: torch.Generator) -> Tensor:
        shared.write(position[0, :P])
        chosen = torch.arange(S, device=data.x.device)
        if batch < S:
            chosen = torch.randperm(S, generator=g, device=data.x.device)[:batch]
        some = RowBatch(*(part[chosen] for part in data))
        with torch.enable_grad():
            w = position[:, P:].detach().requires_grad_()
            value = (
                log_joint(core, some, frame.inducing(w)[:, chosen], *core.project(some.x), g).sum() * S / len(chosen)
            )
            for parameter, centre in zip(parameters, _split(shared.centre, parameters), strict=True):
                value = value - 0.5 * (parameter - centre).square().sum()
            found = torch.autograd.grad(value, [*parameters, w], allow_unused=True)
        parts = [torch.zeros_like(p) if f is None else f for p, f in zip([*parameters, w], found, strict=True)]
        return torch.cat([part.flatten().to(position) for part in parts])[None]

    start = torch.cat([shared.read().to(frame.q.mean), torch.zeros_like(frame.q.mean).flatten()])
    scale = torch.ones_like(start)
    scale[:P] = max(int(data.mask.sum()), 1) ** -0.5
    found = sghmc(
        slope, start[None], generator=generator, draws=draws, burn=burn, thin=thin, step=step, scale=scale, adapt=True
    )
    return found.draws[0, :, :P]


def _split(vector: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    parts = vector.split([p.numel() for p in parameters])
    return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]
