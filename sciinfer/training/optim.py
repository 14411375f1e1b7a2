"""One checked step of either optimiser, and a learning rate that is a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..errors import NumericalError
from .adam import Adam
from .config import TrainingConfig
from .objective import Evaluation, clip

Evaluate = Callable[[], Evaluation]
_FLOOR = 0.01
_HISTORY = 20


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The learning rate at ``step``.

    ``base min(1, (step + 1) / (warmup + 1)) (0.01 + 0.99 (1 + cos(pi step / steps)) / 2)``; without the last factor
    for a constant schedule; L-BFGS always takes ``base``.

    Example:
        >>> config = TrainingConfig(steps=100, learning_rate=1.0)
        >>> learning_rate(config, 0), round(learning_rate(config, 50), 3)
        (1.0, 0.505)
    """
    if config.optimiser == "lbfgs":
        return config.rate
    warm = min(1.0, (step + 1) / (config.warmup + 1))
    if config.schedule == "constant":
        return config.rate * warm
    done = min(step / max(config.steps, 1), 1.0)
    return config.rate * warm * (_FLOOR + (1 - _FLOOR) * (1 + math.cos(math.pi * done)) / 2)


def lbfgs(parameters: Sequence[nn.Parameter], rate: float) -> torch.optim.LBFGS:
    """L-BFGS with a strong Wolfe search, one iteration per call, so that every iteration can be checked and resumed."""
    return torch.optim.LBFGS(
        parameters,
        lr=rate,
        max_iter=1,
        max_eval=25,
        tolerance_grad=0.0,
        tolerance_change=1e-12,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )


class Stepper:
    """One update from an evaluation whose gradient is in ``.grad``.

    Args:
        config: which optimiser, and the clipping.
        parameters: what it updates; may be empty, then it is never called.
    """

    def __init__(self, config: TrainingConfig, parameters: list[nn.Parameter]) -> None:
        self.parameters, self._limit = parameters, config.clip
        line_search = config.optimiser == "lbfgs" and bool(parameters)
        self.optimiser: Adam | torch.optim.LBFGS = lbfgs(parameters, config.rate) if line_search else Adam(parameters)

    def update(self, first: Evaluation, evaluate: Evaluate, rate: float) -> Evaluation | None:
        """Change the parameters; returns the evaluation at the new ones if it is known already (gradient in place)."""
        if isinstance(self.optimiser, Adam):
            clip(self.parameters, first.norm, self._limit)
            self.optimiser.step(rate)
            return None
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        search = _LineSearch(self.parameters, first, evaluate)
        self.optimiser.step(search)
        return search.known()


class _LineSearch:
    """The closure of one L-BFGS iteration.

    The first call is the evaluation that the loop has made already. A point that is not finite counts as a very bad
    one, from which the search steps back.
    """

    def __init__(self, parameters: list[nn.Parameter], first: Evaluation, evaluate: Evaluate) -> None:
        self._parameters, self._first, self._evaluate = parameters, first, evaluate
        self._last: tuple[list[Tensor], Evaluation] | None = None
        self._started = False

    def __call__(self) -> float:
        if not self._started:
            self._started = True
            return self._first.value
        found = self._evaluate()
        self._last = ([p.detach().clone() for p in self._parameters], found)
        if found.finite:
            return found.value
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        return self._first.value + 10 * max(1.0, abs(self._first.value))

    def known(self) -> Evaluation | None:
        """The last evaluation, if it was made exactly where the parameters are now."""
        if self._last is None or not self._last[1].finite:
            return None
        same = all(torch.equal(p, q) for p, q in zip(self._parameters, self._last[0], strict=True))
        return self._last[1] if same else None


def bad_parameter(model: nn.Module) -> str | None:
    """The first parameter with a gradient that is not finite, else the one with the largest gradient."""
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    for name, grad in named:
        if not bool(torch.isfinite(grad).all()):
            return name
    return max(named, key=lambda pair: float(pair[1].abs().max()), default=(None, None))[0]


def blame(model: nn.Module, found: Evaluation, step: int, rollbacks: int) -> NumericalError:
    """The error for an evaluation that stays unusable."""
    term = next((name for name, value in found.terms.items() if not math.isfinite(value)), None)
    loss_broke = not math.isfinite(found.value)
    parameter = None if found.cause else bad_parameter(model)
    group = parameter.rpartition(".")[0] or parameter if parameter else None
    what = "the loss" if loss_broke else "the gradient"
    where = "".join(f", {kind} {name!r}" for kind, name in (("term", term), ("parameter", parameter)) if name)
    why = f" ({found.cause})" if found.cause else ""
    return NumericalError(
        f"{what} left the finite numbers at step {step}{where}, and again after {rollbacks} rollbacks with half the "
        f"learning rate each{why}",
        code="numerical/training",
        index=step,
        fix="lower learning_rate, check the scale of the data, or use precision='float64'",
        details={"step": step, "term": term, "parameter": parameter, "group": group, "loss": found.value},
    )
