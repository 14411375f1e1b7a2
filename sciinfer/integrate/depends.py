"""Which tensors a field depends on besides its arguments, found from the graph of a trial evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError


def dependencies(
    evaluate: Callable[[], Iterable[Tensor]], params: Sequence[Tensor] | None, *, name: str = "params"
) -> list[Tensor]:
    """The tensors that need a gradient: ``params``, or the leaves that the outputs of ``evaluate`` lead back to.

    Args:
        evaluate: makes the outputs anew, on inputs that need no gradient.
        params: tensors named by the caller, leaves or not; None to look for leaves.
        name: of the option that they were named with, for the error.

    Raises:
        ConfigError: an output depends on a tensor that was computed before and is not in ``params``, whose gradient
            would be lost.

    Example:
        >>> import torch
        >>> a = torch.ones(2, requires_grad=True)
        >>> dependencies(lambda: [torch.ones(2) * a], None)[0] is a
        True
    """
    with torch.enable_grad():
        mark = (torch.ones((), device="cpu", requires_grad=True) * 1.0).grad_fn
        outputs = list(evaluate())
    named = [p for p in params or () if p.requires_grad]
    # held while ids are compared: the objects of nodes are made on demand
    held = [p.grad_fn for p in named if p.grad_fn is not None]
    leaves, earlier = _boundary(outputs, _number(mark), {id(node) for node in held})
    if earlier:
        raise ConfigError(
            f"drift or diffusion depends on a tensor that was computed before ({earlier[0]}), so that its gradient "
            "would be lost",
            variable=name,
            fix=f"name every such tensor in {name}=[...], or use gradient='backprop'",
        )
    known = {id(p) for p in named}
    if params is not None and any(id(leaf) not in known for leaf in leaves):
        missing = next(leaf for leaf in leaves if id(leaf) not in known)
        raise ConfigError(
            f"drift or diffusion depends on a tensor of shape {tuple(missing.shape)} that {name} does not name",
            variable=name,
            fix="add it, or detach it if it needs no gradient",
        )
    return named if params is not None else leaves


def _number(node: Any) -> int:
    return int(node._sequence_nr())


def _boundary(outputs: Sequence[Tensor], mark: int, stop: set[int]) -> tuple[list[Tensor], list[str]]:
    """Leaves behind the outputs, and names of nodes that are older than ``mark`` (those in ``stop`` left out)."""
    leaves: dict[int, Tensor] = {}
    earlier: list[str] = []
    seen: set[int] = set()
    pending: list[Any] = []
    for output in outputs:
        if output.requires_grad and output.grad_fn is None:
            leaves[id(output)] = output  # the field returns a parameter itself
        pending.append(output.grad_fn)
    keep = []  # nodes are Python objects made on demand: an id is theirs only as long as they live
    while pending:
        node = pending.pop()
        if node is None or id(node) in seen or id(node) in stop:
            continue
        seen.add(id(node))
        keep.append(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            leaves[id(leaf)] = leaf
        elif _number(node) <= mark:
            earlier.append(type(node).__name__)
        else:
            pending.extend(following for following, _ in node.next_functions)
    return list(leaves.values()), earlier
