"""Safe pieces of a self-contained page: escaped elements, inline figures, the style sheet."""

from __future__ import annotations

import html
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import StateError
from .extend import require
from .plots.style import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_VOID = {"meta", "br", "hr"}
#: nothing may be loaded and nothing may run, whatever the data's names hold
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Html(str):
    """Text that is markup already. Any other string is escaped."""


def el(tag: str, *children: object, **attributes: object) -> Html:
    """One element; strings are escaped, :class:`Html` is not; ``class_`` stands for ``class``.

    Example:
        >>> el("p", "a < b", class_="x")
        '<p class="x">a &lt; b</p>'
    """
    pairs = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None)
    opening = "".join(f' {name}="{html.escape(str(value), quote=True)}"' for name, value in pairs)
    if tag in _VOID:
        return Html(f"<{tag}{opening}>")
    return Html(f"<{tag}{opening}>{join(children)}</{tag}>")


def join(children: Iterable[object]) -> Html:
    """Concatenate markup and escaped text."""
    return Html("".join(c if isinstance(c, Html) else html.escape(clean(str(c)), quote=False) for c in children))


def definitions(values: Mapping[Any, Any]) -> Html:
    """A definition list; mappings, lists and JSON texts are pretty-printed, hashes and commands set as code."""
    pairs = ((el("dt", str(k).replace("_", " ")), el("dd", _definition(str(k), v))) for k, v in values.items())
    return el("dl", *itertools.chain.from_iterable(pairs))


def _definition(key: str, value: Any) -> Html:
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except ValueError:
            return el("pre", value)
    if isinstance(value, (Mapping, list, tuple)):
        return el("pre", json.dumps(value, indent=2, ensure_ascii=False, default=str))
    text = str(value)
    return el("code", text) if key.endswith(("sha256", "hash", "command")) else join([text])


def clean(text: str) -> str:
    """Text without control characters and lone surrogates, which no page may hold."""
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\ufffd", text)
    return text.encode("utf-8", "replace").decode("utf-8")


def figure(draw: Callable[[], Axes], *, name: str, text: str, caption: str = "", wide: bool = True) -> Html:
    """An inline SVG figure.

    Args:
        draw: makes the axes.
        name: prefix of the ids inside, unique in the page.
        text: what the figure shows, for those who cannot see it.
        caption: below the figure.
        wide: spans the page; otherwise two stand side by side.
    """
    with _defaults():
        body = _svg(draw(), name, text)
    # a raster image cannot follow the page's colours, so it stays on white paper
    shape = ("wide" if wide else "half") + (" paper" if "<image" in body else "")
    return el("figure", el("div", body, class_="scroll"), el("figcaption", caption) if caption else "", class_=shape)


@contextmanager
def _defaults() -> Iterator[None]:
    matplotlib = require("matplotlib", extra="plots", purpose="the report")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sciinfer"})
        yield


def _svg(ax: Axes, name: str, text: str) -> Html:
    buffer, sheet = io.BytesIO(), ax.get_figure(root=True)
    if sheet is None:
        raise StateError("the axes belong to no figure", fix="draw on axes of a figure")
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    sheet.savefig(buffer, format="svg", transparent=True, dpi=150, metadata=nothing)
    body = buffer.getvalue().decode("utf-8")
    box = re.search(r'viewBox="([^"]+)"', body)
    inner = body[body.index(">", body.index("<svg")) + 1 :]
    inner = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", inner, count=1, flags=re.DOTALL)
    inner = re.sub(r'\bid="', f'id="{name}-', inner)
    inner = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", inner)
    label = html.escape(clean(text), quote=True)
    opening = f'<svg role="img" aria-label="{label}" viewBox="{box.group(1) if box else ""}">'
    return Html(opening + _recolour(inner))


def _recolour(body: str) -> str:
    for role, colour in PALETTE.items():
        body = body.replace(f": {colour}", f": var(--{role})")
    return body.replace(": #ffffff", ": var(--page)")


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{role}:{colour};" for role, colour in colours.items())


_LIGHT = {**PALETTE, "page": "#ffffff", "wash": "#f6f8fa", "good": "#12724f", "fair": "#8a5a00", "poor": "#b3261e"}
_DARK = {
    "page": "#14181d", "wash": "#1c2229", "ink": "#e4e8ec", "muted": "#9aa5b1", "rule": "#3b444e", "grid": "#262d35",
    "shade": "#1d242c", "data": "#dfe4e9", "band": "#4ea5e0", "truth": "#f08a3c", "green": "#3fc195",
    "violet": "#b98fd0", "gold": "#d9ab3f", "sky": "#7cc0ea", "good": "#4cc38a", "fair": "#e0a93b", "poor": "#f2766d",
}  # fmt: skip

STYLE = f""":root{{color-scheme:light dark;{_variables(_LIGHT)}
--sans:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}}
@media screen and (prefers-color-scheme:dark){{:root{{{_variables(_DARK)}}}}}
""" + (
    """*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 var(--sans);-webkit-text-size-adjust:100%}
main{max-width:60rem;margin:0 auto;padding:2.5rem 1.5rem 4rem}
h1{font-size:1.9rem;line-height:1.2;letter-spacing:-.015em;margin:0 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.8rem 0 .6rem;padding-top:1.1rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:1.6rem 0 .4rem;overflow-wrap:anywhere}
p{margin:.5rem 0;max-width:44rem;overflow-wrap:anywhere}
.muted,figcaption,caption,.note{color:var(--muted);font-size:.875rem}
nav{margin:1.1rem 0 0;font-size:.875rem;display:flex;flex-wrap:wrap;gap:.3rem 1.1rem}
nav a{color:var(--band);text-decoration:none}nav a:hover{text-decoration:underline}
.verdict{margin:.8rem 0;padding:.75rem 1rem;border-left:4px solid var(--muted)}
.verdict{background:var(--wash);border-radius:0 6px 6px 0}
.verdict p{margin:.15rem 0}.verdict strong{font-size:1.04rem}
.verdict .mark{display:inline-block;min-width:1.4em;font-weight:700}
.good{border-color:var(--good)}.good strong,.good .mark{color:var(--good)}
.fair{border-color:var(--fair)}.fair strong,.fair .mark{color:var(--fair)}
.poor{border-color:var(--poor)}.poor strong,.poor .mark{color:var(--poor)}
figure{margin:1rem 0 1.4rem;break-inside:avoid}
.half{max-width:25rem}
.paper .scroll{background:#fff;border-radius:6px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:0 1.5rem;max-width:50rem}
.scroll{overflow-x:auto}
svg{display:block;width:100%;height:auto;overflow:hidden}
svg *{stroke-linejoin:round;stroke-linecap:butt}
svg text{font-family:var(--sans)!important}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;width:100%}
caption{text-align:left;padding:.2rem 0 .4rem;caption-side:top}
th,td{padding:.38rem .7rem;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}
th{font-weight:600}
thead th{border-bottom:1px solid var(--rule);color:var(--muted);font-size:.82rem;vertical-align:bottom}
th:first-child,td:first-child{text-align:left;padding-left:.4rem}
tr.model{background:var(--wash)}tr.reference *{color:var(--muted);font-weight:400}
td.best{font-weight:700}.tag{font-size:.72rem;font-weight:600;color:var(--good);margin-right:.5em}.noise{color:var(--muted);font-weight:400;font-size:.8rem}
.loses{color:var(--poor);font-weight:600}
dl{display:grid;grid-template-columns:minmax(8rem,max-content) 1fr;gap:.35rem 1.4rem;margin:.6rem 0;font-size:.9rem}
dt{color:var(--muted)}dd{margin:0;min-width:0;overflow-wrap:anywhere}
pre{margin:0;padding:.7rem .9rem;background:var(--wash);border-radius:6px;font:.8rem/1.5 var(--mono);overflow-x:auto}
code{font:.86em var(--mono);overflow-wrap:anywhere}
summary{cursor:pointer;color:var(--band);font-size:.9rem;margin:.6rem 0}
"""
    + f".paper{{{_variables(_LIGHT)}}}.paper figcaption{{color:inherit}}"
    + """
@media (max-width:40rem){main{padding:1.4rem 1rem 3rem}h1{font-size:1.5rem}.wide svg{min-width:34rem}
dl{grid-template-columns:1fr;gap:.05rem}dd{margin-bottom:.55rem}th,td{padding:.35rem .5rem}}
@media print{body{font-size:10.5pt}main{max-width:none;padding:0}nav{display:none}h2,h3{break-after:avoid}
pre{white-space:pre-wrap}.scroll{overflow:visible}
.verdict,tr.model{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""
)


def page(title: str, body: Html) -> str:
    """The whole document.

    Example:
        >>> page("t", el("p", "x")).startswith("<!doctype html>")
        True
    """
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        Html(f"<style>{STYLE}</style>"),
    )
    return f"<!doctype html>\n{el('html', head, el('body', el('main', body)), lang='en')}\n"
