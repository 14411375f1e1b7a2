"""When a checkpoint is written, and by whom."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ..errors import CheckpointError
from . import checkpoint
from .adam import Optimiser
from .checkpoint import Identity, TrainState
from .config import TrainingConfig

OnCheckpoint = Callable[[Path, int], None]


class Keeper:
    """Writes checkpoints of one run into ``folder``; does nothing where that is None or on a rank that does not lead.

    Args:
        folder: of this run.
        config: says how often.
        identity: what a resumed run is compared with.
        leads: True on the rank that writes.
        told: called with the folder and the step after each checkpoint.
    """

    def __init__(
        self,
        folder: Path | None,
        config: TrainingConfig,
        identity: Identity,
        *,
        leads: bool = True,
        told: OnCheckpoint | None = None,
    ) -> None:
        self.folder, self.identity, self._told, self._leads = folder, identity, told, leads
        self._every, self._seconds = config.checkpoint_every, config.checkpoint_seconds
        self._step: int | None = None
        self._when = 0.0

    def due(self, step: int) -> bool:
        """True if the state at ``step`` should be written now; the first one always is."""
        if self._step is None:
            return True
        if step == self._step:
            return False
        counted = self._every is not None and step % self._every == 0
        return counted or (self._seconds is not None and time.monotonic() - self._when >= self._seconds)

    def save(self, model: nn.Module, optimiser: Optimiser, state: TrainState) -> None:
        """Write the state, unless that step is the newest checkpoint already."""
        if self.folder is None or not self._leads or state.step == self._step:
            return
        checkpoint.save(self.folder, model, optimiser, state, self.identity)
        self._step, self._when = state.step, time.monotonic()
        if self._told is not None:
            self._told(self.folder, state.step)

    def load(self, model: nn.Module, optimiser: Optimiser, device: torch.device) -> tuple[TrainState, list[str]] | None:
        """The newest valid checkpoint put into model and optimiser; None if there is none yet.

        Raises:
            CheckpointError: the folder is absent, or damaged, or of another run.
        """
        if self.folder is None or not self.folder.is_dir():
            raise CheckpointError(f"there is no folder '{self.folder}' to resume from", fix="check the path")
        if not checkpoint.exists(self.folder):
            return None
        state, changed = checkpoint.load(self.folder, model, optimiser, self.identity, device)
        self._step, self._when = state.step, time.monotonic()
        return state, changed
