"""Checks of simulators."""

from __future__ import annotations

import xarray as xr

from ..extend.records import Case, Entry
from . import checks_labelled as labelled
from .compare import same
from .exercise import twice
from .failures import CheckFailed, expect, load, skip_unless


def _simulated(case: Case, entry: Entry) -> xr.Dataset:
    first, _ = twice(case, entry)
    skip_unless(first.error is None, f"it does not run: {first.error}")
    return first.result


def _with_seed(case: Case, entry: Entry, seed: int) -> xr.Dataset:
    args, kwargs = case.make()
    return load(entry)(*args, seed=seed, **kwargs)


def check_simulators_returns_dataset(case: Case, entry: Entry) -> None:
    """A Dataset with data."""
    labelled.is_dataset(_simulated(case, entry))


def check_simulators_same_seed(case: Case, entry: Entry) -> None:
    """The same seed gives the same bits."""
    expect(same(_with_seed(case, entry, 1), _with_seed(case, entry, 1)), "one seed gives two results")


def check_simulators_other_seed(case: Case, entry: Entry) -> None:
    """Another seed gives other values."""
    one, two = (_with_seed(case, entry, seed).drop_attrs() for seed in (1, 2))  # the seed may be told in the attrs
    expect(not same(one, two), "the seed has no effect")


def check_simulators_parameters_told(case: Case, entry: Entry) -> None:
    """The parameters used, the seed among them, are in the attributes."""
    attrs = _with_seed(case, entry, 11).attrs
    expect(bool(attrs), "attrs hold no parameters", fix="put every parameter into ds.attrs")
    expect("seed" not in attrs or int(attrs["seed"]) == 11, f"attrs say seed {attrs.get('seed')}, it was 11")


def check_simulators_unknown_option(case: Case, entry: Entry) -> None:
    """A misspelt option is an error."""
    args, kwargs = case.make()
    try:
        load(entry)(*args, seed=0, **kwargs, no_such_option_=1)
    except Exception:
        return
    raise CheckFailed("an unknown option was swallowed", fix="name every option; no **kwargs")


def check_simulators_dims(case: Case, entry: Entry) -> None:
    """The declared dims are there."""
    labelled.has_dims(_simulated(case, entry), entry.dims)


def check_simulators_units(case: Case, entry: Entry) -> None:
    """The declared units are on the variables."""
    labelled.has_units(_simulated(case, entry), entry.units)


def check_simulators_no_infinity(case: Case, entry: Entry) -> None:
    """No infinities."""
    labelled.no_infinity(_simulated(case, entry))


def check_simulators_types(case: Case, entry: Entry) -> None:
    """float64, no objects."""
    labelled.numeric(_simulated(case, entry))


def check_simulators_plain_attrs(case: Case, entry: Entry) -> None:
    """Attributes can be written to a file."""
    labelled.plain_attrs(_simulated(case, entry))


def check_simulators_not_all_missing(case: Case, entry: Entry) -> None:
    """No variable is missing everywhere."""
    labelled.not_all_missing(_simulated(case, entry))
