"""Messages and descriptors between our processes."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shardbroker.ipc.channel import PACKET_BYTES_MAX, Channel, ChannelClosed
from shardbroker.ipc.handoff import DESCRIPTORS_MAX, receive_packet, send_packet


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def watched() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(watched())


class Inbox:
    """What has come over a channel."""

    def __init__(self, channel: Channel) -> None:
        self.messages: asyncio.Queue[tuple[dict[str, Any], list[int]]] = asyncio.Queue()
        self.closed = asyncio.Event()
        channel.start(
            lambda _, message, descriptors: self.messages.put_nowait((message, descriptors)),
            lambda _: self.closed.set(),
        )


def open_descriptors() -> int:
    """Of this process, once what earlier tests left to the collector is gone."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_messages_keep_their_order_whatever_their_size() -> None:
    async def main() -> None:
        ours, theirs = Channel.pair()
        inbox = Inbox(theirs)
        Inbox(ours)
        sizes = [0, 10, PACKET_BYTES_MAX - 20, PACKET_BYTES_MAX, 5 * PACKET_BYTES_MAX + 7, 3]
        for number, size in enumerate(sizes):
            ours.send({"number": number, "text": "x" * size})
        for number, size in enumerate(sizes):
            message, descriptors = await inbox.messages.get()
            assert (message["number"], len(message["text"]), descriptors) == (number, size, [])
        ours.close()
        await inbox.closed.wait()
        assert theirs.closed

    run(main)


def test_descriptors_go_with_their_message_and_ours_are_closed() -> None:
    async def main() -> None:
        before = open_descriptors()
        ours, theirs = Channel.pair()
        inbox = Inbox(theirs)
        Inbox(ours)
        pipes = [os.pipe() for _ in range(5)]
        ours.send({"large": "x" * (2 * PACKET_BYTES_MAX)}, [read for read, _ in pipes])
        ours.send({})
        _message, descriptors = await inbox.messages.get()
        assert len(descriptors) == 5
        for (_read, write), arrived in zip(pipes, descriptors, strict=True):
            assert not os.get_inheritable(arrived)
            os.write(write, b"%d" % write)
            assert os.read(arrived, 10) == b"%d" % write
            os.close(write)
            os.close(arrived)
        assert (await inbox.messages.get()) == ({}, [])
        ours.close()
        await inbox.closed.wait()
        assert open_descriptors() == before

    run(main)


def test_a_peer_that_does_not_read_costs_a_backlog_and_no_wait() -> None:
    async def main() -> None:
        before = open_descriptors()
        ours, theirs = Channel.pair()
        Inbox(ours)
        for number in range(500):
            ours.send({"number": number, "text": "x" * 10000}, [os.open("/dev/null", os.O_RDONLY)])
        assert len(ours.backlog) > 100
        inbox = Inbox(theirs)
        for number in range(500):
            message, descriptors = await inbox.messages.get()
            assert message["number"] == number
            os.close(descriptors[0])
        assert not ours.backlog
        theirs.close()
        ours.close()
        assert open_descriptors() == before

    run(main)


def test_what_was_not_sent_is_closed_with_the_channel() -> None:
    async def main() -> None:
        before = open_descriptors()
        ours, theirs = Channel.pair()
        Inbox(ours)
        while len(ours.backlog) < 10:
            ours.send({"text": "x" * 10000}, [os.open("/dev/null", os.O_RDONLY)])
        ours.close()
        theirs.close()
        ours.send({}, [os.open("/dev/null", os.O_RDONLY)])
        assert open_descriptors() == before

    run(main)


def test_requests_are_answered_by_number() -> None:
    async def main() -> None:
        ours, theirs = Channel.pair()
        Inbox(ours)
        held: list[dict[str, Any]] = []

        def answer(channel: Channel, message: dict[str, Any], descriptors: list[int]) -> None:
            held.append(message)
            if len(held) == 3:
                for one in reversed(held):
                    channel.send({"re": one["id"], "double": one["value"] * 2})

        theirs.start(answer, lambda _: None)
        answers = await asyncio.gather(*(ours.request({"value": value}) for value in (1, 2, 3)))
        assert [one["double"] for one in answers] == [2, 4, 6]
        ours.close()

    run(main)


def test_a_request_ends_when_the_other_side_does() -> None:
    async def main() -> None:
        ours, theirs = Channel.pair()
        inbox = Inbox(theirs)
        Inbox(ours)
        request = asyncio.ensure_future(ours.request({"op": "none"}))
        await inbox.messages.get()
        theirs.close()
        with pytest.raises(ChannelClosed):
            await request
        with pytest.raises(ChannelClosed):
            await ours.request({})

    run(main)


@pytest.mark.parametrize("packet", [b"no json", b"[1]", b".{", b'{"a":'])
def test_what_is_no_message_ends_the_channel(packet: bytes) -> None:
    async def main() -> None:
        ours, theirs = Channel.pair()
        inbox = Inbox(theirs)
        send_packet(ours.sock, packet)
        await inbox.closed.wait()
        ours.close()

    run(main)


def test_as_many_descriptors_as_the_kernel_takes() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        null = os.open("/dev/null", os.O_RDONLY)
        send_packet(one, b"x", [null] * DESCRIPTORS_MAX)
        os.close(null)
        data, descriptors = receive_packet(other, 10)
        assert data == b"x"
        assert len(descriptors) == DESCRIPTORS_MAX
        for descriptor in descriptors:
            os.close(descriptor)
