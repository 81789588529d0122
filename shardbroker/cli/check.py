"""`shardbroker check`: look at something without running it.

    config FILE    what a configuration file comes to, or what is wrong in it, with the line that it is about

    connection, health, jetstream: probes of a running server; see probe.py

Exit status of `config`: 0 good, 1 errors. Data goes to stdout, errors and warnings to stderr.
"""

from __future__ import annotations

import dataclasses
import sys

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shardbroker.cli import probe
from shardbroker.control.config.explain import Explanation, excerpt, explain


@click.group(help="Look at a configuration file, or probe a running server.")
def check() -> None:
    """Its commands do the work."""


for _probe in (probe.connection, probe.health, probe.jetstream):
    check.add_command(_probe)


@check.command(help="Explain a configuration file.")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def config(file: str, as_json: bool) -> None:
    found = explain(file)
    if as_json:
        click.echo(orjson.dumps(dataclasses.asdict(found), option=orjson.OPT_INDENT_2).decode())
    else:
        show(found)
    sys.exit(1 if found.errors else 0)


def show(found: Explanation) -> None:
    """For people."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    for kind, style, messages in (("error", "red", found.errors), ("warning", "yellow", found.warnings)):
        for message in messages:
            errors.print(Text.assemble((f"{kind}: ", style), message))
            if line := excerpt(message):
                errors.print(Text.assemble("    ", line.replace("\n", "\n    ")))
    if found.errors:
        count = len(found.errors)
        errors.print(Text(f"{found.file}: {count} error{'s' if count > 1 else ''}"))
        return
    out = Console(highlight=False)
    out.print(Text(f"{found.file} is valid ({found.digest})"), soft_wrap=True)
    if found.settings:
        table = _table("setting", "value", "default", "where")
        for setting in found.settings:
            place = setting.place.removeprefix(f"{found.file}:")
            table.add_row(*map(Text, (setting.name, setting.value, setting.default, place)))
        out.print(table)
    if found.accounts:
        table = _table("account", "users", "exports", "imports", "mappings", "JetStream")
        for account in found.accounts:
            numbers = (account.users, account.exports, account.imports, account.mappings)
            table.add_row(Text(account.name), *map(str, numbers), "yes" if account.jetstream else "no")
        out.print(table)
    for line in found.trust:
        out.print(Text(line))


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    return table
