"""The top of the command tree: errors without tracebacks, notices on one line, commands of plugins."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import PluginError, SciInferError
from ..extend.registry import registry
from .console import console, fail, notices

INTERRUPTED = 130
FAILED = 2


class Group(TyperGroup):
    """Runs a command; a :class:`SciInferError` ends it with exit code 2, Ctrl-C with 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        with notices():
            try:
                return super().invoke(ctx)
            except SciInferError as err:
                if ctx.params.get("debug"):
                    raise
                fail(err)
                raise typer.Exit(FAILED) from err
            except KeyboardInterrupt as err:
                console(stderr=True).print("\nstopped", style="yellow")
                raise typer.Exit(INTERRUPTED) from err

    def list_commands(self, ctx: Any) -> list[str]:
        """The core's commands in their own order, then those of plugins."""
        return [*super().list_commands(ctx), *registry().names("commands")]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A core command, or for listings a stand-in that imports nothing of the plugin."""
        found = super().get_command(ctx, cmd_name)
        if found is not None or "/" not in cmd_name or cmd_name not in registry().names("commands"):
            return found
        summary = registry().entry("commands", cmd_name).summary
        return TyperCommand(cmd_name, help=summary, rich_help_panel="Plugins")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command to be run; here a plugin's module is imported."""
        name = args[0] if args else ""
        if "/" in name and name in registry().names("commands"):
            return name, plugin_command(name), args[1:]
        return super().resolve_command(ctx, args)


def plugin_command(name: str) -> Any:
    """The command of a plugin, built from its function or its ``typer.Typer``.

    Raises:
        PluginError: it does not load, or is neither.
    """
    try:
        target = registry().get("commands", name)
        if isinstance(target, typer.Typer):
            return typer.main.get_command(target)
        app = typer.Typer(add_completion=False)
        app.command(name)(target)
        return typer.main.get_command(app)
    except SciInferError:
        raise
    except Exception as err:
        raise PluginError(
            f"the command {name!r} does not load: {type(err).__name__}: {err}", fix="update the plugin that brings it"
        ) from err
