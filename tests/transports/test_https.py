"""Monitoring over HTTPS: the certificate of the clients' listener, nobody is asked for one. Source: server.go startMonitoring."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness import Broker, wait_until

from .conftest import Authority

Start = Callable[..., Broker]
pytestmark = pytest.mark.ours


def https_port(broker: Broker) -> int:
    found = re.search(r"Starting https monitor on 127\.0\.0\.1:(\d+)", broker.log())
    assert found
    return int(found[1])


def get(port: int, path: str, context: ssl.SSLContext) -> Any:
    with urllib.request.urlopen(f"https://127.0.0.1:{port}{path}", timeout=60, context=context) as answer:
        return json.load(answer)


@pytest.mark.parametrize("settings", [{"args": ["-ms", "-1"]}, {"config": "https: 127.0.0.1:-1\n"}])
def test_it_is_served(fresh_broker: Start, authority: Authority, settings: dict[str, Any]) -> None:
    # Clients must show a certificate, who monitors need not.
    tls = authority.block(authority.trusted, "verify: true")
    broker = fresh_broker(**{**settings, "config": settings.get("config", "") + tls})
    port = https_port(broker)
    varz = get(port, "/varz", authority.context())
    assert (varz["https_port"], varz["http_port"], varz["tls_required"], varz["tls_verify"]) == (port, 0, True, True)
    assert varz["tls_cert_not_after"].endswith("Z")
    with pytest.raises(urllib.error.URLError):
        get(port, "/varz", ssl.create_default_context())
    with pytest.raises(OSError, match=r".*"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/varz", timeout=60)


def test_a_reload_reads_the_certificate_anew(fresh_broker: Start, authority: Authority, tmp_path: Path) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).write_bytes(Path(authority.path("server.pem" if name == "cert" else "server-key.pem")).read_bytes())
    tls = f'tls {{ cert_file: "{tmp_path}/cert", key_file: "{tmp_path}/key" }}\n'
    broker = fresh_broker(config=tls, args=["-ms", "-1"])
    port = https_port(broker)

    def subject() -> str:
        return ssl.get_server_certificate(("127.0.0.1", port))

    def is_another() -> bool:
        with suppress(OSError):  # cut off by the change
            return subject() != before
        return False

    before = subject()
    (tmp_path / "cert").write_bytes(Path(authority.path("other.pem")).read_bytes())
    (tmp_path / "key").write_bytes(Path(authority.path("other-key.pem")).read_bytes())
    os.kill(broker.pid, signal.SIGHUP)
    wait_until(is_another, "the other certificate")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-ms", "-1"], "TLS cert and key required for HTTPS"),
        (["-m", "1", "-ms", "2"], "can't specify both HTTP (1) and HTTPs (2) ports"),
    ],
)
def test_what_cannot_be(flags: list[str], words: str) -> None:
    command = [sys.executable, "-m", "shardbroker", "-p", "-1", "-a", "127.0.0.1", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert f"Can't start monitoring: {words}" in ended.stderr
