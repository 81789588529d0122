"""Log lines to syslog, here or elsewhere, in the words of Go's log/syslog, which nats-server uses.

    here       <29>Nov 24 10:02:11 shardbroker[7]: text                    facility daemon; /dev/log (RFC 3164)
    elsewhere  <5>2026-11-24T10:02:11Z host shardbroker[7]: text           facility kern, as nats-server's LOG_DEBUG gives it

Source: logger/syslog.go; Go's log/syslog Writer.connect, writeString. Used by the process that writes the log only, since
it may wait; what a receiver does not take is lost and counted.
"""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from shardbroker.control.log_lines import Line, one_line
from shardbroker.errors import BrokerError, ConfigError

# By kind of line: notice, warning, err, crit, debug, notice.
SEVERITIES: Final = (5, 4, 3, 2, 7, 5)
FACILITY_LOCAL: Final = 3 << 3
LOCAL_PATHS: Final = ("/dev/log", "/var/run/syslog", "/var/run/log")
WAIT_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 1.0
# Of a datagram, and of what receivers take: rsyslog cuts at 8 KiB, syslog-ng at 64.
MESSAGE_BYTES_MAX: Final = 60 << 10

Address = tuple[str, str, int]


def parse_address(text: str) -> Address:
    """(network, host or path, port) of udp://host:port, tcp://host:port or unix:///path. Raises ConfigError."""
    try:
        url = urlsplit(text)
        network, port = url.scheme, url.port
    except ValueError as error:
        raise ConfigError(f"remote_syslog: {error}") from None
    if network == "unix" and url.path:
        return network, url.path, 0
    if network not in ("udp", "tcp"):
        raise ConfigError(f'error invalid network type: "{network}"')
    if not url.hostname or port is None:
        raise ConfigError(f'remote_syslog: missing host or port in address "{url.netloc}"')
    return network, url.hostname, port


class Syslog:
    """One receiver. `address` empty: the machine's own."""

    def __init__(self, address: str, tag: str) -> None:
        """Connects; raises BrokerError when that is impossible, as nats-server does not start then."""
        self._address = parse_address(address) if address else None
        self._tag = tag
        self._socket: socket.socket | None = None
        self._stream = False
        self._local = True
        self._next_try = 0.0
        self._lost = 0
        try:
            self._connect()
        except OSError as error:
            raise BrokerError(f'error connecting to syslog: "{_what(error)}"') from None

    def write(self, line: Line, text: str) -> None:
        """Send it, over a new connection when the old one has gone; never raises."""
        for attempt in range(2):
            try:
                if self._socket is None:
                    if time.monotonic() < self._next_try:
                        break
                    self._connect()
                if self._lost:
                    lost, self._lost = self._lost, 0
                    note = Line(line.time_ns, line.pid, line.process, 1, "")
                    self._send(note, f"{lost} log lines could not be sent to syslog")
                self._send(line, text)
                return
            except OSError:
                self.close()
                if attempt:
                    self._next_try = time.monotonic() + RETRY_SECONDS
        self._lost += 1

    def _send(self, line: Line, text: str) -> None:
        assert self._socket is not None
        data = self._message(line, one_line(text)).encode("utf-8", "backslashreplace")
        data = data[:MESSAGE_BYTES_MAX] + b"\n"
        if self._stream:
            self._socket.sendall(data)
        else:
            self._socket.send(data)

    def _message(self, line: Line, text: str) -> str:
        severity, second = SEVERITIES[line.kind], line.time_ns // 1_000_000_000
        if self._local:
            moment = time.localtime(second)
            stamp = f"{time.strftime('%b', moment)} {moment.tm_mday:2d} {time.strftime('%H:%M:%S', moment)}"
            return f"<{FACILITY_LOCAL | severity}>{stamp} {self._tag}[{line.pid}]: {text}"
        stamp = datetime.fromtimestamp(second, UTC).astimezone().isoformat().replace("+00:00", "Z")
        # nats-server's facility for remote syslog is 0.
        return f"<{severity}>{stamp} {socket.gethostname() or 'localhost'} {self._tag}[{line.pid}]: {text}"

    def _connect(self) -> None:
        if self._address is None:
            self._connect_here()
            return
        network, host, port = self._address
        if network == "unix":
            self._socket, self._stream, self._local = _unix(host, socket.SOCK_STREAM), True, True
            return
        kind = socket.SOCK_DGRAM if network == "udp" else socket.SOCK_STREAM
        error: OSError | None = None
        for family, _, _, _, where in socket.getaddrinfo(host, port, type=kind):
            made = socket.socket(family, kind)
            made.settimeout(WAIT_SECONDS)
            try:
                made.connect(where)
            except OSError as failure:
                made.close()
                error = failure
                continue
            self._socket, self._stream, self._local = made, network == "tcp", False
            return
        raise error or OSError("no address")

    def _connect_here(self) -> None:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            for path in LOCAL_PATHS:
                try:
                    self._socket = _unix(path, kind)
                except OSError:
                    continue
                self._stream, self._local = kind == socket.SOCK_STREAM, True
                return
        raise OSError("Unix syslog delivery error")

    def fileno(self) -> int:
        """Of the socket; -1 while there is none."""
        return self._socket.fileno() if self._socket is not None else -1

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _unix(path: str, kind: int) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind)
    made.settimeout(WAIT_SECONDS)
    try:
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made


def _what(error: OSError) -> str:
    return (error.strerror or str(error) or "time-out").lower() if error.errno else str(error)
