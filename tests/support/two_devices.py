"""Find tensors that a CUDA device would refuse, on a machine without one.

Inside :class:`TwoDevices` every tensor made without a ``device`` is marked as living on the host, everything computed
from marked model weights and data as living away. An operation on both is what CUDA answers with "found at least two
devices". A ``device=`` that is given is believed; tensors of no dimension may be mixed; so may an index from the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FACTORIES = {
    getattr(torch, name)
    for name in (
        *("zeros", "ones", "full", "empty", "eye", "arange", "linspace", "logspace", "tensor", "as_tensor"),
        *("from_numpy", "rand", "randn", "randint", "randperm", "tril_indices", "triu_indices", "scalar_tensor"),
    )
}
_MAY_MIX = {Tensor.__getitem__, Tensor.__setitem__, Tensor.copy_, Tensor.to, Tensor.type_as, torch.as_tensor}


class TwoDevices(TorchFunctionMode):
    """Marks tensors and raises where two devices would meet.

    Args:
        away: modules and tensors that live on the device.
    """

    def __init__(self, *away: nn.Module | Tensor) -> None:
        super().__init__()
        self.kept: list[Tensor] = []
        for one in away:
            for tensor in [*one.parameters(), *one.buffers()] if isinstance(one, nn.Module) else [one]:
                self._mark(tensor, "away")

    def _mark(self, found: Any, place: str) -> None:
        for tensor in _tensors(found):
            tensor._lives = place  # type: ignore[attr-defined]
            self.kept.append(tensor)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for tensor in self.kept:
            if hasattr(tensor, "_lives"):
                del tensor._lives  # type: ignore[attr-defined]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if func in _FACTORIES and kwargs.get("device") is None:
            given = list(_tensors(args))
            self._mark(found, _place(given[0], "host") if given else "host")
            return found
        inputs = [tensor for tensor in _tensors((args, kwargs)) if tensor.ndim or func in _FACTORIES]
        places = {getattr(tensor, "_lives", None) for tensor in inputs}
        if func is Tensor.to and _names_device(args[1:], kwargs):
            self._mark(found, "away")
        elif places >= {"host", "away"} and func not in _MAY_MIX:
            raise AssertionError(f"{getattr(func, '__name__', func)} would meet tensors of two devices")
        elif places & {"host", "away"} and isinstance(found, Tensor | tuple | list):
            self._mark(found, "away" if "away" in places else "host")
        return found


def left_behind(model: nn.Module) -> list[str]:
    """Tensors that ``model.to(device)`` would not move: plain attributes of its modules."""
    return [
        f"{name}.{key}".lstrip(".")
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor)
    ]


def _place(tensor: Tensor, otherwise: str) -> str:
    return getattr(tensor, "_lives", otherwise)


def _names_device(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    given = [*args, *kwargs.values()]
    return any(isinstance(one, torch.device | str) or _place_of(one) == "away" for one in given)


def _place_of(one: Any) -> str | None:
    return getattr(one, "_lives", None) if isinstance(one, Tensor) else None


def _tensors(tree: Any) -> Iterable[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, tuple | list):
        for value in tree:
            yield from _tensors(value)
