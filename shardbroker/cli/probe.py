"""`shardbroker check connection|health|jetstream`: probes for monitoring systems, of any NATS server; exit status 0 to 3.

connection URL    comes in as a client, and measures connecting, a PING, and a message to itself
health URL        /healthz and /varz of a monitoring port
jetstream URL     /jsz of a monitoring port: memory, storage, streams, consumers
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

import click
import orjson

from shardbroker.cli.fetch import DEFAULT_URL, FetchError, base_url, get_json
from shardbroker.cli.plugin import CRITICAL, OK, UNKNOWN, Result
from shardbroker.errors import BrokerError

LINE_BYTES_MAX = 1 << 20
PORT = 4222


class ProbeError(BrokerError):
    """The server is not as it should be."""


class Client:
    """As much of a client as a probe needs: INFO, CONNECT, PING, one message to itself. Blocking."""

    def __init__(self, url: str, seconds: float, ca_file: str = "") -> None:
        """Connects and reads INFO. Raises ProbeError or OSError."""
        self._buffer = b""
        given = urlsplit(url if "://" in url else f"nats://{url}")
        if given.scheme not in ("nats", "tls") or not given.hostname:
            raise ProbeError(
                f"{given.scheme}://{given.hostname}: not the address of a NATS server, like nats://host:{PORT}"
            )
        if given.username is not None:
            raise ProbeError("credentials in an address can be seen by all users of the machine: set NATS_USER and NATS_PASSWORD")
        self._user, self._password = os.environ.get("NATS_USER", ""), os.environ.get("NATS_PASSWORD", "")
        self._host = given.hostname
        self.socket = socket.create_connection((given.hostname, given.port or PORT), seconds)
        self.socket.settimeout(seconds)
        line = self._line()
        if not line.startswith(b"INFO "):
            raise ProbeError("no NATS server: it does not begin with INFO")
        try:
            self.info: dict[str, Any] = orjson.loads(line[5:])
        except orjson.JSONDecodeError:
            raise ProbeError("no NATS server: its INFO is not JSON") from None
        if given.scheme == "tls" or self.info.get("tls_required") or ca_file:
            context = ssl.create_default_context(cafile=ca_file or None)
            self.socket = context.wrap_socket(self.socket, server_hostname=given.hostname)

    def connect(self) -> None:
        """CONNECT with what the address or the environment say; returns when the server has answered."""
        options: dict[str, Any] = {
            "verbose": False, "pedantic": False, "lang": "shardbroker-check", "version": "1", "name": "shardbroker check",
        }  # fmt: skip
        if self._user:
            options |= {"user": self._user, "pass": self._password}
        elif token := os.environ.get("NATS_TOKEN"):
            options["auth_token"] = token
        self.socket.sendall(b"CONNECT " + orjson.dumps(options) + b"\r\n")
        self.ping()

    def ping(self) -> None:
        self.socket.sendall(b"PING\r\n")
        self._until(b"PONG")

    def request(self) -> None:
        """A message by way of the server to a subscription of our own."""
        subject = f"_INBOX.shardbroker-check.{os.urandom(12).hex()}".encode()
        self.socket.sendall(b"SUB %b 1\r\nPUB %b 2\r\nok\r\n" % (subject, subject))
        self._until(b"MSG " + subject + b" 1 2")
        if self._line() != b"ok":
            raise ProbeError("the message came back as another one")

    def _until(self, wanted: bytes) -> None:
        while (line := self._line()) != wanted:
            if line.startswith(b"-ERR"):
                raise ProbeError(line.decode(errors="replace"))
            if line == b"PING":
                self.socket.sendall(b"PONG\r\n")

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            data = self.socket.recv(1 << 16)
            if not data:
                raise ProbeError("the server closes the connection")
            self._buffer += data
            if len(self._buffer) > LINE_BYTES_MAX:
                raise ProbeError("no NATS server: a line without an end")
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def close(self) -> None:
        self.socket.close()


def _bounds(
    name: str, unit: str, warn: float | None = None, critical: float | None = None
) -> Callable[[Any], Any]:
    """--NAME-warn and --NAME-critical."""

    def add(command: Any) -> Any:
        for level, default in (("critical", critical), ("warn", warn)):
            help_text = f"{unit}." if default is None else f"{unit}; default {default:g}."
            command = click.option(f"--{name}-{level}", type=float, default=default, help=help_text)(command)
        return command

    return add


def _reports(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """What goes wrong is critical, what cannot be asked is unknown."""

    def around(work: Callable[..., None]) -> Callable[..., None]:
        @wraps(work)
        def command(**arguments: Any) -> None:
            result = Result(name)
            try:
                work(result, **arguments)
            except (BrokerError, OSError) as error:
                said = (
                    (error.strerror or str(error) or "no answer in time")
                    if isinstance(error, OSError)
                    else str(error)
                )
                result.say(said, CRITICAL)
            except (TypeError, ValueError, KeyError) as error:
                result.say(f"an answer that cannot be read: {type(error).__name__}: {error}", UNKNOWN)
            result.end()

        return command

    return around


@click.command(
    help="Come in as a client; with NATS_USER and NATS_PASSWORD, or NATS_TOKEN, of the environment."
)
@click.argument("url", default=f"nats://127.0.0.1:{PORT}")
@_bounds("connect", "Seconds", 0.5, 1.0)
@_bounds("rtt", "Seconds", 0.1, 0.5)
@_bounds("req", "Seconds", 0.1, 0.5)
@click.option(
    "--timeout", type=click.FloatRange(0.1, 600), default=5.0, show_default=True, help="Seconds to wait."
)
@click.option("--ca", "ca_file", default="", help="Certificate authorities; TLS is wanted.")
@_reports("CONNECTION")
def connection(result: Result, url: str, timeout: float, ca_file: str, **bounds: float | None) -> None:
    began = time.monotonic()
    client = Client(url, timeout, ca_file)
    try:
        client.connect()
        taken = time.monotonic() - began
        result.say(
            f"connected to {client.info.get('server_name', '')} {client.info.get('version', '')}".rstrip()
        )
        result.measure("connect_time", taken, "s", bounds["connect_warn"], bounds["connect_critical"])
        for name, key, work in (("rtt", "rtt", client.ping), ("request_time", "req", client.request)):
            began = time.monotonic()
            work()
            taken = time.monotonic() - began
            result.measure(name, taken, "s", bounds[f"{key}_warn"], bounds[f"{key}_critical"])
    finally:
        client.close()


@click.command(help="Ask a monitoring port whether the server is well, and for its figures.")
@click.argument("url", default=DEFAULT_URL)
@_bounds("connections", "Connections")
@_bounds("cpu", "Percent of one processor")
@_bounds("mem", "Bytes")
@_bounds("uptime", "Seconds; under it")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 600), default=5.0, show_default=True, help="Seconds to wait."
)
@click.option("--ca", "ca_file", default="", help="Certificate authorities of an https server.")
@_reports("HEALTH")
def health(result: Result, url: str, timeout: float, ca_file: str, **bounds: float | None) -> None:
    base = base_url(url)
    try:
        body = get_json(f"{base}/healthz", timeout, ca_file)
    except FetchError as error:
        if not error.status:
            raise
        body = _object(error.body)
        result.say(str(body.get("error") or error), CRITICAL)
    status = body.get("status")
    if status != "ok" and result.status == OK:
        result.say(f"status {status!r:.100}", CRITICAL)
    varz = get_json(f"{base}/varz", timeout, ca_file)
    result.say(f"{varz.get('server_name', '')} {varz['version']}, up {varz['uptime']}".strip())
    result.measure(
        "connections",
        float(varz["connections"]),
        "",
        bounds["connections_warn"],
        bounds["connections_critical"],
    )
    result.measure("cpu", float(varz["cpu"]), "%", bounds["cpu_warn"], bounds["cpu_critical"])
    result.measure("memory", float(varz["mem"]), "B", bounds["mem_warn"], bounds["mem_critical"])
    seconds = uptime_seconds(str(varz["uptime"]))
    if bounds["uptime_critical"] is not None and seconds < bounds["uptime_critical"]:
        result.say(f"up for {seconds} s only", CRITICAL)
    elif bounds["uptime_warn"] is not None and seconds < bounds["uptime_warn"]:
        result.say(f"up for {seconds} s only", 1)
    result.measure("uptime", seconds, "s")
    result.measure("slow_consumers", float(varz["slow_consumers"]), "c")


@click.command(help="Ask a monitoring port how much of what streams may take is taken.")
@click.argument("url", default=DEFAULT_URL)
@_bounds("mem", "Percent of the memory that streams may use", 75, 90)
@_bounds("store", "Percent of the storage that streams may use", 75, 90)
@_bounds("streams", "Streams")
@_bounds("consumers", "Consumers")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 600), default=5.0, show_default=True, help="Seconds to wait."
)
@click.option("--ca", "ca_file", default="", help="Certificate authorities of an https server.")
@_reports("JETSTREAM")
def jetstream(result: Result, url: str, timeout: float, ca_file: str, **bounds: float | None) -> None:
    jsz = get_json(f"{base_url(url)}/jsz", timeout, ca_file)
    if jsz.get("disabled"):
        result.say("JetStream is not enabled", CRITICAL)
        return
    limits = jsz.get("config") or {}
    for name, used, limit in (("memory", "memory", "max_memory"), ("storage", "storage", "max_storage")):
        key = "mem" if name == "memory" else "store"
        most = float(limits.get(limit) or 0)
        result.measure(name, float(jsz.get(used, 0)), "B")
        if most > 0:
            percent = 100 * float(jsz.get(used, 0)) / most
            result.measure(
                f"{name}_pct", round(percent, 3), "%", bounds[f"{key}_warn"], bounds[f"{key}_critical"]
            )
    for name in ("streams", "consumers"):
        result.measure(name, float(jsz.get(name, 0)), "", bounds[f"{name}_warn"], bounds[f"{name}_critical"])
    result.measure("messages", float(jsz.get("messages", 0)))
    api = jsz.get("api") or {}
    result.measure("api_errors", float(api.get("errors", 0)), "c")
    result.say(f"{jsz.get('streams', 0)} streams, {jsz.get('consumers', 0)} consumers")


def _object(data: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}


def uptime_seconds(text: str) -> int:
    """monitor.go myUptime backwards: "1y2d3h4m5s"."""
    total, number = 0, ""
    for letter in text:
        if letter.isdigit():
            number += letter
        else:
            total += int(number or 0) * {"y": 365 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}[letter]
            number = ""
    return total
