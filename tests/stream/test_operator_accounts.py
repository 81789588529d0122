"""Streams of an operator's accounts: what their JWTs allow, in one or in tiers, and what happens when that changes.

What is not marked `ours` holds for nats-server 2.15.3 just so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from harness import Broker
from harness.jwts import UNLIMITED, Estate, Signer
from stream.client import WATCHDOG_SECONDS, Asker

estate = Estate()
USER, ADMIN = Signer("user", "streams"), Signer("user", "streams-admin")
NO_MORE = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}


def account(signer: Signer, **limits: Any) -> str:
    return estate.account_token(signer, limits=UNLIMITED | limits)


def config(directory: Path, *tokens: str, system: str = "") -> str:
    keys = (estate.a, estate.b)
    preload = "\n".join(f"{key.public}: {token}" for key, token in zip(keys, tokens, strict=False))
    preload += f"\n{estate.system.public}: {system or estate.account_token(estate.system)}"
    return (
        f"operator: {estate.operator_token()}\nresolver: MEMORY\nresolver_preload {{\n{preload}\n}}\n"
        f'jetstream {{ store_dir: "{directory / "store"}" }}\n'
    )


async def connect(broker: Broker, of: Signer, user: Signer = USER) -> Client:
    def token() -> bytearray:
        return bytearray(estate.user_token(user, of).encode())

    def sign(nonce: str) -> bytes:
        return user.sign(nonce).encode()

    return await nats.connect(
        f"nats://127.0.0.1:{broker.port}", user_jwt_cb=token, signature_cb=sign, allow_reconnect=False
    )


def run(test: Callable[..., Awaitable[None]], broker: Broker, *accounts: Signer) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            askers = []
            for of in accounts:
                client = await connect(broker, of)
                stack.push_async_callback(client.close)
                askers.append(Asker(client))
            await test(*askers)

    asyncio.run(main())


def code(answer: dict[str, Any]) -> int:
    assert "error" in answer, answer
    found: int = answer["error"]["err_code"]
    return found


def started(tmp_path: Path, workers: int, *tokens: str) -> Broker:
    return Broker(tmp_path, workers=workers, config=config(tmp_path, *tokens))


def test_what_the_claims_allow(tmp_path: Path, workers: int) -> None:
    given = NO_MORE | {
        "disk_storage": 100_000, "mem_storage": 0, "streams": 2, "consumer": 1, "max_ack_pending": 7,
        "disk_max_stream_bytes": 60_000, "max_bytes_required": True,
    }  # fmt: skip

    async def test(a: Asker, b: Asker) -> None:
        assert code(await b.api("INFO")) == 10039
        assert (await a.api("INFO"))["limits"] == {
            "max_memory": 0, "max_storage": 100_000, "max_streams": 2, "max_consumers": 1, "max_ack_pending": 7,
            "memory_max_stream_bytes": -1, "storage_max_stream_bytes": 60_000, "max_bytes_required": True,
        }  # fmt: skip
        assert code(await a.api("STREAM.CREATE.S", {"name": "S"})) == 10113
        assert code(await a.api("STREAM.CREATE.S", {"name": "S", "max_bytes": 60_001})) == 10122
        assert code(await a.api("STREAM.CREATE.S", {"name": "S", "max_bytes": 5, "storage": "memory"})) == 10028
        await a.create("S", subjects=["s"], max_bytes=60_000)
        assert code(await a.api("STREAM.CREATE.T", {"name": "T", "max_bytes": 40_001})) == 10047
        await a.create("T", max_bytes=10_000)
        assert code(await a.api("STREAM.CREATE.U", {"name": "U", "max_bytes": 10_000})) == 10027
        assert code(await a.api("STREAM.UPDATE.T", {"name": "T", "max_bytes": 40_001})) == 10047
        assert code(await a.api("STREAM.UPDATE.T", {"name": "T"})) == 10113
        assert "error" not in await a.api("STREAM.UPDATE.T", {"name": "T", "max_bytes": 40_000})
        pull = {"ack_policy": "explicit"}
        made = await a.api("CONSUMER.CREATE.S.c", {"stream_name": "S", "config": {"name": "c", **pull}})
        assert made["config"]["max_ack_pending"] == 7
        assert code(await a.api("CONSUMER.CREATE.S.d", {"stream_name": "S", "config": {"name": "d", **pull}})) == 10026
        greedy = {"stream_name": "T", "config": {"name": "d", "max_ack_pending": 8, **pull}}
        assert code(await a.api("CONSUMER.CREATE.T.d", greedy)) == 10121
        info = await a.api("INFO")
        assert (info["streams"], info["consumers"], info["reserved_storage"]) == (2, 1, 100_000)

    with started(tmp_path, workers, account(estate.a, **given), account(estate.b)) as broker:
        run(test, broker, estate.a, estate.b)


def test_tiers(tmp_path: Path, workers: int) -> None:
    tiers = {"R1": NO_MORE | {"disk_storage": 50_000, "mem_storage": 0, "streams": 1}, "R3": NO_MORE}

    async def test(a: Asker, b: Asker) -> None:
        info = await a.api("INFO")
        assert set(info["tiers"]) == {"R1", "R3"}
        assert info["tiers"]["R1"]["limits"]["max_storage"] == 50_000
        assert info["tiers"]["R1"]["limits"]["max_ack_pending"] == -1
        assert info["limits"] == dict.fromkeys(info["limits"], 0) | {"max_bytes_required": False}
        assert code(await a.api("STREAM.CREATE.S", {"name": "S", "max_bytes": 50_001})) == 10047
        await a.create("S", subjects=["s"], max_bytes=40_000)
        assert code(await a.api("STREAM.CREATE.T", {"name": "T", "max_bytes": 1})) == 10027
        await a.publish("s", b"x")
        tier = (await a.api("INFO"))["tiers"]["R1"]
        assert (tier["streams"], tier["reserved_storage"], tier["storage"] > 0) == (1, 40_000, True)
        # Here no stream has three replicas, so nothing is left that counts.
        assert code(await b.api("STREAM.CREATE.S", {"name": "S"})) == 10120
        assert set((await b.api("INFO"))["tiers"]) == {"R3"}

    a = account(estate.a, tiered_limits=tiers)
    b = account(estate.b, tiered_limits={"R3": NO_MORE})
    with started(tmp_path, workers, a, b) as broker:
        run(test, broker, estate.a, estate.b)


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_messages_are_refused_when_the_storage_is_used_up(tmp_path: Path, workers: int, storage: str) -> None:
    limits = NO_MORE | ({"disk_storage": 30_000} if storage == "file" else {"mem_storage": 30_000})

    async def test(a: Asker) -> None:
        await a.create("S", subjects=["s"], storage=storage)
        await a.create("T", subjects=["t"], storage="memory" if storage == "file" else "file")
        answers = [await a.publish("s", b"x" * 1000) for _ in range(40)]
        stored = [answer["seq"] for answer in answers if "error" not in answer]
        refused = [code(answer) for answer in answers if "error" in answer]
        assert stored == list(range(1, len(stored) + 1)) and refused == [10002] * (40 - len(stored))
        assert (await a.state("S"))["bytes"] <= 30_000
        # With headers of the broker's own too, and what fits still goes in.
        assert code(await a.publish("s", b"x" * 1000, Nats_Msg_Id="m")) == 10002
        assert "error" not in await a.publish("t", b"x" * 1000)
        assert (await a.api("STREAM.PURGE.S"))["purged"] == len(stored)

        async def taken() -> bool:
            return "error" not in await a.publish("s", b"x" * 1000)

        await a.until(taken, "room after a purge")

    with started(tmp_path, workers, account(estate.a, **limits)) as broker:
        run(test, broker, estate.a)


@pytest.mark.ours
def test_streams_of_all_shards_count_together(tmp_path: Path, workers: int) -> None:
    """Over shards the sum is known a quarter of a second later."""

    async def test(a: Asker) -> None:
        for n in range(6):
            await a.create(f"S{n}", subjects=[f"s.{n}"])

        async def all_refuse() -> bool:
            return all([code_or_0(await a.publish(f"s.{n}", b"x" * 1000)) == 10002 for n in range(6)])

        await a.until(all_refuse, "every stream refuses")

    with started(tmp_path, workers, account(estate.a, **NO_MORE | {"disk_storage": 50_000})) as broker:
        run(test, broker, estate.a)


def code_or_0(answer: dict[str, Any]) -> int:
    return code(answer) if "error" in answer else 0


def test_they_are_there_after_a_restart(tmp_path: Path, workers: int) -> None:
    """And take messages before anybody has asked for them."""

    async def before(a: Asker) -> None:
        for n in range(4):
            await a.create(f"S{n}", subjects=[f"s.{n}"])
            await a.publish(f"s.{n}", b"1")

    async def after(a: Asker) -> None:
        for n in range(4):
            assert (await a.publish(f"s.{n}", b"2"))["seq"] == 2
        assert (await a.api("STREAM.NAMES"))["streams"] == [f"S{n}" for n in range(4)]

    for test in (before, after):
        with started(tmp_path, workers, account(estate.a, **NO_MORE)) as broker:
            run(test, broker, estate.a)


def test_claims_that_change(tmp_path: Path, workers: int) -> None:
    """An account gets streams, other limits, none, and its old ones back, by JWTs that are pushed."""
    (tmp_path / "jwt").mkdir()
    (tmp_path / "jwt" / f"{estate.system.public}.jwt").write_text(estate.account_token(estate.system))
    text = (
        f'operator: {estate.operator_token()}\nresolver {{ type: full, dir: "{tmp_path / "jwt"}", allow_delete: true }}\n'
        f'jetstream {{ store_dir: "{tmp_path / "store"}" }}\n'
    )

    async def main(broker: Broker) -> None:
        system = await connect(broker, estate.system, ADMIN)

        async def push(**limits: Any) -> None:
            answer = await system.request("$SYS.REQ.CLAIMS.UPDATE", account(estate.a, **limits).encode(), timeout=60)
            assert json.loads(answer.data)["data"]["code"] == 200, answer.data

        async with asyncio.timeout(WATCHDOG_SECONDS * 3):
            await push()
            a = Asker(await connect(broker, estate.a))
            assert code(await a.api("INFO")) == 10039
            await push(**NO_MORE, disk_max_stream_bytes=1000)

            async def has(number: int) -> bool:
                found = await a.api("INFO")
                return "error" not in found and found["limits"]["storage_max_stream_bytes"] == number

            await a.until(lambda: has(1000), "streams")
            for n in range(4):
                # A shard may hear of it later than the one that answered.
                async def created(n: int = n) -> bool:
                    return "error" not in await a.api(f"STREAM.CREATE.S{n}", {"name": f"S{n}", "max_bytes": 900})

                await a.until(created, "a stream")

            async def too_large() -> bool:
                return code(await a.api("STREAM.CREATE.T", {"name": "T", "max_bytes": 1001})) == 10122

            await a.until(too_large, "the shard of that name to know the limit")
            await a.publish("S1", b"kept")
            await push(**NO_MORE, disk_max_stream_bytes=2000)
            await a.until(lambda: has(2000), "other limits")
            await push()

            async def off() -> bool:
                return code_or_0(await a.api("INFO")) == 10039

            await a.until(off, "no streams")
            await push(**NO_MORE)
            await a.until(lambda: has(-1), "streams again")

            async def listed() -> bool:
                return (await a.api("STREAM.NAMES")).get("total") == 4

            await a.until(listed, "the old ones")
            assert (await a.state("S1"))["messages"] == 1
        await a.client.close()
        await system.close()

    with Broker(tmp_path, workers=workers, config=text) as broker:
        asyncio.run(main(broker))


@pytest.mark.ours
def test_the_system_account_has_none(tmp_path: Path, workers: int) -> None:
    async def test(system: Asker) -> None:
        assert code(await system.api("INFO")) == 10039

    text = config(tmp_path, account(estate.a, **NO_MORE), system=account(estate.system, **NO_MORE))
    with Broker(tmp_path, workers=workers, config=text) as broker:
        run(test, broker, estate.system)
