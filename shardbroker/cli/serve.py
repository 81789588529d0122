"""Serve: read the command line, do what is done at once (-v, -h, -t, -sl), else run the broker.

Exit status: 0 done, 1 refused or failed, 2 a flag that cannot be read. Messages begin with the program's name, as
nats-server's do, since test helpers look for them. Source: main.go, opts.go ConfigureOptions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from shardbroker import __version__, limits
from shardbroker.control.config.flags import USAGE, CommandLine, FlagError, parse_flags
from shardbroker.control.config.load import load, options_of, program_name
from shardbroker.errors import BrokerError, ConfigError

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


def serve(arguments: Sequence[str]) -> int:
    """The command without a tool's name; the exit status."""
    program = program_name()
    try:
        line = parse_flags(arguments)
    except FlagError as error:
        print(error, USAGE.format(program=program), sep="\n", file=sys.stderr)
        return EXIT_USAGE
    try:
        return _serve(program, line, arguments)
    except BrokerError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return EXIT_FAILED


def _serve(program: str, line: CommandLine, arguments: Sequence[str]) -> int:
    given = line.given
    word = line.rest[0].lower() if line.rest else ""
    if given.get("v"):
        return _print(version(program))
    if given.get("h"):
        return _print(USAGE.format(program=program))
    if given.get("help_tls"):
        return _print("TLS is not served yet: --tls and its like are refused.")
    if word:
        if word == "version":
            return _print(version(program))
        if word == "help":
            return _print(USAGE.format(program=program))
        raise ConfigError(f'unrecognized command: "{line.rest[0]}"')
    if given.get("sl"):
        from shardbroker.cli.signals import send_signal

        send_signal(given["sl"], program)
        return EXIT_OK
    if given.get("t") and not given.get("c"):
        raise ConfigError("must specify [-c, --config] option to check configuration file syntax")
    options = options_of(line, arguments)
    if given.get("t"):
        for warning in options.warnings:
            print(warning, file=sys.stderr)
        print(
            f"{program}: configuration file {options.config_file} is valid ({options.config_digest})",
            file=sys.stderr,
        )
        return EXIT_OK

    # Only here: what runs processes is of no use to anything above.
    from shardbroker.control.lifecycle import run

    return run(options, load)


def version(program: str) -> str:
    """What -v says: ours and the one we claim; under nats-server's name exactly its line, which helpers parse."""
    claimed = f"nats-server: v{limits.PROTOCOL_VERSION}"
    return claimed if program == "nats-server" else f"{program}: v{__version__} ({claimed})"


def _print(text: str) -> int:
    print(text)
    return EXIT_OK
