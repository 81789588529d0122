"""The files of consumers: after a failed sync nothing counts as saved; a state that cannot be read costs no other consumer."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from shardbroker.stream import consumer_store
from shardbroker.stream.consumer_store import Writer, define, read, save_whole


def failure(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(("code", "lasts"), [(sqlite3.SQLITE_IOERR_FSYNC, True), (sqlite3.SQLITE_FULL, False)])
def test_after_a_sync_that_failed_nothing_is_said_to_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, lasts: bool
) -> None:
    async def main() -> None:
        writer = Writer()
        await writer.run(tmp_path, define("c", {}))

        def broken(db: object, works: object) -> None:
            raise failure(code)

        with monkeypatch.context() as patch:
            patch.setattr(consumer_store, "transact", broken)
            with pytest.raises(sqlite3.OperationalError):
                await writer.run(tmp_path, define("d", {}))
        if lasts:
            with pytest.raises(sqlite3.OperationalError):
                await writer.run(tmp_path, define("e", {}))
        else:
            await writer.run(tmp_path, define("e", {}))
        # Another stream's file is another matter, and so is one that is made anew.
        other = tmp_path / "other"
        other.mkdir()
        await writer.run(other, define("f", {}))
        writer.forget(tmp_path)
        await writer.run(tmp_path, define("g", {}))
        writer.stop()

    asyncio.run(main())
    assert [one.name for one in read(tmp_path)] == (["c", "g"] if lasts else ["c", "e", "g"])


def test_a_state_that_cannot_be_read_costs_no_other_consumer(tmp_path: Path) -> None:
    async def main() -> None:
        writer = Writer()
        await writer.run(tmp_path, define("c", {"a": 1}))
        await writer.run(tmp_path, save_whole("c", b"no state at all"))
        await writer.run(tmp_path, define("d", {}))
        writer.stop()

    asyncio.run(main())
    assert [(one.name, one.state) for one in read(tmp_path)] == [("c", None), ("d", None)]
