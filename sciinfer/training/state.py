"""Nested state to flat tensors plus JSON, and back, without losing a bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import CheckpointError


def flatten(tree: Any, name: str = "state") -> tuple[dict[str, Tensor], Any]:
    """Split a tree of dicts, lists, tuples, tensors and scalars into named tensors and a JSON-able structure.

    Tensors are copied to the CPU. Floats are kept as hexadecimal text, so that infinities, NaN and every bit survive.

    Args:
        tree: keys of dicts may be str or int (an optimiser's state has int keys).
        name: prefix of the tensors' names.

    Returns:
        The tensors by path (``"state/0/exp_avg"``) and the structure that :func:`unflatten` takes.

    Raises:
        CheckpointError: a value of another type.

    Example:
        >>> import torch
        >>> tensors, structure = flatten({"a": [torch.ones(2), None, 0.1]})
        >>> sorted(tensors), unflatten(tensors, structure)["a"][2]
        (['state/a/0'], 0.1)
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _describe(tree, name, tensors)


def _describe(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if tree is None or isinstance(tree, bool | str):
        return tree
    if isinstance(tree, Tensor):
        while name in tensors:  # {"a/b": ..., "a": {"b": ...}} would meet here
            name += "~"
        tensors[name] = tree.detach().cpu().clone().contiguous()
        return {"kind": "tensor", "name": name}
    if isinstance(tree, int):
        return {"kind": "int", "value": str(tree)}
    if isinstance(tree, float):
        return {"kind": "float", "value": tree.hex()}
    if isinstance(tree, Mapping):
        items = [[isinstance(key, int), str(key), _describe(v, f"{name}/{key}", tensors)] for key, v in tree.items()]
        if any(not isinstance(key, str | int) or isinstance(key, bool) for key in tree):
            raise CheckpointError(f"the keys of {name!r} are neither text nor whole numbers")
        return {"kind": "dict", "items": items}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {"kind": kind, "items": [_describe(v, f"{name}/{i}", tensors) for i, v in enumerate(tree)]}
    raise CheckpointError(f"{name!r} is of type {type(tree).__name__}, which a checkpoint cannot hold")


def unflatten(tensors: Mapping[str, Tensor], structure: Any) -> Any:
    """The tree that :func:`flatten` took apart.

    Raises:
        CheckpointError: a tensor is missing, or the structure is not one of ours.

    Example:
        >>> unflatten(*flatten({0: (1, 2.5, "x")}))
        {0: (1, 2.5, 'x')}
    """
    if structure is None or isinstance(structure, bool | str):
        return structure
    try:
        return _rebuild(tensors, structure)
    except (KeyError, TypeError, ValueError) as err:
        raise CheckpointError(f"the checkpoint's state does not fit its tensors: {err!r}") from err


def _rebuild(tensors: Mapping[str, Tensor], structure: Mapping[str, Any]) -> Any:
    kind = structure["kind"]
    if kind == "tensor":
        return tensors[structure["name"]]
    if kind == "int":
        return int(structure["value"])
    if kind == "float":
        return float.fromhex(structure["value"])
    if kind == "dict":
        items = structure["items"]
        return {int(key) if whole else key: unflatten(tensors, value) for whole, key, value in items}
    children = [unflatten(tensors, value) for value in structure["items"]]
    return children if kind == "list" else tuple(children)


def clone(tree: Any) -> Any:
    """A deep copy whose tensors are detached and share nothing with the original (order of dicts is kept)."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        return {key: clone(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(clone(value) for value in tree)
    return tree
