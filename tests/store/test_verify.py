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
