"""The loss of a batch and its gradient: in pieces if memory asks for it, over ranks if there are several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.linalg import LinAlgError  # pyright: ignore

from ..errors import NumericalError, ResourceError
from ..labelled.series import SeriesBatch
from ..models.base import Loss, Model
from ..random import generator
from .device import out_of_memory, peak_memory, release_memory
from .distributed import Team

# summed over ranks; an interrupt outweighs any number of ranks whose time is up
_STOPS = {"": 0.0, "time": 1.0, "interrupted": 1e6}

Stream = tuple[str | int, ...]
LossFunction = Callable[..., Loss]


class Evaluation(NamedTuple):
    """A loss per observed entry, its parts, the norm of its gradient (left in ``.grad``), and whether it is usable.

    ``cause`` is the model's own words where it gave up; ``stop`` is why any rank was asked to stop, or ``""``.
    """

    value: float
    terms: dict[str, float]
    norm: float
    cause: str | None = None
    stop: str = ""

    @property
    def finite(self) -> bool:
        """True if loss and gradient are finite numbers."""
        return self.cause is None and abs(self.value) < float("inf") and self.norm < float("inf")


class Objective:
    """Evaluates a model's loss with explicit random streams.

    A batch of ``n`` observed entries in pieces of ``n_i`` has loss ``sum_i n_i loss_i / n``; its gradient is summed
    piece by piece. For a loss without noise the pieces give the same gradient as the whole; a loss that draws random
    numbers gets an independent stream per piece and rank, so the expectation stays and the draw differs.

    Args:
        model: on ``device`` already.
        seed: the run's seed.
        device: where the model is.
        team: the ranks that share the work.
        micro: series per forward pass, None = all.
        mixed: bfloat16 autocast.
        compiled: compile the loss.
    """

    def __init__(
        self,
        model: Model,
        *,
        seed: int,
        device: torch.device,
        team: Team,
        micro: int | None = None,
        mixed: bool = False,
        compiled: bool = False,
    ) -> None:
        self.model, self.seed, self.device, self.team, self.micro, self.mixed = model, seed, device, team, micro, mixed
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.notices: list[str] = []
        self.stop_requested: Callable[[], str] = lambda: ""
        self._loss: LossFunction = _Compiled(model, self.notices) if compiled else model.loss
        self._names: list[str] | None = None

    def gradient(self, batch: SeriesBatch, stream: Stream, progress: float = 1.0) -> Evaluation:
        """Loss and gradient of ``batch``; every rank gets the same answer.

        Raises:
            ResourceError: memory ends even with one series at a time.
        """
        stop, error = self.stop_requested(), None
        try:
            value, terms, cause = self._local(batch, stream, progress)
        except Exception as err:
            if self.team.size == 1:
                raise
            # the other ranks wait in the sum: join it, then raise
            value, terms, cause, error = 0.0, {}, None, err
        return self._sum(value, terms, cause, stop, error)

    def total(self, batch: SeriesBatch, stream: Stream) -> float:
        """Loss of ``batch`` times its observed entries, summed over ranks; no gradient is kept. NaN where it fails."""
        own, error = float("nan"), None
        try:
            own = self._total(batch, stream)
        except Exception as err:
            if self.team.size == 1:
                raise
            error = err
        numbers = torch.tensor([own, float(error is not None)], dtype=self._accumulator, device=self.device)
        value, failed = self.team.sum(numbers).tolist()
        if failed > 0:
            raise error or _elsewhere()
        return value

    def _total(self, batch: SeriesBatch, stream: Stream) -> float:
        while True:
            try:
                return sum(float(loss.value.detach()) * n for loss, n in self._pieces(batch, stream, 1.0))
            except (NumericalError, LinAlgError):
                return float("nan")
            except (RuntimeError, MemoryError) as err:
                self._shrink(batch, err)

    @property
    def _accumulator(self) -> torch.dtype:
        return torch.float32 if self.device.type == "mps" else torch.float64

    def _local(self, batch: SeriesBatch, stream: Stream, progress: float) -> tuple[float, dict[str, float], str | None]:
        while True:
            try:
                return (*self._backward(batch, stream, progress), None)
            except (NumericalError, LinAlgError) as err:
                return float("nan"), {}, str(err)
            except (RuntimeError, MemoryError) as err:
                self._shrink(batch, err)

    def _backward(self, batch: SeriesBatch, stream: Stream, progress: float) -> tuple[float, dict[str, float]]:
        for parameter in self.parameters:
            parameter.grad = None
        total, value, terms = max(batch.observed, 1), 0.0, {}
        for loss, n in self._pieces(batch, stream, progress):
            weight = n / total
            if loss.value.requires_grad:
                (loss.value if weight == 1.0 else loss.value * weight).backward()
            value += float(loss.value.detach()) * weight
            for name, term in loss.terms.items():
                terms[name] = terms.get(name, 0.0) + float(torch.as_tensor(term).detach()) * weight
        return value, terms

    def _pieces(self, batch: SeriesBatch, stream: Stream, progress: float) -> Iterator[tuple[Loss, int]]:
        if self.team.size == 1 and (self.micro is None or self.micro >= batch.n_series):
            if (n := batch.observed) > 0:
                yield self._one(batch, stream, progress), n
            return
        mine = self.team.share(batch.n_series)
        width = self.micro or max(len(mine), 1)
        for start in range(0, len(mine), width):
            piece = batch.select(mine[start : start + width])
            if (n := piece.observed) > 0:
                yield self._one(piece, (*stream, "piece", self.team.rank, start), progress), n

    def _one(self, batch: SeriesBatch, stream: Stream, progress: float) -> Loss:
        noise = generator(self.seed, *stream, device=self.device)
        with torch.enable_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            return self._loss(batch, generator=noise, progress=progress)

    def _shrink(self, batch: SeriesBatch, err: BaseException) -> None:
        if not out_of_memory(err):
            raise err
        size = min(self.micro or batch.n_series, len(self.team.share(batch.n_series)) or 1)
        peak = peak_memory(self.device)
        if size <= 1:
            used = "unknown" if peak is None else f"{peak / 2**20:.0f} MiB"
            raise ResourceError(
                f"memory of '{self.device}' ended with a single series in flight (peak {used})",
                code="resource/memory",
                fix="use a smaller model, shorter series, precision='float32' or a device with more memory",
                details={"peak_bytes": peak, "micro_batch": 1},
            ) from err
        release_memory(self.device)
        self.micro = (size + 1) // 2
        self.notices.append(f"memory ended: the micro-batch was halved to {self.micro} series")

    def _sum(
        self, value: float, terms: dict[str, float], cause: str | None, stop: str, error: Exception | None
    ) -> Evaluation:
        if self.team.size > 1:
            value, terms, cause, stop = self._reduce(value, terms, cause, stop, error)
        return Evaluation(value, terms, self._norm() if cause is None else float("nan"), cause, stop)

    def _reduce(
        self, value: float, terms: dict[str, float], cause: str | None, stop: str, error: Exception | None
    ) -> tuple[float, dict[str, float], str | None, str]:
        if self._names is None:
            self._names = self.team.union(list(terms))
        numbers = [value, float(cause is not None), _STOPS[stop], float(error is not None)]
        numbers += [terms.get(name, 0.0) for name in self._names]
        summed = self.team.sum(torch.tensor(numbers, dtype=self._accumulator, device=self.device)).tolist()
        if summed[3] > 0:
            raise error or _elsewhere()
        for parameter in self.parameters:  # every rank must bring the same tensors
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        _sum_gradients(self.parameters, self.team)
        if summed[1] > 0:
            cause = cause or "another rank met a numerical error"
        return summed[0], dict(zip(self._names, summed[4:], strict=True)), cause, _reason(summed[2])

    def _norm(self) -> float:
        norms = [torch.linalg.vector_norm(p.grad) for p in self.parameters if p.grad is not None]
        if not norms:
            return 0.0
        return float(torch.linalg.vector_norm(torch.stack([norm.to(norms[0].dtype) for norm in norms])))


def _reason(summed: float) -> str:
    return "interrupted" if summed >= _STOPS["interrupted"] else "time" if summed > 0 else ""


def _elsewhere() -> ResourceError:
    return ResourceError("another rank failed", fix="read the error of the other rank")


def _sum_gradients(parameters: list[nn.Parameter], team: Team) -> None:
    """One message per dtype instead of one per parameter."""
    for dtype in sorted({p.dtype for p in parameters}, key=str):
        grads = [p.grad for p in parameters if p.dtype == dtype and p.grad is not None]
        views = [torch.view_as_real(g) if g.is_complex() else g for g in grads]
        flat = team.sum(torch.cat([view.reshape(-1) for view in views]))
        for view, part in zip(views, flat.split([view.numel() for view in views]), strict=True):
            view.copy_(part.view_as(view))


def clip(parameters: list[nn.Parameter], norm: float, limit: float | None) -> None:
    """Scale gradients so that their joint norm is at most ``limit``: ``g <- g min(1, limit / norm)``."""
    if limit is not None and norm > limit:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(limit / norm)


class _Compiled:
    """A compiled loss that falls back to the plain one, with a notice, where the compiler cannot follow."""

    def __init__(self, model: Model, notices: list[str]) -> None:
        self._plain, self._notices = model.loss, notices
        self._fast: LossFunction | None = torch.compile(model.loss, dynamic=True)

    def __call__(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float) -> Loss:
        if self._fast is not None:
            from torch._dynamo.exc import TorchDynamoException

            try:
                return self._fast(batch, generator=generator, progress=progress)
            except TorchDynamoException as err:
                first = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
                self._notices.append(f"the loss could not be compiled and runs as it is: {first}")
                self._fast = None
        return self._plain(batch, generator=generator, progress=progress)
