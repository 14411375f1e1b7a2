"""What the directives share: Markdown text in, document nodes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class MarkdownDirective(SphinxDirective):
    """A directive that writes Markdown."""

    optional_arguments = 1
    final_argument_whitespace = True

    def markdown(self) -> str:
        """The text to be parsed in place of the directive."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse the text where the directive stands, headings included."""
        return self.parse_text_to_nodes(self.markdown(), allow_section_headings=True)


def cell(text: str) -> str:
    """Text that cannot break a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(item) for item in line) + " |" for line in lines)


def indented(text: str, width: int = 2) -> str:
    """Every line but the first moved right: the body of a definition."""
    return text.replace("\n", "\n" + " " * width)
