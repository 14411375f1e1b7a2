import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from sciinfer.errors import CheckpointError, ConfigError, DataError, NumericalError, ResourceError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.base import Loss
from sciinfer.random import generator
from sciinfer.training import TrainingConfig, train
from sciinfer.training.adam import Adam
from sciinfer.training.batches import Batches, Holdout
from sciinfer.training.distributed import Team
from sciinfer.training.interrupt import Interrupts
from sciinfer.training.objective import Objective


def _sibling(name):
    path = Path(__file__).parent / "faults" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"training_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


toys = _sibling("training_toys")
Line, lines = toys.Line, toys.lines
QUICK = TrainingConfig(steps=30, learning_rate=0.05, validation=0.0, device="cpu")


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def exact_line(data):
    """Least squares per channel, the optimum of the toy's likelihood."""
    found = []
    for channel in range(data.n_channels):
        seen = data.mask[:, channel]
        design = torch.stack([torch.ones_like(data.time[seen]), data.time[seen]], 1)
        found.append(torch.linalg.lstsq(design, data.values[seen, channel][:, None]).solution[:, 0])
    return torch.stack(found)


class Broken(Line):
    """NaN in the term ``fit`` on chosen calls."""

    def __init__(self, bad, **options):
        super().__init__(**options)
        self.bad, self.calls = bad, 0

    def loss(self, batch, *, generator, progress=1.0):
        found = super().loss(batch, generator=generator, progress=progress)
        self.calls += 1
        return Loss(found.value * float("nan"), {"fit": found.value * float("nan")}) if self.bad(self) else found


# -- optimisation


def test_adam_converges_to_least_squares():
    data = lines()
    model = Line()
    history = train(model, data, TrainingConfig(steps=600, learning_rate=0.1, validation=0.0, device="cpu"), seed=0)
    found = torch.stack([model.line.bias, model.line.weight[:, 0]], 1).detach()
    assert history.stopped == "steps" and history.steps == list(range(600))
    assert torch.allclose(found, exact_line(data), atol=2e-3)
    assert history.loss[-1] < history.loss[0] and model.initialised == 1


def test_lbfgs_converges_to_least_squares_and_stops():
    data = lines()
    model = Line()
    config = TrainingConfig(optimiser="lbfgs", steps=200, validation=0.0, tolerance=1e-13, device="cpu")
    history = train(model, data, config, seed=0)
    found = torch.stack([model.line.bias, model.line.weight[:, 0]], 1).detach()
    assert history.stopped == "converged" and len(history.steps) < 60
    assert torch.allclose(found, exact_line(data), atol=1e-5)
    assert all(b <= a for a, b in zip(history.loss, history.loss[1:], strict=False))


def test_lbfgs_evaluates_each_accepted_point_once():
    model = Broken(lambda self: False)
    history = train(model, lines(), TrainingConfig(optimiser="lbfgs", steps=10, validation=0.0, device="cpu"), seed=0)
    assert model.calls <= 1 + 2.5 * len(history.steps)


def test_lbfgs_steps_back_from_non_finite_points():
    class Cliff(Line):
        def loss(self, batch, *, generator, progress=1.0):
            found = super().loss(batch, generator=generator, progress=progress)
            return Loss(found.value * float("nan"), {}) if self.log_scale.min() < -1.5 else found

    model = Cliff()
    history = train(model, lines(), TrainingConfig(optimiser="lbfgs", steps=30, validation=0.0, device="cpu"), seed=0)
    assert all(np.isfinite(history.loss)) and history.loss[-1] < history.loss[0]
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_clipping_bounds_the_gradient():
    norms = []
    model, config = Line(), TrainingConfig(steps=3, clip=1e-3, validation=0.0, log_every=1, device="cpu")
    plain = Adam.step

    def spy(self, rate):
        norms.append(float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()))
        plain(self, rate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Adam, "step", spy)
        logged = []
        train(model, lines(), config, seed=0, on_log=lambda step, metrics: logged.append(metrics["gradient_norm"]))
    assert norms == pytest.approx([1e-3] * 3) and min(logged) > 1e-2


def test_a_model_without_parameters_is_evaluated_once():
    model = Line().requires_grad_(False)
    before = weights(model)
    history = train(model, lines(), QUICK, seed=0)
    assert history.stopped == "nothing-to-train" and len(history.loss) == 1 and same(before, weights(model))


def test_data_and_mode_are_left_alone():
    data = lines()
    copies = [None if t is None else t.clone() for t in data]
    model = Line().eval()
    train(model, data, QUICK, seed=0)
    assert not model.training
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(data, copies, strict=True))


def test_no_observation_is_an_error():
    data = lines()
    with pytest.raises(DataError, match="no observed value"):
        train(Line(), data._replace(mask=torch.zeros_like(data.mask)), QUICK, seed=0)


def test_adam_agrees_with_torch():
    ours = [torch.nn.Parameter(torch.ones(3, dtype=torch.float64)), torch.nn.Parameter(torch.ones(2) + 1j)]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    mine, peer = Adam(ours), torch.optim.Adam(theirs, lr=0.3)
    noise = generator(0)
    for step in range(20):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=noise, dtype=a.dtype) if step % 3 or a is ours[0] else None
            b.grad = None if a.grad is None else a.grad.clone()
        mine.step(0.3)
        peer.step()
    assert torch.allclose(ours[0], theirs[0], rtol=1e-12) and torch.allclose(ours[1], theirs[1], rtol=1e-5)


def test_training_does_not_load_the_compiler():
    script = """
import sys, runpy
toys = runpy.run_path(sys.argv[1])
from sciinfer.training import train
model, data, config = toys["noisy_line"]()
train(model, data, config, seed=0)
sys.exit("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script, toys.__file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- randomness


def test_same_seed_same_bits_and_another_seed_differs():
    runs = []
    for seed in (1, 1, 2):
        model, data, config = toys.noisy_line()
        train(model, data, config, seed=seed)
        runs.append(weights(model))
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


def test_global_random_state_is_neither_read_nor_written():
    runs = []
    for foreign in (0, 12345):
        torch.manual_seed(foreign)
        np.random.seed(foreign)
        before = torch.get_rng_state().clone(), np.random.get_state()[1].copy()
        model, data, config = toys.noisy_line()
        train(model, data, config, seed=1)
        assert torch.equal(before[0], torch.get_rng_state())
        assert np.array_equal(before[1], np.random.get_state()[1])
        runs.append(weights(model))
    assert same(*runs)


def test_global_settings_are_left_alone():
    before = torch.get_num_threads(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    train(Line(), lines(), QUICK, seed=0)
    assert before == (torch.get_num_threads(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled())


def test_threads_do_not_change_the_result():
    threads, losses = torch.get_num_threads(), []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            history = train(Line(jitter=0.1), lines(series=40, rows=200), QUICK, seed=0)
            losses.append(history.loss)
    finally:
        torch.set_num_threads(threads)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_every_series_is_drawn_once_per_epoch():
    data = lines(series=7)
    batches = Batches(data, 3, seed=0)
    assert [batches.at(step).n_series for step in range(6)] == [3, 3, 1, 3, 3, 1]
    for epoch in (0, 1):
        times = torch.cat([batches.at(3 * epoch + step).time for step in range(3)])
        assert torch.equal(times.sort().values, data.time.sort().values)
    assert not torch.equal(batches.at(0).time, batches.at(3).time)
    assert torch.equal(batches.at(0).time, Batches(data, 3, seed=0).at(0).time)


def test_series_without_observations_are_never_drawn():
    data = lines(series=3)
    mask = data.mask.clone()
    mask[data.series_of_row == 1] = False
    assert Batches(data._replace(mask=mask), None, 0).at(0).n_series == 2


# -- validation


def test_held_out_loss_is_the_chain_rule():
    data = lines()
    model = Line()
    config = TrainingConfig(steps=1, validation=0.3, validate_every=1, learning_rate=1e-12, device="cpu")
    history = train(model, data, config, seed=0)
    early, late = data.split_time(0.3)
    direct = model.loss(late, generator=generator(0)).value.item()  # rows are independent in the toy
    assert history.validation[0] == (1, pytest.approx(direct, abs=1e-9))
    assert history.loss[0] == pytest.approx(model.loss(early, generator=generator(0)).value.item(), abs=1e-9)


def test_chunked_validation_equals_whole_validation():
    values = []
    for size in (None, 2):
        config = TrainingConfig(steps=1, learning_rate=1e-12, batch_size=size, validate_every=1, device="cpu")
        values.append(train(Line(), lines(), config, seed=0).validation[0][1])
    assert values[0] == pytest.approx(values[1], abs=1e-10)


def test_early_stop_restores_the_best_weights():
    data = lines(series=2, rows=12)
    _, late = data.split_time(0.25)
    values = data.values.clone()
    held = ~torch.isin(data.time, data.split_time(0.25)[0].time)
    values[held] += 3.0  # the future does not continue the past: training longer makes it worse
    data = data._replace(values=values)
    model, config = (
        Line(),
        TrainingConfig(steps=2000, learning_rate=0.05, validation=0.25, validate_every=5, patience=3, device="cpu"),
    )
    history = train(model, data, config, seed=0)
    assert history.stopped == "patience" and len(history.steps) < 2000 and len(late.time)
    done, best = min(history.validation, key=lambda pair: pair[1])
    assert history.best_step == done == history.validation[-4][0]
    again = Holdout(data, 0.25)
    objective = Objective(model, seed=0, device=torch.device("cpu"), team=Team())
    total = sum(sign * objective.total(batch, ("validate", name)) for name, batch, sign in again.parts(None))
    assert total / again.held == pytest.approx(best, abs=1e-12)


def test_no_room_for_validation_is_noticed():
    data = SeriesBatch.of([torch.zeros(1, dtype=torch.float64)], [torch.ones(1, 2, dtype=torch.float64)])
    history = train(Line(), data, TrainingConfig(steps=3, device="cpu"), seed=0)
    assert history.validation == [] and "no validation" in history.notices[0] and all(np.isfinite(history.loss))


# -- numbers that are not finite


def test_nan_once_rolls_back_halves_and_goes_on():
    model, rates = Broken(lambda self: self.calls == 11), []
    history = train(model, lines(), QUICK, seed=0, on_log=lambda step, metrics: rates.append((step, metrics)))
    assert history.stopped == "steps" and history.steps == list(range(30)) and all(np.isfinite(history.loss))
    assert "back to step 9" in history.notices[0]
    plain = train(Line(), lines(), QUICK, seed=0)
    assert history.loss[:10] == plain.loss[:10] and history.loss[10:] != plain.loss[10:]


def test_nan_for_good_stops_with_the_last_good_state():
    model = Broken(lambda self: self.calls > 10)
    with pytest.raises(NumericalError) as caught:
        train(model, lines(), QUICK, seed=0)
    details = caught.value.details
    assert caught.value.code == "numerical/training" and caught.value.index in (9, 10)
    assert details["term"] == "fit" and details["parameter"] == details["group"] == "log_scale"
    assert details["good_step"] == 9 and same(details["state"], weights(model))
    assert model.calls == 10 + 4
    assert details["history"].steps == list(range(9))


def test_nan_gradient_of_a_finite_loss_names_the_parameter_and_its_group():
    class Root(Line):
        def loss(self, batch, *, generator, progress=1.0):
            found = super().loss(batch, generator=generator, progress=progress)
            return Loss(found.value + (self.line.weight * 0).abs().sqrt().sum(), found.terms)

    with pytest.raises(NumericalError, match=r"the gradient left.*'line.weight'") as caught:
        train(Root(), lines(), QUICK, seed=0)
    assert caught.value.details["group"] == "line" and caught.value.details["term"] is None


def test_a_model_that_raises_numerical_error_is_rolled_back():
    class Raises(Line):
        calls = 0

        def loss(self, batch, *, generator, progress=1.0):
            self.calls += 1
            if self.calls == 5:
                raise NumericalError("variance is negative")
            return super().loss(batch, generator=generator, progress=progress)

    history = train(Raises(), lines(), QUICK, seed=0)
    assert history.stopped == "steps" and len(history.notices) == 1

    class Always(Line):
        def loss(self, batch, *, generator, progress=1.0):
            raise NumericalError("variance is negative")

    with pytest.raises(NumericalError, match="variance is negative"):
        train(Always(), lines(), QUICK, seed=0)


def test_other_errors_of_a_model_pass_through():
    class Wrong(Line):
        def loss(self, batch, *, generator, progress=1.0):
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        train(Wrong(), lines(), QUICK, seed=0)


# -- memory


class Greedy(Line):
    """Has memory for ``room`` series at a time."""

    def __init__(self, room, error=torch.OutOfMemoryError):
        super().__init__()
        self.room, self.error, self.seen = room, error, []

    def loss(self, batch, *, generator, progress=1.0):
        self.seen.append(batch.n_series)
        if batch.n_series > self.room:
            raise self.error("CUDA out of memory")
        return super().loss(batch, generator=generator, progress=progress)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_out_of_memory_halves_the_micro_batch_with_the_same_gradient(error):
    data, grads, values = lines(), [], []
    for model in (Line(), Greedy(2, error)):
        objective = Objective(model, seed=0, device=torch.device("cpu"), team=Team())
        values.append(objective.gradient(data, ("train", 0)))
        grads.append([p.grad.clone() for p in model.parameters()])
    assert objective.micro == 2 and "halved to 2" in objective.notices[-1]
    assert values[0].value == pytest.approx(values[1].value, abs=1e-12)
    assert values[0].terms == pytest.approx(values[1].terms, abs=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(*grads, strict=True))


def test_training_goes_on_after_out_of_memory():
    model, data = Greedy(3), lines()
    history = train(model, data, QUICK, seed=0)
    plain = train(Line(), data, QUICK, seed=0)
    assert history.loss == pytest.approx(plain.loss, abs=1e-10)
    assert model.seen[:3] == [7, 4, 2] and max(model.seen[3:]) == 2
    assert any("micro-batch was halved" in text for text in history.notices)


def test_out_of_memory_with_one_series_is_a_resource_error():
    with pytest.raises(ResourceError, match="single series") as caught:
        train(Greedy(0), lines(), QUICK, seed=0)
    assert caught.value.code == "resource/memory" and caught.value.details["peak_bytes"] > 1e6


# -- precision and compilation


@pytest.mark.parametrize("precision", ["float32", "bf16-mixed"])
def test_lower_precision_trains(precision):
    model = Line(jitter=0.01)

    def checked(batch, *, generator, progress):
        assert batch.values.dtype == batch.time.dtype == torch.float32
        return Line.loss(model, batch, generator=generator, progress=progress)

    model.loss = checked
    config = TrainingConfig(steps=200, learning_rate=0.1, precision=precision, validation=0.0, device="cpu")
    history = train(model, lines(), config, seed=0)
    assert model.line.weight.dtype == torch.float32
    assert history.loss[-1] < 0 < history.loss[0]


def test_a_loss_that_cannot_be_compiled_runs_as_it_is(monkeypatch):
    from torch._dynamo.exc import Unsupported

    def refuses(function, **options):
        def compiled(*args, **kwargs):
            raise Unsupported("no such operator", real_stack=None)

        return compiled

    monkeypatch.setattr(torch, "compile", refuses)
    config = TrainingConfig(**{**QUICK.to_dict(), "compile": True})
    history = train(Line(), lines(), config, seed=0)
    assert history.loss == train(Line(), lines(), QUICK, seed=0).loss
    assert "could not be compiled" in history.notices[0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler warns about its own parts
def test_compiled_training_gives_the_same_losses():
    _, data, config = toys.noisy_line()
    options = {**config.to_dict(), "steps": 12}
    losses = []
    for compiled in (False, True):
        history = train(Line(jitter=0.05), data, TrainingConfig.from_dict({**options, "compile": compiled}), seed=0)
        losses.append(history.loss)
    assert history.notices == [] and losses[1] == pytest.approx(losses[0], abs=1e-10)


# -- limits and signals


def test_time_limit_stops_between_steps():
    config = TrainingConfig(steps=10**6, validation=0.0, time_limit=0.05, device="cpu")
    history = train(Line(), lines(), config, seed=0)
    assert history.stopped == "time" and 0 < len(history.steps) < 10**5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_finishes_the_step_and_handlers_are_put_back(number):
    before = signal.getsignal(number)

    def interrupt(done, total, metrics):
        if done == 5:
            os.kill(os.getpid(), number)

    history = train(Line(), lines(), QUICK, seed=0, progress=interrupt)
    assert history.stopped == "interrupted" and len(history.steps) in (5, 6)
    assert signal.getsignal(number) is before


def test_second_signal_is_immediate():
    before, reached = signal.getsignal(signal.SIGINT), []

    def interrupt(done, total, metrics):
        if done == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass
            reached.append(done)

    with pytest.raises(KeyboardInterrupt):
        train(Line(), lines(), QUICK, seed=0, progress=interrupt)
    assert not reached and signal.getsignal(signal.SIGINT) is before


def test_training_in_another_thread_installs_no_handlers():
    found = []

    def work():
        with Interrupts():
            found.append(signal.getsignal(signal.SIGINT))
        found.append(train(Line(), lines(), QUICK, seed=0).stopped)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before, "steps"]


# -- what a caller sees


def test_curves_of_a_history_carry_their_own_steps():
    history = train(Line(), lines(), TrainingConfig(steps=25, validate_every=10, device="cpu"), seed=0)
    curves = history.curves()
    assert curves["steps"] == list(range(25)) and curves["loss"] == history.loss
    assert curves["validation_steps"] == [10, 20, 25] and len(curves["validation"]) == 3


def test_callbacks_see_every_step_and_every_nth():
    steps, logs = [], []
    train(
        Line(),
        lines(),
        TrainingConfig(steps=25, log_every=10, validate_every=10, device="cpu"),
        seed=0,
        progress=lambda done, total, metrics: steps.append((done, total)),
        on_log=lambda step, metrics: logs.append((step, set(metrics))),
    )
    assert steps == [(done, 25) for done in range(1, 26)]
    assert [step for step, _ in logs] == [0, 10, 20, 24]
    assert logs[-1][1] == {"loss", "validation", "fit", "scale", "learning_rate", "gradient_norm"}


def test_resume_needs_a_folder(tmp_path):
    with pytest.raises(ConfigError, match="folder"):
        train(Line(), lines(), QUICK, seed=0, resume=True)
    with pytest.raises(CheckpointError, match="no folder"):
        train(Line(), lines(), QUICK, seed=0, folder=tmp_path / "absent", resume=True)
