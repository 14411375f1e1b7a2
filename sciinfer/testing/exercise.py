"""One small, complete use of an entry of each kind; the general checks look at what it leaves behind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import DependencyError, ResourceError
from ..extend.records import Case, Entry
from . import toys
from .failures import CheckSkipped, build, load
from .sandbox import Record, observe

#: kinds whose entries take no arguments that a case would have to give
SELF_CONTAINED = ("datasets", "simulators", "metrics", "plots", "commands")

_records: dict[tuple[int, str], tuple[Case, Record, Record]] = {}


def exercise(case: Case, entry: Entry) -> Any:
    """Use the entry once. ``case.inputs["exercise"]``, a function of the target, overrides the kind's own way."""
    own = case.inputs.get("exercise")
    if own is not None:
        return own(load(entry))
    return _WAYS.get(case.kind, build)(case, entry)


def twice(case: Case, entry: Entry) -> tuple[Record, Record]:
    """Records of two uses; between them the global random states are moved. Computed once per case."""
    key = (id(case), entry.target)
    if key not in _records:
        first = observe(lambda: exercise(case, entry))
        with toys.other_global_seeds():
            second = observe(lambda: exercise(case, entry))
        _records[key] = (case, first, second)
    _, first, second = _records[key]
    if isinstance(first.error, (ResourceError, DependencyError, CheckSkipped)):
        raise CheckSkipped(str(first.error))
    return first, second


def seconds_spent() -> float:
    """Seconds that all first uses took so far."""
    return sum(first.seconds for _, first, _ in _records.values())


def _operators(case: Case, entry: Entry) -> Any:
    op = build(case, entry)
    x = toys.randn(*op.domain.concrete(5))
    image = op(x)
    return (image, op.adjoint(image)) if op.linear else (image,)


def _readers(case: Case, entry: Entry) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return load(entry)(case.inputs["write"](Path(folder)), limits=toys.limits())


def _datasets(case: Case, entry: Entry) -> Any:
    args, kwargs = case.make()
    return load(entry)(*args, **kwargs)


def _simulators(case: Case, entry: Entry) -> Any:
    args, kwargs = case.make()
    return load(entry)(*args, seed=0, **kwargs)


def _metrics(case: Case, entry: Entry) -> Any:
    args, kwargs = case.make()
    truth, sample = args or toys.forecast()
    return load(entry)(truth, sample, **{"dim": "draw", **kwargs})


def _plots(case: Case, entry: Entry) -> Any:
    args, kwargs = case.make()
    axes = load(entry)(*(args or (toys.tree(),)), **{"var": "y", **kwargs})
    return len(axes.get_children())


def _likelihoods(case: Case, entry: Entry) -> Any:
    likelihood = build(case, entry)
    eta = toys.eta(case)
    y = likelihood.sample(eta, toys.generator())
    return y, likelihood.log_prob(y, eta, toys.ones_mask(y)).detach()


def _kernels(case: Case, entry: Entry) -> Any:
    kernel = build(case, entry)
    a, q = kernel.transition(toys.steps())
    return a.detach(), q.detach(), kernel.initial().detach(), kernel.readout().detach()


def _priors(case: Case, entry: Entry) -> Any:
    return build(case, entry).sample(3, toys.generator())


def _denoisers(case: Case, entry: Entry) -> Any:
    return build(case, entry).denoise(toys.randn(2, *case.inputs["shape"]), 0.5)


def _methods(case: Case, entry: Entry) -> Any:
    prior, observation, y = toys.linear_gaussian()
    found = load(entry)(prior, observation, y, draws=4, generator=toys.generator(), budget=None)
    return found.draws, found.mean


def _schemas(case: Case, entry: Entry) -> Any:
    return [list(load(entry)(ds)) for ds in (case.inputs["valid"](), case.inputs["invalid"]())]


def _commands(case: Case, entry: Entry) -> Any:
    return callable(load(entry))


_WAYS: dict[str, Callable[[Case, Entry], Any]] = {
    "operators": _operators,
    "readers": _readers,
    "datasets": _datasets,
    "simulators": _simulators,
    "metrics": _metrics,
    "plots": _plots,
    "likelihoods": _likelihoods,
    "kernels": _kernels,
    "priors": _priors,
    "denoisers": _denoisers,
    "methods": _methods,
    "schemas": _schemas,
    "commands": _commands,
}
