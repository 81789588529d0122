"""From a CONNECT to an Identity: what auth/ decides at once, and what has to wait meanwhile.

    begin(login) --Gate--> Identity or Refusal        at once: nearly always
                    `----> None, and later settle()   a password hash, an address that has failed too often

The connection is paused until then, and its auth_timeout runs on. Home shard only, in its loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from shardbroker.auth.gate import Gate, Identity, Login, PasswordHash, Refusal
from shardbroker.clock import Clock
from shardbroker.options import Options
from shardbroker.shard.passwords import Passwords
from shardbroker.shard.throttle import Throttle

Settle = Callable[[Identity | Refusal], None]


class Logins:
    """The logins of one shard."""

    def __init__(self, options: Options, clock: Clock) -> None:
        # Whole life
        self._clock = clock
        self._passwords = Passwords()
        self._throttle = Throttle()
        # Changed by a reload
        self.gate = Gate(options)
        # Under way; kept here because the loop keeps no tasks
        self._tasks: set[asyncio.Task[None]] = set()

    def apply(self, options: Options) -> None:
        self.gate = Gate(options)

    def begin(self, login: Login, wanted: Callable[[], bool], settle: Settle) -> Identity | Refusal | None:
        """The answer, or None: then `settle` gets it later, unless `wanted` says that the client has gone."""
        gate = self.gate
        if not gate.required:
            answer = gate.check(login)
        else:
            wait = self._throttle.wait(login.ip, self._now())
            if wait > 0:
                self._start(self._later(login, wait, wanted, settle))
                return None
            answer = gate.check(login)
        if isinstance(answer, PasswordHash):
            self._start(self._compare(login, answer, wanted, settle))
            return None
        return self._counted(login, answer)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._passwords.close()

    async def _later(self, login: Login, wait: float, wanted: Callable[[], bool], settle: Settle) -> None:
        await asyncio.sleep(wait)
        if not wanted():
            return
        answer = self.gate.check(login)
        if isinstance(answer, PasswordHash):
            await self._compare(login, answer, wanted, settle)
        else:
            settle(self._counted(login, answer))

    async def _compare(
        self, login: Login, question: PasswordHash, wanted: Callable[[], bool], settle: Settle
    ) -> None:
        gate = self.gate
        matches = await self._passwords.matches(question.hash, question.password, wanted)
        if not wanted():
            return
        if gate is not self.gate:
            # A reload came between: the answer was to an old question.
            answer = self.gate.check(login)
            if answer != question:
                if isinstance(answer, PasswordHash):
                    await self._compare(login, answer, wanted, settle)
                else:
                    settle(self._counted(login, answer))
                return
        settle(self._counted(login, question.identity if matches else Refusal("wrong password")))

    def _counted(self, login: Login, answer: Identity | Refusal) -> Identity | Refusal:
        if isinstance(answer, Refusal):
            self._throttle.failed(login.ip, self._now())
        return answer

    def _now(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
