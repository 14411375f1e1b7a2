"""What a user may choose about training: one frozen record, checked as a whole, plain enough for JSON and TOML."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ..errors import ConfigError

Check = tuple[bool, str]

_CHOICES: dict[str, tuple[str, ...]] = {
    "optimiser": ("adam", "lbfgs"),
    "schedule": ("cosine", "constant"),
    "precision": ("float64", "float32", "bf16-mixed"),
}
_WHOLE = {"steps": 0, "warmup": 0, "validate_every": 1, "patience": 1, "log_every": 1}
_WHOLE_OR_NONE = {"batch_size": 1, "micro_batch": 1, "checkpoint_every": 1}
_POSITIVE = ("tolerance",)
_POSITIVE_OR_NONE = ("learning_rate", "clip", "checkpoint_seconds", "time_limit")
#: fields whose good values depend on the optimiser
_OF_OPTIMISER = frozenset({"batch_size", "learning_rate", "clip", "schedule", "warmup"})
#: fields that a resumed run may change; the others define what is being trained
RESUMABLE = frozenset(
    {"steps", "time_limit", "log_every", "checkpoint_every", "checkpoint_seconds", "patience", "device", "micro_batch"}
)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained.

    Args:
        optimiser: ``"adam"`` (mini-batches, noisy losses) or ``"lbfgs"`` (full batch, strong Wolfe line search).
        steps: most optimiser steps.
        learning_rate: None means 0.01 for Adam and 1 for L-BFGS.
        batch_size: series per step, None = all of them.
        micro_batch: series per forward pass; gradients are accumulated. None = the batch. Halved when memory runs out.
        clip: largest norm of the gradient (Adam only), None = no clipping.
        schedule: ``"cosine"`` (down to 1 % at ``steps``) or ``"constant"``, Adam only.
        warmup: steps of linear increase of the learning rate.
        validation: last fraction of each series' rows in time that is held out, in [0, 1); 0 = none.
        validate_every, patience: steps between validations, and validations without improvement before stopping.
        checkpoint_every, checkpoint_seconds: steps and seconds between checkpoints (either may be None).
        precision: ``"float64"``, ``"float32"`` or ``"bf16-mixed"`` (float32 weights, bfloat16 autocast).
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:0"`` or ``"mps"``.
        compile: compile the loss with ``torch.compile``.
        time_limit: seconds of one call of ``train``, None = no limit.
        log_every: steps between calls of ``on_log``.
        tolerance: L-BFGS stops when the loss changes relatively by less than this twice in a row.

    Raises:
        ConfigError: lists every field that is wrong.

    Example:
        >>> config = TrainingConfig(steps=100, optimiser="lbfgs")
        >>> TrainingConfig.from_dict(config.to_dict()) == config, config.rate
        (True, 1.0)
    """

    optimiser: Literal["adam", "lbfgs"] = "adam"
    steps: int = 2000
    learning_rate: float | None = None
    batch_size: int | None = None
    micro_batch: int | None = None
    clip: float | None = 10.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = 0
    validation: float = 0.1
    validate_every: int = 50
    patience: int = 10
    checkpoint_every: int | None = None
    checkpoint_seconds: float | None = 30.0
    precision: Literal["float64", "float32", "bf16-mixed"] = "float64"
    device: str = "auto"
    compile: bool = False
    time_limit: float | None = None
    log_every: int = 10
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        wrong = self._problems()
        if wrong:
            text = "; ".join(f"{name} {problem}" for name, problem in wrong.items())
            raise ConfigError(
                f"training options are unusable: {text}",
                code="config/training",
                fix=f"change {', '.join(wrong)}",
                details={"fields": wrong},
            )
        for name in ("validation", *_POSITIVE, *_POSITIVE_OR_NONE):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, float(value))

    def _problems(self) -> dict[str, str]:
        checks: dict[str, Check] = {}
        for name, allowed in _CHOICES.items():
            checks[name] = getattr(self, name) in allowed, f"must be one of {', '.join(allowed)}"
        for name, least in _WHOLE.items():
            checks[name] = _whole(getattr(self, name), least), f"must be a whole number >= {least}"
        for name, least in _WHOLE_OR_NONE.items():
            value = getattr(self, name)
            checks[name] = value is None or _whole(value, least), f"must be None or a whole number >= {least}"
        for name in (*_POSITIVE, *_POSITIVE_OR_NONE):
            value = getattr(self, name)
            none = value is None and name in _POSITIVE_OR_NONE
            checks[name] = none or _positive(value), "must be a positive finite number"
        checks["validation"] = _number(self.validation) and 0 <= self.validation < 1, "must be in [0, 1)"
        checks["device"] = isinstance(self.device, str) and bool(self.device), "must be a name such as 'cpu'"
        checks["compile"] = isinstance(self.compile, bool), "must be True or False"
        if self.optimiser == "lbfgs" and self.batch_size is not None:
            checks["batch_size"] = False, "must be None with L-BFGS, which needs the full batch"
        return {
            name: f"{problem} (got {getattr(self, name)!r})" for name, (fine, problem) in checks.items() if not fine
        }

    @property
    def rate(self) -> float:
        """The base learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1.0 if self.optimiser == "lbfgs" else 0.01

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """From plain values; an unknown name is refused with the nearest known ones."""
        known = [field.name for field in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            near = [match for name in unknown for match in difflib.get_close_matches(name, known, n=1)]
            hint = f"did you mean {', '.join(near)}" if near else f"known: {', '.join(known)}"
            raise ConfigError(
                f"unknown training option {', '.join(map(repr, unknown))}",
                code="config/training",
                fix=hint,
                details={"fields": dict.fromkeys(unknown, "unknown")},
            )
        return cls(**values)

    @classmethod
    def with_defaults(cls, defaults: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> TrainingConfig:
        """The user's ``options`` over a model's ``defaults`` over the defaults of this class.

        A model's batch size and learning rate are those of its own optimiser and go with it.

        Example:
            >>> TrainingConfig.with_defaults({"steps": 50, "warmup": 5}, {"steps": 10}).steps
            10
        """
        chosen = {**defaults, **(options or {})}
        if chosen.get("optimiser") != defaults.get("optimiser"):
            chosen = {k: v for k, v in chosen.items() if k in (options or {}) or k not in _OF_OPTIMISER}
        return cls.from_dict(chosen)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
