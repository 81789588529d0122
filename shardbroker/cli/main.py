"""The `shardbroker` command: serve by default, else a tool by its first word.

Serving has nats-server's flags in Go's style, which click cannot read, and must start fast; so click is imported only when
the first word is a tool's name. Each tool is imported only when it is called.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final

from shardbroker.ipc import cores

if TYPE_CHECKING:
    import click

# Word -> (module, attribute with a click.Command).
TOOLS: Final = {
    "bench": ("shardbroker.cli.bench", "bench"),
    "check": ("shardbroker.cli.check", "check"),
    "doctor": ("shardbroker.cli.doctor", "doctor"),
    "status": ("shardbroker.cli.status", "status"),
    "stream": ("shardbroker.cli.stream", "stream"),
    "top": ("shardbroker.cli.top", "top"),
    "tune": ("shardbroker.cli.tune", "tune"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Ends the process with an exit status."""
    # Before a configuration or credentials are read, by whatever command.
    cores.forbid()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in TOOLS:
        _tools()(args=words)
    from shardbroker.cli.serve import serve

    sys.exit(serve(words))


def _tools() -> click.Group:
    import click

    class Tools(click.Group):
        """A group that knows its commands by name and imports the one that is wanted."""

        def list_commands(self, ctx: click.Context) -> list[str]:
            return sorted(TOOLS)

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            if cmd_name not in TOOLS:
                return None
            module, attribute = TOOLS[cmd_name]
            command: click.Command = getattr(import_module(module), attribute)
            return command

    return Tools(name="shardbroker", help="A message broker for every NATS client.")


if __name__ == "__main__":
    main()
