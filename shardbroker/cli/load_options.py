"""Options that `bench` and `tune` have in common: how a load is run, and where its figures go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]


def options(*, generators: str) -> Callable[[Command], Command]:
    """Adds them to a command. `generators`: how many there are by default, in words."""
    made = (
        click.option(
            "--generators",
            type=click.IntRange(1, 32),
            help=f"Generator processes. [default: {generators}, at most 8]",
        ),
        click.option(
            "--warm-up",
            type=click.FloatRange(0, 3600),
            default=0.3,
            show_default=True,
            help="Seconds before each measured part.",
        ),
        click.option(
            "--timeout",
            type=click.FloatRange(0.1, 3600),
            default=20.0,
            show_default=True,
            help="Seconds without any progress after which a run fails.",
        ),
        click.option(
            "--json",
            "json_file",
            type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
            help="Write all figures to this file, - for standard output.",
        ),
        click.option(
            "--progress/--no-progress", "progress", default=True, help="Show a progress bar, on a terminal."
        ),
    )

    def add(command: Command) -> Command:
        for one in reversed(made):
            command = one(command)
        return command

    return add
