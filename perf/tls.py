"""One publisher to one subscriber over TLS, servers in turn; rates, and what each message cost the server's processors.

    publisher --TLS--> server --TLS--> subscriber          one connection each, a process each

`python -m perf.tls [--servers SPEC,...] [--sizes 16,128,...] [--repeat 5] [--no-tls]`; specs as in servers.py. The clients use
OpenSSL over the same large pieces for every server, so that what differs is the server. The subscriber compares every byte
with what was sent: the frames repeat, so a piece is right when it continues the pattern. Prints a table: median messages a
second, with the smallest and largest, and microseconds of the server's processor time a message.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import ipaddress
import multiprocessing
import socket
import ssl
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from perf.servers import Server

HOST = "127.0.0.1"
# What one write or read moves at most; the kernel's socket buffers are of that order.
PIECE_BYTES = 256 << 10
# A run moves so many bytes of frames, or so many messages, whichever is less.
RUN_BYTES = 300 << 20
RUN_MESSAGES = 1_500_000
WATCHDOG_SECONDS = 60
PING = b"PING\r\n"


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed one for 127.0.0.1, and its key: P-256, as most certificates are today."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "perf")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
    made = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    files = directory / "cert.pem", directory / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(*form))
    return files


def connect(port: int, authority: str) -> socket.socket:
    """A connection that is in; with TLS if an authority is named."""
    link = socket.create_connection((HOST, port), WATCHDOG_SECONDS)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line = b""
    while not line.endswith(b"\r\n"):
        line += link.recv(1)
    if authority:
        link = ssl.create_default_context(cafile=authority).wrap_socket(link, server_hostname=HOST)
    link.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nPING\r\n')
    expect_pong(link)
    return link


def expect_pong(link: socket.socket) -> None:
    line = b""
    while line != b"PONG\r\n":
        line = line[line.find(b"\n") + 1 :] if line.endswith(b"\n") else line
        line += link.recv(1)


def publish(port: int, authority: str, size: int, count: int, barrier: Any) -> None:
    """Frames as fast as the server takes them; waits for its PONG at the end, so that it has had all."""
    link = connect(port, authority)
    frame = b"PUB x %d\r\n%b\r\n" % (size, b"p" * size)
    each = max(1, PIECE_BYTES // len(frame))
    piece = frame * each
    barrier.wait(WATCHDOG_SECONDS)
    for _ in range(count // each):
        link.sendall(piece)
    link.sendall(frame * (count % each) + b"PING\r\n")
    expect_pong(link)


def receive(port: int, authority: str, size: int, count: int, barrier: Any, result: Any) -> None:
    """All of them, each byte compared; the time of the first and the last byte into `result`."""
    link = connect(port, authority)
    frame = b"MSG x 1 %d\r\n%b\r\n" % (size, b"p" * size)
    pattern = memoryview(frame * (PIECE_BYTES // len(frame) + 2))
    link.sendall(b"SUB x 1\r\nPING\r\n")
    expect_pong(link)
    buffer = bytearray(PIECE_BYTES)
    view = memoryview(buffer)
    wanted, got = count * len(frame), 0
    barrier.wait(WATCHDOG_SECONDS)
    begun = time.monotonic()
    while got < wanted:
        n = link.recv_into(buffer)
        at = got % len(frame)
        if n and view[:n] == pattern[at : at + n]:
            got += n
            continue
        # The one PING by which a server measures the round trip, once, and perhaps in two parts; else it is wrong.
        good = next((i for i in range(n) if view[i] != pattern[at + i]), n)
        rest = bytes(view[good:n])
        while n and len(rest) < len(PING) and PING.startswith(rest):
            rest += link.recv(len(PING) - len(rest))
        if not rest.startswith(PING) or rest[len(PING) :] != pattern[(got + good) % len(frame) :][: len(rest) - len(PING)]:
            result.put(f"wrong bytes, or the end, at {got + good} of {wanted}: {rest[:80]!r}")
            return
        got += good + len(rest) - len(PING)
    result.put(time.monotonic() - begun)


def run(port: int, authority: str, size: int) -> tuple[float, int]:
    """Seconds, and messages."""
    count = min(RUN_MESSAGES, RUN_BYTES // (size + 16))
    context = multiprocessing.get_context("fork")
    barrier, result = context.Barrier(2), context.Queue()
    receiver = context.Process(target=receive, args=(port, authority, size, count, barrier, result))
    sender = context.Process(target=publish, args=(port, authority, size, count, barrier))
    receiver.start()
    sender.start()
    try:
        seconds = result.get(timeout=WATCHDOG_SECONDS)
        if isinstance(seconds, str):
            raise RuntimeError(seconds)
        sender.join(WATCHDOG_SECONDS)
    finally:
        for process in (sender, receiver):
            process.terminate()
            process.join()
    return seconds, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", default="nats-server,shardbroker:1,shardbroker:2")
    parser.add_argument("--sizes", default="16,128,1024,16384")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-tls", action="store_true", help="the same in the clear")
    arguments = parser.parse_args()
    sizes = [int(text) for text in arguments.sizes.split(",")]
    specs = arguments.servers.split(",")
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        cert, key = certificate(Path(directory))
        # Nobody is cut for being slow: what is compared is the carrying.
        conf = Path(directory, "server.conf")
        conf.write_text("max_pending: 1GB\nwrite_deadline: 60s\n")
        flags = f" -c {conf}" + ("" if arguments.no_tls else f" --tls --tlscert {cert} --tlskey {key}")
        authority = "" if arguments.no_tls else str(cert)
        servers = [stack.enter_context(Server(spec + flags)) for spec in specs]
        seen: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for _ in range(arguments.repeat):
            for size in sizes:
                for spec, server in zip(specs, servers, strict=True):
                    before = server.cpu_seconds()
                    try:
                        seconds, count = run(server.port, authority, size)
                    except RuntimeError as error:
                        raise SystemExit(f"{spec}, {size} bytes: {error}\n{server.log_tail()}") from None
                    cost = (server.cpu_seconds() - before) / count * 1e6
                    seen.setdefault((spec, size), []).append((count / seconds, cost))
        print(f"{'bytes':>6} {'server':24} {'median/s':>10} {'least':>10} {'most':>10} {'us/message':>10}")
        for size in sizes:
            for spec in specs:
                rates = [rate for rate, _ in seen[spec, size]]
                cost = statistics.median(cost for _, cost in seen[spec, size])
                print(
                    f"{size:6} {spec:24} {statistics.median(rates):10.0f} {min(rates):10.0f} {max(rates):10.0f} {cost:10.3f}"
                )


if __name__ == "__main__":
    main()
