"""Checks of any entry in use: what a single use must leave alone, and what two uses must have in common."""

from __future__ import annotations

from ..errors import SciInferWarning
from ..extend.records import Case, Entry
from .compare import same
from .exercise import twice
from .failures import expect


def check_run_works(case: Case, entry: Entry) -> None:
    """The case runs."""
    first, _ = twice(case, entry)
    if first.error is not None:
        raise first.error
    expect(first.result is not None, "it returned nothing")


def check_run_repeats(case: Case, entry: Entry) -> None:
    """Two uses give the same bits, whatever the global random states are."""
    first, second = twice(case, entry)
    expect(
        same(first.result, second.result),
        "two uses with equal inputs differ",
        fix="draw only from the generator or seed that is passed in",
    )


#: the first import of a large third-party package may touch these; every later use must not
_TOUCHED_BY_IMPORTS = ("python random state", "environment", "threads", "warning filters")


def _unchanged(case: Case, entry: Entry, state: str, fix: str) -> None:
    first, second = twice(case, entry)
    changed = second.changed if state in _TOUCHED_BY_IMPORTS else first.changed | second.changed
    expect(state not in changed, f"it changes the {state}", fix=fix)


def check_run_leaves_python_random(case: Case, entry: Entry) -> None:
    """``random`` is untouched."""
    _unchanged(case, entry, "python random state", "use the generator that is passed in")


def check_run_leaves_numpy_random(case: Case, entry: Entry) -> None:
    """``numpy.random``'s global state is untouched."""
    _unchanged(case, entry, "numpy random state", "use sciinfer.random.numpy_generator(seed)")


def check_run_leaves_torch_random(case: Case, entry: Entry) -> None:
    """Torch's global generator is untouched."""
    _unchanged(case, entry, "torch random state", "pass generator= to every random call")


def check_run_leaves_default_dtype(case: Case, entry: Entry) -> None:
    """Torch's default dtype is untouched."""
    _unchanged(case, entry, "torch default dtype", "pass dtype= where it matters")


def check_run_leaves_grad_mode(case: Case, entry: Entry) -> None:
    """Torch's grad mode is untouched."""
    _unchanged(case, entry, "torch grad mode", "use torch.no_grad() as a context")


def check_run_leaves_torch_threads(case: Case, entry: Entry) -> None:
    """Torch's thread count and deterministic mode are untouched."""
    _unchanged(case, entry, "torch threads", "leave thread counts to the caller")
    _unchanged(case, entry, "torch deterministic mode", "leave it to the caller")


def check_run_leaves_numpy_errors(case: Case, entry: Entry) -> None:
    """NumPy's error handling is untouched."""
    _unchanged(case, entry, "numpy error state", "use numpy.errstate as a context")


def check_run_leaves_xarray_options(case: Case, entry: Entry) -> None:
    """Xarray's options are untouched."""
    _unchanged(case, entry, "xarray options", "use xarray.set_options as a context")


def check_run_leaves_environment(case: Case, entry: Entry) -> None:
    """Environment variables are untouched."""
    _unchanged(case, entry, "environment", "do not set environment variables")


def check_run_leaves_working_directory(case: Case, entry: Entry) -> None:
    """The working directory is untouched."""
    _unchanged(case, entry, "working directory", "use absolute paths")


def check_run_leaves_threads(case: Case, entry: Entry) -> None:
    """No thread is left behind."""
    _unchanged(case, entry, "threads", "join every thread that is started")


def check_run_no_network(case: Case, entry: Entry) -> None:
    """No connection is tried."""
    first, second = twice(case, entry)
    expect(not first.network + second.network, f"it uses the network: {first.network[:3]}", fix="ship small inputs")


def check_run_no_files_outside_tmp(case: Case, entry: Entry) -> None:
    """No file is written outside the temporary folder."""
    first, second = twice(case, entry)
    expect(not first.writes + second.writes, f"it writes {first.writes[:3]}", fix="write only where the caller says")


def check_run_no_processes(case: Case, entry: Entry) -> None:
    """No other program is started (the interpreter itself may be, to probe a file safely)."""
    second = twice(case, entry)[1]  # in the first use a third-party import may ask the system for its name
    expect(not second.processes, f"it starts {second.processes[:3]}", fix="stay in the process")


def check_run_prints_nothing(case: Case, entry: Entry) -> None:
    """Nothing is printed."""
    first, _ = twice(case, entry)
    expect(not first.printed, f"it prints {first.printed[:80]!r}", fix="use logging, or warn")


def check_run_warns_only_by_name(case: Case, entry: Entry) -> None:
    """Warnings are of the package's own class: no deprecations, no numerical accidents."""
    first, _ = twice(case, entry)
    foreign = [warning for warning in first.warned if not issubclass(warning.category, SciInferWarning)]
    told = "; ".join(f"{w.category.__name__}: {w.message}" for w in foreign[:2])
    expect(not foreign, f"it warns: {told}", fix="avoid the cause, or warn with SciInferWarning")


def check_run_is_quick(case: Case, entry: Entry) -> None:
    """A case takes at most 20 seconds."""
    first, _ = twice(case, entry)
    expect(first.seconds <= 20, f"one use took {first.seconds:.1f} s", fix="give a smaller case")
