"""Backups and restores: over the API, of nats-server's archives, of damaged ones."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import cramjam
import nats.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import Broker
from shardbroker.stream import archive
from shardbroker.stream.highway import highway64
from shardbroker.stream.s2 import decode_block, masked_crc

from .client import WATCHDOG_SECONDS, Asker, run

S2 = b"\xff\x06\x00\x00S2sTwO"


# ---- the parts --------------------------------------------------------------------------------------------------


def test_hash_of_nats_server() -> None:
    """The values of the reference (highwayhash_test.cc)."""
    key = bytes(range(32))
    assert highway64(key, b"") == (0x907A56DE22C26E53).to_bytes(8, "little")
    assert highway64(key, bytes([0])) == (0x7EAB43AAC7CDDD78).to_bytes(8, "little")
    assert highway64(key, bytes([0, 1])) == (0xB8D0569AB0B53D62).to_bytes(8, "little")
    with pytest.raises(ValueError, match="32 bytes"):
        highway64(b"short", b"")


def test_blocks_of_s2() -> None:
    # 8 bytes as they are; a copy by a distance; copies that repeat it, with each form of length
    block = bytes([8 + 7 + 4 + 12, 7 << 2]) + b"abcdefgh" + bytes([(3 << 2) | 1, 8, 1, 0, (5 << 2) | 1, 0, 4])
    assert decode_block(block, 100) == (b"abcdefgh" * 4)[:31]
    assert decode_block(bytes([0]), 0) == b""
    for wrong in (b"", b"\xff" * 6, block[:-1], bytes([4, 1, 0]), bytes([4, 1, 9]), bytes([9]) + block[1:]):
        with pytest.raises(ValueError, match="block"):
            decode_block(wrong, 100)
    with pytest.raises(ValueError, match="too long"):
        decode_block(block, 30)
    assert masked_crc(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


@given(st.binary(max_size=400), st.integers(0, 40))
def test_blocks_of_snappy_are_read(data: bytes, times: int) -> None:
    data *= times
    assert decode_block(bytes(cramjam.snappy.compress_raw(data)), 1 << 20) == data


_numbers = st.integers(0, 1 << 62)
_counts = st.integers(1, 1 << 40)


@given(_numbers, _numbers, st.dictionaries(_counts, st.tuples(_counts, _counts)), st.dictionaries(_counts, _counts))
def test_states_of_consumers(
    floor: int, more: int, pending: dict[int, tuple[int, int]], redelivered: dict[int, int]
) -> None:
    second = 1_000_000_000
    saved = archive.SavedConsumer(
        "C", {}, (floor + more, floor + more), (floor, floor),
        {floor + seq: (floor + dseq, sent // second * second) for seq, (dseq, sent) in pending.items()},
        {floor + seq: count for seq, count in redelivered.items()},
    )  # fmt: skip
    assert archive.consumer_of("C", {}, archive.state_of(saved)) == saved


def test_an_archive_of_the_newer_form(tmp_path: Path) -> None:
    def number(value: int) -> bytes:
        out = bytearray()
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        return bytes([*out, value])

    def entry(name: bytes, time: int, seq: int, headers: bytes, payload: bytes) -> bytes:
        sizes = (len(name), time << 1, seq, len(headers), len(payload))
        return b"".join(map(number, sizes)) + name + headers + payload

    state = {
        "config": {"durable_name": "C"},
        "state": {
            "delivered": {"consumer_seq": 2, "stream_seq": 5}, "ack_floor": {"consumer_seq": 1, "stream_seq": 4},
            "pending": {"5": {"Sequence": 2, "Timestamp": 77}}, "redelivered": {"5": 1},
        },
    }  # fmt: skip
    whole = b"NATSARC1" + entry(b"state.json", 1, 0, b"", b'{"last_seq":9}')
    whole += entry(b"consumers/C", 1, 0, b"", json.dumps(state).encode())
    whole += entry(b"s.x", 300, 5, b"NATS/1.0\r\nA: b\r\n\r\n", b"body") + entry(b"s.y", 301, 7, b"", b"x" * 100_000)
    end = entry(b"", 0, 0, b"", b"")

    def framed(data: bytes) -> Path:
        path = tmp_path / "archive"
        path.write_bytes(S2 + bytes(cramjam.snappy.compress(data))[10:])
        return path

    items = [item for batch in archive.read(framed(whole + end)) for item in batch]
    assert items == [
        archive.State({"last_seq": 9}),
        archive.SavedConsumer("C", {"durable_name": "C"}, (2, 5), (1, 4), {5: (2, 77)}, {5: 1}),
        archive.Message(5, 300, b"s.x", b"NATS/1.0\r\nA: b\r\n\r\n", b"body"),
        archive.Message(7, 301, b"s.y", b"", b"x" * 100_000),
    ]
    for wrong in (whole, whole[:-1], whole + entry(b"what", 0, 0, b"", b"")):
        with pytest.raises(ValueError, match="archive"):
            list(archive.read(framed(wrong)))
    path = framed(whole + end)
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        list(archive.read(path))


# ---- over the API -----------------------------------------------------------------------------------------------


async def backup(asker: Asker, name: str) -> tuple[dict[str, Any], bytes]:
    """(what was answered, the archive)."""
    parts: list[bytes] = []
    ended = asyncio.Event()
    inbox = asker.client.new_inbox()

    async def on_chunk(message: Any) -> None:
        if not message.data:
            assert (message.headers or {}).get("Status", "204") == "204"
            ended.set()
        parts.append(message.data)
        if message.reply:
            await asker.client.publish(message.reply)

    subscription = await asker.client.subscribe(inbox, cb=on_chunk)
    answer = await asker.api(f"STREAM.SNAPSHOT.{name}", {"deliver_subject": inbox, "chunk_size": 4096})
    assert "error" not in answer, answer
    async with asyncio.timeout(WATCHDOG_SECONDS):
        await ended.wait()
    await subscription.unsubscribe()
    return answer, b"".join(parts)


async def restore(asker: Asker, name: str, about: dict[str, Any], data: bytes) -> dict[str, Any]:
    answer = await asker.api(f"STREAM.RESTORE.{name}", {"config": about["config"], "state": about["state"]})
    assert "error" not in answer, answer
    for at in range(0, len(data), 50_000):
        await asker.client.request(answer["deliver_subject"], data[at : at + 50_000], timeout=WATCHDOG_SECONDS)
    done = await asker.client.request(answer["deliver_subject"], b"", timeout=WATCHDOG_SECONDS)
    out: dict[str, Any] = json.loads(done.data)
    return out


async def fill(asker: Asker, name: str) -> None:
    """Messages with gaps and headers, the last one gone; a consumer with some pending."""
    await asker.create(name, subjects=[f"{name}.>"], allow_msg_ttl=True)
    for number in range(40):
        await asker.publish(f"{name}.{number % 3}", f"{number}".encode() * 400, A=f"{number}")
    await asker.publish(f"{name}.ttl", "kept for an hour", Nats_TTL="1h")
    await asker.publish(f"{name}.last", "gone")
    await asker.api(f"STREAM.PURGE.{name}", {"seq": 4})
    for seq in (7, 42):
        await asker.api(f"STREAM.MSG.DELETE.{name}", {"seq": seq})
    consumer = {"durable_name": "C", "name": "C", "ack_policy": "explicit", "filter_subject": f"{name}.*"}
    made = await asker.api(f"CONSUMER.CREATE.{name}.C", {"stream_name": name, "config": consumer})
    assert "error" not in made, made
    for number in range(6):
        got = await asker.next_message(f"$JS.API.CONSUMER.MSG.NEXT.{name}.C")
        if number % 2:
            await asker.client.request(got.reply, b"+ACK", timeout=WATCHDOG_SECONDS)


async def seen(asker: Asker, name: str) -> Any:
    """All that must be the same in a copy."""
    state = await asker.state(name, deleted_details=True, subjects_filter=">")
    state.pop("last_ts")  # of a message that is gone: no archive has it
    messages = [await asker.api(f"STREAM.MSG.GET.{name}", {"seq": seq}) for seq in range(1, 43)]
    info = await asker.api(f"CONSUMER.INFO.{name}.C")
    for place in ("delivered", "ack_floor"):
        info[place].pop("last_active", None)
    counts = {key: info[key] for key in ("delivered", "ack_floor", "num_ack_pending", "num_pending")}
    return state, messages, counts, info["config"]["filter_subject"]


def test_there_and_back(js: Broker, name: str) -> None:
    async def test(asker: Asker) -> None:
        await fill(asker, name)
        before = await seen(asker, name)
        about, data = await backup(asker, name)
        refused = await asker.api(f"STREAM.RESTORE.{name}", {"config": about["config"], "state": about["state"]})
        assert refused["error"]["err_code"] == 10130
        await asker.api(f"STREAM.DELETE.{name}")
        made = await restore(asker, name, about, data)
        assert made["state"]["messages"] == before[0]["messages"]
        assert await seen(asker, name) == before
        # It goes on as a stream, from where it was.
        assert (await asker.publish(f"{name}.x", "new"))["seq"] == 43

    run(test, js)


def test_archives_that_cannot_be(js: Broker, name: str) -> None:
    async def test(asker: Asker) -> None:
        await fill(asker, name)
        about, data = await backup(asker, name)
        await asker.api(f"STREAM.DELETE.{name}")
        # A bit of the first piece's checksum: behind it, it could make a copy of zeros from another place, which is the same.
        for wrong in (b"nonsense", data[:-50], data[:14] + bytes([data[14] ^ 1]) + data[15:]):
            refused = await restore(asker, name, about, wrong)
            assert refused["error"]["err_code"] == 10062, refused
            assert (await asker.api(f"STREAM.INFO.{name}"))["error"]["err_code"] == 10059
        assert "error" not in await restore(asker, name, about, data)

    run(test, js)


def test_an_archive_reaches_its_own_stream_only(js: Broker, name: str) -> None:
    """CVE-2022-26652, CVE-2026-33222: neither by another name in the request nor by names inside the archive."""

    async def test(asker: Asker) -> None:
        await fill(asker, name)
        about, data = await backup(asker, name)
        before = await seen(asker, name)
        for config in (about["config"], {**about["config"], "name": f"../{name}"}):
            refused = await asker.api(f"STREAM.RESTORE.{name}other", {"config": config, "state": about["state"]})
            assert refused["error"]["err_code"] == 10056, refused
        again = await asker.api(f"STREAM.RESTORE.{name}", {"config": about["config"], "state": about["state"]})
        assert again["error"]["err_code"] == 10130, again
        assert await seen(asker, name) == before
        await asker.api(f"STREAM.DELETE.{name}")
        raw = bytes(cramjam.snappy.decompress(b"\xff\x06\x00\x00sNaPpY" + data[10:]))
        for evil, kind in (
            (f"obs/../../{name}evil/meta.inf", tarfile.REGTYPE), (f"obs/{name}/evil/meta.inf", tarfile.REGTYPE),
            ("msgs/1.blk", tarfile.SYMTYPE), ("../evil", tarfile.LNKTYPE), ("evil", tarfile.FIFOTYPE),
        ):  # fmt: skip
            file = io.BytesIO()
            with tarfile.open(fileobj=io.BytesIO(raw)) as old, tarfile.open(fileobj=file, mode="w") as new:
                for member in old:
                    new.addfile(member, old.extractfile(member))
                added = tarfile.TarInfo(evil)
                added.type, added.linkname = kind, "/etc/passwd"
                body = json.dumps({"name": f"../{name}evil", "durable_name": f"../{name}evil"}).encode()
                added.size = len(body) if kind == tarfile.REGTYPE else 0
                new.addfile(added, io.BytesIO(body) if added.size else None)
            packed = S2 + bytes(cramjam.snappy.compress(file.getvalue()))[10:]
            done = await restore(asker, name, about, packed)
            if kind == tarfile.REGTYPE:
                # What has no place in an archive is passed over.
                assert "error" not in done, (evil, done)
                assert await seen(asker, name) == before
                consumers = await asker.api(f"CONSUMER.NAMES.{name}")
                assert consumers["consumers"] == ["C"]
                await asker.api(f"STREAM.DELETE.{name}")
            else:
                assert done["error"]["err_code"] == 10062, (evil, done)
            assert (await asker.api(f"STREAM.INFO.{name}"))["error"]["err_code"] == 10059
        assert not list(Path(js.directory).rglob("*evil*"))

    run(test, js)


def test_what_nats_server_would_check(js: Broker, name: str) -> None:
    """The sums beside `meta.inf` and behind each record, without which nats-server takes nothing."""

    async def test(asker: Asker) -> None:
        await fill(asker, name)
        _, data = await backup(asker, name)
        members = {}
        raw = bytes(cramjam.snappy.decompress(b"\xff\x06\x00\x00sNaPpY" + data[10:]))
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            for member in tar:
                found = tar.extractfile(member)
                assert found is not None
                members[member.name] = found.read()
        assert set(members) == {
            "meta.inf", "meta.sum", "msgs/1.blk", "obs/C/meta.inf", "obs/C/meta.sum", "obs/C/o.dat"
        }  # fmt: skip
        for place, of in (("meta", name), ("obs/C/meta", f"{name}/C")):
            key = hashlib.sha256(of.encode()).digest()
            assert members[f"{place}.sum"] == highway64(key, members[f"{place}.inf"]).hex().encode()
        block, at, count = members["msgs/1.blk"], 0, 0
        key = hashlib.sha256(f"{name}-1".encode()).digest()
        while at < len(block):
            size, _, _, subject_bytes = struct.unpack_from("<IQqH", block, at)
            headers, size = size >> 31, size & 0x7FFFFFFF
            body = block[at + 22 + subject_bytes + 4 * headers : at + size - 8]
            said = block[at + 4 : at + 20] + block[at + 22 : at + 22 + subject_bytes] + body
            assert block[at + size - 8 : at + size] == highway64(key, said)
            at += size
            count += 1
        assert count == 37 + 1  # and the one that keeps the place of the last
        assert base64.b64encode(members["obs/C/o.dat"][:2]) == b"FgI="

    run(test, js)


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_nobody_sees_a_stream_before_it_is_restored(js: Broker, name: str, storage: str) -> None:
    """Not by its name, not in lists, not by its subjects; and whoever makes one of that name meanwhile has it."""

    async def test(asker: Asker) -> None:
        await fill(asker, name)
        about, data = await backup(asker, name)
        about["config"]["storage"] = storage
        await asker.api(f"STREAM.DELETE.{name}")

        async def unseen() -> None:
            assert (await asker.api(f"STREAM.INFO.{name}"))["error"]["err_code"] == 10059
            assert name not in ((await asker.api("STREAM.NAMES", {"subject": f"{name}.x"}))["streams"] or [])
            assert not (await asker.api("STREAM.LIST", {"subject": f"{name}.x"}))["streams"]
            with pytest.raises(nats.errors.NoRespondersError):
                await asker.client.request(f"{name}.x", b"", timeout=WATCHDOG_SECONDS)

        async def looking() -> None:
            while not restored.done():
                if "error" not in (info := await asker.api(f"STREAM.INFO.{name}")):
                    # Whole, or not at all
                    assert info["state"]["messages"] == about["state"]["messages"]
                    assert info["state"]["consumer_count"] == 1

        await unseen()
        restored = asyncio.ensure_future(restore(asker, name, about, data))
        await asyncio.gather(restored, looking(), looking())
        assert "error" not in restored.result()
        assert (await asker.publish(f"{name}.x", "new"))["seq"] == 43
        await asker.api(f"STREAM.DELETE.{name}")
        # A restore that comes too late for its name leaves the stream that has it alone.
        answer = await asker.api(f"STREAM.RESTORE.{name}", {"config": about["config"], "state": about["state"]})
        for at in range(0, len(data), 50_000):
            await asker.client.request(answer["deliver_subject"], data[at : at + 50_000], timeout=WATCHDOG_SECONDS)
        await unseen()
        await asker.create(name, subjects=[f"{name}.>"])
        await asker.publish(f"{name}.x", "first")
        done = json.loads((await asker.client.request(answer["deliver_subject"], b"", timeout=WATCHDOG_SECONDS)).data)
        assert done["error"]["err_code"] == 10130
        assert (await asker.state(name))["messages"] == 1

    run(test, js)
