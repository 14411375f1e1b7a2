"""The training loop: one step after another, each checked before it counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ..errors import ConfigError
from ..labelled.series import SeriesBatch
from ..models.base import Model
from .batches import Batches, Holdout
from .checkpoint import Identity, Snapshot, TrainState, fingerprint
from .config import TrainingConfig
from .device import check_precision, dtype_of, place, resolve_device
from .distributed import Team, current_team
from .history import History
from .interrupt import Interrupts
from .keeper import Keeper, OnCheckpoint
from .objective import Evaluation, Objective, Stream
from .optim import Stepper, blame, learning_rate
from .progress import Progress
from .state import clone

OnLog = Callable[[int, Mapping[str, float]], None]
_ROLLBACKS = 3


def train(
    model: Model,
    data: SeriesBatch,
    config: TrainingConfig,
    *,
    seed: int,
    folder: Path | None = None,
    resume: bool = False,
    on_log: OnLog | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    progress: Progress | None = None,
) -> History:
    """Train ``model`` in place on ``data``.

    Minimises ``loss.value`` (per observed entry). A step draws from the stream ``("train", step)`` of the seed,
    so a run resumed from a checkpoint on the same CPU goes on bit by bit. A step whose loss or gradient is not
    finite is undone together with the update that led there, and the learning rate halved, at most three times.
    With ``config.validation > 0`` the model ends with the weights of the best validation. Under an initialised
    ``torch.distributed`` group the series are shared among the ranks.

    Args:
        model: moved to the device and precision of ``config``.
        data: model units; ``values [N, C]``.
        config: see :class:`TrainingConfig`.
        seed: of every random stream.
        folder: where checkpoints go; None = no checkpoints.
        resume: go on from the newest checkpoint in ``folder``; a folder without any starts anew, with a notice.
        on_log: called with ``(step, metrics)`` every ``config.log_every`` steps.
        on_checkpoint: called with ``(folder, step)`` after a checkpoint is valid.
        progress: called with ``(completed, steps, metrics)`` after every step.

    Returns:
        The history; ``stopped`` says why it ended.

    Raises:
        NumericalError: the loss stays non-finite; ``details`` name step, term, parameter and group and hold the last
            good weights (``"state"``), which the model has as well.
        ResourceError: memory ends with one series at a time, or the disk is full.
        DataError: nothing is observed.
        ConfigError, CheckpointError: resuming another run, or from a damaged folder.
        KeyboardInterrupt: at the second SIGINT or SIGTERM; the first ends the run after a checkpoint.
    """
    folder = None if folder is None else Path(folder)
    if resume and folder is None:
        raise ConfigError("resume=True needs the folder of the run", code="config/resume", fix="pass folder=...")
    mode = model.training
    with Interrupts() as interrupts:
        identity = Identity(config, seed, "" if folder is None else fingerprint(data))
        keeper = Keeper(folder, config, identity, leads=current_team().leads, told=on_checkpoint)
        run = _Run(model, data, config, seed, keeper)
        run.on_log, run.progress = on_log, progress
        try:
            if resume:
                run.resume()
            return run.go(interrupts)
        finally:
            model.train(mode)


class _Run:
    """One call of :func:`train`."""

    def __init__(self, model: Model, data: SeriesBatch, config: TrainingConfig, seed: int, keeper: Keeper) -> None:
        self.model, self.config, self.seed, self.keeper = model, config, seed, keeper
        self.on_log: OnLog | None = None
        self.progress: Progress | None = None
        self.team: Team = current_team()
        self.device = resolve_device(config.device, config.precision)
        check_precision(config.precision, self.device)
        self._place(data)
        self._build()
        self._start(TrainState(micro=config.micro_batch))

    def _start(self, state: TrainState) -> None:
        self.state, self.history, self.objective.micro = state, state.history, state.micro
        self.good = Snapshot(self.model, self.stepper.optimiser, state)
        self._pending: Evaluation | None = None
        self._begun, self._before = time.monotonic(), state.seconds

    def _place(self, data: SeriesBatch) -> None:
        dtype = dtype_of(self.config.precision)
        moved = data.to(self.device, dtype)
        self.holdout = Holdout(moved, self.config.validation)
        self.batches = Batches(self.holdout.train, self.config.batch_size, self.seed)
        place(self.model, self.device, dtype)
        self.model.initialise(self.holdout.train)
        place(self.model, self.device, dtype)  # initialise may have made new tensors
        self.team.same_weights(self.model)

    def _build(self) -> None:
        config = self.config
        self.objective = Objective(
            self.model,
            seed=self.seed,
            device=self.device,
            team=self.team,
            micro=config.micro_batch,
            mixed=config.precision == "bf16-mixed",
            compiled=config.compile,
        )
        self.stepper = Stepper(config, self.objective.parameters)

    def resume(self) -> None:
        """Go back to the newest checkpoint."""
        loaded = self.keeper.load(self.model, self.stepper.optimiser, self.device)
        if loaded is None:
            self.history.notice("the folder held no checkpoint yet: training started from the beginning")
            return
        state, changed = loaded
        if "micro_batch" in changed:
            state.micro = self.config.micro_batch
        if "steps" in changed and self.config.optimiser == "adam":
            state.history.notice("the number of steps was changed on resuming, and the schedule with it")
        if {"steps", "patience"} & set(changed):
            state.history.stopped = ""
        self._start(state)

    # -- the loop

    def go(self, interrupts: Interrupts) -> History:
        """Steps until a reason to stop; then the best weights."""
        limit = self.config.time_limit

        def stop_requested() -> str:
            if interrupts.requested:
                return "interrupted"
            return "time" if limit is not None and self._elapsed() > limit else ""

        self.objective.stop_requested = stop_requested
        self.model.train()
        if not self.holdout.held and self.config.validation > 0:
            self.history.notice("no observed entry could be held out: there is no validation")
        if self.history.stopped not in ("patience", "converged"):
            self.history.stopped = self._steps() if self.objective.parameters else self._once()
            self._keep_finite()
        if self.state.best is not None:
            self.model.load_state_dict(self.state.best)
        return self.history

    def _steps(self) -> str:
        while self.state.step < self.config.steps:
            stopped = self._step()
            if stopped:
                return stopped
        return "steps"

    def _once(self) -> str:
        found = self.objective.total(self.batches.at(0), ("train", 0)) / self.batches.at(0).observed
        self.history.record(0, found, {}, self._seconds())
        return "nothing-to-train"

    def _step(self) -> str:
        step = self.state.step
        found = self._pending or self._evaluate(step)
        self._pending = None
        if not found.finite:
            self._roll_back(found)
            return ""
        if self.keeper.due(step):  # only now are the weights known to give a finite loss and gradient
            self._save()
        self.good = Snapshot(self.model, self.stepper.optimiser, self.state)
        rate = learning_rate(self.config, step) * 0.5**self.state.rollbacks
        self._pending = self.stepper.update(found, lambda: self._evaluate(step), rate)
        self.state.step = step + 1
        self.history.record(step, found.value, found.terms, self._seconds())
        stopped = self._validate_if_due() or self._converged(found.value)
        self._tell(step, found, rate)
        return stopped or found.stop or (self.objective.stop_requested() if self.team.size == 1 else "")

    def _evaluate(self, step: int) -> Evaluation:
        # a line search needs one and the same function at every step: common random numbers, full batch, no warm-up
        line_search = self.config.optimiser == "lbfgs"
        fraction = 1.0 if line_search else step / max(self.config.steps - 1, 1)
        stream: Stream = ("train", 0 if line_search else step)
        if self.state.rollbacks:
            stream = (*stream, "retry", self.state.rollbacks)
        found = self.objective.gradient(self.batches.at(step), stream, min(fraction, 1.0))
        self._gather_notices()
        return found

    def _roll_back(self, found: Evaluation) -> None:
        step = self.state.step
        failed = blame(self.model, found, step, self.state.rollbacks)
        self.good.restore(self.model, self.stepper.optimiser, self.state)
        if self.state.rollbacks >= _ROLLBACKS:
            failed.details.update(state=self.good.weights, good_step=self.good.step, history=self.history)
            self._save()
            raise failed
        self.state.rollbacks += 1
        self.history.notice(
            f"step {step} was not finite: back to step {self.good.step} with the learning rate halved "
            f"({self.state.rollbacks} of {_ROLLBACKS})"
        )

    def _converged(self, value: float) -> str:
        if self.config.optimiser != "lbfgs":
            return ""
        before, self.state.previous = self.state.previous, value
        small = before is not None and abs(before - value) <= self.config.tolerance * (1 + abs(value))
        self.state.still = self.state.still + 1 if small else 0
        return "converged" if self.state.still >= 2 else ""

    # -- validation

    def _validate_if_due(self) -> str:
        done, config = self.state.step, self.config
        if not self.holdout.held or (done % config.validate_every and done != config.steps):
            return ""
        value = self._held_out_loss()
        self.history.validation.append((done, value))
        if value < self.state.best_value:
            self.state.best, self.state.best_value = clone(self.model.state_dict()), value
            self.history.best_step, self.state.waited = done, 0
        else:
            self.state.waited += 1
        return "patience" if self.state.waited >= config.patience else ""

    def _held_out_loss(self) -> float:
        self.model.eval()
        try:
            parts = self.holdout.parts(self.config.batch_size)
            total = sum(sign * self.objective.total(batch, ("validate", name)) for name, batch, sign in parts)
        finally:
            self.model.train()
        self._gather_notices()
        return total / self.holdout.held

    # -- checkpoints

    def _keep_finite(self) -> None:
        if not all(bool(torch.isfinite(p).all()) for p in self.objective.parameters):
            self.good.restore(self.model, self.stepper.optimiser, self.state)
        self._save()

    def _save(self) -> None:
        self.state.seconds = self._seconds()
        self.keeper.save(self.model, self.stepper.optimiser, self.state)

    # -- telling

    def _tell(self, step: int, found: Evaluation, rate: float) -> None:
        if not self.team.leads or (self.on_log is None and self.progress is None):
            return
        shown = {"loss": found.value}
        if self.history.validation:
            shown["validation"] = self.history.validation[-1][1]
        if self.progress is not None:
            self.progress(step + 1, self.config.steps, shown)
        if self.on_log is not None and (step % self.config.log_every == 0 or step + 1 == self.config.steps):
            self.on_log(step, {**shown, **found.terms, "learning_rate": rate, "gradient_norm": found.norm})

    def _gather_notices(self) -> None:
        for text in self.objective.notices:
            self.history.notice(text)
        self.objective.notices.clear()
        self.state.micro = self.objective.micro

    def _elapsed(self) -> float:
        return time.monotonic() - self._begun

    def _seconds(self) -> float:
        return self._before + self._elapsed()
