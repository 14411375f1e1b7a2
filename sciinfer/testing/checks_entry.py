"""Checks of an entry's record, most of them without importing its target."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import re

from ..extend.hookspecs import KINDS
from ..extend.records import RECORDS, Case, Entry
from . import units
from .failures import CheckFailed, expect, load, skip_unless

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
#: arguments that a target of a kind is called with by name
_KEYWORDS = {
    "readers": ("limits",),
    "simulators": ("seed",),
    "metrics": ("dim",),
    "plots": ("var", "ax"),
    "methods": ("draws", "generator", "budget"),
}
_METHODS = {
    "operators": ("forward", "adjoint", "vjp"),
    "likelihoods": ("log_prob", "sample"),
    "kernels": ("transition", "initial", "readout"),
    "priors": ("sample",),
    "denoisers": ("denoise",),
}


def check_entry_kind(case: Case, entry: Entry) -> None:
    """The record is of its kind's type."""
    expect(case.kind in KINDS, f"there is no kind {case.kind!r}")
    wanted = RECORDS.get(case.kind, Entry)
    expect(isinstance(entry, wanted), f"it is a {type(entry).__name__}", fix=f"use {wanted.__name__}")


def check_entry_name(case: Case, entry: Entry) -> None:
    """Names are lower-case words joined by ``-`` or ``_``, after the domain."""
    short = entry.name.rpartition("/")[2]
    expect(bool(_NAME.fullmatch(short)), f"the name {entry.name!r} is not of the form domain/word-word")


def check_entry_summary(case: Case, entry: Entry) -> None:
    """One line of 10 to 120 characters."""
    expect("\n" not in entry.summary, "the summary has more than one line")
    expect(10 <= len(entry.summary) <= 120, f"the summary has {len(entry.summary)} characters", fix="10 to 120")


def check_entry_target_form(case: Case, entry: Entry) -> None:
    """``package.module:attribute``."""
    expect(bool(_TARGET.fullmatch(entry.target)), f"the target {entry.target!r} is not 'package.module:attribute'")


def check_entry_target_found(case: Case, entry: Entry) -> None:
    """The target's module exists (found without importing it)."""
    module = entry.target.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except ImportError as err:
        raise CheckFailed(f"the module {module!r} cannot be found: {err}") from err
    expect(found is not None, f"the module {module!r} does not exist", fix="correct the target")


def check_entry_json(case: Case, entry: Entry) -> None:
    """Everything but magic bytes turns into JSON, for tables and docs."""
    fields = {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry) if f.name != "magic"}
    fields = {name: dict(value) if name in ("units", "options") else value for name, value in fields.items()}
    try:
        json.dumps(fields)
    except TypeError as err:
        raise CheckFailed(f"the record is not plain data: {err}", fix="use strings, numbers, tuples and dicts") from err


def check_entry_units(case: Case, entry: Entry) -> None:
    """Units parse."""
    for name, text in entry.units.items():
        expect(
            units.parses(text),
            f"the units {text!r} of {name!r} do not parse",
            fix="write SI symbols: 'm s-1', '1', 'mag'",
        )


def check_entry_dims(case: Case, entry: Entry) -> None:
    """Dims are distinct identifiers."""
    expect(isinstance(entry.dims, tuple), "dims must be a tuple of names", fix="write ('time',), not 'time'")
    expect(all(isinstance(d, str) and d.isidentifier() for d in entry.dims), f"dims {entry.dims} are not identifiers")
    expect(len(set(entry.dims)) == len(entry.dims), f"dims {entry.dims} repeat")


def check_entry_references(case: Case, entry: Entry) -> None:
    """Each reference names authors and year."""
    expect(isinstance(entry.references, tuple), "references must be a tuple", fix="write ('Author (year), title',)")
    for reference in entry.references:
        expect(bool(re.search(r"\b(1[89]|20)\d\d\b", reference)), f"the reference {reference!r} has no year")


def check_entry_options(case: Case, entry: Entry) -> None:
    """Every option has a line of explanation."""
    for name, line in entry.options.items():
        expect(name.isidentifier(), f"option {name!r} is not an identifier")
        expect(isinstance(line, str) and bool(line.strip()), f"option {name!r} is not explained")


def check_entry_requires(case: Case, entry: Entry) -> None:
    """Further packages are importable names."""
    expect(isinstance(entry.requires, tuple), "requires must be a tuple of module names")
    expect(all(re.fullmatch(r"[A-Za-z_][\w.]*", name) for name in entry.requires), f"requires {entry.requires}")


def check_entry_target_loads(case: Case, entry: Entry) -> None:
    """The target loads and can be called (a solver may be an object)."""
    expect(callable(load(entry)) or case.kind == "solvers", f"the target {entry.target!r} is not callable")


def check_entry_target_documented(case: Case, entry: Entry) -> None:
    """The target has a docstring."""
    text = load(entry).__doc__ or ""  # its own: a class does not inherit this
    expect(len(text.strip()) >= 10, f"{entry.target} has no docstring", fix="one line, the formula, Args, Returns")


def check_entry_options_exist(case: Case, entry: Entry) -> None:
    """Every option is an argument of the target."""
    parameters = _parameters(entry)
    for name in entry.options:
        expect(name in parameters, f"the target has no argument {name!r}; it has {', '.join(parameters)}")


def check_entry_signature(case: Case, entry: Entry) -> None:
    """The target takes the arguments its kind is called with, and swallows no others."""
    parameters = _parameters(entry)
    for name in _KEYWORDS.get(case.kind, ()):
        expect(name in parameters, f"{case.kind} are called with {name}=, this target has no such argument")
    loose = [p.name for p in parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    expect(not loose, f"the target swallows **{''.join(loose)}", fix="name every option, so that a slip is an error")


def check_entry_methods(case: Case, entry: Entry) -> None:
    """A class has the methods of its kind."""
    target = load(entry)
    skip_unless(isinstance(target, type) and case.kind in _METHODS, "the target is a function")
    for name in _METHODS[case.kind]:
        expect(callable(getattr(target, name, None)), f"{entry.target} has no method {name}()")


def _parameters(entry: Entry) -> dict[str, inspect.Parameter]:
    target = load(entry)
    skip_unless(callable(target), "the target is an object")
    return dict(inspect.signature(target).parameters)
