"""What happened during training, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Stopped = str


@dataclass
class History:
    """The record of a run.

    Args:
        steps: the steps taken, ``0, 1, ...``.
        loss: training loss at each step (per observed entry), before its update.
        terms: parts of the loss by name, one value per step (NaN where the model did not report it).
        seconds: training time at the end of each step, over all resumed parts.
        validation: ``(completed steps, loss per held-out entry)``.
        best_step: completed steps of the weights with the lowest validation loss, which are the ones restored; or None.
        stopped: ``"steps"``, ``"patience"``, ``"converged"``, ``"time"``, ``"interrupted"``, ``"nothing-to-train"`` or
            ``""`` while it runs.
        notices: what was changed or assumed on the caller's behalf.

    Example:
        >>> h = History(); h.record(0, 1.5, {"kl": 0.5}, 0.1); History.from_tree(h.to_tree()) == h
        True
    """

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    terms: dict[str, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    best_step: int | None = None
    stopped: Stopped = ""
    notices: list[str] = field(default_factory=list)

    def record(self, step: int, loss: float, terms: Mapping[str, float], seconds: float) -> None:
        """Append one step."""
        for name in terms:
            self.terms.setdefault(name, [float("nan")] * len(self.steps))
        for name, values in self.terms.items():
            values.append(terms.get(name, float("nan")))
        self.steps.append(step)
        self.loss.append(loss)
        self.seconds.append(seconds)

    def truncate(self, step: int) -> None:
        """Forget ``step`` and everything after it (a rollback)."""
        keep = sum(1 for taken in self.steps if taken < step)
        for values in (self.steps, self.loss, self.seconds, *self.terms.values()):
            del values[keep:]
        self.validation = [(done, value) for done, value in self.validation if done <= step]

    def notice(self, text: str) -> None:
        """Note something once."""
        if text not in self.notices:
            self.notices.append(text)

    def curves(self) -> dict[str, list[float]]:
        """``steps, loss, validation_steps, validation``, for plots and reports."""
        return {
            "steps": [float(step) for step in self.steps],
            "loss": list(self.loss),
            "validation_steps": [float(done) for done, _ in self.validation],
            "validation": [value for _, value in self.validation],
        }

    def to_tree(self) -> dict[str, Any]:
        """Series as float64 tensors (exact and compact), the rest as plain values."""
        return {
            "steps": torch.tensor(self.steps, dtype=torch.int64),
            "loss": _series(self.loss),
            "terms": {name: _series(values) for name, values in self.terms.items()},
            "seconds": _series(self.seconds),
            "validation_steps": torch.tensor([done for done, _ in self.validation], dtype=torch.int64),
            "validation": _series([value for _, value in self.validation]),
            "best_step": self.best_step,
            "stopped": self.stopped,
            "notices": list(self.notices),
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> History:
        """The inverse of :meth:`to_tree`."""
        pairs = zip(tree["validation_steps"].tolist(), tree["validation"].tolist(), strict=True)
        return cls(
            steps=tree["steps"].tolist(),
            loss=tree["loss"].tolist(),
            terms={name: values.tolist() for name, values in tree["terms"].items()},
            seconds=tree["seconds"].tolist(),
            validation=list(pairs),
            best_step=tree["best_step"],
            stopped=tree["stopped"],
            notices=list(tree["notices"]),
        )


def _series(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
