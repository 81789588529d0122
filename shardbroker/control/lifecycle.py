"""A broker from its start to its end: files, titles, log lines, signals, and the front that holds the parts together.

    start     listeners -> segment -> shards (fork) -> monitor (fork) -> control socket -> all shards READY -> accept -> "ready"
    TERM INT  stop accepting, shards flush and end, exit 0
    USR2      lame duck: stop accepting, tell clients, wait, close them gradually, exit 0. Meanwhile TERM does nothing, so
              that a service manager which sends both does not cut it short (signal.go); INT stops at once
    HUP       reload       USR1  open the log file anew

Source of the order and the words: server.go Start, Shutdown, lameDuckMode; signal.go. The front is one thread and imports
nothing that starts one, so that it can fork at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import functools
import ipaddress
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from setproctitle import setproctitle

from shardbroker import limits
from shardbroker.auth.model import GLOBAL_ACCOUNT
from shardbroker.auth.nkey import new_server_key
from shardbroker.control.helper import Helper
from shardbroker.control.log_process import LogProcess
from shardbroker.control.logs import Log
from shardbroker.control.notify import Notifier
from shardbroker.control.reload import reload_options
from shardbroker.control.requests import ControlSocket, Requests
from shardbroker.control.supervisor import Supervisor
from shardbroker.control.system import Requests as SystemRequests
from shardbroker.errors import BrokerError
from shardbroker.front.acceptor import Acceptor, Admission, open_listener
from shardbroker.front.placement import UNRESPONSIVE_SECONDS, Placement, connections_of
from shardbroker.front.tenants import Tenants
from shardbroker.ipc import cores
from shardbroker.ipc.channel import Channel, Message, MessageHandler
from shardbroker.monitor.times import rfc3339
from shardbroker.options import ClusterSettings, Options
from shardbroker.shard.gauges import Gauges
from shardbroker.shard.system import ServerInfo
from shardbroker.shard.worker import ShardSetup, log_exception, run_shard
from shardbroker.shm.segment import Segment
from shardbroker.store.directories import make_directory
from shardbroker.stream.settings import store_directory, stream_accounts
from shardbroker.wire.info import (
    NO_ADDRESSES,
    Addresses,
    InfoLines,
    join_host_port,
    new_server_id,
    parse_host_port,
)

# server.go: names of signals as Go prints them.
SIGNAL_NAMES = {
    signal.SIGINT: "interrupt",
    signal.SIGTERM: "terminated",
    signal.SIGUSR1: "user defined signal 1",
    signal.SIGUSR2: "user defined signal 2",
    signal.SIGHUP: "hangup",
}
# Lame duck with nothing to spread over: server.go lets it last a second.
LAME_DUCK_SECONDS_MIN = 1.0
MONITOR_HOST = "127.0.0.1"
# Settings that hold secrets, or names of people: monitoring and tools do not get them.
SECRET_OPTIONS = frozenset(
    {"user", "password", "token", "arguments", "users", "accounts", "operator_mode", "websocket", "cluster"}
)


# How long a store that another broker has is waited for.
LOCK_SECONDS = 5.0


class StartError(BrokerError):
    """The broker cannot start; said in one line, exit status 1."""


def run(options: Options, read: Callable[[Sequence[str]], Options]) -> int:
    """Serve until told to stop; the exit status. `read(arguments)` gives the options of a command line, for reloads."""
    if options.core_dumps:
        cores.allow()
    with Log(options) as log:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(Front(options, log, read).serve())
        except StartError as error:
            log.fatal(str(error))
            return 1
        finally:
            loop.close()


class Front:
    """The first process of a broker."""

    def __init__(self, options: Options, log: Log, read: Callable[[Sequence[str]], Options]) -> None:
        # Whole life
        self.log = log
        # A key only when it signs: the library with the curves takes its time to load.
        signs = options.auth_callout is not None or options.operator_mode is not None
        self.seed, self.server_id = new_server_key() if signs else (b"", new_server_id())
        # nats-server names a cluster that nobody named; so many characters.
        self._cluster_name = self.server_id[1:23] if options.cluster.port else ""
        self.start_ns = time.time_ns()
        self._read = read
        self._shards = options.worker_count(len(os.sched_getaffinity(0)))
        # Changed by a reload
        self.options = options
        self.config_load_ns = self.start_ns
        # State
        self._notifier = Notifier()
        self._stop = asyncio.Event()
        self._lame_duck: asyncio.Task[None] | None = None
        self._ports_file: Path | None = None
        self._helpers: list[Helper] = []
        self._peers: Helper | None = None
        self._monitor: Helper | None = None
        self.addresses = Addresses()
        self._certificates: dict[str, int] = {}
        self._shard_files: list[int] = []  # descriptors that a shard keeps open, and has no other use for

    # -- start and end --

    async def serve(self) -> int:
        """Everything from the first log line to the last."""
        writer = LogProcess(self.log)
        writer.start()
        try:
            return await self._serve()
        finally:
            await writer.stop()

    async def _serve(self) -> int:
        asyncio.get_running_loop().set_exception_handler(log_exception(self.log))
        self._handle_signals()
        self._say_hello()
        self._descriptors_max = raise_descriptor_limit()
        with contextlib.ExitStack() as stack:
            monitor_listener = self._open_monitor_listener()
            cluster_listener = self._open_cluster_listener()
            listeners = {"client": self._open_client_listener()}
            if (websocket := self._open_websocket_listener()) is not None:
                listeners["websocket"] = websocket
            self._prepare_accounts()
            self._read_certificates()
            await self._lock_store(stack)
            self._start_shards(stack)
            self._acceptors = [
                Acceptor(listener, kind, self.admission.accepted, self.log) for kind, listener in listeners.items()
            ]
            self.admission.on_waiting = self._hold
            requests = Requests(self.supervisor, self.describe, self.account_names, self.segment.fd)
            control = ControlSocket(requests)
            if monitor_listener is not None:
                self._monitor = self._start_helper(
                    "Monitor", self._monitor_main(monitor_listener), [monitor_listener], requests.on_message
                )
            if cluster_listener is not None:
                self._peers = self._start_helper(
                    "Peers", self._peers_main(cluster_listener), [cluster_listener], self._peers_message
                )
            self._write_files()
            # Whoever is let in finds all that there is: every stream, on whatever shard. A shard that dies of its start keeps
            # nobody out.
            await self._unless_stopped(self.supervisor.all_tried)
            for acceptor in self._acceptors:
                acceptor.start()
            await self._until_ready()
            await self._stop.wait()
            await self._shut_down(control)
        self.log.notice("Server Exiting..")
        return 0

    def _say_hello(self) -> None:
        options, log = self.options, self.log
        setproctitle(f"shardbroker: front {join_host_port(options.host, max(options.port, 0))}")
        log.notice("Starting nats-server")
        log.notice(f"  Version:  {limits.PROTOCOL_VERSION}")
        log.notice("  Git:      [not set]")
        log.notice(f"  Name:     {self.server_name}")
        log.notice(f"  ID:       {self.server_id}")
        log.notice(f"  Workers:  {self._shards}")
        if options.config_file:
            digest = f"({options.config_digest})" if options.config_digest else ""
            log.notice(f"Using configuration file: {options.config_file} {digest}".rstrip())
        for warning in options.warnings:
            log.warning(warning)
        if options.core_dumps:
            log.warning("core_dumps: a core has the secrets of the configuration and of clients, and their messages")
        if options.max_payload > limits.PAYLOAD_BYTES_WARN:
            log.warning(
                f"Maximum payloads over {limits.PAYLOAD_BYTES_WARN >> 20}.00 MB are generally discouraged and could "
                "lead to poor performance"
            )

    def _open_monitor_listener(self) -> socket.socket | None:
        options = self.options
        secure = bool(options.https_port)
        if not (options.http_port or secure):
            return None
        begin = "Can't start monitoring: "
        # server.go StartMonitoring
        if options.http_port and secure:
            raise StartError(
                f"{begin}can't specify both HTTP ({options.http_port}) and HTTPs ({options.https_port}) ports"
            )
        if secure and options.tls is None:
            raise StartError(f"{begin}TLS cert and key required for HTTPS")
        # nats-server shows its statistics to the whole network by default; we only when told an address.
        host = options.monitoring_host if options.monitoring_host != limits.HOST_DEFAULT else MONITOR_HOST
        if options.http_host:
            host = options.http_host
        wanted = options.https_port if secure else options.http_port
        listener = _listen(host, wanted, f"{begin}can't listen to the monitor port: {{why}}")
        port = listener.getsockname()[1]
        self.options = dataclasses.replace(options, http_host=host, **{"https_port" if secure else "http_port": port})
        self.log.notice(f"Starting http{'s' if secure else ''} monitor on {join_host_port(host, port)}")
        return listener

    def _open_client_listener(self) -> socket.socket:
        options = self.options
        listener = _listen(options.host, options.port, 'Error listening on port: {where}, "{why}"')
        self.options = dataclasses.replace(options, port=listener.getsockname()[1])
        setproctitle(f"shardbroker: front {join_host_port(self.options.host, self.options.port)}")
        return listener

    def _open_websocket_listener(self) -> socket.socket | None:
        settings = self.options.websocket
        if not settings.port:
            return None
        host = settings.host or self.options.host
        listener = _listen(host, settings.port, "Unable to listen for websocket connections: {why}")
        settings = dataclasses.replace(settings, host=host, port=listener.getsockname()[1])
        self.options = dataclasses.replace(self.options, websocket=settings)
        scheme = "wss" if settings.tls is not None else "ws"
        self.log.notice(f"Listening for websocket clients on {scheme}://{join_host_port(host, settings.port)}")
        if settings.tls is None:
            self.log.warning("Websocket not configured with TLS. DO NOT USE IN PRODUCTION!")
        return listener

    def _open_cluster_listener(self) -> socket.socket | None:
        settings = self.options.cluster
        if not settings.port:
            return None
        host = settings.host or self.options.host
        listener = _listen(host, settings.port, "Error listening on router port: {port} - {why}")
        settings = dataclasses.replace(settings, host=host, port=listener.getsockname()[1])
        self.options = dataclasses.replace(self.options, cluster=settings)
        self.log.notice(f"Cluster name is {self.options.cluster_name or self._cluster_name}")
        if not self.options.cluster_name:
            self.log.warning("Cluster name was dynamically generated, consider setting one")
        self.log.notice(f"Listening for route connections on {join_host_port(host, settings.port)}")
        return listener

    def _hold(self, held: bool) -> None:
        for acceptor in self._acceptors:
            acceptor.hold(held)

    def _prepare_accounts(self) -> None:
        """The directory of account JWTs, before anyone reads it."""
        mode = self.options.operator_mode
        if mode is None:
            return
        # Large, and only for who has operators.
        from shardbroker.auth.remote import UrlStore
        from shardbroker.auth.resolver import DirectoryStore, ResolverError
        from shardbroker.auth.trust import make_store

        store = make_store(mode)
        try:
            if isinstance(store, DirectoryStore):
                store.prepare()
                for key, token in mode.preload:
                    store.save_newer(key, token)
            elif isinstance(store, UrlStore):
                # Whether anybody is at home (server.go NewServer).
                store.source.get("")
        except ResolverError as error:
            raise StartError(str(error)) from error
        if isinstance(store, DirectoryStore):
            self.log.notice(f"Managing all jwt in exclusive directory {mode.resolver.directory if mode.resolver else ''}")

    async def _lock_store(self, stack: contextlib.ExitStack) -> None:
        """One broker at a time may have a store. The lock is of the open file, which the shards get from the front: should it be
        killed, the lock holds until the last shard that may still write has ended as well."""
        if not self.options.jetstream.enabled:
            return
        directory = Path(store_directory(self.options.jetstream)) / "jetstream"
        try:
            make_directory(directory)
            lock = os.open(directory / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(
                f"Can't start JetStream: could not create storage directory - {error.strerror}: {directory}"
            ) from error
        stack.callback(os.close, lock)
        self._shard_files.append(lock)
        # What a killed broker has left ends within moments.
        end = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    raise StartError(
                        f"Can't start JetStream: another broker has its streams in {directory}"
                    ) from None
            await asyncio.sleep(0.05)
        self.log.notice("Starting JetStream")
        self.log.notice(f'  Store Directory: "{directory}"')

    def _start_shards(self, stack: contextlib.ExitStack) -> None:
        options = self.options
        least = 1 << (limits.CONTROL_RING_LINES * options.max_control_line - 1).bit_length()
        control_bytes = max(options.control_ring_bytes, least)
        # What the rings and the shards' buffers are made for: no reload may go above it.
        self._control_line_max = control_bytes // limits.CONTROL_RING_LINES
        self.segment = Segment.create(self._shards, options.ring_bytes, control_bytes)
        self._eventfds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(self._shards)]
        for descriptor in self._eventfds:
            stack.callback(os.close, descriptor)
        gauges = Gauges(self.segment.map)
        shard_max = connections_of(self._descriptors_max, self._shards)
        self.placement = Placement(self._shards, lambda shard: gauges.read(shard, "closed_total"), shard_max)
        self._warn_of_descriptors()
        self.admission = Admission(self.placement, connections_max=options.max_connections)
        stack.callback(self.admission.close)
        self.tenants = Tenants(self._shards)
        self.supervisor = Supervisor(
            self.segment.map,
            self._shard_main,
            self.log,
            on_ready=self._shard_ready,
            on_gone=self._shard_gone,
            on_message=self._shard_message,
        )
        said = self.info_lines(options, False).fields
        server = ServerInfo(self.server_id, said["server_name"], said["host"], options)
        self.system = SystemRequests(self.supervisor, self.segment.map, server, self, self._reload, self.log)
        self.admission.watch(lambda shard: self.supervisor.responsive(shard, UNRESPONSIVE_SECONDS))
        if options.jetstream.enabled:
            # Before the fork: the shards share its pages, and need not read it each.
            import shardbroker.stream.services  # noqa: F401

        self.supervisor.start()

    def _warn_of_descriptors(self) -> None:
        room = self._shards * self.placement.shard_max
        if self.options.max_connections > room:
            self.log.warning(
                f"max_connections is {self.options.max_connections}, but {self._descriptors_max} descriptors a process leave "
                f"room for {room} connections; raise the hard limit of open files (ulimit -Hn) for more"
            )

    def _shard_main(self, shard: int, epoch: int, channel: Channel) -> tuple[Callable[[], int], list[int]]:
        setup = ShardSetup(
            shard=shard,
            shards=self._shards,
            segment=self.segment.map,
            eventfds=self._eventfds,
            control_line_max=self._control_line_max,
            options=self.options,
            channel=channel,
            info=self.info_lines,
            log=self.log,
            seed=self.seed,
        )
        return functools.partial(run_shard, setup), [
            *self._eventfds,
            *self._shard_files,
            self.segment.fd,
            *self.log.descriptors(),
        ]

    def _start_helper(
        self, name: str, main: Callable[[Channel], int], listeners: list[socket.socket], on_message: MessageHandler
    ) -> Helper:
        helper = Helper(name, main, listeners, [self.segment.fd, *self.log.descriptors()], on_message, self.log)
        self._helpers.append(helper)
        helper.start()
        return helper

    def _monitor_main(self, listener: socket.socket) -> Callable[[Channel], int]:
        options = self.options
        tls = dataclasses.asdict(options.tls) if options.https_port and options.tls is not None else None
        return functools.partial(_monitor_main, self.segment, listener, options.http_base_path, tls)

    def _peers_main(self, listener: socket.socket) -> Callable[[Channel], int]:
        options = self.options
        route = join_host_port(options.cluster.host, options.cluster.port)
        if options.cluster.advertise:
            route = join_host_port(*parse_host_port(options.cluster.advertise, options.cluster.port))
        client, websocket = listener_addresses(options)
        own = (self.server_id, self.server_name, options.cluster_name, route)
        told = ((), ()) if options.cluster.no_advertise else (client, websocket)
        return functools.partial(_peers_main, own, told, options.cluster, listener, self.log)

    def _peers_message(self, channel: Channel, message: Message, descriptors: list[int]) -> None:
        """Other servers for clients to go to. Clients that know of them are told of ours as well (server.go)."""
        client, websocket = message["client"], message["websocket"]
        if self.options.cluster.no_advertise:
            return
        own_client, own_websocket = listener_addresses(self.options)
        self.addresses = Addresses(
            own_client=own_client if client else (), client=tuple(client),
            own_websocket=own_websocket if websocket else (), websocket=tuple(websocket),
        )  # fmt: skip
        self.supervisor.send_all({"op": "addresses", "addresses": dataclasses.asdict(self.addresses)})

    def _shard_ready(self, shard: int, channel: Channel) -> None:
        channel.send({"op": "addresses", "addresses": dataclasses.asdict(self.addresses)})
        if self._lame_duck is not None:
            channel.send({"op": "lame_duck"})
        self.placement.forget(shard)
        self.admission.shard_ready(shard, channel)

    def account_names(self) -> dict[str, list[str]]:
        """All accounts that the configuration knows, and those of them that have streams."""
        options = self.options
        names = {GLOBAL_ACCOUNT, *(account.name for account in options.accounts), options.system_account} - {""}
        streams = stream_accounts(options) if options.jetstream.enabled else {}
        return {"accounts": sorted(names), "stream_accounts": sorted(streams)}

    def _shard_gone(self, shard: int) -> None:
        self.tenants.shard_gone(shard)
        self.admission.shard_gone(shard)

    def _shard_message(self, shard: int, message: Message, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)
        op = message.get("op", "")
        if op.startswith("account_"):
            answer = self.tenants.on_message(shard, message)
            channel = self.supervisor.shards[shard].channel
            if answer is not None and channel is not None:
                channel.send(answer)
        elif op.startswith("system_"):
            self.system.on_message(shard, message)
        elif op == "lost":
            self.placement.count(shard, -message["count"])
            self.log.error(f"Shard {shard} has no descriptors left, {message['count']} connections dropped")

    async def _unless_stopped(self, event: asyncio.Event) -> None:
        """Wait for it, or for the end."""
        waits = [asyncio.ensure_future(each.wait()) for each in (event, self._stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _until_ready(self) -> None:
        await self._unless_stopped(self.supervisor.all_ready)
        if not self._stop.is_set():
            where = join_host_port(self.options.host, self.options.port)
            self.log.notice(f"Listening for client connections on {where}")
            if self.options.proxy_protocol:
                self.log.notice("PROXY protocol enabled for client connections")
            self._say_tls()
            self.log.notice("Server is ready")
            self._notifier.ready(self._status())
            self._notifier.watch(self._healthy, self._status)

    def _say_tls(self) -> None:
        tls = self.options.tls
        if tls is None:
            return
        first = tls.handshake_first and not tls.handshake_first_fallback
        choice = self.options.allow_non_tls and not first
        self.log.notice(f"TLS {'available' if choice else 'required'} for client connections")
        if first:
            self.log.warning('Clients that are not using "TLS Handshake First" option will fail to connect')

    def _status(self) -> str:
        """What a service manager shows."""
        return f"{self._shards} workers, {self.placement.open_all()} connections"

    def _healthy(self, seconds: float) -> bool:
        """Whether every shard that serves has taken a turn in this time; one that is being started has its time."""
        slots = self.supervisor.shards
        return all(self.supervisor.responsive(slot.shard, seconds) for slot in slots if slot.ready)

    async def _shut_down(self, control: ControlSocket) -> None:
        self._notifier.stopping("Stopping")
        self._notifier.close()
        self.log.notice("Initiating Shutdown...")
        self._stop_listening()
        if self._lame_duck is not None:
            self._lame_duck.cancel()
        await self.system.farewell("SHUTDOWN")
        await asyncio.gather(self.supervisor.stop(), *(helper.stop() for helper in self._helpers))
        control.close()
        if self._ports_file is not None:
            self._ports_file.unlink(missing_ok=True)

    def _stop_listening(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()

    # -- signals --

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        actions = {
            signal.SIGINT: self._stop.set,
            signal.SIGTERM: self._terminate,
            signal.SIGUSR1: self._reopen_logs,
            signal.SIGUSR2: self._enter_lame_duck,
            signal.SIGHUP: self._reload,
        }
        for number, action in actions.items():
            loop.add_signal_handler(number, self._on_signal, number, action)

    def _on_signal(self, number: signal.Signals, action: Callable[[], None]) -> None:
        self.log.notice(f'Trapped "{SIGNAL_NAMES[number]}" signal')
        action()

    def _terminate(self) -> None:
        # One iteration later: of two signals that wait for a busy process the kernel's handler for the second runs first,
        # and an USR2 that was sent before this TERM must find the broker alive.
        asyncio.get_running_loop().call_soon(self._end_unless_lame_duck)

    def _end_unless_lame_duck(self) -> None:
        if self._lame_duck is None:
            self._stop.set()

    def _reopen_logs(self) -> None:
        try:
            self.log.reopen()
        except BrokerError as error:
            self.log.error(str(error))

    def _reload(self) -> None:
        self._notifier.reloading()
        self._reload_options()
        self._notifier.ready(self._status())

    def _reload_options(self) -> None:
        old = self.options
        try:
            new, lines = reload_options(old, self._read, self._control_line_max)
            self.log.apply(new)
        except BrokerError as error:
            self.log.error(f"Failed to reload server configuration: {error}")
            return
        self.options = new
        self.config_load_ns = time.time_ns()
        self._read_certificates()
        self.supervisor.send_all({"op": "settings", "options": dataclasses.asdict(new)})
        if self._monitor is not None and new.https_port:
            self._monitor.send({"op": "tls", "tls": dataclasses.asdict(new.tls) if new.tls is not None else None})
        self.admission.connections_max = new.max_connections
        excess = self.placement.open_all() - new.max_connections if new.max_connections else 0
        if excess > 0:
            self._shed(excess)
        if (old.pid_file, old.ports_file_dir) != (new.pid_file, new.ports_file_dir):
            try:
                self._write_files()
            except StartError as error:
                self.log.error(str(error))
        for warning in new.warnings:
            self.log.warning(warning)
        self._warn_of_descriptors()
        for line in lines:
            self.log.notice(line)
        self.log.notice("Reloaded server configuration")

    def _shed(self, count: int) -> None:
        self.log.notice(f"Closed {count} connections to fall within max_connections")
        for slot in self.supervisor.shards:
            share = min(count, -(-count // (self._shards - slot.shard)), self.placement.open(slot.shard))
            if slot.channel is not None and share > 0:
                slot.channel.send({"op": "shed", "count": share})
                count -= share

    def _enter_lame_duck(self) -> None:
        if self._lame_duck is None and not self._stop.is_set():
            self._lame_duck = asyncio.get_running_loop().create_task(self._be_lame_duck())

    async def _be_lame_duck(self) -> None:
        self.log.notice("Entering lame duck mode, stop accepting new clients")
        self._notifier.stopping("Lame duck: clients are asked to go elsewhere")
        self._stop_listening()
        await self.system.farewell("LAMEDUCK")
        options = self.options
        if self._peers is not None:
            self._peers.send({"op": "lame_duck"})
        if self.placement.open_all() > 0:
            self.supervisor.send_all({"op": "lame_duck"})
            await asyncio.sleep(options.lame_duck_grace_period)
            self.log.notice("Closing existing clients")
            spread = options.lame_duck_duration - options.lame_duck_grace_period
            if spread <= 0:
                spread = LAME_DUCK_SECONDS_MIN
            await self.supervisor.ask_all({"op": "close_all", "spread": spread}, spread * 1.5 + 5.0)
        self._stop.set()

    # -- what others may know --

    @property
    def server_name(self) -> str:
        return self.options.server_name or self.server_id

    def info_lines(self, options: Options, lame_duck: bool, addresses: Addresses = NO_ADDRESSES) -> InfoLines:
        """The maker of INFO lines under these options."""
        return InfoLines(
            options,
            server_id=self.server_id,
            cluster=options.cluster_name or self._cluster_name,
            addresses=addresses,
            lame_duck=lame_duck,
        )

    def describe(self) -> dict[str, Any]:
        """For monitoring and tools; no secrets."""
        options = self.options
        shown = {
            field.name: _plain(getattr(options, field.name))
            for field in dataclasses.fields(options)
            if field.name not in SECRET_OPTIONS
        }
        mode = options.operator_mode
        return {
            "server_id": self.server_id,
            "server_name": self.server_name,
            "pid": os.getpid(),
            "monitor_pid": self._monitor.pid if self._monitor is not None else 0,
            "start_ns": self.start_ns,
            "config_load_ns": self.config_load_ns,
            "auth_required": options.auth_required,
            "lame_duck": self._lame_duck is not None,
            "options": shown,
            "operators": list(mode.operators) if mode is not None else [],
            "certificates": self._certificates,
            "websocket": _shown_websocket(options, self._certificates.get("websocket")),
            "cluster": self._shown_cluster(),
            "shards": self.supervisor.describe(),
        } | self._advertised()

    def _advertised(self) -> dict[str, list[str]]:
        """Where clients are told to come, beside where they came from."""
        known = self.addresses
        client = self.info_lines(self.options, False, known).fields.get("connect_urls", [])
        websocket = [*known.own_websocket, *known.websocket]
        return ({"connect_urls": client} if client else {}) | ({"ws_connect_urls": websocket} if websocket else {})

    def _shown_cluster(self) -> dict[str, Any]:
        """As /varz has it, without passwords (monitor.go ClusterOptsVarz)."""
        settings, name = self.options.cluster, self.options.cluster_name or self._cluster_name
        if not settings.port:
            return {"name": name} if name else {}
        return {
            "name": name,
            "addr": settings.host,
            "cluster_port": settings.port,
            "auth_timeout": settings.auth_timeout,
            "urls": [route.rpartition("@")[2].rpartition("/")[2] for route in settings.routes],
        }

    def _read_certificates(self) -> None:
        """When the listeners' certificates end; nanoseconds since 1970, by listener."""
        options = self.options
        used = {
            "client": options.tls,
            "websocket": options.websocket.tls if options.websocket.port else None,
            "monitor": options.tls if options.https_port else None,
        }
        self._certificates = {}
        for listener, tls in used.items():
            if tls is not None:
                # Only here: the library behind it is large, and a broker without TLS has no use for it.
                from shardbroker.shard.tls import certificate_end

                self._certificates[listener] = certificate_end(tls)

    # -- files --

    def _write_files(self) -> None:
        options = self.options
        try:
            if options.pid_file:
                Path(options.pid_file).write_text(str(os.getpid()))
        except OSError as error:
            raise StartError(f"Could not write pidfile: {error}") from error
        if self._ports_file is not None:
            self._ports_file.unlink(missing_ok=True)
            self._ports_file = None
        if options.ports_file_dir:
            path = Path(options.ports_file_dir) / f"{options.program}_{os.getpid()}.ports"
            ports: dict[str, list[str]] = {"nats": urls("nats", options.host, options.port)}
            if options.websocket.port:
                scheme = "wss" if options.websocket.tls is not None else "ws"
                ports["websocket"] = urls(scheme, options.websocket.host, options.websocket.port)
            if options.cluster.port:
                ports["cluster"] = urls("nats", options.cluster.host, options.cluster.port)
            if options.http_port:
                ports["monitoring"] = urls("http", options.http_host, options.http_port)
            elif options.https_port:
                ports["monitoring"] = urls("https", options.http_host, options.https_port)
            # A helper reads the file as soon as it sees it.
            new = path.with_suffix(".new")
            try:
                new.write_bytes(orjson.dumps(ports))
                new.rename(path)
            except OSError as error:
                self.log.error(f"Error writing ports file ({path}): {error.strerror}")
                return
            self._ports_file = path


def _monitor_main(
    segment: Segment, listener: socket.socket, base_path: str, tls: dict[str, Any] | None, channel: Channel
) -> int:
    setproctitle("shardbroker: monitor")
    # Only here: the web framework is large, and no other process needs it.
    from shardbroker.monitor.server import run_monitor

    return run_monitor(segment, channel, listener, base_path, tls)


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _shown_websocket(options: Options, certificate_end_ns: int | None) -> dict[str, Any]:
    """What /varz shows of the websocket block; no secrets (monitor.go WebsocketOptsVarz)."""
    settings = options.websocket
    if not settings.port:
        return {}
    names = ("host", "port", "advertise", "no_auth_user", "jwt_cookie", "no_tls", "same_origin", "compression", "auth_timeout")
    shown: dict[str, Any] = {name: getattr(settings, name) for name in names}
    shown |= {
        "handshake_timeout": round(settings.handshake_timeout * 1e9),
        "allowed_origins": list(settings.allowed_origins),
        "tls_map": settings.tls is not None and settings.tls.verify_and_map,
        "tls_pinned_certs": list(settings.tls.pinned_certs) if settings.tls is not None else [],
    }
    if certificate_end_ns:
        shown["tls_cert_not_after"] = rfc3339(certificate_end_ns)
    return shown


def _peers_main(
    own: tuple[str, str, str, str],
    addresses: tuple[tuple[str, ...], tuple[str, ...]],
    settings: ClusterSettings,
    listener: socket.socket,
    log: Log,
    channel: Channel,
) -> int:
    setproctitle("shardbroker: peers")
    # Only here: the other processes have nothing to do with networks of servers.
    from shardbroker.control.peers import Member, run_peers

    return run_peers(Member(*own, *addresses), settings, channel, listener, log)


def raise_descriptor_limit() -> int:
    """As many descriptors as we may have, as Go programs take them: each connection is one. How many that are, for each
    process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def _listen(host: str, port: int, failed: str) -> socket.socket:
    """A listener; port -1: any free one. Raises StartError: `failed` with {where}, {port} and {why} filled in."""
    port = max(port, 0)
    where = join_host_port(host, port)
    try:
        return open_listener(host, port)
    except OSError as error:
        raise StartError(failed.format(where=where, port=port, why=listen_error(where, error))) from error


def listen_error(where: str, error: OSError) -> str:
    """What Go's net.Listen would say."""
    reason = (error.strerror or str(error)).lower()
    return f"listen tcp {where}: bind: {reason}"


def listener_addresses(options: Options) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """host:port at which other machines' clients reach us, and WebSocket clients (server.go getConnectURLs)."""
    client = _reachable(options.client_advertise, options.host, options.port)
    settings = options.websocket
    return client, _reachable(settings.advertise, settings.host, settings.port) if settings.port else ()


def _reachable(advertise: str, host: str, port: int) -> tuple[str, ...]:
    if advertise:
        return (join_host_port(*parse_host_port(advertise, port)),)
    found = [url.partition("://")[2] for url in urls("nats", host, port)]
    return tuple(
        address for address in found if address == join_host_port(host, port) or not _is_local(address)
    )


def _is_local(address: str) -> bool:
    host = ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    return host.is_loopback or host.is_link_local


def urls(scheme: str, host: str, port: int) -> list[str]:
    """Where a listener can be reached: its address, or all of the machine's when it has none of its own."""
    try:
        if not ipaddress.ip_address(host).is_unspecified:
            return [f"{scheme}://{join_host_port(host, port)}"]
    except ValueError:
        return [f"{scheme}://{join_host_port(host, port)}"]
    # Only here: twenty milliseconds that most starts can do without.
    import psutil

    families = (socket.AF_INET,) if ":" not in host else (socket.AF_INET, socket.AF_INET6)
    addresses = [
        item.address.partition("%")[0]
        for interface in psutil.net_if_addrs().values()
        for item in interface
        if item.family in families
    ]
    return [f"{scheme}://{join_host_port(address, port)}" for address in addresses]
