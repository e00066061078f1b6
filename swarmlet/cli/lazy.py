"""Groups whose commands are imported when they are called for, and which know what was meant."""

from collections.abc import Mapping
from importlib import import_module
from typing import Final, cast

import click

ALIASES: Final[Mapping[str, str]] = {"list": "ls", "remove": "rm"}


class LazyGroup(click.Group):
    """`lazy` maps a command to "module:attribute" below swarmlet.cli, in the order of help."""

    def __init__(self, name: str, *, lazy: Mapping[str, str], text: str, epilog: str = "") -> None:
        super().__init__(name, help=text, epilog=epilog or None, no_args_is_help=True)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in self.lazy:
            return None
        module, _, attribute = self.lazy[name].partition(":")
        return cast(click.Command, getattr(import_module(f"swarmlet.cli.{module}"), attribute))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing:
            raise click.UsageError(self.unknown(name), ctx)
        return ALIASES.get(name, name), command, args[1:]

    def unknown(self, name: str) -> str:
        """The sentence for a command there is not, with the nearest ones."""
        from difflib import get_close_matches

        near = get_close_matches(name, self.lazy)
        meant = f" Did you mean {' or '.join(repr(match) for match in near)}?" if near else ""
        return f"There is no command {name!r}.{meant}"


def example(*lines: str) -> str:
    """An epilog of commands to copy, kept line by line."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)
