"""Compare passwords with bcrypt hashes in threads, so that no turn of the data path waits for one.

bcrypt works without the GIL. Few threads, and no queue in front of them: who waits is a paused connection, which is closed at
its auth_timeout, and what nobody waits for any more is not compared. What an address that failed often asks for waits its
turn (throttle.py) before it gets here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

# At cost 11 one comparison takes about 0.1 s.
THREADS: Final = 2
# bcrypt looks at 72 bytes. Go's refuses to make hashes of more, and compares what there is of longer ones.
PASSWORD_BYTES_MAX: Final = 72


class Passwords:
    """The comparisons of one shard. Home shard only; `matches` in its loop."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._free = asyncio.Semaphore(THREADS)

    async def matches(self, hashed: str, password: str, wanted: Callable[[], bool]) -> bool:
        """Whether the password is that of a bcrypt hash; False without a look when nobody wants to know any more."""
        async with self._free:
            if not wanted():
                return False
            if self._executor is None:
                self._executor = ThreadPoolExecutor(THREADS, "bcrypt")
            return await asyncio.get_running_loop().run_in_executor(self._executor, compare, hashed, password)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)


def compare(hashed: str, password: str) -> bool:
    """Whether the password is that of a bcrypt hash; takes long."""
    import bcrypt

    try:
        # $2x$ marks hashes of a faulty implementation; Go's library takes it for $2a$ as it does all minor versions.
        if hashed.startswith("$2x$"):
            hashed = "$2a$" + hashed[4:]
        given = password.encode("utf-8", "surrogatepass")[:PASSWORD_BYTES_MAX]
        return bcrypt.checkpw(given, hashed.encode("utf-8", "surrogatepass"))
    except ValueError:
        return False
