"""A file that is cut while it is mapped: what was in it is reported as damaged, and the process lives."""

from __future__ import annotations

import os
from pathlib import Path

from shardbroker.store.handle import Log, Store
from shardbroker.store.probe import faults

PAYLOAD = b"x" * 1000


def cut(directory: Path, size: int) -> None:
    """The first segment of a stream."""
    os.truncate(min(directory.glob("*.seg")), size)


def test_what_was_cut_off_is_damaged_and_the_rest_is_read(tmp_path: Path) -> None:
    store = Store(1)
    log = Log(store, str(tmp_path))
    for _ in range(3000):
        log.append(b"a", PAYLOAD)
    log.submit()
    store.wait()
    told: list[tuple[int, int]] = []
    log.on_damage = lambda first, last: told.append((first, last))
    before = faults()
    cut(tmp_path, 100_000)
    first = log.get(1)
    assert first is not None and first.payload == PAYLOAD
    assert log.get(500) is None
    assert faults() > before
    assert told and (500, 500) in told and log.lost()
    # What other segments have, and what comes, is served as before.
    assert log.get(2999) is not None
    seq = log.append(b"b", PAYLOAD)
    log.submit()
    store.wait()
    assert log.durable_seq == seq and log.last_for(b"b") is not None
    log.close()
    store.close()
    # As after any damage, it is still told when the log is opened again.
    store = Store(0)
    log = Log(store, str(tmp_path))
    assert log.recovered()["lost_msgs"] > 0 and log.get(1) is not None and log.get(500) is None
    log.close()
    store.close()
