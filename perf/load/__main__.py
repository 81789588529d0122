"""One load on one server: `python -m perf.load 1x1_16 --server nats-server`.

Or `--port 4222 --pid N` for a running one. One line of JSON for each load.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack

import orjson

from perf.load.shapes import SHAPES, Target, run
from perf.servers import HOST, Server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.load", description=__doc__)
    parser.add_argument("loads", nargs="+", choices=[*SHAPES], metavar="LOAD", help=", ".join(SHAPES))
    parser.add_argument("--server", help="start this one (see perf/servers.py)")
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, default=4222)
    parser.add_argument("--pid", type=int, default=0, help="of a running server, for CPU and memory")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument(
        "--threads", type=int, default=1, help="of the generator; 2 parts publishers and subscribers"
    )
    parser.add_argument("--messages", type=int, default=2**62, help="per publisher at most")
    given = parser.parse_args()
    for name in given.loads:
        with ExitStack() as stack:
            server = stack.enter_context(Server(given.server)) if given.server else None
            target = Target(
                given.host,
                server.port if server else given.port,
                server,
                given.pid,
                given.seconds,
                given.threads,
                given.messages,
            )
            figures = {"load": name, **run(name, target)}
        print(orjson.dumps(figures).decode())


if __name__ == "__main__":
    main()
