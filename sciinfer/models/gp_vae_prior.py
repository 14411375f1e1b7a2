"""Independent latent Gaussian processes as lanes of small states, and their posterior under potentials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..gp.kernels import Kernel, Scaled, parse_kernel
from ..processes import GaussianPath, LinearProcess, condition_potentials
from ..processes.bridge import take_paths
from ..statespace.discretise import unique_steps
from ..statespace.sites import Sites

#: the kernel that joins no two times
WHITE = "white"


class White(Kernel):
    """``k(r) = 1`` at ``r = 0``, else 0: no time knows of another, as in a VAE without a process.

    Example:
        >>> White().covariance(torch.tensor([0.0, 0.1], dtype=torch.float64)).tolist()
        [1.0, 0.0]
    """

    state_dim = 1
    one: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(1, dtype=torch.float64))

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """All is forgotten over any step but zero."""
        A = (dt == 0).to(dt.dtype)[..., None, None]
        return A, 1 - A

    def initial(self) -> Tensor:
        """One."""
        return self.one[None]

    def readout(self) -> Tensor:
        """The state itself."""
        return self.one


def latent_kernels(
    text: str | Sequence[str],
    latents: int,
    duration: Callable[..., float] = float,
    *,
    learn: bool = True,
    learn_variance: bool = False,
) -> tuple[list[Kernel], list[bool]]:
    """One kernel for each latent, and whether its length-scale was left open.

    Args:
        text: one for all latents, or one for each: a list, or with ``;`` between them.
        learn: are length-scales, periods and such parameters. learn_variance: are the variances; if not, each ``k(0)``
            is one, since the decoder can take up any other.

    Raises:
        ConfigError: another number of kernels; a kernel that is not stationary.

    Example:
        >>> kernels, free = latent_kernels("matern32; hida-matern(lengthscale=4, period=2)", 2)
        >>> [k.state_dim for k in kernels], free
        ([2, 4], [True, False])
    """
    parts = split_texts(text)
    if len(parts) == 1:
        parts = parts * latents
    if len(parts) != latents:
        raise ConfigError(f"{len(parts)} kernels for {latents} latents", variable="kernel", fix="one, or one for each")
    made = [White() if part.strip() == WHITE else parse_kernel(part, duration) for part in parts]
    return [_held(kernel, learn, learn_variance) for kernel in made], ["lengthscale" not in part for part in parts]


def split_texts(text: str | Sequence[str]) -> list[str]:
    """The texts of single kernels.

    Raises:
        ConfigError: something that is not text.
    """
    given = list(text) if isinstance(text, Sequence) and not isinstance(text, str) else [text]
    if not all(isinstance(one, str) for one in given):
        raise ConfigError(f"kernels are written as text, got {text!r}", variable="kernel", fix='kernel="matern32"')
    return [part for one in given for part in one.split(";") if part.strip()]


def _held(kernel: Kernel, learn: bool, learn_variance: bool) -> Kernel:
    """``kernel`` with ``k(0) = 1`` and what is not to be learned frozen."""
    if not kernel.stationary or kernel.outputs != 1:
        raise ConfigError("latents need stationary kernels of one output", variable="kernel", fix='kernel="matern32"')
    if not learn_variance:
        h = kernel.readout().detach()
        total = float(h @ kernel.initial().detach() @ h)
        kernel = kernel if abs(total - 1) < 1e-12 else Scaled(kernel, 1 / total)
    for name, parameter in kernel.named_parameters():
        is_variance = name.rsplit(".", 1)[-1] == "log_variance"
        parameter.requires_grad_(learn_variance if is_variance else learn)
    return kernel


class _Lanes(LinearProcess):
    """Kernels of one state dimension, each over the same ``series`` series: lane ``g S + s`` is kernel ``g``'s."""

    def __init__(self, kernels: Sequence[Kernel], series: int) -> None:
        super().__init__()
        self.kernels, self.series, self.dim = list(kernels), series, kernels[0].state_dim

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """``[G S, T, d, d]`` for ``dt [G S, T]``, the same for all kernels."""
        A, Q = unique_steps(dt[: self.series], self._stacked)
        return A.movedim(-3, 0).flatten(0, 1), Q.movedim(-3, 0).flatten(0, 1)

    def _stacked(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [kernel.transition(dt) for kernel in self.kernels]
        return torch.stack([A for A, _ in pairs], -3), torch.stack([Q for _, Q in pairs], -3)

    def initial(self) -> tuple[Tensor, Tensor]:
        """One covariance for each lane."""
        P0 = torch.stack([kernel.initial() for kernel in self.kernels]).repeat_interleave(self.series, 0)
        return torch.zeros_like(P0[..., 0]), P0


class LatentPosterior(NamedTuple):
    """``q(z)`` of all latents, independent of each other: ``groups`` of (their places, their lanes).

    ``shares [S, K]`` is each latent's ``KL(q || p)`` over whole paths.
    """

    groups: list[tuple[list[int], GaussianPath]]
    shares: Tensor

    @property
    def divergence(self) -> Tensor:
        """``KL(q || p)``, ``[S]``."""
        return self.shares.sum(-1)

    def at_data(self) -> tuple[Tensor, Tensor]:
        """Means ``[S, T, K]`` and covariances ``[S, T, K, K]`` at the data's times."""
        return self._moments([path.bridge.at_data for _, path in self.groups])

    def at_query(self) -> tuple[Tensor, Tensor]:
        """Means ``[S, Q, K]`` and covariances ``[S, Q, K, K]`` at the further times."""
        return self._moments([path.bridge.at_query for _, path in self.groups])

    def _moments(self, where: list[Tensor]) -> tuple[Tensor, Tensor]:
        pairs = list(zip(self.groups, where, strict=True))
        means = [_wide(path.mean(at)[..., 0], len(places)) for (places, path), at in pairs]
        variances = [_wide(path.cov(at)[..., 0, 0], len(places)) for (places, path), at in pairs]
        return self._ordered(means), torch.diag_embed(self._ordered(variances))

    def sample(self, draws: int, generator: torch.Generator) -> Tensor:
        """Joint draws ``[n, S, Q, K]`` of the paths at the further times."""
        return self._ordered([_drawn(path, len(places), draws, generator) for places, path in self.groups])

    def _ordered(self, parts: list[Tensor]) -> Tensor:
        return _ordered([places for places, _ in self.groups], parts)


def _drawn(path: GaussianPath, kernels: int, draws: int, generator: torch.Generator) -> Tensor:
    state = take_paths(path.bridge.sample(draws, generator), path.bridge.at_query)
    values = (state * path.readout[..., 0, :]).sum(-1)
    return values.unflatten(1, (kernels, -1)).movedim(1, -1)


class IndependentLatents(nn.Module):
    """``z_k ~ GP(0, k_k)``, ``k = 1..K``: what a lane costs grows with its own state alone.

    Args:
        kernels: one for each latent, stationary.

    Example:
        >>> from sciinfer.gp.kernels import Matern12
        >>> one = torch.ones(1, 1, 1, dtype=torch.float64)
        >>> q = IndependentLatents([Matern12()]).condition(one[..., 0], Sites(one, one), one[..., 0])
        >>> [round(x.item(), 6) for x in q.at_query()]
        [0.5, 0.5]
    """

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        super().__init__()
        self._kernels = nn.ModuleList(kernels)

    @property
    def kernels(self) -> list[Kernel]:
        """One for each latent."""
        return [kernel for kernel in self._kernels if isinstance(kernel, Kernel)]

    def condition(self, time: Tensor, potentials: Sites, query: Tensor) -> LatentPosterior:
        """The exact posterior under Gaussian potentials.

        Args:
            time: ``[S, T]``, ascending. potentials: ``[S, T, K]`` each. query: ``[S, Q]``, any order.
        """
        kernels = self.kernels
        order = sorted(range(len(kernels)), key=lambda k: kernels[k].state_dim)
        groups: list[tuple[list[int], GaussianPath]] = []
        for _, members in groupby(order, key=lambda k: kernels[k].state_dim):
            places = list(members)
            groups.append((places, self._condition(places, time, potentials, query)))
        divergences = [path.divergence.unflatten(0, (len(places), -1)).mT for places, path in groups]
        return LatentPosterior(groups, _ordered([places for places, _ in groups], divergences))

    def _condition(self, places: list[int], time: Tensor, potentials: Sites, query: Tensor) -> GaussianPath:
        kernels, G = self.kernels, len(places)
        lanes = _Lanes([kernels[k] for k in places], len(time))
        narrow = Sites(*(part[..., places].movedim(-1, 0).flatten(0, 1)[..., None] for part in potentials))
        # one readout for each lane, over all times
        readout = torch.stack([kernels[k].readout() for k in places]).repeat_interleave(len(time), 0)[:, None, None]
        return condition_potentials(lanes, readout, time.repeat(G, 1), narrow, query.repeat(G, 1))

    def sample(self, times: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """Draws from the prior at ``times [T]``: ``[n, 1, T, K]``."""
        nothing = times.new_zeros(1, 1, len(self._kernels))
        return self.condition(times[None, :1], Sites(nothing, nothing), times[None]).sample(draws, generator)

    @torch.no_grad()
    def spread(self, time: Tensor, lengths: Tensor, free: Sequence[bool]) -> None:
        """Start the open length-scales evenly in their logarithm between two typical steps and half a series' length.

        Args:
            time: ``[N]``, series end to end. lengths: ``[S]``. free: which latents' length-scales are open.
        """
        pieces = [piece for piece in time.split(lengths.tolist()) if len(piece) > 1]
        steps = torch.cat([piece.diff() for piece in pieces]) if pieces else time[:0]
        steps = steps[steps > 0]
        open_ = [k for k, is_free in enumerate(free) if is_free]
        if not len(steps) or not open_:
            return
        longest = torch.stack([piece[-1] - piece[0] for piece in pieces]).max() / 2
        shortest = torch.minimum(2 * steps.median(), longest)
        share = torch.linspace(1.0, 0.0, len(open_) + 2, dtype=time.dtype, device=time.device)[1:-1]
        share = torch.linspace(1.0, 0.0, len(open_), dtype=time.dtype, device=time.device) if len(open_) > 2 else share
        for k, value in zip(open_, shortest.log() + share * (longest / shortest).log(), strict=True):
            for name, parameter in self.kernels[k].named_parameters():
                if name.rsplit(".", 1)[-1] == "log_lengthscale":
                    parameter.copy_(value)


def _wide(lanes: Tensor, kernels: int) -> Tensor:
    """``[G S, ...] -> [S, ..., G]``."""
    return lanes.unflatten(0, (kernels, -1)).movedim(0, -1)


def _ordered(places: list[list[int]], parts: list[Tensor]) -> Tensor:
    """Columns of all groups in the latents' own order."""
    flat = [k for group in places for k in group]
    back = sorted(range(len(flat)), key=flat.__getitem__)
    return torch.cat(parts, dim=-1)[..., back]
