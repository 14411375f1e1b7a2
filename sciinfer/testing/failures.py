"""What a check says, and small helpers that checks share. Nothing here imports torch or xarray."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from ..errors import PluginError, SciInferError
from ..extend.records import Case, Entry


class CheckFailed(PluginError):  # noqa: N818 - it is a verdict, told as a failure
    """An entry does not do what its kind promises."""

    default_code = "conformance"


class CheckSkipped(Exception):  # noqa: N818 - control flow inside the kit
    """The check does not apply here; the reason is the message."""


def expect(condition: bool, what: str, *, fix: str | None = None) -> None:
    """Fail the running check unless ``condition``."""
    if not condition:
        raise CheckFailed(what, fix=fix)


def skip_unless(condition: bool, reason: str) -> None:
    """Skip the running check unless ``condition``."""
    if not condition:
        raise CheckSkipped(reason)


def load(entry: Entry) -> Any:
    """The target of an entry."""
    module, _, attribute = entry.target.partition(":")
    try:
        return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as err:
        raise CheckFailed(
            f"the target {entry.target!r} does not load: {err}", fix="write 'package.module:name'"
        ) from err


def build(case: Case, entry: Entry) -> Any:
    """The target called with what the case makes."""
    args, kwargs = case.make()
    return load(entry)(*args, **kwargs)


def must_refuse(function: Any, what: str) -> SciInferError:
    """Call ``function``; it has to raise one of the package's own errors."""
    try:
        function()
    except SciInferError as err:
        return err
    except Exception as err:
        raise CheckFailed(
            f"{what} raised a bare {type(err).__name__}: {err}", fix="raise an error of sciinfer.errors with a fix"
        ) from err
    raise CheckFailed(f"{what} was accepted", fix="raise an error of sciinfer.errors with a fix")
