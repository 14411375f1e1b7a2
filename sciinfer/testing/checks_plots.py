"""Checks of plots."""

from __future__ import annotations

from typing import Any

from ..extend.records import Case, Entry
from ..extend.registry import require
from . import toys
from .compare import same
from .failures import expect, load, skip_unless


def _inputs(case: Case) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = case.make()
    return args or (toys.tree(),), {"var": "y", **kwargs}


def _axes(case: Case, entry: Entry, **more: Any) -> Any:
    args, kwargs = _inputs(case)
    return load(entry)(*args, **kwargs, **more)


def check_plots_returns_axes(case: Case, entry: Entry) -> None:
    """Axes with something on them."""
    axes = require("matplotlib.axes", extra="plots", purpose="a plot")
    made = _axes(case, entry)
    expect(isinstance(made, axes.Axes), f"it returns a {type(made).__name__}", fix="return the Axes")
    expect(made.has_data(), "nothing is drawn")


def check_plots_draws_on_given_axes(case: Case, entry: Entry) -> None:
    """Given axes are used."""
    figure = require("matplotlib.figure", extra="plots", purpose="a plot").Figure()
    ax = figure.add_subplot()
    expect(_axes(case, entry, ax=ax) is ax, "the given axes are ignored")


def check_plots_labels(case: Case, entry: Entry) -> None:
    """Both axes are labelled."""
    made = _axes(case, entry)
    expect(bool(made.get_xlabel()) and bool(made.get_ylabel()), "an axis has no label")


def check_plots_no_global_figures(case: Case, entry: Entry) -> None:
    """No figure is left in pyplot's global list."""
    pyplot = require("matplotlib.pyplot", extra="plots", purpose="a plot")
    before = pyplot.get_fignums()
    _axes(case, entry)
    expect(pyplot.get_fignums() == before, "a figure is left open", fix="use matplotlib.figure.Figure")


def check_plots_leaves_tree(case: Case, entry: Entry) -> None:
    """The result is not changed."""
    args, kwargs = _inputs(case)
    skip_unless(hasattr(args[0], "to_dict"), "it takes no tree")
    kept = args[0].copy(deep=True)
    load(entry)(*args, **kwargs)
    expect(same(args[0], kept), "the result was changed")
