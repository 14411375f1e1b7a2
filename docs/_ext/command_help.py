"""``{commands}``: every command of the command line with its arguments and options, from the program itself."""

from __future__ import annotations

from enum import Enum
from typing import Any

from as_markdown import MarkdownDirective, table
from sphinx.application import Sphinx


class CommandsDirective(MarkdownDirective):
    """A section for each command."""

    def markdown(self) -> str:
        """Usage, help, arguments and options."""
        from typer.main import get_command

        from sciinfer.cli import app

        group: Any = get_command(app)
        return "\n\n".join(_section(name, command) for name, command in group.commands.items() if not command.hidden)


def _section(name: str, command: Any) -> str:
    context = command.make_context(f"sciinfer {name}", [], resilient_parsing=True)
    usage = " ".join(["sciinfer", name, *command.collect_usage_pieces(context)])
    parts = [f"## {name}", f"```text\n{usage}\n```", _paragraphs(command.help or "")]
    rows = [_row(param, context) for param in command.params if not getattr(param, "hidden", False)]
    rows = [row for row in rows if "--help" not in row[0]]
    if rows:
        parts.append(table(("argument or option", "meaning", "default"), rows))
    return "\n\n".join(part for part in [*parts, _examples(command.epilog or "")] if part)


def _row(param: Any, context: Any) -> tuple[str, str, str]:
    value = param.metavar or (param.name or "").upper()
    if param.param_type_name == "argument":
        names = f"`{value}`"
    else:
        names = " / ".join(f"`{name}`" for name in [*param.opts, *param.secondary_opts])
        names += "" if getattr(param, "is_flag", False) else f" `{param.metavar or _kind(param)}`"
    default = param.get_default(context)
    default = getattr(default, "value", default)
    plain = default is None or default in ((), [], "") or callable(default)
    shown = "" if plain or isinstance(default, bool) else f"`{default}`"
    return names, getattr(param, "help", None) or "", "required" if param.required else shown


def _kind(param: Any) -> str:
    kind = getattr(getattr(param, "type_descriptor", None), "annotation", str)
    known = {int: "INTEGER", float: "NUMBER", str: "TEXT"}
    return (
        "|".join(str(one.value) for one in kind)
        if isinstance(kind, type) and issubclass(kind, Enum)
        else known.get(kind, "TEXT")
    )


def _examples(epilog: str) -> str:
    lines = [line.strip() for line in epilog.splitlines() if line.strip().startswith("sciinfer ")]
    return "```bash\n" + "\n".join(lines) + "\n```" if lines else ""


def _paragraphs(text: str) -> str:
    return text.replace("\b", "").strip()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("commands", CommandsDirective)
    return {"parallel_read_safe": True}
