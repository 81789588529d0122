"""shardbroker stream verify: tells damage, touches nothing; and reading beside damage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shardbroker.store.handle import Log, Store
from shardbroker.store.probe import crc32c, crc32c_each


def fill(directory: Path, count: int = 200) -> None:
    store = Store(1)
    log = Log(store, str(directory))
    for i in range(count):
        log.append(b"a.%d" % (i % 7), b"payload %06d" % i)
    log.submit()
    log.close()
    store.close()


def run(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shardbroker", "stream", "verify", str(directory)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def damage(directory: Path, text: bytes) -> None:
    (segment,) = directory.glob("*.seg")
    data = bytearray(segment.read_bytes())
    at = data.index(text)
    data[at] ^= 1
    segment.write_bytes(data)


def test_a_sound_log(tmp_path: Path) -> None:
    directory = tmp_path / "s"
    directory.mkdir()
    fill(directory)
    before = {path: path.read_bytes() for path in directory.iterdir()}
    said = run(tmp_path)
    assert said.returncode == 0 and "sound, 200 messages (1 to 200)" in said.stdout
    assert {path: path.read_bytes() for path in directory.iterdir()} == before


def test_a_flipped_bit_is_told_and_the_rest_is_readable(tmp_path: Path) -> None:
    fill(tmp_path)
    damage(tmp_path, b"payload 000041")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    said = run(tmp_path)
    assert said.returncode == 1 and "DAMAGED" in said.stdout and "lost: sequence 42" in said.stdout
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    store = Store(0)
    log = Log(store, str(tmp_path))
    assert log.lost() == [(42, 42)]
    assert log.get(42) is None
    assert [m.seq for seq in range(1, 201) if (m := log.get(seq))] == [s for s in range(1, 201) if s != 42]
    log.close()
    store.close()


def test_damage_of_a_removed_message_brings_nothing_back(tmp_path: Path) -> None:
    """It had pushed out another of its subject: the removal says so too."""
    store = Store(1)
    log = Log(store, str(tmp_path), max_msgs_per_subject=1)
    for subject, payload in ((b"a", b"first"), (b"b", b"pushed out"), (b"b", b"removed itself"), (b"c", b"last")):
        log.append(subject, payload)
    log.submit()
    log.remove(3)
    log.submit()
    log.close()
    damage(tmp_path, b"removed itself")
    log = Log(store, str(tmp_path), max_msgs_per_subject=1)
    assert [m.seq for seq in range(1, 5) if (m := log.get(seq))] == [1, 4]
    log.close()
    store.close()


def test_damage_while_it_is_open_is_never_served(tmp_path: Path) -> None:
    fill(tmp_path, 5000)
    store = Store(0)
    log = Log(store, str(tmp_path))
    told: list[tuple[int, int]] = []
    log.on_damage = lambda first, last: told.append((first, last))
    (segment,) = tmp_path.glob("*.seg")
    with segment.open("r+b") as f:
        data = f.read()
        f.seek(data.index(b"payload 000100"))
        f.write(b"PAYLOAD")
    assert log.get(101) is None
    assert told == [(101, 101)] and log.lost() == [(101, 101)]
    following = log.next(101)
    assert following is not None and following.seq == 102
    assert log.state().msgs == 4999
    log.close()
    store.close()


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 31, 32, 33, 63, 64, 1000])
def test_checksums_agree(n: int) -> None:
    data = bytes(i * 7 & 255 for i in range(n))
    by_processor, by_tables = crc32c_each(data, 5)
    assert by_processor in (None, by_tables)
    assert crc32c(data, 5) == by_tables


def test_checksum_is_crc32c() -> None:
    """The check value of CRC-32C (RFC 3720, appendix B.4, and the usual "123456789")."""
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("head", [bytes(4096), b"\xff" * 4096, b"\0\1" * 2048], ids=["zeros", "ones", "garbage"])
@pytest.mark.parametrize("storage", ["one segment", "the last", "a middle one", "rewritten"])
def test_a_lost_head_costs_no_message(tmp_path: Path, head: bytes, storage: str) -> None:
    """The page with a segment's head, and its copy, is gone; its records say what it said."""
    several = storage != "one segment"
    expected = several_segments(tmp_path, rewritten=storage == "rewritten") if several else list(range(1, 201))
    if not several:
        fill(tmp_path)
        # Batches that a mark behind them calls durable
        store = Store(1)
        log = Log(store, str(tmp_path))
        for i in range(2):
            log.append(b"more", b"%d" % i)
            log.submit()
            while log.durable_ticket < log.ticket - 1:
                store.wait(1.0)
                store.collect()
        log.close()
        store.close()
        expected += [201, 202]
    segments = sorted(tmp_path.glob("*.seg"))
    at = {"the last": -1, "a middle one": len(segments) // 2}.get(storage, 0)
    data = segments[at].read_bytes()
    segments[at].write_bytes(head + data[4096:])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    said = run(tmp_path)
    assert said.returncode == 1 and "DAMAGED" in said.stdout, said.stdout
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    for _ in range(2):  # it stays so
        store = Store(0)
        log = Log(store, str(tmp_path))
        found = log.recovered()
        assert (found["damaged_bytes"], found["damaged_segments"], found["torn_bytes"]) == (4096, 0, 0)
        assert log.lost() == []
        assert [m.seq for seq in range(1, expected[-1] + 1) if (m := log.get(seq))] == expected
        log.close()
        store.close()
    # And it goes on.
    store = Store(1)
    log = Log(store, str(tmp_path))
    assert log.append(b"new", b"") == expected[-1] + 1
    log.close()
    store.close()
    assert len(list(tmp_path.glob("*.seg"))) >= len(segments)


def several_segments(directory: Path, *, rewritten: bool) -> list[int]:
    """Segments of 16 KiB; the sequences that are alive. rewritten: most of the first are removed, and compaction has been."""
    store = Store(1)
    log = Log(store, str(directory), segment_bytes_max=1 << 14)

    def settle() -> None:
        log.submit()
        while log.durable_ticket < log.ticket - 1:
            store.wait(1.0)
            store.collect()
            log.submit()

    for i in range(600):
        log.append(b"a.%d" % (i % 7), b"payload %06d" % i)
        if i % 20 == 19:
            settle()
    alive = list(range(1, 601))
    if rewritten:
        before = {path.stat().st_ino for path in directory.glob("*.seg")}
        for seq in range(1, 301):
            if seq % 10:
                log.remove(seq)
                alive.remove(seq)
        for _ in range(200):
            settle()
            alive.append(log.append(b"more", b""))
            log.tick(0)
            if sorted(directory.glob("*.seg"))[0].stat().st_ino not in before:
                break
        else:
            raise AssertionError("never rewritten")
    settle()
    log.close()
    store.close()
    return alive
