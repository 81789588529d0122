"""Buckets of keys and of objects, by nats-py: all that its two classes can do."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from nats.js.api import (
    KeyValueConfig,
    ObjectLink,
    ObjectMeta,
    ObjectMetaOptions,
    ObjectStoreConfig,
    StorageType,
)
from nats.js.errors import (
    BadRequestError,
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
    ObjectNotFoundError,
)

from clients.test_python_clients import run_with_nats_py
from harness import Broker

SECONDS = 60.0
MEBIBYTE = 1 << 20


def run(broker: Broker, body: Callable[..., Awaitable[None]], clients: int = 1) -> None:
    """Run `body` with the JetStream contexts of as many clients."""

    async def with_contexts(*opened: Any) -> None:
        await body(*(client.jetstream(timeout=SECONDS) for client in opened))

    run_with_nats_py(broker, with_contexts, clients)


async def updates(watcher: Any, count: int) -> list[Any]:
    """The next `count` updates; None is where a watcher has seen all that there was."""
    return [await watcher.updates(timeout=SECONDS) for _ in range(count)]


def random_bytes(count: int) -> bytes:
    return random.Random(count).randbytes(count)


@pytest.mark.parametrize("storage", [StorageType.FILE, StorageType.MEMORY])
def test_revisions(js: Broker, name: str, storage: StorageType) -> None:
    async def body(one: Any, two: Any) -> None:
        kv = await one.create_key_value(KeyValueConfig(bucket=name, history=4, storage=storage, max_value_size=100))
        other = await two.key_value(name)
        assert [await kv.put("a.b", b"%d" % i) for i in range(6)] == [1, 2, 3, 4, 5, 6]
        entry = await other.get("a.b")
        assert (entry.value, entry.revision, entry.operation) == (b"5", 6, None)
        assert (await other.get("a.b", revision=4)).value == b"3"
        with pytest.raises(KeyNotFoundError):
            await other.get("a.b", revision=2)
        assert [(e.value, e.revision) for e in await other.history("a.b")] == [(b"%d" % (n - 1), n) for n in range(3, 7)]
        with pytest.raises(KeyWrongLastSequenceError):
            await other.create("a.b", b"new")
        with pytest.raises(KeyWrongLastSequenceError):
            await other.update("a.b", b"new", last=5)
        assert await other.update("a.b", b"new", last=6) == 7
        with pytest.raises(BadRequestError, match="wrong last sequence: 7"):
            await kv.delete("a.b", last=6)
        await kv.delete("a.b", last=7)
        with pytest.raises(KeyNotFoundError):
            await other.get("a.b")
        assert await other.create("a.b", b"again") == 9
        await kv.purge("a.b")
        assert [e.operation for e in await other.history("a.b")] == ["PURGE"]
        with pytest.raises(Exception, match="message size exceeds maximum allowed"):
            await kv.put("long", bytes(200))
        status = await other.status()
        assert (status.bucket, status.values, status.history, status.ttl) == (name, 1, 4, 0)
        await kv.purge_deletes(olderthan=-1)
        assert (await other.status()).values == 0
        await one.delete_key_value(name)
        with pytest.raises(BucketNotFoundError):
            await two.key_value(name)

    run(js, body, 2)


def test_keys_and_watches(js: Broker, name: str) -> None:
    async def body(one: Any, two: Any) -> None:
        kv = await one.create_key_value(bucket=name, history=3)
        other = await two.key_value(name)
        for i in range(9):
            await kv.put(f"{'xyz'[i % 3]}.k", b"%d" % i)
        await kv.delete("y.k")
        assert sorted(await other.keys()) == ["x.k", "z.k"]
        assert sorted(await other.keys(filters=["x.", "y."])) == ["x.k"]
        seen = await updates(await other.watch("*.k", include_history=True), 10)
        assert [(e.key, e.value, e.operation) for e in seen[:-1]] == [
            *((f"{'xyz'[i % 3]}.k", b"%d" % i, None) for i in range(9) if i != 1), ("y.k", b"", "DEL"),
        ]
        assert seen[-1] is None
        last = await other.watchall(ignore_deletes=True)
        assert [e and (e.key, e.value) for e in await updates(last, 3)] == [("x.k", b"6"), ("z.k", b"8"), None]
        sizes = await other.watch("z.>", meta_only=True)
        first, end = await updates(sizes, 2)
        assert (first.key, first.value, first.revision, end) == ("z.k", b"", 9, None)
        empty = await other.watch("nothing.>")
        assert await updates(empty, 1) == [None]
        await kv.put("nothing.there", b"now")
        assert (await updates(empty, 1))[0].value == b"now"
        assert [e.value for e in await updates(last, 1)] == [b"now"]

    run(js, body, 2)


def test_times_to_live(js: Broker, name: str) -> None:
    """A key of its own short life goes, and its marker tells a watcher so; the other stays."""

    async def body(one: Any) -> None:
        kv = await one.create_key_value(KeyValueConfig(bucket=name, limit_marker_ttl=60))
        watcher = await kv.watchall()
        await kv.create("short", b"1", msg_ttl=3)
        await kv.put("long", b"2")
        seen = await updates(watcher, 4)
        assert [e and (e.key, e.operation) for e in seen[:3]] == [None, ("short", None), ("long", None)]
        assert seen[3].key == "short" and not seen[3].value
        assert (await kv.get("long")).value == b"2"

    run(js, body)


@pytest.mark.parametrize("storage", [StorageType.FILE, StorageType.MEMORY])
def test_objects(js: Broker, name: str, storage: StorageType, tmp_path: Path) -> None:
    data = random_bytes(5 * MEBIBYTE + 17)

    async def body(one: Any, two: Any) -> None:
        store = await one.create_object_store(name, config=ObjectStoreConfig(description="d", storage=storage))
        other = await two.object_store(name)
        watcher = await other.watch(include_history=True)
        assert await updates(watcher, 1) == [None]
        info = await store.put("big", io.BytesIO(data), meta=ObjectMeta(description="a file", headers={"h": "1"}))
        assert (info.size, info.chunks) == (len(data), 41)
        got = await other.get("big")
        assert hashlib.sha256(got.data).digest() == hashlib.sha256(data).digest()
        assert (got.info.description, got.info.headers, got.info.digest) == ("a file", {"h": "1"}, info.digest)
        with (tmp_path / "copy").open("wb") as copy:
            await other.get("big", writeinto=copy)
        assert (tmp_path / "copy").read_bytes() == data
        # What an object had before is gone when it has been put again.
        await store.put("big", data[: 2 * MEBIBYTE], meta=ObjectMeta(options=ObjectMetaOptions(max_chunk_size=10_000)))
        assert (await other.get("big")).data == data[: 2 * MEBIBYTE]
        assert (await other.status()).size < 3 * MEBIBYTE
        await store.put("empty", b"")
        assert not (await other.get("empty")).data
        await store.update_meta("empty", ObjectMeta(name="empty", description="new"))
        assert (await other.get_info("empty")).description == "new"
        assert sorted(entry.name for entry in await other.list()) == ["big", "empty"]
        await store.delete("big")
        with pytest.raises(ObjectNotFoundError):
            await other.get("big")
        assert (await other.get_info("big", show_deleted=True)).deleted
        assert (await other.status()).size < 2000
        seen = await updates(watcher, 5)
        assert [(entry.name, bool(entry.deleted)) for entry in seen] == [
            ("big", False), ("big", False), ("empty", False), ("empty", False), ("big", True),
        ]

    run(js, body, 2)


def test_links_and_seals(js: Broker, name: str) -> None:
    async def body(one: Any, two: Any) -> None:
        first, second = await one.create_object_store(name), await one.create_object_store(f"{name}B")
        await first.put("thing", b"in the first")
        link = ObjectMetaOptions(link=ObjectLink(bucket=name, name="thing"), max_chunk_size=1000)
        await second.put("link", b"", meta=ObjectMeta(options=link))
        assert (await (await two.object_store(f"{name}B")).get("link")).data == b"in the first"
        await first.seal()
        sealed = await two.object_store(name)
        assert (await sealed.status()).sealed and (await sealed.get("thing")).data == b"in the first"
        with pytest.raises(Exception, match="invalid operation on sealed stream"):
            await sealed.put("more", b"1")
        await one.delete_object_store(name)
        with pytest.raises(BucketNotFoundError):
            await two.object_store(name)

    run(js, body, 2)


def test_many_objects_at_once(js: Broker, name: str) -> None:
    """Clients put and get different objects of one bucket at the same time."""

    async def body(*contexts: Any) -> None:
        await contexts[0].create_object_store(name)
        stores = [await context.object_store(name) for context in contexts]
        data = [random_bytes(300_000 + n) for n in range(len(stores))]
        await asyncio.gather(*(store.put(str(n), data[n]) for n, store in enumerate(stores)))
        names = [str((n + 1) % len(stores)) for n in range(len(stores))]
        got = await asyncio.gather(*(store.get(key) for store, key in zip(stores, names, strict=True)))
        assert [result.data for result in got] == [*data[1:], data[0]]

    run(js, body, 4)
