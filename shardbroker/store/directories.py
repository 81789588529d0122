"""Directories that are still there after losing power."""

from __future__ import annotations

import os
from pathlib import Path

MODE = 0o750


def make_directory(path: Path) -> None:
    """With all above it, each name synced: what is synced inside of a directory is lost when the directory's own name is."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True, mode=MODE)
        sync_directory(each.parent)


def sync_directory(path: Path) -> None:
    """Names in it that were made, changed and removed are so for good."""
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)
