"""`shardbroker doctor`: whether this machine and this installation will carry the broker.

    shardbroker doctor -c /etc/shardbroker/nats.conf

Each finding says what is so, what that means and what to do. Measures fdatasync in the store's directory with a file of its
own; changes nothing else. Exit status: 0 nothing fails, 1 the configuration cannot be read, 3 something fails, or is warned of
with --strict.
"""

from __future__ import annotations

import dataclasses
import sys

import click
import orjson
from rich.console import Console
from rich.text import Text

from shardbroker.control.config.load import load
from shardbroker.doctor.examine import examine
from shardbroker.doctor.finding import LEVELS, Finding, worst
from shardbroker.doctor.host import Host
from shardbroker.errors import BrokerError
from shardbroker.options import Options

EXIT_OK, EXIT_FAILED, EXIT_UNHEALTHY = 0, 1, 3
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command(name="doctor", help="See whether this machine and this installation will carry the broker.")
@click.option(
    "-c", "--config", "config", type=click.Path(), help="Configuration file of the broker that is to run."
)
@click.option("--workers", type=int, help="Number of workers, over the file's.")
@click.option("--store-dir", "store", type=click.Path(), help="Where streams are to lie, over the file's.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--strict", is_flag=True, help="Warnings fail too.")
@click.option("-q", "--quiet", is_flag=True, help="Only what is not good.")
def doctor(
    config: str | None, workers: int | None, store: str | None, as_json: bool, strict: bool, quiet: bool
) -> None:
    words = ["-c", config] if config else []
    if workers is not None:
        words += ["--workers", str(workers)]
    if store is not None:
        words += ["-js", "-sd", store]

    def read() -> Options:
        return load(words)

    try:
        found = examine(read, Host())
    except BrokerError as error:
        print(f"shardbroker doctor: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    level = worst(found)
    if as_json:
        body = {"level": level, "findings": [dataclasses.asdict(finding) for finding in found]}
        sys.stdout.buffer.write(orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        show(found, quiet)
    sys.exit(EXIT_UNHEALTHY if level == "fail" or (strict and level == "warn") else EXIT_OK)


def show(found: list[Finding], quiet: bool) -> None:
    """For people."""
    out = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for finding in found:
        if quiet and finding.level == "ok":
            continue
        head = Text.assemble(
            (f"{finding.level:<5}", STYLES[finding.level]), (f"{finding.name:<18}", "bold"), finding.found
        )
        out.print(head)
        if finding.level != "ok":
            out.print(Text(f"     {finding.means}.", style="dim"))
            out.print(Text(f"     -> {finding.do}"))
    counts = {level: sum(finding.level == level for finding in found) for level in LEVELS}
    out.print(Text(", ".join(f"{count} {level}" for level, count in counts.items())))
