"""``{api} package``: autodoc of a package's public names."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class ApiDirective(SphinxDirective):
    """All names of ``__all__`` (or those defined in the module) as autodoc entries."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Hand reStructuredText to autodoc."""
        text = "\n".join(_entry(self.arguments[0], name) for name in public(self.arguments[0]))
        return self._restructured(text)

    def _restructured(self, text: str) -> list[nodes.Node]:
        # MyST's eval-rst block is the documented way from Markdown to a reStructuredText directive
        fence = "```````{eval-rst}\n" + text + "\n```````"
        lines = StringList(fence.splitlines(), source=self.env.docname)
        holder = nodes.Element()
        self.state.nested_parse(lines, self.content_offset, holder)
        return holder.children


def public(module: str) -> list[str]:
    """Public names of a module, in its own order."""
    loaded = importlib.import_module(module)
    if hasattr(loaded, "__all__"):
        return [name for name in loaded.__all__ if not name.startswith("__") and inspect.getdoc(getattr(loaded, name))]
    own = {name: value for name, value in vars(loaded).items() if getattr(value, "__module__", "") == module}
    return [name for name in own if not name.startswith("_")]


def _entry(module: str, name: str) -> str:
    value = getattr(importlib.import_module(module), name)
    if inspect.isclass(value):
        return f".. autoclass:: {module}.{name}\n   :members:\n"
    if callable(value):
        return f".. autofunction:: {module}.{name}\n"
    known = f"Keys: {', '.join(f'``{key}``' for key in value)}." if isinstance(value, dict) else f"``{value!r}``"
    return f".. py:data:: {name}\n   :module: {module}\n\n   {known}\n"


#: formulas in docstrings are shown as text, so that the pages need no script from elsewhere
_TEX = {
    "mu": "μ", "xi": "ξ", "rho": "ρ", "tau": "τ", "alpha": "α", "sigma": "σ", "theta": "θ", "varepsilon": "ε",
    "Delta": "Δ", "odot": "⊙", "sim": "~", "propto": "∝", "cdot": "·", "le": "≤", "ge": "≥", "ll": "≪", "in": "∈",
    "sum": "Σ", "sqrt": "√", "langle": "⟨", "rangle": "⟩", "quad": "  ", "top": "T",
}  # fmt: skip


def plain_formulas(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A formula, inline or on a line of its own, becomes a literal with the same meaning."""
    text = re.sub(r"^( *)\.\. math:: (.+)$", r"\1:math:`\2`", "\n".join(lines), flags=re.MULTILINE)
    text = re.sub(r":math:`([^`]+)`", lambda match: f"``{plain(' '.join(match[1].split()))}``", text)
    lines[:] = text.split("\n")


def plain(tex: str) -> str:
    r"""TeX as text: ``\mu + \frac{1}{2m} x^{-1}`` becomes ``μ + 1/(2m) x^-1``."""
    tex = re.sub(r"\\(?:mathrm|text)\{([^{}]*)\}", r"\1", tex)
    tex = re.sub(r"\\frac(\w)(\w)", r"\1/\2", tex)
    tex = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", lambda m: f"{_factor(m[1])}/{_factor(m[2])}", tex)
    for command in sorted(_TEX, key=len, reverse=True):
        tex = re.sub(rf"\\{command}(?![a-zA-Z])", _TEX[command], tex)
    tex = re.sub(r"\\hat ?", "", tex).replace(r"\,", " ").replace(r"\|", "‖")
    return re.sub(r"\{([^{}]*)\}", lambda m: m[1] if re.fullmatch(r"-?(\d+|[a-zA-Z])", m[1]) else f"({m[1]})", tex)


def _factor(text: str) -> str:
    return text if re.fullmatch(r"\w+", text) and not re.match(r"\d+[a-z]", text) else f"({text})"


def escape_bars(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A formula's ``|x - y|`` outside a literal would be read as a substitution."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``|`.*?`)", line)
            lines[number] = "".join(part if part[:1] == "`" else part.replace("|", r"\|") for part in parts)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("api", ApiDirective)
    app.connect("autodoc-process-docstring", plain_formulas)
    app.connect("autodoc-process-docstring", escape_bars)
    return {"parallel_read_safe": True}
