"""Which device and precision a run uses, and what to say when memory ends."""

from __future__ import annotations

import os
import sys

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ResourceError

_COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64}


def resolve_device(name: str = "auto", precision: str = "float64") -> torch.device:
    """The device called ``name``.

    ``"auto"`` is the local CUDA device if there is one (the process's own under a launcher that sets ``LOCAL_RANK``),
    else the CPU. Apple's ``mps`` is used only when asked for: it has no float64.

    Args:
        name: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
        precision: as in :class:`~sciinfer.training.TrainingConfig`.

    Raises:
        ConfigError: an unknown name, or float64 on ``mps``.
        ResourceError: the device is not there.

    Example:
        >>> resolve_device("cpu").type
        'cpu'
    """
    if name == "auto":
        return _auto()
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise ConfigError(
            f"there is no device {name!r}", code="config/device", fix="use auto, cpu, cuda or mps"
        ) from err
    if device.type == "cuda":
        _check_cuda(device)
    elif device.type == "mps":
        _check_mps(precision)
    elif device.type != "cpu":
        raise _unknown(name)
    return device


def _unknown(name: str) -> ConfigError:
    return ConfigError(f"{name!r} is no device we use", code="config/device", fix="use auto, cpu, cuda, cuda:0 or mps")


def _auto() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = os.environ.get("LOCAL_RANK", "0")
    return torch.device("cuda", int(local) % torch.cuda.device_count() if local.isdigit() else 0)


def _check_cuda(device: torch.device) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        found = f"{count} CUDA device(s) are visible" if count else "no CUDA device is visible to this PyTorch"
        raise ResourceError(
            f"device '{device}' is absent: {found}", code="resource/device", fix="use device='auto' or device='cpu'"
        )


def _check_mps(precision: str) -> None:
    if precision == "float64":
        raise ConfigError(
            "device 'mps' has no float64",
            code="config/precision",
            fix="use precision='float32', or device='cpu' to keep float64",
        )
    if not torch.backends.mps.is_available():
        raise ResourceError(
            "device 'mps' is absent: Metal is not available here",
            code="resource/device",
            fix="use device='auto' or device='cpu'",
        )


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse mixed precision where the device has no autocast."""
    if precision == "bf16-mixed" and not torch.amp.is_autocast_available(device.type):
        raise ConfigError(
            f"device '{device}' has no automatic mixed precision",
            code="config/precision",
            fix="use precision='float32'",
        )


def dtype_of(precision: str) -> torch.dtype:
    """The dtype of weights and data (mixed precision keeps them in float32)."""
    return torch.float64 if precision == "float64" else torch.float32


def place(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a model in place; complex parameters keep their imaginary part (``Module.to(dtype)`` would drop it)."""

    def move(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(device=device, dtype=_COMPLEX[dtype])
        return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

    model._apply(move)


def out_of_memory(err: BaseException) -> bool:
    """True if ``err`` says that memory of the device or of the host ended."""
    text = str(err)
    allocator = isinstance(err, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)
    return isinstance(err, torch.OutOfMemoryError | MemoryError) or allocator


def peak_memory(device: torch.device) -> int | None:
    """Largest number of bytes used so far: allocated on a CUDA device, resident on the CPU; None where unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type != "cpu" or sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def release_memory(device: torch.device) -> None:
    """Give cached blocks back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
