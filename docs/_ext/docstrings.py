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


def escape_bars(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A formula's ``|x - y|`` outside a literal would be read as a substitution."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``|`.*?`)", line)
            lines[number] = "".join(part if part[:1] == "`" else part.replace("|", r"\|") for part in parts)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("api", ApiDirective)
    app.connect("autodoc-process-docstring", escape_bars)
    return {"parallel_read_safe": True}
