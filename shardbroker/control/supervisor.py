"""The shards' processes: started, watched by pidfd, replaced when they die, stopped.

    fork -> BOOTING -> "ready" on the channel -> READY: gets connections
                 any of these -> pidfd readable -> DEAD: bits cleared, membership up -> fork again, epoch + 1

A dead shard's sockets close with it (the front keeps no copies), its clients reconnect and are placed anew. What it owned
in shared memory needs no repair: rings are published by one store, directory bits are cleared here, statistics go on.
Front process only.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from shardbroker.ipc.channel import Channel, ChannelClosed, Message
from shardbroker.ipc.child import Child, describe_end
from shardbroker.shm.directory import Directory
from shardbroker.shm.layout import SegmentMap

# A shard that dies so often is ill, not unlucky: its replacements are delayed, never given up.
DEATHS_MAX = 5
DEATHS_WINDOW_SECONDS = 10.0
DELAY_MIN_SECONDS = 0.05
DELAY_MAX_SECONDS = 1.0
# What a stopping shard gets to flush; nats-py's helper waits 5 s for the whole broker.
STOP_SECONDS = 3.0


class Logger(Protocol):
    def error(self, text: str, /) -> None: ...
    def notice(self, text: str, /) -> None: ...
    def debug(self, text: str, /) -> None: ...


class ShardProcess:
    """One shard's slot over the life of all its processes."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.epoch = 0
        self.child: Child | None = None
        self.channel: Channel | None = None
        self.ready = False
        self.tried = False  # it has been ready, or has failed to be
        self.deaths: deque[float] = deque(maxlen=DEATHS_MAX)
        self.delay = 0.0

    @property
    def pid(self) -> int:
        """0 while there is no process."""
        return self.child.pid if self.child is not None else 0


class Supervisor:
    """All shards. `main(shard, epoch, channel)` gives what a shard's process runs, and the descriptors it keeps."""

    def __init__(
        self,
        segment: SegmentMap,
        main: Callable[[int, int, Channel], tuple[Callable[[], int], list[int]]],
        log: Logger,
        *,
        on_ready: Callable[[int, Channel], None],
        on_gone: Callable[[int], None],
        on_message: Callable[[int, Message, list[int]], None],
    ) -> None:
        self.shards = [ShardProcess(shard) for shard in range(segment.shards)]
        self.all_ready = asyncio.Event()
        self.all_tried = asyncio.Event()
        self.stopping = False
        self._segment = segment
        self._directory = Directory(segment)
        self._main = main
        self._log = log
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._on_message = on_message

    def start(self) -> None:
        """Start every shard. They come up side by side; `all_ready`: they have, `all_tried`: each has, or has died of it."""
        # All slots before the first fork: a shard counts the others that are booting.
        for slot in self.shards:
            slot.epoch = self._segment.mark_booting(slot.shard)
        for slot in self.shards:
            self._fork(slot)

    def responsive(self, shard: int, seconds: float) -> bool:
        """Whether a shard has taken a turn lately."""
        beat: int = self._segment.slot_row(shard).heartbeat_ns
        return time.monotonic_ns() - beat < seconds * 1e9

    def send_all(self, message: Message) -> None:
        """Tell every shard that has a process."""
        for slot in self.shards:
            if slot.channel is not None:
                slot.channel.send(message)

    async def ask(self, shard: int, message: Message, seconds: float) -> Message | None:
        """Ask one shard; None when it is dead, or silent for so long."""
        slot = self.shards[shard] if 0 <= shard < len(self.shards) else None
        if slot is None or slot.channel is None or not slot.ready:
            return None
        try:
            async with asyncio.timeout(seconds):
                return await slot.channel.request(message)
        except (TimeoutError, ChannelClosed):
            return None

    async def ask_all(self, message: Message, seconds: float) -> dict[int, Message]:
        """Ask every shard; the answers by shard. A shard that does not answer is left out."""
        shards = [slot.shard for slot in self.shards]
        answers = await asyncio.gather(*(self.ask(shard, message, seconds) for shard in shards))
        return {shard: answer for shard, answer in zip(shards, answers, strict=True) if answer is not None}

    async def stop(self) -> None:
        """Ask all shards to flush and end; kill those that have not after STOP_SECONDS."""
        self.stopping = True
        self.send_all({"op": "stop"})
        children = [slot.child for slot in self.shards if slot.child is not None]
        endings = [asyncio.shield(child.ended) for child in children]
        if not endings:
            return
        _, late = await asyncio.wait(endings, timeout=STOP_SECONDS)
        if late:
            for child in children:
                child.kill()
            await asyncio.wait(late)

    # -- one shard --

    def _fork(self, slot: ShardProcess) -> None:
        ours, theirs = Channel.pair()
        slot.channel = ours
        main, keep = self._main(slot.shard, slot.epoch, theirs)
        try:
            slot.child = Child(main, [*keep, theirs.fileno()], f"shard-{slot.shard}")
        except OSError as error:
            # No memory or no process number left: as if it had died at once.
            self._log.error(f"Shard {slot.shard} could not be started: {error.strerror}")
            slot.channel = None
            ours.close()
            self._after_death(slot)
            return
        finally:
            theirs.close()
        self._segment.set_pid(slot.shard, slot.child.pid)
        slot.child.watch(functools.partial(self._ended, slot))
        ours.start(functools.partial(self._message, slot), lambda channel: None)
        self._log.debug(f"Shard {slot.shard} started, pid {slot.child.pid}")

    def _message(
        self, slot: ShardProcess, channel: Channel, message: Message, descriptors: list[int]
    ) -> None:
        if message.get("op") == "ready":
            slot.ready = True
            slot.delay = 0.0
            self._has_tried(slot)
            self._on_ready(slot.shard, channel)
            if all(other.ready for other in self.shards):
                self.all_ready.set()
        else:
            self._on_message(slot.shard, message, descriptors)

    def _ended(self, slot: ShardProcess) -> None:
        child, channel = slot.child, slot.channel
        assert child is not None and channel is not None
        slot.child, slot.channel, slot.ready = None, None, False
        self._segment.mark_dead(slot.shard)
        self._on_gone(slot.shard)
        channel.close()
        if self.stopping:
            return
        cleared = self._directory.clear_shard(slot.shard)
        self._log.error(
            f"Shard {slot.shard} (pid {child.pid}) has died, {describe_end(child.ended.result())}; "
            f"{cleared} subjects cleared, replacing it"
        )
        self._after_death(slot)

    def _has_tried(self, slot: ShardProcess) -> None:
        slot.tried = True
        if all(other.tried for other in self.shards):
            self.all_tried.set()

    def _after_death(self, slot: ShardProcess) -> None:
        self._has_tried(slot)
        now = time.monotonic()
        slot.deaths.append(now)
        if len(slot.deaths) == DEATHS_MAX and now - slot.deaths[0] < DEATHS_WINDOW_SECONDS:
            slot.delay = min(DELAY_MAX_SECONDS, slot.delay * 2 or DELAY_MIN_SECONDS)
            asyncio.get_running_loop().call_later(slot.delay, self._replace, slot)
        else:
            self._replace(slot)

    def _replace(self, slot: ShardProcess) -> None:
        if not self.stopping:
            slot.epoch = self._segment.mark_booting(slot.shard)
            self._fork(slot)

    # -- for monitoring --

    def describe(self) -> list[dict[str, Any]]:
        """One row per shard: number, pid, epoch, ready."""
        return [
            {"shard": slot.shard, "pid": slot.pid, "epoch": slot.epoch, "ready": slot.ready}
            for slot in self.shards
        ]
