"""Dynamic mode decomposition: the linear operator that best carries snapshots one step on, and its eigenvalues."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, ShapeError, StateError
from .dmd_rank import Pairs, check_rank, chosen_rank, pairs_of, trajectories, windows

METHODS = ("total", "forward-backward", "exact")


class DMD:
    r"""Operator ``A`` with ``x[t + 1] = A x[t]`` in the leading directions of the data, and its spectrum.

    ``method``: ``"total"`` (default) projects both sides on the leading time courses of the stacked pairs first, so
    that noise in the snapshots does not pull eigenvalues inwards; ``"forward-backward"`` takes the geometric mean of
    the operators of both directions of time; ``"exact"`` is plain least squares, biased by noise:
    :math:`|\lambda| \approx |\lambda_0| (1 - \sigma^2 / \mathrm{var})`. With ``delays > 1`` the snapshots are windows.

    Args:
        rank: number of directions, or ``"auto"`` (see :func:`~sciinfer.processes.dmd_rank.automatic_rank`).
        delays: snapshots in a window. method: see above. dt: time between snapshots.
        floor: directions below this share of the strongest never count in ``"auto"``.

    Attributes:
        operator: ``[r, r]`` in the ``basis [delays n, r]``. control: ``[r, k]`` or None. eigenvalues: ``[r]``, largest
        first. modes: ``[n, r]`` of the newest snapshot. rank: ``r``.

    Raises:
        ConfigError: an option out of its range.

    References:
        Tu, Rowley, Luchtenburg, Brunton, Kutz (2014), On dynamic mode decomposition: theory and applications.
        Hemati, Rowley, Deem, Cattafesta (2017), De-biasing the dynamic mode decomposition.
        Dawson, Hemati, Williams, Rowley (2016), Characterizing and correcting for the effect of sensor noise.
        Le Clainche, Vega (2017), Higher order dynamic mode decomposition.
        Proctor, Brunton, Kutz (2016), Dynamic mode decomposition with control.

    Example:
        >>> t = torch.arange(50.0, dtype=torch.float64)
        >>> model = DMD(dt=0.5).fit(torch.stack([(0.3 * t).cos(), (0.3 * t).sin()], 1))
        >>> model.rank, model.frequencies.abs().round(decimals=6).tolist()
        (2, [0.6, 0.6])
    """

    operator: Tensor
    basis: Tensor
    control: Tensor | None
    eigenvalues: Tensor
    modes: Tensor

    def __init__(
        self, *, rank: int | str = "auto", delays: int = 1, method: str = "total", dt: float = 1.0, floor: float = 1e-3
    ) -> None:
        check_rank(rank)
        if not isinstance(delays, int) or isinstance(delays, bool) or delays < 1:
            raise ConfigError(f"delays must be a whole number >= 1, got {delays!r}", variable="delays", fix="delays=1")
        if method not in METHODS:
            raise ConfigError(f"unknown method {method!r}", variable="method", fix=f"one of: {', '.join(METHODS)}")
        if not 0 < dt < math.inf:
            raise ConfigError(f"dt must be positive, got {dt!r}", variable="dt", fix="dt=1.0")
        self.asked, self.delays, self.method, self.dt, self.floor = rank, delays, method, float(dt), floor
        self.channels = 0

    def fit(self, x: Any, inputs: Any = None) -> Self:
        """Estimate the operator.

        Args:
            x: snapshots ``[T, n]`` real or complex, NaN = missing, or a list of trajectories: no pair crosses them, and
                a pair with a gap is left out.
            inputs: known ``[T, k]`` (or a list), ``u[t]`` acts between ``x[t]`` and ``x[t + 1]``.

        Raises:
            ShapeError: sizes do not fit. DataError: too few snapshots.
        """
        many = trajectories(x)
        known = None if inputs is None else trajectories(inputs, "inputs")
        if known is not None and [len(part) for part in known] != [len(part) for part in many]:
            raise ShapeError("inputs and snapshots differ in length", variable="inputs", fix="one row of each a step")
        self.channels = many[0].shape[1]
        pairs = pairs_of(many, self.delays, known)
        self.basis, self.operator = operator_of(
            *_without_inputs(pairs), self.asked, self.method, self.floor, self.channels
        )
        self.control = _control(pairs, self.basis, self.operator)
        values, vectors = torch.linalg.eig(self.operator)
        order = torch.argsort(values.abs(), descending=True, stable=True)
        self.eigenvalues = values[order]
        self.modes = self.basis[-self.channels :].to(vectors.dtype) @ vectors[:, order]
        return self

    @property
    def rank(self) -> int:
        """Number of eigenvalues."""
        return len(self._ready().eigenvalues)

    @property
    def exponents(self) -> Tensor:
        """``log(eigenvalue) / dt [r]``: growth rate and angular frequency per unit of time."""
        return self._ready().eigenvalues.log() / self.dt

    @property
    def frequencies(self) -> Tensor:
        """Angular frequencies ``[r]``."""
        return self.exponents.imag

    @property
    def rates(self) -> Tensor:
        """Growth rates ``[r]``, negative for decay."""
        return self.exponents.real

    def predict(self, x: Any, steps: int, inputs: Any = None) -> Tensor:
        """``[steps, n]`` after the last ``delays`` rows of ``x [T, n]``: powers of the operator, never re-lifted.

        Args:
            inputs: ``[steps, k]`` from the last row of ``x`` on, where the fit had inputs.

        Raises:
            DataError: the last rows are too few or have gaps. ShapeError: inputs are missing or too short.
        """
        basis = self._ready().basis
        last = trajectories(x)[0][-self.delays :]
        if len(last) < self.delays or bool(last.isnan().any()):
            raise DataError(f"the last {self.delays} snapshots must be complete", variable="x", fix="fill or cut them")
        push = self._push(inputs, steps, basis)
        z = windows(last, self.delays)[0].to(basis.dtype) @ basis.conj()
        found = []
        for k in range(steps):
            z = self.operator @ z + push[k]
            found.append(basis[-self.channels :] @ z)
        return torch.stack(found) if found else last[:0]

    def _push(self, inputs: Any, steps: int, like: Tensor) -> Tensor:
        if self.control is None:
            return like.new_zeros(steps, len(self.operator))
        known = trajectories(inputs, "inputs")[0] if inputs is not None else like.new_zeros(0, 0)
        if known.shape[0] < steps or known.shape[1] != self.control.shape[1]:
            raise ShapeError(
                f"inputs have shape {tuple(known.shape)}, needed are {steps} rows of {self.control.shape[1]}",
                variable="inputs", fix="pass the known inputs of every step",
            )  # fmt: skip
        return known[:steps].to(like.dtype) @ self.control.mT

    def _ready(self) -> Self:
        if not self.channels:
            raise StateError("the operator is not estimated yet", fix="call fit first")
        return self


def operator_of(
    x: Tensor, y: Tensor, rank: int | str, method: str = "total", floor: float = 1e-3, channels: int | None = None
) -> tuple[Tensor, Tensor]:
    """Basis ``[p, r]`` and operator ``[r, r]`` of pairs.

    Args:
        x, y: ``[..., m, p]`` windows and those one step later; leading dims (problems side by side) need a whole rank.
        rank, method, floor: see :class:`DMD`. channels: new numbers per step; default ``p``.
    """
    # the stacked pairs have rank r at most p where windows and their successors share all but the new snapshot
    m, p = x.shape[-2:]
    fresh = channels if channels is not None else p
    stacked = torch.cat([x, y[..., -fresh:]], dim=-1).mT
    _, s, vh = torch.linalg.svd(stacked, full_matrices=False)
    r = chosen_rank(rank, s, p + fresh, m, p, floor)
    if method == "total":
        courses = vh[..., :r, :].mH
        x, y = ((part.mT @ courses).mT for part in (x, y))
    u, s, vh = torch.linalg.svd(x.mT, full_matrices=False)
    basis, forward = u[..., :r], _reduced(u, s, vh, y, r)
    if method == "forward-backward":
        forward = _mean_of_both(forward, x @ basis.conj(), y @ basis.conj())
    return basis, forward


def _reduced(u: Tensor, s: Tensor, vh: Tensor, y: Tensor, r: int) -> Tensor:
    inverse = torch.where(s[..., :r] > 1e-14 * s[..., :1], 1 / s[..., :r], 0.0)
    return u[..., :r].mH @ y.mT @ vh[..., :r, :].mH * inverse[..., None, :]


def _mean_of_both(forward: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``(F B^-1)^(1/2)``, of each root the sign that is nearer to F. ``x, y [..., m, r]`` reduced snapshots."""
    backward = torch.linalg.lstsq(y, x, driver="gelsd" if y.device.type == "cpu" else None).solution.mT
    product = torch.linalg.solve(backward, forward, left=False)
    values, vectors = torch.linalg.eig(product)
    seen = torch.linalg.solve(vectors, forward.to(vectors.dtype) @ vectors).diagonal(dim1=-2, dim2=-1)
    root = values.sqrt()
    root = torch.where((root.conj() * seen).real < 0, -root, root)
    mean = torch.linalg.solve(vectors, vectors * root[..., None, :], left=False)
    return mean if forward.is_complex() else mean.real


def _without_inputs(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Windows and successors with what the inputs explain taken out, so that any method applies to the rest."""
    if pairs.u is None:
        return pairs.x, pairs.y
    u = pairs.u.to(pairs.x.dtype)
    inverse = torch.linalg.pinv(u)
    return pairs.x - u @ (inverse @ pairs.x), pairs.y - u @ (inverse @ pairs.y)


def _control(pairs: Pairs, basis: Tensor, operator: Tensor) -> Tensor | None:
    if pairs.u is None:
        return None
    left = pairs.y @ basis.conj() - pairs.x @ basis.conj() @ operator.mT
    return (torch.linalg.pinv(pairs.u.to(left.dtype)) @ left).mT
