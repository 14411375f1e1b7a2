"""``{commands}``: every command of the command line with its arguments and options, from the program itself."""

from __future__ import annotations

from typing import Any

from markdown import MarkdownDirective, cell, table
from sphinx.application import Sphinx


class CommandsDirective(MarkdownDirective):
    """A section for each command."""

    def markdown(self) -> str:
        """Usage, help, arguments and options."""
        from typer.main import get_command

        from sciinfer.cli import app

        group = get_command(app)
        return "\n\n".join(_section(name, command) for name, command in group.commands.items() if not command.hidden)


def _section(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True, info_name=f"sciinfer {name}")
    usage = " ".join(["sciinfer", name, *command.collect_usage_pieces(context)])
    parts = [f"## {name}", f"```text\n{usage}\n```", _paragraphs(command.help or "")]
    rows = [_row(param, context) for param in command.params if not getattr(param, "hidden", False)]
    rows = [row for row in rows if row[0] != "`--help`"]
    if rows:
        parts.append(table(("argument or option", "meaning", "default"), rows))
    return "\n\n".join(part for part in parts if part)


def _row(param: Any, context: Any) -> tuple[str, str, str]:
    names = ", ".join(f"`{name}`" for name in [*param.opts, *param.secondary_opts])
    if param.param_type_name == "argument":
        names = f"`{(param.metavar or param.name or '').upper()}`"
    default = param.get_default(context)
    shown = "" if default is None or default in ((), [], "") or callable(default) else f"`{default}`"
    return names, cell(getattr(param, "help", None) or ""), "required" if param.required else shown


def _paragraphs(text: str) -> str:
    return text.replace("\b", "").strip()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("commands", CommandsDirective)
    return {"parallel_read_safe": True}
