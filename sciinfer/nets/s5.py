"""Diagonal state-space layers over irregular steps: as a stack that reads on row by row, and as a two-sided encoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..labelled.series import Padded
from ..statespace.recurrence import linear_recurrence
from .encoder import Encoder, row_features
from .mlp import linear
from .s4 import convolve_states

#: real states of one block of the starting matrix; a block has half as many complex ones
BLOCK = 8
#: starting time scales of the blocks, in typical gaps
SLOWEST, FASTEST = 0.01, 0.5


def hippo_rates(size: int) -> Tensor:
    """Eigenvalues with positive imaginary part of the normal part of the HiPPO-LegS matrix, slowest first.

    ``A_nk = -sqrt((2n+1)(2k+1))/2`` for ``n > k``, ``+`` for ``n < k``, ``-1/2`` on the diagonal.

    Args:
        size: even number of real states.

    Returns:
        ``[size/2]``, complex128.

    References:
        Gu, Goel, Ré (2022), Efficiently modeling long sequences with structured state spaces.

    Example:
        >>> hippo_rates(4).real.tolist()
        [-0.5, -0.5]
    """
    root = (2 * torch.arange(size, dtype=torch.float64) + 1).sqrt()
    outer = 0.5 * torch.outer(root, root)
    skew = outer.triu(1) - outer.tril(-1)
    upper = torch.linalg.eigvalsh(-1j * skew)[size // 2 :]
    return torch.complex(torch.full_like(upper, -0.5), upper)


class S5Layer(nn.Module):
    """Norm, diagonal recurrence, gated mixing, residual.

    ``x_k = exp(L s h_k) x_{k-1} + L^{-1} (exp(L s) - 1) B u_k``, ``v_k = 2 Re(C x_k) + D u_k`` with learned ``L``
    (complex, always decaying), ``s`` (log step per state), ``B``, ``C``, ``D``. A row acts for one unit of time
    whatever the gap ``h_k`` before it, so that two rows at one time both count.

    Args:
        width: of the rows. states: complex states. generator: starting weights.

    References:
        Smith, Warrington, Linderman (2023), Simplified state space layers for sequence modeling.
    """

    def __init__(self, width: int, states: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, dtype=torch.float64)
        per_block = BLOCK // 2
        blocks = -(-states // per_block)
        rates = hippo_rates(BLOCK).repeat(blocks)[:states]
        scales = torch.logspace(math.log10(SLOWEST), math.log10(FASTEST), blocks, dtype=torch.float64)
        log_step = scales.log().repeat_interleave(per_block)[:states]
        self.log_decay = nn.Parameter((-rates.real).log())
        self.frequency = nn.Parameter(rates.imag.clone())
        self.log_step = nn.Parameter(log_step)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.into = nn.Parameter(normal(width, 2 * states) / math.sqrt(2 * width))
        # white inputs leave a state with variance ~ step: the readout undoes it
        lift = (-0.5 * log_step).exp().repeat_interleave(2)[:, None]
        self.out = nn.Parameter(normal(2 * states, width) * lift / math.sqrt(2 * states))
        self.skip = nn.Parameter(normal(width))
        self.mix = linear(width, 2 * width, generator=generator)

    @property
    def rate(self) -> Tensor:
        """``L s [N]``, complex, per unit of time."""
        return torch.complex(-self.log_decay.exp(), self.frequency) * self.log_step.exp()

    def gate(self, step: Tensor) -> Tensor:
        """``exp(L s h)``, ``[..., N]`` for steps ``h [...]``."""
        return (self.rate * step[..., None]).exp()

    def drive(self, h: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised rows ``[S, T, W]`` and what they add to the states ``[S, T, N]``, zero where ``rows`` is."""
        u = self.norm(h)
        rate = torch.complex(-self.log_decay.exp(), self.frequency)
        held = torch.expm1(self.rate) / rate
        return u, torch.view_as_complex((u @ self.into).unflatten(-1, (-1, 2))) * held * rows

    def emit(self, h: Tensor, u: Tensor, x: Tensor) -> Tensor:
        """The layer's output from its input, normalised input and states."""
        v = torch.view_as_real(x).flatten(-2) @ self.out + self.skip * u
        value, control = self.mix(nn.functional.gelu(v)).chunk(2, dim=-1)
        return h + value * control.sigmoid()

    def forward(
        self, h: Tensor, step: Tensor, rows: Tensor, start: Tensor | None = None, regular: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Outputs ``[S, T, W]`` and states ``[S, T, N]``.

        Args:
            h: ``[S, T, W]``. step: ``[S, T]`` time since the row before. rows: ``[S, T, 1]``, zero = no row.
            start: ``[S, N]`` states before the first row, None = zero.
            regular: the one step of all series, if they have one: then by convolution, from zero states.
        """
        u, b = self.drive(h, rows)
        if regular is not None and start is None:
            x = convolve_states(self.rate, regular, b)
            return self.emit(h, u, x), x
        gate = self.gate(step)
        if start is not None:
            b = torch.cat([b[:, :1] + (gate[:, 0] * start)[:, None], b[:, 1:]], dim=1)
        x = linear_recurrence(gate, b)
        return self.emit(h, u, x), x


class S5Stack(nn.Module):
    """Layers that read one after the other; causal.

    Args:
        width, states: of each layer. layers: how many. generator: starting weights.
    """

    def __init__(self, width: int, states: int, layers: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList(S5Layer(width, states, generator=generator) for _ in range(layers))

    def forward(
        self,
        h: Tensor,
        step: Tensor,
        rows: Tensor,
        start: tuple[Tensor, ...] | None = None,
        regular: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs ``[S, T, W]`` and each layer's states; ``start`` goes on from the last states of an earlier part."""
        states = []
        for index, layer in enumerate(self.layers):
            h, x = layer(h, step, rows, None if start is None else start[index], regular)
            h = h * rows
            states.append(x)
        return h, tuple(states)

    def propagate(self, x: Tensor, step: Tensor) -> Tensor:
        """The last layer's states ``[..., N]`` after ``step [...]`` (or one step for all) without a row."""
        last = self.layers[-1]
        return last.gate(step) * x if isinstance(last, S5Layer) else x


class S5Encoder(Encoder):
    """Two stacks of diagonal state-space layers, one in each direction of time.

    Args:
        channels: of the data. width: of the context. layers: in each direction. generator: starting weights.

    Example:
        >>> from sciinfer.labelled.series import SeriesBatch
        >>> from sciinfer.random import generator
        >>> batch = SeriesBatch.of([torch.arange(3.0).double()], [torch.zeros(3, 1).double()])
        >>> S5Encoder(1, 8, generator=generator(0, "encoder"))(batch.padded()).shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, channels: int, width: int = 32, layers: int = 1, *, generator: torch.Generator) -> None:
        super().__init__()
        self.width = width
        states = max(width // 2, 1)
        self.embed = linear(2 * channels + 2, width, generator=generator)
        self.ahead = S5Stack(width, states, layers, generator=generator)
        self.back = S5Stack(width, states, layers, generator=generator)
        self.join = linear(2 * width, width, generator=generator)

    def forward(self, padded: Padded) -> Tensor:
        """``[S, T, width]``, zero in padding."""
        rows = padded.rows[..., None].to(padded.values.dtype)
        h = self.embed(row_features(padded)) * rows
        zero = torch.zeros_like(padded.time[:, :1])
        gaps = padded.time.diff(dim=1)
        ahead, _ = self.ahead(h, torch.cat([zero, gaps], dim=1), rows)
        back, _ = self.back(h.flip(1), torch.cat([zero, gaps.flip(1)], dim=1), rows.flip(1))
        return self.join(torch.cat([ahead, back.flip(1)], dim=-1)) * rows
