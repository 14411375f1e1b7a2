"""A known drift with unknown parameters, a neural remainder, and the linearisation that inference needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..nets.mlp import MLP
from .base import NonlinearProcess

Drift = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]

#: the drift is limited (smoothly, and by 2.5e-9 at a hundredth of it) to this many state units per model time
_LIMIT = 100.0


@dataclass(frozen=True)
class Parameter:
    """An unknown number with its prior: log-normal about ``start`` (``positive``) or normal; ``spread`` is its sd."""

    start: float = 1.0
    positive: bool = True
    spread: float = 1.0

    def value(self, u: Tensor) -> Tensor:
        """The parameter of a standard normal ``u``."""
        return self.start * (self.spread * u).exp() if self.positive else self.start + self.spread * u


@dataclass(frozen=True)
class Physics:
    """``dz/dt = drift(t, z, parameters)``.

    Args:
        states: names of the states, in the order of the last dim of ``z``.
        parameters: name to :class:`Parameter`.
        drift: ``(t [...], z [..., d], {name: [...]}) -> [..., d]``, in the caller's units of time and state,
            differentiable.

    Example:
        >>> decay = Physics(("x",), {"rate": Parameter(0.5)}, lambda t, z, p: -p["rate"][..., None] * z)
        >>> decay.states
        ('x',)
    """

    states: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    drift: Drift

    def named(self, u: Tensor) -> dict[str, Tensor]:
        """Parameters by name from standard normal ``u [..., P]``."""
        return {name: p.value(u[..., i]) for i, (name, p) in enumerate(self.parameters.items())}


def _lotka_volterra(t: Tensor, z: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    prey, predator = z.unbind(-1)
    return torch.stack(
        [p["alpha"] * prey - p["beta"] * prey * predator, p["delta"] * prey * predator - p["gamma"] * predator], dim=-1
    )


def _damped_pendulum(t: Tensor, z: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    angle, rate = z.unbind(-1)
    return torch.stack([rate, -p["stiffness"] * angle.sin() - p["damping"] * rate], dim=-1)


def _van_der_pol(t: Tensor, z: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    position, velocity = z.unbind(-1)
    return torch.stack([velocity, p["mu"] * (1 - position.square()) * velocity - p["stiffness"] * position], dim=-1)


_KNOWN: dict[str, Physics] = {
    "lotka-volterra": Physics(
        ("prey", "predator"), {n: Parameter() for n in ("alpha", "beta", "delta", "gamma")}, _lotka_volterra
    ),
    "damped-pendulum": Physics(
        ("angle", "rate"), {"stiffness": Parameter(3.0), "damping": Parameter(0.3)}, _damped_pendulum
    ),
    "van-der-pol": Physics(
        ("position", "velocity"), {"mu": Parameter(), "stiffness": Parameter()}, _van_der_pol
    ),
}  # fmt: skip


def register_physics(name: str, physics: Physics) -> None:
    """Make a drift known by name in this process; code is never saved, so register it again before loading a model.

    Raises:
        ConfigError: the name is one of the built-in ones, or not a name.

    Example:
        >>> register_physics("decay", Physics(("x",), {"k": Parameter()}, lambda t, z, p: -p["k"][..., None] * z))
        >>> find_physics("decay").states
        ('x',)
    """
    if not isinstance(name, str) or not name or name in ("lotka-volterra", "damped-pendulum", "van-der-pol"):
        raise ConfigError(f"physics cannot be registered as {name!r}", variable="name", fix="choose another name")
    if not physics.states or not physics.parameters:
        raise ConfigError("physics needs at least one state and one parameter", variable="physics")
    _KNOWN[name] = physics


def find_physics(physics: str | Physics) -> Physics:
    """The physics behind a name; an object is returned as it is.

    Raises:
        ConfigError: no such name; lists those that exist.
    """
    if isinstance(physics, Physics):
        return physics
    if physics not in _KNOWN:
        raise ConfigError(
            f"no physics {physics!r} is known here",
            variable="physics",
            fix=f"one of {', '.join(_KNOWN)}, or register_physics({physics!r}, ...) first, before fitting and loading",
        )
    return _KNOWN[physics]


class PhysicsSDE(NonlinearProcess):
    """``dx = (tau f(t, c + s x; theta) / s + r(x)) dt + g dW`` for the scaled state ``x = (z - c) / s``.

    Args:
        physics: the known drift ``f``. centre, scale: ``c, s [d]``, the caller's units. tau: length of a model time
            unit and ``origin`` its zero, in the units of ``f``. hidden: width of the remainder's net, 0 for none.
    """

    def __init__(
        self,
        physics: Physics,
        centre: Tensor,
        scale: Tensor,
        *,
        tau: float,
        origin: float,
        hidden: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.physics, self.tau, self.origin, self.dim = physics, tau, origin, len(physics.states)
        self.register_buffer("centre", centre)
        self.register_buffer("scale", scale)
        P, d = len(physics.parameters), self.dim
        self.mean = nn.Parameter(torch.zeros(P, dtype=torch.float64))
        self.log_sd = nn.Parameter(torch.full((P,), -3.0, dtype=torch.float64))
        self.tilt = nn.Parameter(torch.zeros(P * (P - 1) // 2, dtype=torch.float64)) if P > 1 else None
        self.net = MLP(d, d, (hidden,), generator=generator, zero=True) if hidden else None
        self.log_spread = nn.Parameter(torch.full((d,), -2.0, dtype=torch.float64))
        self.start_mean = nn.Parameter(torch.zeros(d, dtype=torch.float64))
        self.log_start = nn.Parameter(torch.zeros(d, dtype=torch.float64))

    @property
    def root(self) -> Tensor:
        """Lower factor of the covariance of the parameters' posterior, in units of the prior's, ``[P, P]``."""
        full = torch.diag(self.log_sd.exp())
        if self.tilt is None:
            return full
        i, j = torch.tril_indices(*full.shape, offset=-1, device=full.device)
        return full.index_put((i, j), self.tilt)

    def divergence(self) -> Tensor:
        """``KL(q(theta) || prior)``, a scalar."""
        P = self.mean.shape[0]
        return 0.5 * (self.root.square().sum() + self.mean.square().sum() - P) - self.log_sd.sum()

    def known(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """The physics alone, model units; ``u [..., P]`` broadcasts against ``t`` (default: the posterior's mean)."""
        u = self.mean if u is None else u
        z = self.get_buffer("centre") + self.get_buffer("scale") * x
        p = {name: value.expand(x.shape[:-1]) for name, value in self.physics.named(u).items()}
        f = self.physics.drift(self.origin + self.tau * t, z, p) * (self.tau / self.get_buffer("scale"))
        size = f.square().sum(-1, keepdim=True) / _LIMIT**2
        return f * (1 + size.square()) ** -0.25

    def remainder(self, x: Tensor) -> Tensor:
        """What the net adds, model units."""
        return torch.zeros_like(x) if self.net is None else self.net(x)

    def drift(self, t: Tensor, z: Tensor, u: Tensor | None = None) -> Tensor:
        """Physics and remainder at the scaled state."""
        return self.known(t, z, u) + self.remainder(z)

    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        """Constant ``g``."""
        return self.spread.sqrt().expand_as(z)

    @property
    def spread(self) -> Tensor:
        """``g^2 [d]``, floored: a noise-free state has no posterior."""
        return 1e-8 + (2 * self.log_spread).exp()

    def initial(self) -> tuple[Tensor, Tensor]:
        """Learned ``N(m0, diag)`` of the scaled state."""
        return self.start_mean, torch.diag((2 * self.log_start).exp())

    def flow(self, t: Tensor, x: Tensor, h: Tensor, u: Tensor | None = None, *, full: bool = True) -> Tensor:
        """The state ``h`` later without noise, by one classical Runge-Kutta step."""

        def f(t: Tensor, x: Tensor) -> Tensor:
            return self.drift(t, x, u) if full else self.known(t, x, u)

        step, half = h[..., None], 0.5 * h
        k1 = f(t, x)
        k2 = f(t + half, x + 0.5 * step * k1)
        k3 = f(t + half, x + 0.5 * step * k2)
        k4 = f(t + h, x + step * k3)
        return x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    def linearised(self, time: Tensor, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Transitions ``A, Q [S, T, d, d]``, ``b [S, T, d]`` between the times, each about the state before it.

        ``x_k = phi(m) + A (x_{k-1} - m) + N(0, Q)`` with ``A = dphi/dx`` at ``m = x_{k-1}`` and
        ``Q = h (A G A^T + G) / 2``. Place ``k`` leads from time ``k - 1`` to ``k``; place 0 is unused.
        """
        h = time.diff(dim=1)
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            at = x[:, :-1] if x.requires_grad else x[:, :-1].detach().requires_grad_()
            after = self.flow(time[:, :-1], at, h, u)
            rows = [
                torch.autograd.grad(after[..., i].sum(), at, create_graph=training, retain_graph=True)[0]
                for i in range(self.dim)
            ]
        A = torch.stack(rows, dim=-2)
        after, A = (after, A) if training else (after.detach(), A.detach())
        G = torch.diag(self.spread)
        Q = 0.5 * h[..., None, None] * (A @ G @ A.mT + G)
        b = after - (A @ (at if training else at.detach()).unsqueeze(-1)).squeeze(-1)
        return _first(A), _first(Q), _first(b)


def _first(values: Tensor) -> Tensor:
    """A blank place in front along the times."""
    return torch.cat([values.new_zeros(values.shape[0], 1, *values.shape[2:]), values], dim=1)
