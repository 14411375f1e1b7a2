"""Exact Gaussian processes of time in linear time.

References:
    Hartikainen, Särkkä (2010), Kalman filtering and smoothing solutions to temporal Gaussian process regression models.
    Särkkä, García-Fernández (2021), Temporal parallelization of Bayesian smoothers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..random import generator
from ..statespace import Backend, LinearGaussian, log_likelihood, whiten
from .assembly import readouts, transitions
from .fitting import sample, search
from .kernels import Kernel
from .kernels.base import positive
from .mixture import MixedPosterior
from .observations import Layout, Observed, lay_out
from .posterior import MarkovPosterior
from .rows import Rows, read_rows, variances

if TYPE_CHECKING:
    from .bayesian import HyperPosterior
    from .spatial.optimise import FitReport

#: draws of the hyper-parameters that a posterior is averaged over
HYPER_DRAWS = 32


class MarkovGP(nn.Module):
    """``y_i = f(t_i) + noise_i``, ``f ~ GP(mean, kernel)``: likelihood, fit and posterior in O(N), exactly.

    Times may come in any order, repeated or far apart; NaN = missing. A kernel that is not stationary begins at
    ``start``. Instead of times, every method also takes what :mod:`sciinfer.gp.observations` makes: derivatives,
    differences, averages over exposures.

    Args:
        kernel: of time; with several outputs ``y`` is ``[N, C]``.
        noise: variance, a number (learned; with outputs also ``[C]``) or one fixed variance per point.
        mean: a number (kept), or ``"constant"`` (learned).
        start: time at which the prior of a non-stationary kernel holds; default: the first datum.
        backend: ``"auto"``, ``"sequential"`` or ``"scan"``.

    Raises:
        ConfigError: noise or mean cannot be used.

    Example:
        >>> from sciinfer.gp.kernels import Matern32
        >>> gp = MarkovGP(Matern32(lengthscale=2.0), noise=0.1)
        >>> post = gp.condition([0.0, 1.0, 2.0], [1.0, float("nan"), 0.0])
        >>> round(post.mean([1.0]).item(), 3)
        0.496
    """

    def __init__(
        self,
        kernel: Kernel,
        noise: Any = 1.0,
        mean: float | str = 0.0,
        *,
        start: float | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.kernel, self.start = kernel, start
        self.backend: Backend = backend
        self.log_noise: nn.Parameter | None = None
        self.fixed_noise: Tensor | list[Tensor] | None = None
        self._take_noise(noise)
        if isinstance(mean, str) and mean != "constant":
            raise ConfigError(f"mean must be a number or 'constant', got {mean!r}", variable="mean", fix="mean=0.0")
        level = torch.full((kernel.outputs,), 0.0 if isinstance(mean, str) else float(mean), dtype=torch.float64)
        self.level = nn.Parameter(level, requires_grad=mean == "constant")
        self.report: FitReport | None = None
        self.hyper: HyperPosterior | None = None

    def _take_noise(self, noise: Any) -> None:
        if isinstance(noise, (int, float)):
            noise = torch.full((self.kernel.outputs,), positive("noise", noise), dtype=torch.float64)
        elif isinstance(noise, (list, tuple)) and noise and not isinstance(noise[0], (int, float)):
            self.fixed_noise = [variances(part) for part in noise]
            return
        noise = variances(noise)
        if noise.ndim == 0 or (noise.shape == (self.kernel.outputs,) and self.kernel.outputs > 1) or noise.numel() == 1:
            self.log_noise = nn.Parameter(noise.reshape(-1).expand(self.kernel.outputs).log().clone())
        else:
            self.fixed_noise = noise

    @property
    def noise(self) -> Tensor:
        """Learned noise variance of each output, ``[C]``.

        Raises:
            ConfigError: the noise is fixed per point.
        """
        if self.log_noise is None:
            raise ConfigError("the noise is fixed per point", variable="noise")
        return self.log_noise.exp()

    # -- likelihood ----------------------------------------------------------------------------------------------

    def log_likelihood(self, time: Any, y: Any) -> Tensor:
        """``log p(y)`` in nats, differentiable in all parameters and ``y``; ``[B]`` for lists of series of any lengths.

        Args:
            time: ``[N]``, any order. y: ``[N]`` or ``[N, C]``, NaN = missing; or a list of each.

        Raises:
            ShapeError, DataError: data that cannot be used.
        """
        if not _many(time):
            return self.loglik_of([self._rows(time, y)], [0])[0]
        if len(time) != len(y):
            raise DataError(f"{len(time)} series of times and {len(y)} of values", fix="give one for one")
        rows = [self._rows(t, v) for t, v in zip(time, y, strict=True)]
        return self.loglik_of(rows, list(range(len(rows))))

    def _rows(self, time: Any, y: Any) -> Rows:
        return read_rows(time, y, self.kernel.outputs, self.level.device)

    def loglik_of(self, rows: Sequence[Rows], numbers: Sequence[int]) -> Tensor:
        """Values of the series, ``[B]``; those without data have zero and take no part."""
        some = [i for i, part in enumerate(rows) if len(part.kept)]
        zero = self.kernel.initial().new_zeros(len(rows)) + 0 * sum(p.sum() for p in self.parameters())
        if not some:
            return zero
        if all(rows[i].items.simple for i in some):
            problem, extra = _stack([self._problem(rows[i], numbers[i]) for i in some])
            found = log_likelihood(problem, backend=self.backend) + extra
        else:
            parts = [_stack([self._problem(rows[i], numbers[i])]) for i in some]
            found = torch.cat([log_likelihood(p, backend=self.backend) + extra for p, extra in parts])
        return zero.index_put((torch.tensor(some, device=zero.device),), found)

    def _problem(
        self, rows: Rows, number: int = 0, query: Observed | None = None
    ) -> tuple[LinearGaussian, Tensor, Layout, Tensor]:
        """The engine's input for one series, the whitening's Jacobian, the layout and the queries' readouts."""
        items = rows.items if query is None else Observed(*map(torch.cat, zip(rows.items, query, strict=True)))
        layout = lay_out(items, self._first(rows.items, items))
        A, Q, P0 = transitions(self.kernel, layout)
        R = readouts(self.kernel, items, layout)
        n = len(rows.kept)
        slope = rows.items.kind.unsqueeze(-1)
        # a constant mean has no slope and no difference
        level = torch.where((slope == 1) | (slope == 3), torch.zeros_like(self.level), self.level)
        H, y, extra = whiten(R[:n], rows.y - level, 1 / self._variance(rows, number), rows.mask)
        G = len(layout.time)
        H = H.new_zeros(G, *H.shape[1:]).index_put((layout.read[:n],), H)
        y = y.new_zeros(G, y.shape[1]).index_put((layout.read[:n],), y)
        problem = LinearGaussian(*(part[None] for part in (A, Q, H, y, P0[0] * 0, P0)))
        return problem, extra.sum(), layout, R[n:]

    def _first(self, data: Observed, items: Observed) -> float | None:
        """Where the prior of a kernel that is not stationary begins."""
        if self.kernel.stationary or not len(items.kind):
            return None
        earliest = float(items.start.min())
        begin = self.start if self.start is not None else float(data.start.min()) if len(data.kind) else earliest
        if earliest < begin:
            raise ConfigError(
                f"time {earliest:g} lies before {begin:g}, where the prior of this kernel begins",
                variable="start",
                fix=f"MarkovGP(..., start={earliest:g})",
            )
        return begin

    def _variance(self, rows: Rows, number: int) -> Tensor:
        if self.log_noise is not None:
            return self.log_noise.exp().expand_as(rows.y)
        fixed = self.fixed_noise
        if isinstance(fixed, list):
            fixed = fixed[number] if number < len(fixed) else None
        if fixed is None or len(fixed) != rows.total:
            count = "none" if fixed is None else str(len(fixed))
            raise ConfigError(f"{count} noise variances for {rows.total} rows", variable="noise", fix="one per point")
        fixed = fixed.to(rows.y.device)[rows.kept]
        return (fixed if fixed.ndim == 2 else fixed[:, None]).expand_as(rows.y)

    # -- fit -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        time: Any,
        y: Any,
        method: str = "ml",
        *,
        starts: int = 1,
        iterations: int = 200,
        seed: int = 0,
        **sampler: Any,
    ) -> MarkovGP:
        """A fitted copy; ``report`` says how it ended.

        ``"ml"``: parameters of largest likelihood, by L-BFGS. ``"hmc"``: a sample of the parameters' posterior by NUTS,
        in ``hyper``; the parameters are at its mean, and :meth:`condition` averages over it.

        Args:
            time, y: as for :meth:`log_likelihood`.
            starts: searches; all but the first begin at parameters moved at random. iterations: of each.
            sampler: for ``"hmc"``: ``priors`` by parameter name (default: log-normal around the present values),
                ``draws``, ``chains``, ``warmup``, ``time_limit``, ``target_accept``.

        Raises:
            ConfigError: no such method or option. DataError: no value at all.
            NumericalError: no start has a likelihood.
        """
        if method not in ("ml", "hmc") or (method == "ml" and sampler):
            what = f"unknown method {method!r}" if method != "ml" else f"no option {', '.join(sampler)} of method 'ml'"
            raise ConfigError(what, variable="method", fix='method="ml", or method="hmc" with options of the sampler')
        gp, many = copy.deepcopy(self), _many(time)
        rows = [gp._rows(t, v) for t, v in zip(time, y, strict=True)] if many else [gp._rows(time, y)]
        if not any(len(part.kept) for part in rows):
            raise DataError("every value is missing: nothing to fit", variable="y", fix="pass some values")
        if gp.level.requires_grad:
            total, count = torch.cat([r.y for r in rows]).sum(0), torch.cat([r.mask for r in rows]).sum(0)
            gp.level.data.copy_((total / count.clamp(min=1)).reshape(gp.level.shape))
        gp.hyper = None
        gp.report = search(gp, rows, starts, iterations, seed) if method == "ml" else sample(gp, rows, seed, **sampler)
        return gp

    # -- posterior -----------------------------------------------------------------------------------------------

    def condition(self, time: Any, y: Any) -> MarkovPosterior | MixedPosterior:
        """The posterior of ``f`` given one series; after ``fit(method="hmc")`` averaged over the hyper-posterior.

        Example:
            >>> from sciinfer.gp.kernels import Matern12
            >>> post = MarkovGP(Matern12(), noise=0.5).condition([0.0, 1.0], [1.0, 2.0])
            >>> post.sample([0.5, 3.0], 7, seed=0).shape
            torch.Size([7, 2])
        """
        rows, frozen = self._rows(time, y), copy.deepcopy(self)
        if len(rows.kept):
            frozen._variance(rows, 0)
        if frozen.hyper is None:
            return frozen._posterior(rows)
        hyper, frozen.hyper, parts = frozen.hyper, None, []
        for _ in hyper.visit(HYPER_DRAWS, generator(0, "gp-mixture")):
            parts.append(copy.deepcopy(frozen)._posterior(rows))
        return MixedPosterior(parts)

    def _posterior(self, rows: Rows) -> MarkovPosterior:
        return MarkovPosterior(self.kernel, self.level.detach(), lambda q: self._problem(rows, 0, q), self.backend)

    def explain(self) -> str:
        """What is computed and how far it may be off, in words."""
        said = [f"state-space form of dimension {self.kernel.state_dim}, exact up to round-off, linear in the data"]
        lost = self.kernel.truncation()
        if lost > 0:
            said.append(f"the kernel itself is approximated: at most {lost:.1e} of its variance off")
        if self.report is not None:
            end = self.report
            said.append(f"fit {end.verdict} at {end.objective:.4f} nats after {end.iterations} iterations")
        return "; ".join(said)


def _many(time: Any) -> bool:
    """A list of series, not of numbers."""
    return (
        isinstance(time, (list, tuple))
        and not isinstance(time, Observed)
        and len(time) > 0
        and not isinstance(time[0], (int, float, np.number))
        and not (isinstance(time[0], Tensor) and time[0].ndim == 0)
    )


def _stack(parts: Sequence[tuple[LinearGaussian, Tensor, Layout, Tensor]]) -> tuple[LinearGaussian, Tensor]:
    """One batch; shorter series end in steps that do nothing and see nothing."""
    longest = max(part[0].A.shape[1] for part in parts)
    columns = zip(*(_extend(part[0], longest - part[0].A.shape[1]) for part in parts), strict=True)
    stacked = [torch.cat(list(column)) for column in columns]
    return LinearGaussian(*stacked), torch.stack([part[1] for part in parts])


def _extend(problem: LinearGaussian, more: int) -> tuple[Tensor, ...]:
    A, Q, H, y, m0, P0, _ = problem
    if more:
        eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand(1, more, -1, -1)
        A = torch.cat([A, eye], 1)
        Q, H, y = (torch.cat([x, x.new_zeros(1, more, *x.shape[2:])], 1) for x in (Q, H, y))
    return A, Q, H, y, m0, P0
