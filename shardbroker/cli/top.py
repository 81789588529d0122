"""`shardbroker top [URL]`: connections or shards of a running server, again and again, as nats-top shows them.

Keys: o sort by the next column, O the one before, n more rows, N fewer, s subscriptions, b raw numbers, d names of hosts,
w by shard or by connection, space now, ? help, q end. `--once` prints one look; `-o FILE` writes looks as lines with a
delimiter, for scripts. Exit status: 0, 1 when the server does not answer, 2 for usage.
"""

from __future__ import annotations

import contextlib
import csv
import os
import select
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TextIO

import click
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shardbroker.cli.fetch import DEFAULT_URL, FetchError, base_url
from shardbroker.cli.top_poll import (
    COLUMNS,
    SHARD_COLUMNS,
    SORTS,
    Look,
    Poller,
    connection_row,
    shard_row,
    short,
    text,
    whole,
)

HELP: Final = __doc__.partition("Keys: ")[2].partition(" `--once`")[0].replace("\n", " ")
LEFT: Final = frozenset({"HOST", "NAME", "LANG", "VERSION", "STATE", "SUBSCRIPTIONS"})
ROWS_STEP: Final = 16
# Between two columns.
GAP: Final = 2


@dataclass(slots=True)
class View:
    """What is shown, and how; keys change it."""

    sort: str
    limit: int
    by: str  # "connection" or "shard"
    subscriptions: bool = False
    raw: bool = False
    names: bool = False
    help: bool = False
    error: str = ""

    def key(self, key: str) -> bool:
        """Do what a key says; False for the end."""
        if key in ("q", "\x03", "\x04"):
            return False
        if key in ("o", "O"):
            step = 1 if key == "o" else -1
            self.sort = SORTS[(SORTS.index(self.sort) + step) % len(SORTS)]
        elif key in ("n", "N"):
            self.limit = max(1, self.limit + (ROWS_STEP if key == "n" else -ROWS_STEP))
        elif key == "s":
            self.subscriptions = not self.subscriptions
        elif key == "b":
            self.raw = not self.raw
        elif key == "d":
            self.names = not self.names
        elif key == "w":
            self.by = "connection" if self.by == "shard" else "shard"
        elif key in ("?", "h"):
            self.help = not self.help
        return True


class Hosts:
    """Names of addresses, asked for beside the screen: a slow name server must not hold it."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._asker = ThreadPoolExecutor(1)

    def name(self, address: str) -> str:
        """The name, or the address until there is one."""
        if address not in self._known:
            self._known[address] = address
            self._asker.submit(self._ask, address)
        return self._known[address]

    def _ask(self, address: str) -> None:
        with contextlib.suppress(OSError):
            self._known[address] = socket.gethostbyaddr(address)[0]

    def close(self) -> None:
        self._asker.shutdown(wait=False, cancel_futures=True)


def render(look: Look, view: View, hosts: Hosts) -> RenderableType:
    """One screen."""
    parts: list[RenderableType] = [Text("\n".join(head(look, view.raw)))]
    if view.error:
        parts.append(Text(view.error, style="bold red"))
    if view.help:
        parts.append(Text(f"Keys: {HELP}", style="cyan"))
    if view.by == "shard":
        if look.shards is None:
            parts.append(Text("This server tells nothing of shards.", style="yellow"))
        else:
            parts.append(_Columns(SHARD_COLUMNS, [shard_row(row, view.raw) for row in look.shards]))
    else:
        parts.append(Text(f"Connections Polled: {len(look.connections)} of {look.total}, by {view.sort}"))
        columns, rows = cells(look, view, hosts)
        parts.append(_Columns(columns, rows))
    return Group(*parts)


def head(look: Look, raw: bool) -> list[str]:
    """nats-top's head."""
    varz, rates, show = look.varz, look.rates, whole if raw else short

    def flow(name: str, way: str) -> str:
        msgs, octets = (float(varz.get(f"{way}_{what}") or 0) for what in ("msgs", "bytes"))
        return (
            f"  {name:<5} Msgs: {show(msgs)}  Bytes: {show(octets)}  "
            f"Msgs/Sec: {rates[f'{way}_msgs']:.1f}  Bytes/Sec: {show(rates[f'{way}_bytes'])}"
        )

    return [
        f"NATS server version {text(varz, 'version')} (uptime: {text(varz, 'uptime')}) {text(varz, 'server_name')}",
        "Server:",
        f"  Load: CPU: {float(varz.get('cpu') or 0):.1f}%  Memory: {show(float(varz.get('mem') or 0))}  "
        f"Slow Consumers: {text(varz, 'slow_consumers')}",
        flow("In:", "in"),
        flow("Out:", "out"),
        "",
    ]


def cells(look: Look, view: View, hosts: Hosts) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the connections."""
    name = hosts.name if view.names else str
    rows = [connection_row(row, name, view.raw) for row in look.connections]
    columns = list(COLUMNS)
    if view.subscriptions:
        columns.append("SUBSCRIPTIONS")
        for shown, row in zip(rows, look.connections, strict=True):
            listed = row.get("subscriptions_list") or []
            shown.append(text({"s": ", ".join(map(str, listed[:16]))}, "s"))
    return columns, rows


@dataclass(frozen=True, slots=True)
class _Columns:
    """A table of whole columns: those that a narrow terminal has no room for are left out at the right, and named below."""

    columns: Sequence[str]
    rows: list[list[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=None, pad_edge=False, padding=(0, GAP // 2), header_style="bold")
        room, shown = options.max_width, 0
        for column, *texts in zip(self.columns, *self.rows, strict=True):
            room -= max(map(cell_len, (column, *texts))) + (GAP if shown else 0)
            if room < 0 and shown:
                break
            table.add_column(
                column, justify="left" if column in LEFT else "right", no_wrap=True, overflow="ellipsis"
            )
            shown += 1
        for row in self.rows:
            table.add_row(*map(Text, row[:shown]))
        yield table
        if shown < len(self.columns):
            yield Text(f"No room for: {' '.join(self.columns[shown:])}", style="dim")


@click.command(name="top", help="Watch the connections or shards of a running server by its monitoring port.")
@click.argument("url", default=DEFAULT_URL)
@click.option(
    "-d", "--delay", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Seconds."
)
@click.option(
    "-n", "--limit", type=click.IntRange(1, 65536), default=1024, show_default=True, help="Connections."
)
@click.option("--sort", type=click.Choice(SORTS), default="cid", show_default=True)
@click.option("--by", type=click.Choice(("connection", "shard")), default="connection", show_default=True)
@click.option("-u", "--subscriptions", is_flag=True, help="With a column of subscriptions.")
@click.option("-b", "--raw", is_flag=True, help="Whole numbers.")
@click.option("--lookup", is_flag=True, help="Names of hosts.")
@click.option("--once", is_flag=True, help="Print one look and end.")
@click.option("-o", "--output", help="Write lines into a file; - for stdout.")
@click.option("-l", "--delimiter", default=",", show_default=True, help="Between cells of --output.")
@click.option(
    "-r", "--refreshes", type=click.IntRange(-1), default=-1, help="End after so many looks; -1: never."
)
@click.option(
    "--timeout", type=click.FloatRange(0.1, 600), default=5.0, show_default=True, help="Seconds to wait."
)
@click.option("--ca", "ca_file", default="", help="Certificate authorities of an https server.")
def top(
    url: str, delay: float, limit: int, sort: str, by: str, subscriptions: bool, raw: bool, lookup: bool, once: bool,
    output: str | None, delimiter: str, refreshes: int, timeout: float, ca_file: str,
) -> None:  # fmt: skip
    if len(delimiter) != 1:
        raise click.UsageError("--delimiter: one character")
    view = View(sort, limit, by, subscriptions, raw or output is not None, lookup)
    hosts = Hosts()
    try:
        poller = Poller(base_url(url), timeout, ca_file)
        if once or output is not None:
            batch(poller, view, hosts, delay, output, delimiter, 1 if once else refreshes)
        elif not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise FetchError("no terminal here; use --once or --output")
        else:
            watch(poller, view, hosts, delay, refreshes)
    except FetchError as error:
        print(f"shardbroker top: {error}", file=sys.stderr)
        sys.exit(1)
    finally:
        hosts.close()


def batch(
    poller: Poller, view: View, hosts: Hosts, delay: float, output: str | None, delimiter: str, count: int
) -> None:
    """Looks for scripts: a screen (without output), or lines of cells with the time before each."""
    with contextlib.ExitStack() as stack:
        file: TextIO = sys.stdout
        if output not in (None, "-"):
            assert output is not None
            file = stack.enter_context(open(output, "w", newline=""))
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        # The first look has nothing to make rates from.
        _look(poller, view)
        done = 0
        while count < 0 or done < count:
            time.sleep(delay)
            look = _look(poller, view)
            if output is None:
                Console(file=file, width=200, highlight=False).print(render(look, view, hosts))
            else:
                if view.by == "shard":
                    if look.shards is None:
                        raise FetchError("this server tells nothing of shards")
                    columns, rows = list(SHARD_COLUMNS), [shard_row(row, True) for row in look.shards]
                else:
                    columns, rows = cells(look, view, hosts)
                now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                if not done:
                    writer.writerow(["TIME", *columns])
                writer.writerows([now, *row] for row in rows)
                file.flush()
            done += 1


def watch(poller: Poller, view: View, hosts: Hosts, delay: float, refreshes: int) -> None:
    """The screen, until q."""
    look = _look(poller, view)
    with keys() as descriptor, Live(screen=True, auto_refresh=False) as live:
        done = 0
        while refreshes < 0 or done < refreshes:
            live.update(render(look, view, hosts), refresh=True)
            end = time.monotonic() + delay
            while (left := end - time.monotonic()) > 0:
                if not select.select([descriptor], [], [], left)[0]:
                    break
                key = os.read(descriptor, 1).decode(errors="replace")
                if not key or not view.key(key):
                    return
                if key == " ":
                    break
                with contextlib.suppress(FetchError):
                    look = _look(poller, view) if key in "oOnNsw" else look
                live.update(render(look, view, hosts), refresh=True)
            try:
                look, view.error = _look(poller, view), ""
            except FetchError as error:
                # A server that starts anew is waited for.
                view.error = str(error)
            done += 1


def _look(poller: Poller, view: View) -> Look:
    return poller.look(view.sort, view.limit, subscriptions=view.subscriptions, shards=view.by == "shard")


@contextlib.contextmanager
def keys() -> Iterator[int]:
    """Stdin with each key as it is pressed, and as it was before at the end."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
