"""From unconstrained numbers to positive, bounded and simplex parameters, with the logarithm of the volume change."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, ShapeError


class Transform(ABC):
    """A smooth bijection ``u -> x`` of the last dimension.

    Its unconstrained side has ``free(size)`` numbers for ``size`` constrained ones.
    """

    @abstractmethod
    def constrain(self, u: Tensor) -> Tensor:
        """``x [..., size]`` from ``u [..., free]``."""

    @abstractmethod
    def unconstrain(self, x: Tensor) -> Tensor:
        """``u [..., free]`` from ``x [..., size]``; ``DataError`` outside the support."""

    @abstractmethod
    def log_jacobian(self, u: Tensor) -> Tensor:
        """``log |dx/du|``, ``[...]``."""

    def free(self, size: int) -> int:
        """How many unconstrained numbers describe ``size`` constrained ones."""
        return size


class Real(Transform):
    """No constraint."""

    def constrain(self, u: Tensor) -> Tensor:
        """``u``."""
        return u

    def unconstrain(self, x: Tensor) -> Tensor:
        """``x``."""
        return x

    def log_jacobian(self, u: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(u).sum(-1)


class Positive(Transform):
    """``x = exp(u) > 0``.

    Example:
        >>> Positive().constrain(torch.zeros(2, dtype=torch.float64)).tolist()
        [1.0, 1.0]
    """

    def constrain(self, u: Tensor) -> Tensor:
        """``exp(u)``."""
        return u.exp()

    def unconstrain(self, x: Tensor) -> Tensor:
        """``log x``."""
        _inside(bool((x > 0).all()), "must be positive")
        return x.log()

    def log_jacobian(self, u: Tensor) -> Tensor:
        """``sum u``."""
        return u.sum(-1)


class Interval(Transform):
    """``x = low + (high - low) / (1 + exp(-u))``.

    Args:
        low, high: the open interval, ``low < high``, both finite.

    Example:
        >>> Interval(-1.0, 3.0).constrain(torch.zeros(1, dtype=torch.float64)).item()
        1.0
    """

    def __init__(self, low: float, high: float) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"an interval needs low < high, both finite, got {low!r}, {high!r}")
        self.low, self.width = low, high - low

    def constrain(self, u: Tensor) -> Tensor:
        """Logistic, stretched."""
        return self.low + self.width * torch.sigmoid(u)

    def unconstrain(self, x: Tensor) -> Tensor:
        """Logit of the position in the interval."""
        p = (x - self.low) / self.width
        _inside(bool(((p > 0) & (p < 1)).all()), f"must lie strictly between {self.low} and {self.low + self.width}")
        return p.log() - torch.log1p(-p)

    def log_jacobian(self, u: Tensor) -> Tensor:
        """``sum log(width) + log s(u) + log s(-u)``, without overflow in either tail."""
        soft = torch.nn.functional.logsigmoid
        return (math.log(self.width) + soft(u) + soft(-u)).sum(-1)


class Simplex(Transform):
    """Stick breaking: ``n - 1`` numbers to ``n`` positive ones that sum to one; ``u = 0`` is the uniform point.

    Example:
        >>> [round(x, 6) for x in Simplex().constrain(torch.zeros(3, dtype=torch.float64)).tolist()]
        [0.25, 0.25, 0.25, 0.25]
    """

    def constrain(self, u: Tensor) -> Tensor:
        """``x_k = z_k prod_{j<k} (1 - z_j)`` with ``z_k = s(u_k - log(n - k))``."""
        left = self._log_left(u)
        take = torch.nn.functional.logsigmoid(self._shifted(u))
        return torch.cat([(left[..., :-1] + take).exp(), left[..., -1:].exp()], dim=-1)

    def unconstrain(self, x: Tensor) -> Tensor:
        """Inverse stick breaking."""
        close = bool(((x.sum(-1) - 1).abs() < 1e-8).all())
        _inside(bool((x > 0).all()) and close, "must be positive and sum to one")
        rest = x.flip(-1).cumsum(-1).flip(-1)[..., 1:]  # summed from the end: no cancellation
        return x[..., :-1].log() - rest.log() + self._offsets(x[..., :-1])

    def log_jacobian(self, u: Tensor) -> Tensor:
        """``sum log z + log(1 - z) + log(stick left)``."""
        soft, v = torch.nn.functional.logsigmoid, self._shifted(u)
        return (soft(v) + soft(-v) + self._log_left(u)[..., :-1]).sum(-1)

    def free(self, size: int) -> int:
        """One less."""
        return size - 1

    def _offsets(self, like: Tensor) -> Tensor:
        return torch.arange(like.shape[-1], 0, -1, dtype=like.dtype, device=like.device).log()

    def _shifted(self, u: Tensor) -> Tensor:
        return u - self._offsets(u)

    def _log_left(self, u: Tensor) -> Tensor:
        broken = torch.nn.functional.logsigmoid(-self._shifted(u)).cumsum(-1)
        return torch.cat([torch.zeros_like(u[..., :1]), broken], dim=-1)


def _inside(holds: bool, what: str) -> None:
    if not holds:
        raise DataError(f"a constrained parameter {what}", code="data/support", fix="start inside the support")


class Blocks:
    """Named parameters with their constraints, as one flat unconstrained vector.

    Args:
        blocks: name -> (transform, size of the constrained vector); size 0 is a scalar.

    Example:
        >>> blocks = Blocks({"mu": (Real(), 0), "sigma": (Positive(), 0)})
        >>> blocks.split(torch.zeros(5, 2, dtype=torch.float64))["sigma"].shape
        torch.Size([5])
    """

    def __init__(self, blocks: Mapping[str, tuple[Transform, int]]) -> None:
        self.blocks = dict(blocks)
        self._free = {name: t.free(max(size, 1)) for name, (t, size) in self.blocks.items()}
        self.dim = sum(self._free.values())

    def _parts(self, u: Tensor) -> dict[str, Tensor]:
        if u.shape[-1] != self.dim:
            raise ShapeError(f"the parameters are {self.dim} unconstrained numbers, got {u.shape[-1]}")
        return dict(zip(self.blocks, u.split(list(self._free.values()), dim=-1), strict=True))

    def split(self, u: Tensor) -> dict[str, Tensor]:
        """Constrained values by name from ``u [..., dim]``: ``[...]`` for scalars, ``[..., size]`` else."""
        found = {name: self.blocks[name][0].constrain(part) for name, part in self._parts(u).items()}
        return {name: x if self.blocks[name][1] else x[..., 0] for name, x in found.items()}

    def join(self, values: Mapping[str, Tensor]) -> Tensor:
        """The flat unconstrained vector of constrained values (the inverse of :meth:`split`)."""
        parts = []
        for name, (transform, size) in self.blocks.items():
            value = torch.as_tensor(values[name], dtype=torch.float64)
            parts.append(transform.unconstrain(value if size else value[..., None]))
        return torch.cat(parts, dim=-1)

    def log_jacobian(self, u: Tensor) -> Tensor:
        """Sum over the blocks, ``[...]``."""
        total = torch.zeros_like(u[..., 0])
        for name, part in self._parts(u).items():
            total = total + self.blocks[name][0].log_jacobian(part)
        return total

    def density(self, log_density: Callable[[dict[str, Tensor]], Tensor]) -> Callable[[Tensor], Tensor]:
        """The log-density of the flat vector: that of the constrained values plus the log-Jacobian."""
        return lambda u: log_density(self.split(u)) + self.log_jacobian(u)
