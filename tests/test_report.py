"""The report page: sections, honesty, escaping, self-containment, and a real browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sciinfer.errors import ConfigError, ResourceError
from sciinfer.plots import example_tree
from sciinfer.report import write_report
from sciinfer.report_html import el, page
from sciinfer.report_scores import coverage_verdict, number, outcome, verdicts
from sciinfer.report_tables import tables

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>-->"
NAME = EVIL.replace("/", "|")  # no name in a tree may hold a slash
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Collects tags, attributes, ids and text; complains about unbalanced markup."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"unclosed {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    @property
    def ids(self) -> list[str]:
        return [value for _, name, value in self.attributes if name == "id"]


def table(
    crps, *, channels=("flux",), coverage=0.9, names=("model", "persistence", "linear"), **attrs: object
) -> xr.Dataset:
    given = np.asarray(crps, dtype=float).reshape(len(names), -1)
    crps = np.broadcast_to(given, (len(names), len(channels)))
    dims = ("forecaster", "channel")
    full = np.ones(crps.shape)
    return xr.Dataset(
        {"rmse": (dims, 2 * crps), "crps": (dims, crps), "coverage_90": (dims, coverage * full)}
        | {"n": ("channel", 400 * full[0])},
        {"forecaster": list(names), "channel": list(channels)},
        attrs=attrs,
    )  # fmt: skip


def held_out(tree: xr.DataTree, start: int = 64) -> xr.Dataset:
    first = tree["posterior_predictive"].to_dataset()[["flux"]].isel(chain=0, draw=3, drop=True)
    return first.isel(time=slice(start, None))


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    tree = example_tree(draws=30)
    return write_report(
        tmp_path_factory.mktemp("report") / "report.html",
        title="Oscillator",
        trees=tree,
        scores=table([0.2, 0.5, 0.4], model_wins="wins", best_baseline="linear"),
        provenance={"command": "sciinfer demo", "versions": {"torch": "2.13.0"}},
        held_out=held_out(tree),
        notes=["A tenth of the data is missing."],
    )


def test_sections_and_links(full):
    found = Page(full.read_text("utf-8"))
    sections = [v for tag, name, v in found.attributes if tag == "section" and name == "id"]
    assert sections == ["verdict", "data", "training", "calibration", "scores", "notes", "provenance"]
    links = [v[1:] for tag, name, v in found.attributes if tag == "a" and name == "href"]
    assert links == sections
    assert found.tags.count("figure") >= 6 and found.tags.count("svg") == found.tags.count("figure")
    for words in (
        "beats its best baseline, linear",
        "Use the",
        "sciinfer demo",
        "2.13.0",
        "A tenth of the data",
        "90 % band",
    ):
        assert (words in found.text) == (words != "Use the")


def test_ids_are_unique_and_references_resolve(full):
    found = Page(full.read_text("utf-8"))
    assert len(found.ids) == len(set(found.ids))
    used = {v[1:] for _, name, v in found.attributes if name == "xlink:href" and v.startswith("#")}
    used |= {m for _, _, v in found.attributes for m in re.findall(r"url\(#([^)]+)\)", v)}
    assert used and used <= set(found.ids)


def test_nothing_is_loaded_and_nothing_runs(full):
    text = full.read_text("utf-8")
    found = Page(text)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(found.tags)
    loads = [v for _, name, v in found.attributes if name in ("src", "href", "xlink:href", "action", "data", "srcset")]
    assert all(v.startswith(("#", "data:image/png;base64,")) for v in loads)
    assert not re.search(r"https?://|@import|javascript:", text)
    policy = next(v for tag, name, v in found.attributes if (tag, name) == ("meta", "content"))
    assert policy.startswith("default-src 'none';")
    assert not any(name.startswith("on") for _, name, _ in found.attributes)


def test_hostile_text_is_escaped_everywhere(tmp_path):
    tree = example_tree(draws=20)
    groups = {}
    for name in ("posterior_predictive", "observed_data"):
        ds = tree[name].to_dataset().rename(flux=NAME)
        ds[NAME].attrs = {"units": EVIL, "long_name": EVIL}
        groups[f"/{name}"] = ds.expand_dims(series=[EVIL], axis=2 if name == "posterior_predictive" else 0)
    bad = xr.DataTree.from_dict(groups)
    bad.attrs = {"model": EVIL, EVIL: EVIL, "config": '{"a": "</pre><script>"}', "data_sha256": EVIL}
    scores = table([0.6, 0.5, 0.4], names=("model", EVIL, "b"), channels=(EVIL,), best_baseline=EVIL)
    path = write_report(
        tmp_path / "r.html",
        title=EVIL,
        trees={EVIL: bad},
        scores={EVIL: scores},
        provenance={EVIL: EVIL, "nested": {EVIL: [EVIL]}},
        notes=[EVIL, "control \x00\x1b and lone \ud800"],
    )
    found = Page(path.read_text("utf-8"))
    assert not {"script", "img"} & set(found.tags)
    assert not any(name.startswith("on") for _, name, _ in found.attributes)
    assert found.text.count("<script>alert('x')</script>") >= 8


def test_same_input_gives_the_same_page(tmp_path):
    tree = example_tree(draws=10, rows=20)
    del tree["posterior"], tree["training"]  # fewer figures
    before = tree.copy(deep=True)
    pages = [write_report(tmp_path / f"{i}.html", title="t", trees=tree).read_bytes() for i in range(2)]
    assert pages[0] == pages[1]
    assert tree.identical(before)


def test_without_scores_nothing_is_claimed(tmp_path):
    path = write_report(tmp_path / "r.html", title="t", trees=example_tree(draws=10, rows=20))
    text = Page(path.read_text("utf-8")).text
    assert "No scores on held-out data were given" in text and "beats" not in text
    assert "conditioned on these very data" in text


def test_held_out_data_alone_give_a_coverage_verdict(tmp_path):
    tree = example_tree(draws=30)
    far = held_out(tree) + 5.0
    path = write_report(tmp_path / "r.html", title="t", trees=tree, held_out=far)
    assert "far too narrow: it is overconfident" in Page(path.read_text("utf-8")).text


def test_many_series_and_variables_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("sciinfer.report.MAX_SERIES", 2)
    monkeypatch.setattr("sciinfer.report.MAX_VARIABLES", 1)
    one = example_tree(draws=8, rows=20)["posterior_predictive"].to_dataset()
    ds = xr.concat([one] * 6, dim="series").transpose("chain", "draw", "series", "time")
    ds = ds.assign({f"v{i}": ds.flux for i in range(2)})[["flux", "v0", "v1"]]
    path = write_report(tmp_path / "r.html", title="t", trees=xr.DataTree.from_dict({"/posterior_predictive": ds}))
    text = Page(path.read_text("utf-8")).text
    assert "Of flux, 4 more series are not shown." in text
    assert "2 more variables are not shown." in text
    assert "its calibration cannot be checked" in text


def test_two_results_with_their_own_scores(tmp_path):
    trees = {"first": example_tree(draws=8, rows=20), "second": example_tree(draws=8, rows=20, seed=1)}
    path = write_report(tmp_path / "r.html", title="t", trees=trees, scores={"second": table([0.9, 0.5, 0.4])})
    found = Page(path.read_text("utf-8"))
    assert "loses to its baseline, linear. Use the baseline." in found.text
    assert len(found.ids) == len(set(found.ids))
    with pytest.raises(ConfigError, match="third"):
        write_report(tmp_path / "r.html", title="t", trees=trees, scores={"third": table([1, 2, 3])})
    with pytest.raises(ConfigError, match="no result"):
        write_report(tmp_path / "r.html", title="t", trees={})


def test_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    target = tmp_path / "r.html"
    target.write_text("old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(ResourceError):
        write_report(target, title="t", trees=example_tree(draws=5, rows=20))
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["r.html"]


# --- what the scores say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crps", "attrs", "said", "level"),
    [
        ([0.2, 0.5, 0.4], {}, "wins", "good"),
        ([0.6, 0.5, 0.4], {}, "loses", "poor"),
        ([0.39, 0.5, 0.4], {"model_wins": "ties"}, "ties", "fair"),
        ([0.39, 0.5, 0.4], {"model_wins": False, "best_baseline": "persistence"}, "loses", "poor"),
    ],
)
def test_outcome(crps, attrs, said, level):
    scores = table(crps, **attrs)
    found = outcome(scores, "flux")
    assert found is not None and found[0] == said
    assert found[1] == attrs.get("best_baseline", "linear")
    assert verdicts(scores)[0].level == level


def test_missing_scores_are_tolerated():
    scores = table([0.2, 0.5, 0.4])
    assert verdicts(scores.drop_vars(["coverage_90", "n"]))[0].level == "good"
    assert verdicts(scores.drop_vars(["rmse", "crps"]))[0].level == "none"
    assert verdicts(scores.isel(forecaster=[0]))[0].level == "none"
    assert "<table>" in tables(scores[["crps"]])


def test_losses_on_single_channels_are_named():
    crps = np.array([[0.2, 0.2, 0.9], [0.5, 0.5, 0.5], [0.4, 0.4, 0.4]])
    scores = table(crps, channels=("all", "a", "b"), model_wins="wins")
    assert "loses to its baseline on 1 of 2 channels: b." in verdicts(scores)[0].text
    assert tables(scores).count("Here the model loses to its baseline, linear.") == 1


def test_best_is_marked_and_references_do_not_compete():
    html = tables(table([0.3, 0.5, 0.1], names=("model", "persistence", "exact")))
    assert html.count('class="best"') >= 2 and 'class="reference"' in html
    row = html[html.index("exact") :]
    assert 'class="best"' not in row[: row.index("</tr>")]


def test_scores_of_evaluate_are_understood():
    evaluate = pytest.importorskip("sciinfer.diagnostics.evaluate")
    forecast = pytest.importorskip("sciinfer.diagnostics.forecast")
    import torch

    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(30, 8, 2, generator=generator, dtype=torch.float64)
    ones = torch.ones_like(truth)
    noise = 0.3 * torch.randn(truth.shape, generator=generator, dtype=truth.dtype)
    forecasts = {
        "model": forecast.Forecast(truth + noise, 0.3 * ones),
        "persistence": forecast.Forecast(0 * truth, ones),
    }
    scores = evaluate.evaluate(
        truth, ones.bool(), forecasts, channel_names=["a", "b"], scale=[1.0, 2.0], units=["m", "K"], resamples=50
    )
    found = verdicts(scores)
    assert [v.level for v in found] == ["good", "good"]
    assert "beats its best baseline, persistence" in found[0].headline and "CRPS (scaled)" in found[0].text
    html = tables(scores)
    assert "All channels pooled" in html and "a (m)" in html and " ± " in html


@pytest.mark.parametrize(
    ("share", "n", "level"),
    [(0.9, 100, "good"), (0.82, 100, "good"), (0.82, 10_000, "fair"), (0.7, 10_000, "poor"), (1.0, 10_000, "fair")],
)
def test_coverage_verdict(share, n, level):
    assert coverage_verdict(share, n).level == level


@pytest.mark.parametrize(
    ("x", "shown"),
    [(0.0, "0"), (0.999, "0.999"), (123.4, "123"), (1e6, "1.00e+06"), (-2.5, "-2.50"), (np.nan, "–")],
)
def test_number(x, shown):
    assert number(x) == shown


def test_elements_escape():
    assert el("p", "<b>", title='"><i>') == '<p title="&quot;&gt;&lt;i&gt;">&lt;b&gt;</p>'
    assert "<title>&lt;b&gt;</title>" in page("<b>", el("p"))


# --- a browser --------------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_the_page(full, tmp_path):
    from matplotlib.image import imread

    shot = tmp_path / "shot.png"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,2000"]
    command += [f"--screenshot={shot}", "--dump-dom", full.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr  # no refused resource, no error of any kind in the page
    image = imread(shot)[..., :3]
    assert image.shape[:2] == (2000, 1280)
    assert len(np.unique((image * 255).astype(np.uint8).reshape(-1, 3), axis=0)) > 50
    figure = image[700:1400]
    blue = (figure[..., 2] > figure[..., 0] + 0.15).mean()  # bands and medians are painted
    assert blue > 0.005
    if done.stdout:
        assert "beats its best baseline" in done.stdout and "</svg>" in done.stdout
