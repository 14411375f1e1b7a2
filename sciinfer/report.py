"""One self-contained HTML page per run: verdict, pictures, calibration, scores, provenance."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import plots
from .errors import ConfigError, SciInferError
from .labelled.atomic import atomic_bytes
from .plots.access import LATENT, Panel, panel, panels, variables
from .plots.calibrate import central_coverage, pit_spans
from .report_html import Html, definitions, el, figure, join, page
from .report_scores import MARKS, Verdict, coverage_verdict, verdicts
from .report_tables import tables

if TYPE_CHECKING:
    import xarray as xr

History = Mapping[str, Sequence[float]]
MAX_SERIES, MAX_VARIABLES = 4, 6
_SECTIONS = {
    "verdict": "Verdict",
    "data": "Data and posterior",
    "training": "Training",
    "calibration": "Calibration",
    "scores": "Scores",
    "notes": "Notes",
    "provenance": "Provenance",
}


@dataclass(frozen=True)
class _Part:
    """One result with all that belongs to it. ``key`` prefixes ids, ``name`` is shown (empty for a single result)."""

    key: str
    name: str
    tree: xr.DataTree
    scores: xr.Dataset | None = None
    history: History | None = None
    held_out: xr.Dataset | None = None
    variables: list[str] = field(default_factory=list)


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    trees: xr.DataTree | Mapping[str, xr.DataTree],
    scores: xr.Dataset | Mapping[str, xr.Dataset] | None = None,
    history: History | Mapping[str, History] | None = None,
    provenance: Mapping[str, Any] | None = None,
    held_out: xr.Dataset | Mapping[str, xr.Dataset] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write the page: no scripts, no external resources, figures inline; all names and texts escaped.

    Args:
        path: the HTML file; replaced in one step.
        title: of the page.
        trees: a result, or name -> result. With names, ``scores``, ``history`` and ``held_out`` are mappings by the
            same names.
        scores: of :func:`sciinfer.diagnostics.evaluate`, dims ``(forecaster, channel)``.
        history: loss lists of the fit, ``{"steps": [...], "loss": [...], "validation": [...]}``.
        provenance: what to say of the run beside the results' own attrs (command, versions).
        held_out: data that the model has not seen, drawn and used for calibration.
        notes: sentences for the reader.

    Returns:
        The path.

    Raises:
        ConfigError: a mapping names a result that is not there.
        DependencyError: matplotlib is missing.
        ResourceError: the file cannot be written; an older one is intact.

    Example:
        >>> import tempfile
        >>> from sciinfer.plots import example_tree
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report(Path(folder) / "report.html", title="Demo", trees=example_tree()).name
        'report.html'
    """
    parts = _parts(trees, scores, history, held_out)
    blocks = {
        "verdict": _each(parts, _verdict),
        "data": _each(parts, _data),
        "training": _each(parts, _training),
        "calibration": _each(parts, _calibration),
        "scores": _each(parts, _scores),
        "notes": el("ul", *(el("li", note) for note in notes)) if notes else Html(),
        "provenance": _provenance(parts, provenance or {}),
    }
    blocks = {name: body for name, body in blocks.items() if body}
    links = [el("a", _SECTIONS[name], href=f"#{name}") for name in blocks]
    sections = [el("section", el("h2", _SECTIONS[name]), body, id=name) for name, body in blocks.items()]
    body = join([el("header", el("h1", title), _subtitle(parts), el("nav", *links)), *sections])
    target = Path(path)
    atomic_bytes(target, page(title, body).encode("utf-8"))
    return target


def _parts(trees: Any, scores: Any, history: Any, held_out: Any) -> list[_Part]:
    if hasattr(trees, "children"):  # a DataTree is a Mapping too
        return [_Part("r0", "", trees, scores, history, held_out, variables(trees))]
    if not trees:
        raise ConfigError("there is no result to report", fix="pass a result, or a mapping of names to results")
    groups = {"scores": scores or {}, "history": history or {}, "held_out": held_out or {}}
    for argument, values in groups.items():
        unknown = [key for key in values if key not in trees]
        if unknown:
            raise ConfigError(f"{argument} names {unknown[0]!r}", fix=f"use the results' names: {', '.join(trees)}")
    return [
        _Part(f"r{i}", str(name), tree, *(values.get(name) for values in groups.values()), variables=variables(tree))
        for i, (name, tree) in enumerate(trees.items())
    ]


def _each(parts: list[_Part], make: Any) -> Html:
    made = [(part, make(part)) for part in parts]
    return join(join([el("h3", part.name) if part.name else "", body]) for part, body in made if body)


def _subtitle(parts: list[_Part]) -> Html:
    models = dict.fromkeys(str(p.tree.attrs["model"]) for p in parts if "model" in p.tree.attrs)
    version = dict.fromkeys(str(p.tree.attrs["sciinfer_version"]) for p in parts if "sciinfer_version" in p.tree.attrs)
    words = [f"model {', '.join(models)}" if models else "", f"sciinfer {', '.join(version)}" if version else ""]
    return el("p", " · ".join(filter(None, words)), class_="muted")


def _verdict(part: _Part) -> Html:
    found = verdicts(part.scores) if part.scores is not None else []
    if not found:
        found = [Verdict("none", "No scores on held-out data were given.", "How accurate this result is stays open.")]
        found += _own_coverage(part)
    return join(
        el(
            "div",
            el("p", el("span", MARKS[v.level], class_="mark", aria_hidden="true"), el("strong", v.headline)),
            el("p", v.text) if v.text else "",
            class_=f"verdict {v.level}",
        )
        for v in found
    )


def _own_coverage(part: _Part) -> list[Verdict]:
    if part.held_out is None:
        return []
    spans = [s for s in (_spans(part, var) for var in part.variables) if s is not None]
    if not spans:
        return []
    low, high = (np.concatenate(ends) for ends in zip(*spans, strict=True))
    return [coverage_verdict(central_coverage(low, high, 0.9), len(low))]


def _spans(part: _Part, var: str) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        return pit_spans(part.tree, var, part.held_out)
    except SciInferError:  # nothing to compare with at these times
        return None


def _data(part: _Part) -> Html:
    shown = part.variables[:MAX_VARIABLES]
    drawn = join(_variable(part, var, number) for number, var in enumerate(shown))
    hidden = len(part.variables) - len(shown)
    more = _note(f"{hidden} more {_plural(hidden, 'variable')} not shown.") if hidden > 0 else ""
    return join([drawn, _latent(part), more])


def _variable(part: _Part, var: str, number: int) -> Html:
    total = sum(1 for _ in panels(part.tree, var))
    made = []
    for k, (series, cell) in enumerate(itertools.islice(panels(part.tree, var), MAX_SERIES)):
        one = panel(part.tree, var, series=series, cell=cell)
        place = {"var": var, "series": series, "cell": cell, "truth": part.held_out}
        what = f"{one.name}{', ' if one.where else ''}{one.where}"
        draw = _call(plots.bands, part.tree, title=what, **place)
        made.append(figure(draw, name=f"{part.key}b{number}-{k}", text=f"{what}: data and predictive bands over time"))
        if k == 0 and _small_forecast(one):
            zoom = _call(plots.forecast, part.tree, title=f"{what}: the forecast", **place)
            made.append(figure(zoom, name=f"{part.key}f{number}", text=f"{what}: the forecast, enlarged"))
    hidden = total - min(total, MAX_SERIES)
    note = _note(f"Of {var}, {hidden} more {_plural(hidden, 'series', 'series')} not shown.") if hidden else ""
    return join([*made, note])


def _call(draw: Any, tree: xr.DataTree, **options: Any) -> Any:
    return lambda: draw(tree, **options)


def _small_forecast(one: Panel) -> bool:
    last = one.last
    if last is None or not len(one.time) or not one.time.max() > last:
        return False
    return bool((one.time.max() - last) / (one.time.max() - one.time.min()) < 0.3)


def _latent(part: _Part) -> Html:
    if "latent" not in variables(part.tree, LATENT):
        return Html()
    cells = sum(1 for series, _ in panels(part.tree, "latent", LATENT) if series == 0)
    paths = figure(
        _call(plots.latent, part.tree), name=f"{part.key}l", text="latent paths over time", caption="Latent paths."
    )
    if cells < 2:
        return paths
    phase = figure(
        _call(plots.phase, part.tree), name=f"{part.key}ph", text="two latent components", wide=False,
        caption="The first two latent components against each other.",
    )  # fmt: skip
    return join([paths, phase])


def _training(part: _Part) -> Html:
    source: Any = part.history or (part.tree if "training" in part.tree.children else None)
    if source is None:
        return Html()
    try:
        return figure(
            lambda: plots.loss_curve(source), name=f"{part.key}t", text="training and validation loss over the steps"
        )
    except SciInferError as err:
        return _note(f"No loss curve: {err.what}.")


def _calibration(part: _Part) -> Html:
    made: list[Html] = []
    for number, var in enumerate(part.variables[:MAX_VARIABLES]):
        if _spans(part, var) is None:
            made.append(_note(f"{var}: no datum lies at a time of the result, so its calibration cannot be checked."))
            continue
        options = {"var": var, "truth": part.held_out}
        pit = figure(
            _call(plots.pit, part.tree, **options),
            name=f"{part.key}p{number}",
            text=f"{var}: PIT histogram",
            wide=False,
        )
        cover = figure(
            _call(plots.coverage, part.tree, **options),
            name=f"{part.key}c{number}",
            text=f"{var}: coverage",
            wide=False,
        )
        made.append(el("div", pit, cover, class_="pair"))
    if not made:
        return Html()
    return join([el("p", _reading(part), class_="muted"), *made])


def _reading(part: _Part) -> str:
    text = (
        "Left: a flat histogram means calibrated; a U shape means bands too narrow, a hump too wide, a slope a bias. "
        "Right: on the dashed line the bands hold as many data as they claim. "
        "The grey ranges take the data as independent."
    )
    seen = " The result was conditioned on these very data, so this check is optimistic."
    return text + (seen if part.held_out is None else "")


def _scores(part: _Part) -> Html:
    return tables(part.scores) if part.scores is not None else Html()


def _note(text: str) -> Html:
    return el("p", text, class_="note")


def _plural(n: int, one: str, many: str | None = None) -> str:
    return f"{one} is" if n == 1 else f"{many or one + 's'} are"


def _provenance(parts: list[_Part], extra: Mapping[str, Any]) -> Html:
    general = definitions(extra) if extra else Html()
    own: list[Html] = []
    for part in parts:
        if part.tree.attrs:
            own += [el("h3", part.name) if part.name else Html(), definitions(part.tree.attrs)]
    return join([general, *own])
