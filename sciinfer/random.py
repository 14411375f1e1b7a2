"""One seed, many named and independent streams; the global random state is never read nor written."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from .errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream ``names``: the first 8 bytes of SHA-256 of the seed and the names.

    Example:
        >>> derive(0, "train") == derive(0, "train") and derive(0, "train") != derive(0, "predict")
        True
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"a seed must be an int, got {type(seed).__name__}", fix="pass seed=0 or another integer")
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh ``torch.Generator`` for the stream ``names``.

    Example:
        >>> import torch
        >>> a = torch.randn(2, generator=generator(0, "x")); b = torch.randn(2, generator=generator(0, "x"))
        >>> bool((a == b).all())
        True
    """
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A fresh ``numpy.random.Generator`` for the stream ``names`` (simulators and splits)."""
    import numpy as np

    return np.random.default_rng(derive(seed, *names))
