"""Where account JWTs are: in the configuration (memory), or in a directory, one file for each account.

A directory is shared by all shards, which read a file anew when it has changed. Names are public account keys and nothing
else, so that none leads out of the directory (CVE-2022-28357). Source: nats-server's dirstore.go, accounts.go DirAccResolver.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from shardbroker.auth import nkey
from shardbroker.auth.jwt import TOKEN_BYTES_MAX, JwtError, decode

SUFFIX: Final = ".jwt"
DELETED: Final = ".deleted"


class ResolverError(ValueError):
    """What was asked of the store cannot be done; nats-server's words where it has some."""


class AccountStore(Protocol):
    """Account JWTs by public key."""

    writable: bool

    def load(self, key: str) -> str | None:
        """The JWT of an account; None when there is none."""

    def stamp(self, key: str) -> object:
        """Something that changes when the JWT does."""

    def changes(self) -> object:
        """Something that changes when any JWT does."""

    def keys(self) -> list[str]:
        """All accounts there are."""


class MemoryStore:
    """resolver: MEMORY, with resolver_preload."""

    writable = False

    def __init__(self, preload: tuple[tuple[str, str], ...]) -> None:
        self._tokens = dict(preload)

    def load(self, key: str) -> str | None:
        return self._tokens.get(key)

    def stamp(self, key: str) -> object:
        return None

    def changes(self) -> object:
        return None

    def keys(self) -> list[str]:
        return list(self._tokens)


class DirectoryStore:
    """resolver { type: full }: files that clients push, list and delete through $SYS requests."""

    writable = True

    def __init__(self, directory: str, *, allow_delete: bool, hard_delete: bool, limit: int) -> None:
        self._path = Path(directory)
        self._allow_delete = allow_delete
        self._hard_delete = hard_delete
        self._limit = limit

    def prepare(self) -> None:
        """Make the directory, and take out what an interrupted write left. Raises ResolverError."""
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in self._path.glob("*.tmp"):
                left.unlink(missing_ok=True)
        except OSError as error:
            raise ResolverError(f"could not create storage directory: {error.strerror}") from None

    def load(self, key: str) -> str | None:
        try:
            with self._file(key).open(encoding="ascii") as file:
                return file.read(TOKEN_BYTES_MAX).strip()
        except (OSError, UnicodeDecodeError, ResolverError):
            return None

    def stamp(self, key: str) -> object:
        try:
            status = os.stat(self._file(key))
        except (OSError, ResolverError):
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def changes(self) -> object:
        try:
            return os.stat(self._path).st_mtime_ns
        except OSError:
            return None

    def keys(self) -> list[str]:
        return list(self._found())

    def _found(self) -> Iterator[str]:
        with contextlib.suppress(OSError), os.scandir(self._path) as entries:
            for entry in entries:
                name = entry.name.removesuffix(SUFFIX)
                if entry.name.endswith(SUFFIX) and nkey.is_public(name, "account"):
                    yield name

    def save(self, key: str, token: str) -> None:
        """Put a JWT, which has been checked, in the place of the one before. Raises ResolverError."""
        path = self._file(key)
        if self._limit and not path.exists() and len(self.keys()) >= self._limit:
            raise ResolverError("storage directory is full, the limit of accounts is reached")
        # The shards see the old file or the new one, never a part; and after a crash too.
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(token)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            self._sync_directory()
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ResolverError(f"the JWT could not be stored: {error.strerror}") from None

    def save_newer(self, key: str, token: str) -> None:
        """Put a JWT, which has been checked, unless the one that is there was issued later (dirstore.go saveIfNewer). Raises
        ResolverError."""
        before = self.load(key)
        try:
            newer = not before or decode(token, "account").issued >= decode(before, "account").issued
        except JwtError:
            newer = True
        if newer and token != before:
            self.save(key, token)

    def delete(self, key: str) -> None:
        """Take an account out. Raises ResolverError."""
        if not self._allow_delete:
            raise ResolverError("delete must be enabled in server config")
        path = self._file(key)
        try:
            if self._hard_delete:
                path.unlink()
            else:
                os.replace(path, path.with_suffix(SUFFIX + DELETED))
            self._sync_directory()
        except OSError as error:
            raise ResolverError(f"not deleted: {error.strerror}") from None

    def _file(self, key: str) -> Path:
        if not nkey.is_public(key, "account"):
            raise ResolverError("invalid account key")
        return self._path / (key + SUFFIX)

    def _sync_directory(self) -> None:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
