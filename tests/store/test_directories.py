"""Directories are synced, name by name, before anything in them is promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardbroker.store import directories


def test_every_new_name_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    real = directories.sync_directory

    def note(path: Path) -> None:
        synced.append(path)
        real(path)

    monkeypatch.setattr(directories, "sync_directory", note)
    directories.make_directory(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    synced.clear()
    directories.make_directory(tmp_path / "a" / "b" / "c")
    assert synced == []
