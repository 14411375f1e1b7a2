"""Every error of the package: what is wrong, where (variable, dim, index) and how to fix it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class SciInferError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: one sentence, what is wrong.
        variable, dim, index: where it is, in the caller's own names.
        fix: one sentence, what to do about it.
        code: overrides the class's code with a finer one (``"data/negative-count"``).
        details: anything a program may want to read (never needed to understand the message).

    Example:
        >>> err = DataError("value is inf", variable="flux", dim="time", index=3, fix="mask it with NaN")
        >>> print(err)
        [data] variable 'flux', dim 'time', index 3: value is inf. Fix: mask it with NaN.
    """

    default_code: ClassVar[str] = "sciinfer"

    def __init__(
        self,
        what: str,
        *,
        variable: str | None = None,
        dim: str | None = None,
        index: Any = None,
        fix: str | None = None,
        code: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.what, self.variable, self.dim, self.index, self.fix = what.rstrip("."), variable, dim, index, fix
        self.code = code or self.default_code
        self.details = dict(details or {})
        super().__init__(self._message())

    def _message(self) -> str:
        named = (("variable", self.variable), ("dim", self.dim))
        where = [f"{label} {value!r}" for label, value in named if value is not None]
        if self.index is not None:
            where.append(f"index {self.index}")
        place = ", ".join(where) + ": " if where else ""
        fix = f". Fix: {self.fix.rstrip('.')}." if self.fix else "."
        return f"[{self.code}] {place}{self.what}{fix}"


class DataError(SciInferError):
    """The values themselves are unusable: infinite, negative counts, empty, of a wrong type."""

    default_code = "data"


class SchemaError(SciInferError):
    """Variables, dims or roles are not what the model was told."""

    default_code = "schema"


class ShapeError(SciInferError):
    """Sizes do not fit together."""

    default_code = "shape"


class TimeError(SciInferError):
    """Times that cannot be used: NaT, precision lost, mixed zones."""

    default_code = "time"


class UnitsError(SciInferError):
    """Units are missing where they are needed, or cannot be converted."""

    default_code = "units"


class NumericalError(SciInferError):
    """A computation left the finite numbers or a matrix lost definiteness."""

    default_code = "numerical"


class StateError(SciInferError):
    """The call needs something that has not happened yet (predict before fit)."""

    default_code = "state"


class ConfigError(SciInferError):
    """An option is unknown or out of range."""

    default_code = "config"


class NameNotFoundError(SciInferError):
    """No entry of that name is registered."""

    default_code = "name"


class PluginError(SciInferError):
    """A plugin broke its contract."""

    default_code = "plugin"


class DependencyError(SciInferError):
    """An optional package is missing; the message holds the install command."""

    default_code = "dependency"


class ReadError(SciInferError):
    """A file cannot be read safely: damaged, too large, of an unknown or refused format."""

    default_code = "read"


class CheckpointError(SciInferError):
    """A saved model is damaged, foreign or of a newer format."""

    default_code = "checkpoint"


class ResourceError(SciInferError):
    """Disk, memory or device is exhausted or absent."""

    default_code = "resource"


class OperatorError(SciInferError):
    """A forward operator contradicts its own declaration (adjoint, linearity, shapes)."""

    default_code = "operator"


class BudgetError(SciInferError):
    """A time or evaluation budget ran out; ``details['partial']`` holds what was reached."""

    default_code = "budget"


class SciInferWarning(UserWarning):
    """Something was changed or assumed on the caller's behalf."""
