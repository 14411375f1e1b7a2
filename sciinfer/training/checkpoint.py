"""All that a run needs to go on as if nothing had happened."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError, ResourceError
from ..labelled import storage
from ..labelled.series import SeriesBatch
from .adam import Optimiser
from .config import RESUMABLE, TrainingConfig
from .history import History
from .state import clone, flatten, unflatten


@dataclass
class TrainState:
    """Everything that changes during a run, apart from the weights and the optimiser.

    Args:
        step: completed steps.
        rollbacks: how often the run went back; the learning rate is ``0.5 ** rollbacks`` of its schedule.
        waited: validations since the last improvement.
        still: L-BFGS steps in a row that hardly changed the loss.
        previous: the loss of the step before (L-BFGS).
        best, best_value: weights and validation loss of the best validation.
        micro: series per forward pass, None = all.
        seconds: training time so far.
        history: the record.
    """

    step: int = 0
    rollbacks: int = 0
    waited: int = 0
    still: int = 0
    previous: float | None = None
    best: dict[str, Any] | None = None
    best_value: float = float("inf")
    micro: int | None = None
    seconds: float = 0.0
    history: History = field(default_factory=History)

    def counters(self) -> dict[str, Any]:
        """What a rollback puts back (the best weights, the micro-batch and the number of rollbacks stay)."""
        return {"step": self.step, "waited": self.waited, "still": self.still, "previous": self.previous}

    def to_tree(self) -> dict[str, Any]:
        """All fields as a tree for :func:`~sciinfer.training.state.flatten`."""
        return {**vars(self), "history": self.history.to_tree()}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> TrainState:
        """The inverse of :meth:`to_tree`."""
        return cls(**{**tree, "history": History.from_tree(tree["history"])})


class Snapshot:
    """Weights, optimiser and counters at one moment, in memory."""

    def __init__(self, model: nn.Module, optimiser: Optimiser, state: TrainState) -> None:
        self.weights = clone(model.state_dict())
        self._optimiser = clone(optimiser.state_dict())
        self._counters = state.counters()

    @property
    def step(self) -> int:
        """Completed steps at that moment."""
        return int(self._counters["step"])

    def restore(self, model: nn.Module, optimiser: Optimiser, state: TrainState) -> None:
        """Go back."""
        model.load_state_dict(self.weights)
        optimiser.load_state_dict(clone(self._optimiser))
        for name, value in self._counters.items():
            setattr(state, name, value)
        state.history.truncate(self.step)


@dataclass(frozen=True)
class Identity:
    """What must not change between the parts of a resumed run."""

    config: TrainingConfig
    seed: int
    data: str

    def to_tree(self) -> dict[str, Any]:
        """Plain values."""
        return {"config": self.config.to_dict(), "seed": self.seed, "data": self.data}

    def check(self, saved: Mapping[str, Any]) -> list[str]:
        """Refuse a checkpoint of another run; returns the options that differ and may.

        Raises:
            ConfigError: seed or options differ.
            CheckpointError: the data differ.
        """
        if saved["seed"] != self.seed:
            raise ConfigError(
                f"the checkpoint was made with seed {saved['seed']}, not {self.seed}",
                code="config/resume",
                fix=f"resume with seed={saved['seed']}, or start anew in another folder",
            )
        if saved["data"] != self.data:
            raise CheckpointError(
                "the checkpoint was made with other data",
                fix="resume with the same data, or start anew in another folder",
            )
        before, now = saved["config"], self.config.to_dict()
        changed = [name for name in now if before.get(name) != now[name]]
        fixed = [name for name in changed if name not in RESUMABLE]
        if fixed:
            old = ", ".join(f"{name}={before.get(name)!r}" for name in fixed)
            raise ConfigError(
                f"the checkpoint was made with {old}",
                code="config/resume",
                fix=f"keep {', '.join(fixed)}, or start anew in another folder",
                details={"fields": dict.fromkeys(fixed, "differs from the checkpoint")},
            )
        return changed


def save(folder: Path, model: nn.Module, optimiser: Optimiser, state: TrainState, identity: Identity) -> None:
    """Write a checkpoint of this moment; the one before stays until the new one is whole.

    Raises:
        ResourceError: the disk is full or cannot be written; earlier checkpoints are intact.
    """
    tree = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "state": state.to_tree(),
        "identity": identity.to_tree(),
    }
    tensors, structure = flatten(tree, "run")
    try:
        storage.save_checkpoint(folder, state.step, tensors, {"run": structure})
    except OSError as err:
        raise ResourceError(
            f"the checkpoint of step {state.step} could not be written to '{folder}': {err}",
            fix="free some space or choose another folder; the checkpoint before is intact",
        ) from err


def exists(folder: Path) -> bool:
    """True if the folder holds checkpoints, valid or not."""
    return bool(storage.checkpoint_steps(folder))


def load(
    folder: Path, model: nn.Module, optimiser: Optimiser, identity: Identity, device: torch.device
) -> tuple[TrainState, list[str]]:
    """Put model and optimiser into the newest valid checkpoint's state.

    Returns:
        The run's state, and the options that differ from the checkpoint's.

    Raises:
        CheckpointError: none is valid, or it belongs to another model or other data.
        ConfigError: it was made with another seed or with options that a resumed run cannot change.
    """
    _, tensors, saved = storage.load_checkpoint(folder)
    tree = unflatten(tensors, saved["run"])
    changed = identity.check(tree["identity"])
    try:
        model.load_state_dict(tree["model"])
        optimiser.load_state_dict(tree["optimiser"])
    except (RuntimeError, ValueError, KeyError) as err:
        first = str(err).strip().splitlines()
        raise CheckpointError(
            f"the checkpoint in '{folder}' belongs to another model: {' '.join(first[:3])}",
            fix="build the same model, or start anew in another folder",
        ) from err
    state = TrainState.from_tree(tree["state"])
    if state.best is not None:
        state.best = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in state.best.items()}
    return state, changed


def fingerprint(data: SeriesBatch) -> str:
    """SHA-256 of a batch: dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for tensor in data:
        if tensor is None:
            digest.update(b"none")
            continue
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
