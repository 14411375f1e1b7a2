"""``{errors}``: every error class with each code, cause and fix, read from the sources so that none is missed."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import sciinfer.datasets  # pyright: ignore[reportMissingImports] - lives beside the package
from as_markdown import MarkdownDirective, table
from sphinx.application import Sphinx

import sciinfer
from sciinfer import errors


class Raised(NamedTuple):
    """One place at which an error is made."""

    name: str
    code: str
    what: str
    fix: str


class ErrorsDirective(MarkdownDirective):
    """A section for each class."""

    def markdown(self) -> str:
        """Meaning of the class, then its codes with causes and fixes."""
        found = sorted(set(raised()), key=lambda one: ("/" not in one.code, one))
        return "\n\n".join(_section(cls, [one for one in found if one.name == cls.__name__]) for cls in classes())


def classes() -> list[type[errors.SciInferError]]:
    """Error classes, the base first, in the order of their definition."""
    return [cls for _, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, errors.SciInferError)]


def raised() -> Iterator[Raised]:
    """All errors that the package can make."""
    known = {cls.__name__: cls.default_code for cls in classes()}
    for root in (Path(sciinfer.__file__).parent, Path(str(sciinfer.datasets.__file__)).parent):
        for path in sorted(root.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
                    yield from _read(node, node.func.id, known[node.func.id])


def _read(call: ast.Call, name: str, default: str) -> Iterator[Raised]:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if call.args:
        code = _text(keywords["code"]) if "code" in keywords else default
        yield Raised(name, code, _text(call.args[0]), _text(keywords["fix"]) if "fix" in keywords else "")


def _text(node: ast.expr) -> str:
    """Source of a string with its placeholders in angle brackets."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        simple = isinstance(node.value, ast.Name | ast.Attribute)
        return f"‹{ast.unparse(node.value).rpartition('.')[2].strip('_') if simple else '…'}›"
    if isinstance(node, ast.IfExp):
        return f"{_text(node.body)} / {_text(node.orelse)}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "‹…›"


def _section(cls: type[errors.SciInferError], found: list[Raised]) -> str:
    doc = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]
    parents = ", ".join(f"`{base.__name__}`" for base in cls.__bases__)
    text = f"## {cls.__name__}\n\n{doc} Code `{cls.default_code}`; a kind of {parents}."
    rows = [(f"`{one.code}`", _plain(one.what), _plain(one.fix) or "see the message") for one in found]
    rows = [row for row in rows if row[1] != "‹…›"]
    return text + ("\n\n" + table(("code", "cause", "fix"), rows) if rows else "")


def _plain(text: str) -> str:
    """Escaped so that Markdown shows it as it is."""
    for mark in "\\`*_[]<>$#{}":
        text = text.replace(mark, "\\" + mark)
    return text[:1].upper() + text[1:]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("errors", ErrorsDirective)
    return {"parallel_read_safe": True}
