"""Which parameter to look at when a state has left the finite numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch


class Suspect(NamedTuple):
    """The ``name`` of a parameter and the ``norm`` of its values."""

    name: str
    norm: float

    @property
    def sentence(self) -> str:
        """For a message."""
        if math.isfinite(self.norm):
            return f"the largest parameter is {self.name}, of norm {self.norm:.3g}"
        return f"parameter {self.name} is not finite"


@torch.no_grad()
def suspect(fields: Sequence[object]) -> Suspect | None:
    """The first parameter that is not finite, else the one of largest norm, of the modules behind ``fields``.

    A field is a module, a method of one, or a function that refers to one; None where there is no module.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 1)
        >>> net.bias.data.fill_(100.0)
        tensor([100.])
        >>> suspect([lambda t, z: net(z)]).name
        'bias'
    """
    found: Suspect | None = None
    for module in modules(fields):
        for name, value in module.named_parameters():
            norm = float(value.norm())
            if not math.isfinite(norm):
                return Suspect(name, norm)
            if found is None or norm > found.norm:
                found = Suspect(name, norm)
    return found


def modules(fields: Sequence[object]) -> Iterator[torch.nn.Module]:
    """Every module that a field is, is a method of, or refers to, once."""
    seen: set[int] = set()
    pending = list(fields)
    while pending:
        field = pending.pop(0)
        if id(field) in seen:
            continue
        seen.add(id(field))
        if isinstance(field, torch.nn.Module):
            yield field
            continue
        pending += _held(field)


def _held(field: object) -> Iterator[object]:
    """What a function refers to and could hold parameters: its object, its closure, modules among its globals."""
    owner = getattr(field, "__self__", None)
    if owner is not None:
        yield owner
    for cell in getattr(field, "__closure__", None) or ():
        try:
            inside = cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
        if isinstance(inside, torch.nn.Module) or callable(inside):
            yield inside
    code, spaces = getattr(field, "__code__", None), getattr(field, "__globals__", {})
    for name in code.co_names if code is not None else ():
        if isinstance(spaces.get(name), torch.nn.Module):
            yield spaces[name]
