"""`shardbroker stream`: looking at what streams have on the disk."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.group()
def stream() -> None:
    """Streams on the disk, without a broker."""


@stream.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def verify(directory: Path) -> None:
    """Reads every message below DIRECTORY and compares its checksum. Changes nothing.

    DIRECTORY is a stream's, or any above it, as the store_dir. Exit status 1 when something is damaged. What a running broker is
    writing at the moment may look torn.
    """
    from shardbroker.store.verify import directories, verify

    found = directories(directory)
    if not found:
        raise click.ClickException(f"no segments below {directory}")
    sound = True
    for each in found:
        report = verify(each)
        sound &= report.sound
        state = report.state
        click.echo(
            f"{each}: {'sound' if report.sound else 'DAMAGED'}, {state.msgs} messages ({state.first_seq} to {state.last_seq}),"
            f" {state.bytes} bytes, {report.segments} segments"
        )
        if report.torn_bytes:
            click.echo(
                f"  torn end: {report.torn_bytes} bytes that were never acknowledged; opening cuts them off"
            )
        if report.damaged_segments:
            click.echo(f"  {report.damaged_segments} segments without a readable header")
        if report.damaged_bytes:
            click.echo(f"  {report.damaged_bytes} bytes are damaged")
        for first, last in report.lost:
            click.echo(
                f"  lost: sequence {first}" if first == last else f"  lost: sequences {first} to {last}"
            )
    sys.exit(0 if sound else 1)
