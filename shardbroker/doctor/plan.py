"""What is to be run here: the part of the options that the machine must be able to carry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shardbroker.options import Options


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes in bytes. `store`: where streams lie; None: there are none."""

    workers: int
    connections_max: int  # 0: no limit
    rings_bytes: int  # both kinds of ring, all pairs of shards, when every page has been used
    port: int
    store: Path | None
    sync_always: bool  # messages are acknowledged when they are on disk
    core_dumps: bool = False

    @classmethod
    def of(cls, options: Options, usable: int) -> Plan:
        """What these options mean on a machine with so many usable processors."""
        # Only here: it is compiled, and what looks at the compiled parts must not need them.
        from shardbroker.stream.settings import store_directory

        workers = options.worker_count(usable)
        streams = options.jetstream
        return cls(
            workers=workers,
            connections_max=max(options.max_connections, 0),
            rings_bytes=workers * (workers - 1) * (options.ring_bytes + options.control_ring_bytes),
            port=options.port,
            store=Path(store_directory(streams)) if streams.enabled else None,
            sync_always=not streams.sync_interval,
            core_dumps=options.core_dumps,
        )
