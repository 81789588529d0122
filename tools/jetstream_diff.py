"""The same JetStream requests to two servers, and what they answer differently.

    python tools/jetstream_diff.py nats://127.0.0.1:4222 nats://127.0.0.1:4223 [CASE ...]
    python tools/jetstream_diff.py --record tests/stream/nats_server.json nats://127.0.0.1:4223

A case is a list of steps that begin on an empty account: (subject, payload, headers or None); a payload that is no text is
sent as JSON. Steps with the subject `!` wait so many seconds. What must differ between two servers (times, versions, ids)
is taken out of the answers before they are compared; EXPECTED names what differs on purpose.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nats
from jetstream_cases import API, Step
from jetstream_cases import CASES as STREAM_CASES
from jetstream_consumer_cases import CASES as MORE_CASES
from nats.aio.client import Client
from nats.aio.msg import Msg

CASES = {**STREAM_CASES, **MORE_CASES}
TIMES = frozenset({"leader", "created", "ts", "first_ts", "last_ts", "time", "active"})
# (path in an answer) -> why it is not the same.
EXPECTED = {
    "config.metadata._nats.ver": "another version",
    "config.metadata._nats.level": "the level of 2.12",
    "api.level": "the level of 2.12",
    "api.total": "counted elsewhere",
    "api.errors": "counted elsewhere",
    "api.inflight": "counted elsewhere",
    "limits.max_memory": "chosen by the machine",
}


def scrub(value: Any, path: str = "") -> Any:
    """An answer without what must differ."""
    if isinstance(value, dict):
        out = {}
        for key, item in value.items():
            place = f"{path}.{key}" if path else key
            if key in TIMES and isinstance(item, str) and not item.startswith("0001"):
                out[key] = "(time)"
            elif place.removeprefix("streams.") not in EXPECTED:
                out[key] = scrub(item, place)
        return out
    if isinstance(value, list):
        return [scrub(item, path) for item in value]
    return value


def shown(messages: Sequence[Msg]) -> Any:
    """What came back for one step, ready to be compared."""
    out = []
    for message in messages:
        fields = dict(message.headers or {})
        if "Nats-Time-Stamp" in fields:
            fields["Nats-Time-Stamp"] = "(time)"
        try:
            body = scrub(json.loads(message.data))
        except ValueError:
            body = message.data.decode(errors="replace")
        out.append([fields, body] if fields else body)
    return out[0] if len(out) == 1 else out


NO_ANSWER = "(no answer)"
PATIENT_SECONDS = 60.0


def messages_of(answer: Any) -> int:
    """How many messages it is of, as `shown` has them: a list of pairs where there are several."""
    if answer == NO_ANSWER:
        return 0
    return len(answer) if isinstance(answer, list) and answer and isinstance(answer[0], list) else 1


async def ask(client: Client, step: Step, quiet: float, expected: int = 0) -> Any:
    """The answers to one step: what comes within `quiet` seconds; so many messages are waited for longer."""
    subject, payload, *rest = step
    if subject == "!":
        await asyncio.sleep(payload)
        return None
    body = payload if isinstance(payload, str) else json.dumps(payload)
    inbox = client.new_inbox()
    got: list[Msg] = []
    arrived = asyncio.Event()

    async def on_message(message: Msg) -> None:
        got.append(message)
        if len(got) >= expected:
            arrived.set()

    subscription = await client.subscribe(inbox, cb=on_message)
    await client.publish(subject, body.encode(), reply=inbox, headers=rest[0] if rest else None)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(arrived.wait(), PATIENT_SECONDS if expected else quiet)
    while '"batch"' in body or '"multi_last"' in body:
        before = len(got)
        await asyncio.sleep(0.05)
        if len(got) == before:
            break
    await subscription.unsubscribe()
    return shown(got) if got else NO_ANSWER


async def empty(client: Client) -> None:
    """Delete every stream."""
    answer = json.loads((await client.request(API + "STREAM.NAMES", b"", timeout=PATIENT_SECONDS)).data)
    for name in answer.get("streams") or []:
        await client.request(API + f"STREAM.DELETE.{name}", b"", timeout=PATIENT_SECONDS)


async def run_case(steps: Iterable[Step], url: str, quiet: float = 0.4, expected: Sequence[Any] = ()) -> list[Any]:
    """The answers of one server to a case. `expected`: those of another, which say what is worth to be waited for."""
    client = await nats.connect(url, allow_reconnect=False)
    try:
        await empty(client)
        wanted = itertools.chain(map(messages_of, expected), itertools.repeat(0))
        answers = [await ask(client, step, quiet, count) for step, count in zip(steps, wanted, strict=False)]
        await empty(client)
        return answers
    finally:
        await client.close()


def unlike(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where two answers differ, a line for each place."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            found += unlike(ours.get(key, "(nothing)"), theirs.get(key, "(nothing)"), f"{path}.{key}")
        return found
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for at, (one, other) in pairs for line in unlike(one, other, f"{path}[{at}]")]
    return [] if ours == theirs else [f"  {path or '.'}: ours {json.dumps(ours)} theirs {json.dumps(theirs)}"]


def differences(case: str, ours: list[Any], theirs: list[Any]) -> list[str]:
    """One text for each step that was answered differently."""
    out = []
    for step, mine, other in zip(CASES[case], ours, theirs, strict=True):
        if mine != other:
            out.append("\n".join([f"{case}: {step[0]} {json.dumps(step[1:])[:200]}", *unlike(mine, other)]))
    return out


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--record", metavar="FILE", help="write one server's answers, for the test without the other"
    )
    parser.add_argument("ours")
    parser.add_argument("theirs", nargs="?", default="")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    given = parser.parse_args()
    if given.record:
        answers = {case: asyncio.run(run_case(CASES[case], given.ours)) for case in CASES}
        Path(given.record).write_text(
            json.dumps(answers, separators=(",", ":")).replace("],[", "],\n[") + "\n"
        )
        return 0
    count = 0
    for case in given.cases or CASES:
        mine, other = (asyncio.run(run_case(CASES[case], url)) for url in (given.ours, given.theirs))
        for text in differences(case, mine, other):
            count += 1
            print(text)
    print(f"{count} differences")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
