"""Tensors to safetensors bytes and back: every plain dtype, views and shared storage included."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError

_COMPLEX = "complex"


def pack(tensors: Mapping[str, Tensor], owner: str = "tensors") -> bytes:
    """Safetensors bytes. Views, shared and non-contiguous storage are copied; nothing of the caller's is changed.

    Args:
        tensors: name to tensor, any plain dtype, any shape.
        owner: what they belong to, for messages.

    Raises:
        CheckpointError: something is not a dense tensor with values.

    Example:
        >>> unpack(pack({"a": torch.ones(2)}))["a"]
        tensor([1., 1.])
    """
    from safetensors.torch import save

    flat: dict[str, Tensor] = {}
    split = []
    for name, tensor in tensors.items():
        plain = _plain(name, tensor, owner)
        if plain.is_complex():
            split.append(name)
            plain = torch.view_as_real(plain).contiguous()
        flat[name] = plain
    return save(flat, metadata={_COMPLEX: json.dumps(split)} if split else None)


def unpack(data: bytes) -> dict[str, Tensor]:
    """The tensors in safetensors bytes, in memory of their own.

    Raises:
        CheckpointError: the bytes are not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        split = json.loads(_metadata(data).get(_COMPLEX, "[]"))
        return {n: torch.view_as_complex(t) if n in split else t for n, t in tensors.items()}
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as err:
        raise CheckpointError(f"the bytes are not safetensors: {err}", fix="restore the file from a copy") from err


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]).get("__metadata__", {})


def _plain(name: str, tensor: Tensor, owner: str) -> Tensor:
    if not isinstance(name, str) or name == "__metadata__":
        raise CheckpointError(f"{owner}: {name!r} cannot be the name of a tensor", fix="rename it")
    if not isinstance(tensor, Tensor):
        raise CheckpointError(
            f"{owner} holds a {type(tensor).__name__}, not a tensor", variable=name, fix="use torch.as_tensor"
        )
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise CheckpointError(f"{owner} holds a sparse, quantised or meta tensor", variable=name, fix="make it dense")
    own = tensor.detach().resolve_conj().resolve_neg().to("cpu")
    return own.clone(memory_format=torch.contiguous_format)
