"""The door of the monitor keeps out who comes in crowds, and lets nobody stand in it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from shardbroker.monitor import listener
from shardbroker.monitor.listener import Listener

LARGE = 64 << 20


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(LARGE // (1 << 16) if scope["path"] == "/large" else 1):
        await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@contextlib.asynccontextmanager
async def door() -> AsyncIterator[tuple[Listener, int]]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        served = Listener(app, sock, None)
        task = asyncio.get_running_loop().create_task(served.serve())
        try:
            yield served, sock.getsockname()[1]
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def run(work: Callable[[Listener, Callable[[], Awaitable[Client]]], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60), door() as (served, port):

            async def connect() -> Client:
                return await asyncio.open_connection("127.0.0.1", port)

            await work(served, connect)

    asyncio.run(bounded())


async def closed(reader: asyncio.StreamReader) -> None:
    """Until the other side has ended."""
    with contextlib.suppress(ConnectionResetError):
        while await reader.read(1 << 20):
            pass


def test_who_says_nothing_or_half_a_head_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "REQUEST_SECONDS", 0.2)

    async def work(served: Listener, connect: Callable[[], Awaitable[Client]]) -> None:
        for begin in (b"", b"GET / HTTP/1.1\r\nHost", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
            reader, writer = await connect()
            writer.write(begin)
            await closed(reader)
            writer.close()
        # The third one had its answer; uvicorn itself ends what says nothing more.
        assert served.rejected["slow"] >= 2

    run(work)


def test_who_does_not_read_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "ANSWER_SECONDS", 0.3)

    async def work(served: Listener, connect: Callable[[], Awaitable[Client]]) -> None:
        _, writer = await connect()
        writer.write(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        while not served.rejected["slow"]:
            await asyncio.sleep(0.01)
        writer.close()

    run(work)


def test_connections_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "CONNECTIONS_MAX", 3)

    async def work(served: Listener, connect: Callable[[], Awaitable[Client]]) -> None:
        held = [await connect() for _ in range(3)]
        for _, writer in held:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for reader, _ in held:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        reader, writer = await connect()
        await closed(reader)
        assert served.rejected["connections"] == 1
        writer.close()
        held[0][1].close()
        while True:
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                if (await reader.readline()).startswith(b"HTTP/1.1 200"):
                    break
            await asyncio.sleep(0.01)

    run(work)


def test_a_head_has_its_bytes() -> None:
    async def work(served: Listener, connect: Callable[[], Awaitable[Client]]) -> None:
        reader, writer = await connect()
        with contextlib.suppress(ConnectionResetError):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (listener.HEAD_BYTES * 4))
            await writer.drain()
            line = await reader.readline()
            assert line.startswith(b"HTTP/1.1 4") or not line
        await closed(reader)
        writer.close()

    run(work)
