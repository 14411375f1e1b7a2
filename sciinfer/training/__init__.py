"""Training: the loop, checkpoints, devices, distributed."""

from __future__ import annotations

from .config import TrainingConfig
from .device import resolve_device
from .history import History
from .loop import train
from .progress import reporter

__all__ = ["History", "TrainingConfig", "reporter", "resolve_device", "train"]
