"""A linear process in modal form: every eigenvalue is a parameter, every transition a closed form."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import ConfigError, NumericalError
from ..statespace.discretise import unique_steps
from ..statespace.recurrence import linear_recurrence
from .base import LinearProcess

Spectrum = Literal["stable", "unit-circle", "mixed", "free"]
Noise = Literal["stationary", "dense"]
#: share of the noise that no two modes have in common: keeps a dense covariance positive definite
_OWN = 1e-6


class KoopmanProcess(LinearProcess):
    """``dz = F z dt + B u dt + dW``; ``F`` has a block ``[[-g, -w], [w, -g]]`` for each pair, ``-g`` for real modes.

    ``A(h) = exp(-g h) R(w h)``. Noise ``"stationary"``: every block on its own, ``Q = (1 - exp(-2 g h)) I``, so that
    the stationary variance is one and the amplitude is the readout's. ``"dense"``: covariance rate ``D`` between all
    modes, in complex modal coordinates ``Q_ij = D_ij (exp((l_i + conj l_j) h) - 1) / (l_i + conj l_j)``; every
    diagonalisable stable linear SDE is of this form up to the readout. A block that is not damped for certain
    (``"unit-circle"``, ``"free"``) starts at ``N(0, I)`` and has a rate of noise of its own,
    ``Q = q (1 - exp(-2 g h)) / 2 g I``.

    Args:
        dim: ``d``; modes come in pairs, an odd one is real.
        spectrum: ``"stable"`` (``|exp(l h)| < 1``), ``"unit-circle"`` (``= 1``), ``"mixed"`` (the first half of the
            pairs on the unit circle, the rest stable), ``"free"`` (damping of either sign).
        noise: ``"stationary"`` or ``"dense"``.
        inputs: number of control inputs ``u``, piecewise constant. rate: typical starting frequency, per model time.
        generator: starting frequencies.

    Raises:
        ConfigError: an unknown choice. NumericalError: a mode that is not finite or overflows, by its number.

    Example:
        >>> from sciinfer.random import generator
        >>> p = KoopmanProcess(3, generator=generator(0, "p"))
        >>> A, Q = p.transition(torch.tensor(2.0, dtype=torch.float64))
        >>> bool(torch.allclose(A @ A.mT + Q, torch.eye(3, dtype=torch.float64)))
        True
    """

    def __init__(
        self,
        dim: int,
        *,
        spectrum: Spectrum = "stable",
        noise: Noise = "stationary",
        inputs: int = 0,
        rate: float = 0.5,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        _one_of("spectrum", spectrum, get_args(Spectrum))
        _one_of("noise", noise, get_args(Noise))
        self.dim, self.spectrum, self.noise, self.pairs = dim, spectrum, noise, dim // 2
        unit = torch.zeros(dim, dtype=torch.bool)
        unit[: {"unit-circle": dim, "mixed": 2 * ((self.pairs + 1) // 2)}.get(spectrum, 0)] = True
        self.register_buffer("unit", unit)
        self.register_buffer("oscillates", torch.ones(self.pairs, dtype=torch.bool))
        spread = torch.linspace(0.0, -2.0, dim, dtype=torch.float64)
        damping = math.log(0.2 * rate) + spread[torch.randperm(dim, generator=generator)]
        self.raw_damping = nn.Parameter(damping.exp() if spectrum == "free" else damping)
        self.raw_damping.requires_grad_(spectrum != "unit-circle")
        turns = torch.rand(self.pairs, generator=generator, dtype=torch.float64)
        self.log_frequency = nn.Parameter(math.log(rate) - 2.0 + 3.0 * turns)
        driven = spectrum != "stable"
        drive = torch.full((dim if driven else 0,), math.log(0.02 * rate), dtype=torch.float64)
        self.log_drive = nn.Parameter(drive)
        mix = torch.eye(dim, dtype=torch.float64) + 0.1 * torch.randn(
            dim, dim, generator=generator, dtype=torch.float64
        )
        mix = mix + torch.eye(dim, dtype=torch.float64)
        self.mixing = nn.Parameter(mix if noise == "dense" else mix[:0])
        # small, not zero: the readout of an input that does nothing would not be trained
        self.control = nn.Parameter(0.1 * torch.randn(dim, inputs, generator=generator, dtype=torch.float64))
        for parameter in (self.log_drive, self.mixing, self.control):
            parameter.requires_grad_(parameter.numel() > 0)

    # -- the spectrum ----------------------------------------------------------------------------------------------

    def damping(self) -> Tensor:
        """``g [d]``, per model time; the two of a pair are equal."""
        raw = self.raw_damping
        turning = self._turning()
        raw = torch.where(turning, raw[self._leader()], raw)
        found = raw if self.spectrum == "free" else raw.exp()
        return torch.where(self.get_buffer("unit"), torch.zeros_like(found), found)

    def frequency(self) -> Tensor:
        """``w [d]``, radians per model time; 0 for real modes; the two of a pair are equal."""
        found = torch.zeros_like(self.raw_damping)
        if self.pairs == 0:
            return found
        live = torch.where(
            self.get_buffer("oscillates"), self.log_frequency.exp(), torch.zeros_like(self.log_frequency)
        )
        return torch.cat([live.repeat_interleave(2), found[2 * self.pairs :]])

    def eigenvalues(self) -> Tensor:
        """``l [d]``, complex, per model time: ``-g + i w``, ``-g - i w`` for a pair, ``-g`` for a real mode.

        Raises:
            NumericalError: one is not finite; says which.
        """
        damping, frequency = self.damping(), self.frequency()
        bad = ~(torch.isfinite(damping) & torch.isfinite(frequency))
        if bool(bad.any()):
            k = int(torch.nonzero(bad)[0])
            raise NumericalError(
                f"mode {k} has damping {damping[k].item():.3g} and frequency {frequency[k].item():.3g}",
                variable="eigenvalue",
                index=k,
                fix="restart from other values or a smaller learning rate; nothing was put in its place",
            )
        sign = torch.ones_like(damping)
        sign[1 : 2 * self.pairs : 2] = -1.0
        return torch.complex(-damping, sign * frequency)

    def _leader(self) -> Tensor:
        places = torch.arange(self.dim, device=self.raw_damping.device)
        return torch.where(places < 2 * self.pairs, places - places % 2, places)

    def _turning(self) -> Tensor:
        single = torch.zeros(self.dim - 2 * self.pairs, dtype=torch.bool, device=self.raw_damping.device)
        return torch.cat([self.get_buffer("oscillates").repeat_interleave(2), single])

    # -- the process -----------------------------------------------------------------------------------------------

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """``A(h), Q(h) [..., d, d]``."""
        return unique_steps(dt, self._transition)

    def _transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        h = dt[..., None]
        rates = self.eigenvalues()
        damping, frequency = -rates.real, self.frequency()
        decay, angle = (-damping * h).exp(), frequency * h
        turn = (decay * angle.sin())[..., :-1]
        gate = torch.zeros_like(turn)
        gate[..., 0 : 2 * self.pairs : 2] = 1.0
        A = torch.diag_embed(decay * angle.cos()) + torch.diag_embed(turn * gate, -1) - torch.diag_embed(turn * gate, 1)
        self._require_finite(A)
        if self.noise == "stationary":
            return A, torch.diag_embed(self._drive() * h * exprel(-2 * damping * h))
        pair = rates[:, None] + rates.conj()[None]
        step = dt[..., None, None]
        return A, self._real(self._modal_noise() * step * exprel(pair * step))

    def _require_finite(self, A: Tensor) -> None:
        finite = torch.isfinite(A).all(-1).flatten(0, -2).all(0) if A.ndim > 2 else torch.isfinite(A).all(-1)
        if not bool(finite.all()):
            k = int(torch.nonzero(~finite)[0])
            raise NumericalError(
                f"mode {k} overflows within a step (damping {self.damping()[k].item():.3g})",
                variable="eigenvalue",
                index=k,
                fix='use spectrum="stable", whose modes cannot grow',
            )

    def initial(self) -> tuple[Tensor, Tensor]:
        """Stationary where there is a stationary distribution, else ``N(0, I)``."""
        eye = torch.eye(self.dim, dtype=self.raw_damping.dtype, device=self.raw_damping.device)
        zero = torch.zeros_like(self.raw_damping)
        if self.noise == "stationary" or self.spectrum in ("free", "unit-circle"):
            return zero, eye
        rates = self.eigenvalues()
        settles = ~self.get_buffer("unit")
        both = settles[:, None] & settles[None]
        pair = rates[:, None] + rates.conj()[None]
        stationary = self._modal_noise() / -torch.where(both, pair, torch.full_like(pair, -1.0))
        return zero, torch.where(both, self._real(stationary), eye)

    def _drive(self) -> Tensor:
        """Rate of noise of each coordinate, ``[d]``: ``2 g`` where that makes the stationary variance one."""
        stationary = 2 * self.damping()
        if self.spectrum == "stable":
            return stationary
        own = torch.where(self._turning(), self.log_drive[self._leader()], self.log_drive).exp()
        return own if self.spectrum == "free" else torch.where(self.get_buffer("unit"), own, stationary)

    def covariance_rate(self) -> Tensor:
        """``D [d, d]``: covariance of ``dW`` over ``dt``."""
        drive = self._drive()
        if self.noise == "stationary":
            return torch.diag(drive)
        rows = self.mixing / self.mixing.norm(dim=1, keepdim=True)
        eye = torch.eye(self.dim, dtype=rows.dtype, device=rows.device)
        # the floor keeps a rate that has vanished from dividing by zero in the derivative of the root
        root = drive.clamp(min=1e-30).sqrt()
        return ((1 - _OWN) * rows @ rows.mT + _OWN * eye) * root[:, None] * root

    def _modal(self) -> Tensor:
        """Unitary ``T [d, d]``: real coordinates to complex modal ones, ``(z1 +- i z2) / sqrt 2`` for a pair."""
        like = self.raw_damping
        turning = self._turning().to(like.dtype)
        half = math.sqrt(0.5)
        first = torch.zeros_like(like)
        first[0 : 2 * self.pairs : 2] = 1.0
        real = torch.diag(1 - turning + half * turning * first)
        across = torch.zeros_like(real)
        if self.dim > 1:
            hop = (half * turning * first)[:-1]
            real = real + torch.diag(hop, -1)
            across = torch.diag(hop, 1) - torch.diag(half * turning * (1 - first))
        return torch.complex(real, across)

    def _modal_noise(self) -> Tensor:
        T = self._modal()
        return T @ self.covariance_rate().to(T.dtype) @ T.mH

    def _real(self, modal: Tensor) -> Tensor:
        """``T^H M T``, real and symmetric."""
        T = self._modal()
        found = (T.mH @ modal @ T).real
        return 0.5 * (found + found.mT)

    # -- control ---------------------------------------------------------------------------------------------------

    def response(self, time: Tensor, inputs: Tensor, query: Tensor) -> Tensor:
        """What the inputs alone do to ``z``: zero until the first time, ``u_k`` acts from ``time_k`` to ``time_{k+1}``.

        Args:
            time: ``[S, T]``, ascending. inputs: ``[S, T, U]``. query: ``[S, K]``, any order.

        Returns:
            ``[S, K, d]``.
        """
        T, rates = self._modal(), self.eigenvalues()
        push = (inputs @ self.control.mT).to(T.dtype) @ T.mT
        h = time.diff(dim=1)[..., None]
        gates = torch.cat([torch.zeros_like(push[:, :1]), (rates * h).exp()], dim=1)
        gains = torch.cat([torch.zeros_like(push[:, :1]), push[:, :-1] * h * exprel(rates * h)], dim=1)
        state = linear_recurrence(gates, gains)
        last = torch.searchsorted(time.contiguous(), query.contiguous(), right=True) - 1
        where = last.clamp(min=0)
        since = torch.where(last >= 0, query - time.gather(1, where), torch.zeros_like(query))[..., None]
        pick = where[..., None].expand(-1, -1, self.dim)
        moved = (rates * since).exp() * state.gather(1, pick) + push.gather(1, pick) * since * exprel(rates * since)
        return (torch.where(last[..., None] >= 0, moved, torch.zeros_like(moved)) @ T.conj()).real


def exprel(x: Tensor) -> Tensor:
    """``(exp(x) - 1) / x``, real or complex, exact to round-off near 0 as well.

    Example:
        >>> exprel(torch.tensor([0.0, 1e-9, 1.0], dtype=torch.float64))[0].item()
        1.0
    """
    small = x.abs() < 0.5
    safe = torch.where(small, torch.ones_like(x), x)
    near = torch.where(small, x, torch.zeros_like(x))
    series = torch.ones_like(x)
    for k in range(16, 1, -1):
        series = 1 + near * series / k
    return torch.where(small, series, (safe.exp() - 1) / safe)


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}", variable=name, fix=f"choose {', '.join(choices)}")
