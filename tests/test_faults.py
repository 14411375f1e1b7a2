"""The table of faults: which tests show each case, and the cases that only the whole facade can show."""

from __future__ import annotations

import ast
import functools
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import sciinfer as si
from sciinfer.errors import NumericalError, SciInferWarning, StateError

TESTS = Path(__file__).parent

#: number of the case -> what goes wrong, and the tests that show what happens then (file without ``test_``, function)
FAULTS: dict[int, tuple[str, list[str]]] = {
    1: ("NaN in data", ["ingest_values::test_fault_1_nan_is_masked_and_counted"]),
    2: ("infinity in data", ["ingest_values::test_fault_2_infinite_values_are_placed"]),
    3: ("nothing in a dim", ["ingest_layouts::test_fault_3_names_the_empty_dim", "frames::test_fault_3_empty_frame"]),
    4: ("one time point", ["faults::test_one_time_point_fits", "ingest_layouts::test_fault_4_one_time_point"]),
    5: (
        "unsorted time",
        ["ingest_layouts::test_fault_5_unsorted_times_are_sorted_with_one_notice", "faults::test_unsorted_times"],
    ),
    6: ("nanoseconds in single precision", ["ingest_times::test_fault_6_nanoseconds_since_1970_in_single_precision"]),
    7: ("calendars, zones, NaT", ["frames::test_fault_7_cftime", "ingest_times::test_fault_7_missing_time_is_placed"]),
    8: ("whole numbers, booleans", ["ingest_values::test_fault_8_other_number_types"]),
    9: ("text column", ["frames::test_fault_9_non_numeric_column_is_named_and_numeric_ones_listed"]),
    10: ("two precisions", ["faults::test_double_data_in_a_single_precision_model"]),
    11: ("complex data", ["frames::test_fault_11_complex_column_is_refused"]),
    12: ("dims transposed", ["ingest_layouts::test_fault_12_transposed_dims_give_equal_bits"]),
    13: ("units", ["ingest_values::test_fault_13_units_that_cannot_be_converted_name_both"]),
    14: ("negative counts", ["ingest_values::test_fault_14_support_is_checked_and_placed"]),
    15: ("zero or NaN error bars", ["inverse_exact::test_fault_15_unusable_error_bars"]),
    16: ("constant channel", ["ingest_values::test_fault_16_constant_channel"]),
    17: ("other channels at test time", ["ingest_values::test_fault_17_other_channels_list_both"]),
    18: ("predict before fit", ["faults::test_predict_before_fit"]),
    19: ("odd memory, input kept", ["ingest_layouts::test_fault_19_odd_memory_gives_equal_results"]),
    20: (
        "not positive definite, duplicate times",
        [
            "inverse_exact::test_fault_20_jitter_ladder_then_eigenvalue",
            "statespace::test_cholesky_forgives_round_off_and_nothing_more",
            "faults::test_duplicate_times_with_hardly_any_noise",
        ],
    ),
    21: (
        "drift turns NaN",
        [
            "integrate_sde::test_a_drift_that_turns_nan_is_named",
            "processes_linear::test_fault_21_a_path_that_leaves_the_numbers_is_placed",
            "faults::test_a_model_of_nan_says_when_and_where",
        ],
    ),
    22: (
        "stiff equation, explicit solver",
        ["integrate_ode::test_a_stiff_equation_exhausts_the_budget_and_the_error_suggests_the_implicit_solver"],
    ),
    23: (
        "loss NaN at a step",
        [
            "training_loop::test_nan_once_rolls_back_halves_and_goes_on",
            "training_resume::test_checkpoint_of_the_last_good_step_is_valid_after_nan",
        ],
    ),
    24: ("wrong adjoint", ["operators::test_fault_24_wrong_adjoint_is_refused_at_construction"]),
    # no method of the core rejects draws yet: what holds for every one is that its budget ends it with what it has
    25: ("a method that gets nowhere", ["inverse_exact::test_budget_returns_the_partial_mean"]),
    26: (
        "out of memory",
        [
            "training_loop::test_out_of_memory_halves_the_micro_batch_with_the_same_gradient",
            "training_loop::test_out_of_memory_with_one_series_is_a_resource_error",
        ],
    ),
    27: ("wrong device", ["training_config::test_absent_cuda_is_a_clear_error", "training_config::test_device_names"]),
    28: (
        "signals",
        [
            "training_loop::test_first_signal_finishes_the_step_and_handlers_are_put_back",
            "training_loop::test_second_signal_is_immediate",
        ],
    ),
    29: ("kill -9", ["training_resume::test_kill9_then_resume_is_bit_equal"]),
    30: ("disk full, read-only", ["io_atomic::test_real_full_disk", "io_atomic::test_read_only_folder_is_named"]),
    31: ("truncated checkpoint", ["training_resume::test_damaged_newest_checkpoint_falls_back_to_the_one_before"]),
    32: (
        "pickle",
        ["io_read::test_pickles_are_refused_unopened", "storage_folder::test_pickles_are_refused_with_a_way_out"],
    ),
    33: ("newer format", ["storage_folder::test_newer_format_says_what_it_needs"]),
    34: ("bombs", ["io_netcdf::test_huge_declaration_is_refused_before_reading", "io_read::test_npz_bomb_and_liar"]),
    35: ("archives that lead out", ["io_read::test_archives_are_refused", "io_read::test_npz_members_that_lead_out"]),
    36: (
        "other digest, offline",
        [
            "datasets_fetch::test_downloaded_file_of_another_digest_is_refused_and_removed",
            "datasets_fetch::test_offline_is_one_attempt_and_a_resource_error",
        ],
    ),
    37: ("plugin raises", ["extend_isolation::test_import_that_raises_or_exits"]),
    38: ("plugin names and versions", ["extend_isolation::test_two_distributions_with_one_plugin_name"]),
    39: ("seeds and threads", ["faults::test_same_seed_same_bits", "faults::test_threads_do_not_change_a_fit"]),
    40: ("global random state", ["faults::test_global_random_state_is_neither_read_nor_written"]),
    41: ("several ranks", ["training_distributed::test_two_ranks_give_the_loss_of_one"]),
    42: ("fork, notebook, spaces", ["faults::test_fork_after_threads", "faults::test_inside_a_running_event_loop"]),
    43: ("-W error, -O", ["faults::test_optimised_and_with_warnings_as_errors"]),
}


@functools.cache
def _functions(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_every_case_of_the_table_is_here():
    assert sorted(FAULTS) == list(range(1, 44))


@pytest.mark.parametrize("number", FAULTS)
def test_the_tests_of_a_case_exist(number):
    what, places = FAULTS[number]
    assert what
    assert places
    for place in places:
        file, _, function = place.partition("::")
        assert function in _functions(f"test_{file}.py"), f"case {number} ({what}) lost {place}"


# -- through the facade ----------------------------------------------------------------------------------------------

SMALL = {"latent": 2, "hidden": 4, "width": 8, "decoder": "mlp"}
MODELS = [SMALL, {**SMALL, "posterior": "hermite"}, {"process": "linear"}, {"process": "structural"}]


def _data(n=10, series=2):
    t = np.linspace(0.0, 5.0, n)
    y = np.sin(t + np.arange(series)[:, None])
    return xr.Dataset({"y": (("series", "time"), y)}, coords={"series": np.arange(series), "time": t})


def _fit(data, options=SMALL, **training):
    return si.fit(data, options=options, training={"steps": 3, **training}, progress="silent")


@pytest.mark.parametrize("options", MODELS, ids=["bridge", "hermite", "linear", "structural"])
def test_one_time_point_fits(options):
    """Never a NaN loss; the channel is constant, which is said."""
    with pytest.warns(SciInferWarning, match="constant"):
        fitted = _fit(_data(1, 1), options)
    assert np.isfinite(fitted.history.loss).all()
    tree = fitted.predict(time=[-1.0, 0.0, 2.0], draws=3)
    assert bool(np.isfinite(tree["posterior_predictive"]["y"]).all())


def test_unsorted_times():
    data = _data()
    turned = data.isel(time=[3, 1, 2, 0, 9, 5, 4, 7, 6, 8])
    options = {"process": "structural"}
    with pytest.warns(SciInferWarning, match="sorted"):
        fitted = _fit(turned, options)
    a, b = fitted.predict(draws=3)["posterior"]["y"], _fit(data, options).predict(draws=3)["posterior"]["y"]
    np.testing.assert_array_equal(a["time"], turned["time"])
    np.testing.assert_allclose(a.sortby("time"), b, rtol=1e-10, atol=1e-12)


def test_double_data_in_a_single_precision_model():
    """One precision throughout, answers in double, close to those of the double model."""
    options = {"process": "structural"}
    double, single = _fit(_data(), options, steps=6), _fit(_data(), options, steps=6, precision="float32")
    assert {p.dtype for p in single.model.parameters()} == {torch.float32}
    a, b = (fitted.predict(time=[1.3, 7.0], draws=3)["posterior"]["y"] for fitted in (double, single))
    assert a.dtype == b.dtype == np.float64
    assert bool(np.isfinite(b).all())
    one, two = (f.score(_data())["rmse"].sel(forecaster="model", channel="all") for f in (double, single))
    assert float(two) == pytest.approx(float(one), rel=0.05, abs=0.02)


def test_predict_before_fit(tmp_path):
    """A folder whose training was killed before its first checkpoint."""
    fitted = _fit(_data())
    fitted.status = "started"
    fitted.save(tmp_path / "run")
    again = si.load(tmp_path / "run")
    for ask in (lambda: again.predict(draws=2), lambda: again.generate(time=[1.0], draws=2)):
        with pytest.raises(StateError, match="not been trained"):
            ask()


@pytest.mark.parametrize("options", MODELS, ids=["bridge", "hermite", "linear", "structural"])
def test_duplicate_times_with_hardly_any_noise(options):
    data = _data(12)
    data = data.assign_coords(time=np.repeat(data.time.values[:6], 2))
    fitted = _fit(data, {**options, "noise": 1e-6})
    assert np.isfinite(fitted.history.loss).all()
    assert bool(np.isfinite(fitted.predict(draws=2)["posterior"]["y"]).all())


def test_a_model_of_nan_says_when_and_where():
    fitted = _fit(_data())
    with torch.no_grad():
        fitted.model.process.net.layers[-1].bias.fill_(float("nan"))
    with pytest.raises(NumericalError, match="model time") as caught:
        fitted.predict(time=[9.0], draws=2)
    assert caught.value.dim == "series"


def _numbers(fitted):
    tree = fitted.predict(time=[0.5, 6.0], draws=4)
    return np.concatenate([tree[group]["y"].values.ravel() for group in ("posterior", "posterior_predictive")])


@pytest.mark.parametrize("options", MODELS, ids=["bridge", "hermite", "linear", "structural"])
def test_same_seed_same_bits(options):
    runs = [
        si.fit(_data(6), options=options, training={"steps": 4}, seed=seed, progress="silent") for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(_numbers(runs[0]), _numbers(runs[1]))
    assert runs[0].history.loss == runs[1].history.loss
    assert not np.array_equal(_numbers(runs[0]), _numbers(runs[2]))
    np.testing.assert_array_equal(
        runs[0].predict(draws=2, seed=9)["posterior"]["y"], runs[1].predict(draws=2, seed=9)["posterior"]["y"]
    )


def test_threads_do_not_change_a_fit():
    before, answers = torch.get_num_threads(), []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            answers.append(_numbers(_fit(_data(70, 3))))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-6, atol=1e-6)


def test_global_random_state_is_neither_read_nor_written():
    answers = []
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
        fitted = _fit(_data())
        answers.append(
            np.concatenate([_numbers(fitted), fitted.generate(time=[1.0], draws=3)["prior"]["y"].values.ravel()])
        )
        fitted.score(_data(), draws=4)
        assert random.getstate() == states[0]
        assert np.array_equal(np.random.get_state()[1], states[1])
        assert torch.equal(torch.get_rng_state(), states[2])
    np.testing.assert_array_equal(answers[0], answers[1])


def test_inside_a_running_event_loop():
    """As in a notebook."""
    import asyncio

    async def cell():
        fitted = _fit(_data())
        return fitted.predict(draws=2)

    assert bool(np.isfinite(asyncio.run(cell())["posterior"]["y"]).all())


_SCRIPT = """
import os, sys
import numpy as np, xarray as xr, torch
import sciinfer as si
from sciinfer.errors import ConfigError

OPTIONS = {"latent": 2, "hidden": 4, "width": 8, "decoder": "mlp"}

def data():
    t = np.linspace(0.0, 5.0, 12)
    return xr.Dataset({"y": ("time", np.sin(t))}, coords={"time": t})

def work(name):
    fitted = si.fit(data(), options=OPTIONS, training={"steps": 2}, progress="silent")
    fitted.save(os.path.join(sys.argv[1], name))
    return float(si.load(os.path.join(sys.argv[1], name)).predict(time=[1.0, 7.0], draws=2)["posterior"]["y"].sum())
"""

_PLAIN = (
    _SCRIPT
    + """
if __debug__:
    sys.exit("asserts are on")
try:
    si.fit(data(), options={"latent": -1})
except ConfigError:
    print(np.isfinite(work("a model")))
"""
)

_FORK = (
    _SCRIPT
    + """
here = work("parent")
torch.set_num_threads(2)
torch.randn(400, 400) @ torch.randn(400, 400)
child = os.fork()
if child == 0:
    try:
        os._exit(0 if work("child") == here else 3)
    finally:
        os._exit(4)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
)


def _python(code, folder, *flags):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = [sys.executable, *flags, "-c", code, str(folder)]
    return subprocess.run(run, capture_output=True, text=True, timeout=120, env=environment, check=False)


@pytest.mark.slow
def test_optimised_and_with_warnings_as_errors(tmp_path):
    """Checks of input are no asserts, and nothing on the way from data to answer warns."""
    done = _python(_PLAIN, tmp_path, "-O", "-W", "error")
    assert (done.stdout.split(), done.returncode) == (["True"], 0), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_after_threads(tmp_path):
    """The child of a process that has used its threads fits the same model to the same bits and does not hang."""
    done = _python(_FORK, tmp_path)
    assert (done.stdout.split(), done.returncode) == (["0"], 0), done.stderr
