"""What the operator's options mean for streams. Imported by every broker, so it imports no stream."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shardbroker.auth.model import GLOBAL_ACCOUNT, JetStreamLimits
from shardbroker.options import JetStreamSettings, Options

# nats-server takes three quarters of the machine where nothing is said (jetstream.go dynJetStreamConfig).
PART = 3 / 4
# nats-server's request_queue_limit
INFLIGHT_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the operator decided. Sizes in bytes, times in ns; 0: no limit."""

    store_dir: str
    sync_interval_ns: int = 0
    domain: str = ""
    server_name: str = ""
    max_memory: int = 0
    max_store: int = 0
    max_duplicates_ns: int = 0
    strict: bool = True  # refuse fields that nobody knows
    inflight_max: int = INFLIGHT_MAX  # requests of an account at a time, a shard; what comes above is dropped with an advisory
    max_ack_pending: int = 0
    max_request_batch: int = 0
    threads: int = 2


@dataclass(frozen=True, slots=True)
class Tiers:
    """What an account's streams may take: limits for all of them (the name ""), or by their replicas (R1, R3)."""

    by_name: tuple[tuple[str, JetStreamLimits], ...] = (("", JetStreamLimits()),)

    @property
    def limits(self) -> JetStreamLimits | None:
        """Those of a stream with one replica, as all are here; None: the account has none for such (selectLimits)."""
        found = dict(self.by_name)
        return found.get("", found.get("R1"))

    @property
    def tiered(self) -> bool:
        return "" not in dict(self.by_name)


def store_directory(settings: JetStreamSettings) -> str:
    """Where streams lie; below the directory for temporary files when nothing is said, as nats-server's."""
    return settings.store_dir or str(Path(tempfile.gettempdir()) / "nats" / "jetstream")


def stream_settings(options: Options, server_name: str) -> Settings:
    """The part of the options that streams need."""
    given = options.jetstream
    directory = store_directory(given)
    return Settings(
        store_dir=directory,
        sync_interval_ns=round(given.sync_interval * 1e9),
        domain=given.domain,
        server_name=server_name,
        max_memory=max_memory(given),
        max_store=max_store(given),
        max_duplicates_ns=round(given.duplicate_window * 1e9),
        strict=given.strict,
        inflight_max=given.request_queue_limit if given.request_queue_limit > 0 else INFLIGHT_MAX,
        max_ack_pending=given.max_ack_pending,
        max_request_batch=given.max_request_batch,
    )


def stream_accounts(options: Options) -> dict[str, Tiers]:
    """Who has streams by the configuration, and what they may take: those that it gives some, or all that there is when the
    global account is alone (server.go enableJetStreamAccounts, configAllJetStreamAccounts). Not those of an operator."""
    named = [account for account in options.accounts if account.name != options.system_account]
    given = {account.name: account.jetstream for account in named}
    if all(name == GLOBAL_ACCOUNT for name in given) and options.operator_mode is None:
        return {GLOBAL_ACCOUNT: Tiers(given.get(GLOBAL_ACCOUNT) or Tiers().by_name)}
    return {name: Tiers(tiers) for name, tiers in given.items() if tiers}


def max_memory(settings: JetStreamSettings) -> int:
    """Bytes that streams in memory may use."""
    if settings.max_memory >= 0:
        return settings.max_memory
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * PART)


def max_store(settings: JetStreamSettings) -> int:
    """Bytes that streams on disk may use: of what is free, and what is used by them already is not counted against them."""
    if settings.max_store >= 0:
        return settings.max_store
    path = Path(store_directory(settings))
    while not path.exists():
        path = path.parent
    return int(shutil.disk_usage(path).free * PART)
