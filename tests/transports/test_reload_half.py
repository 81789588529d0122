"""A reload while a certificate goes away: what else has changed counts all the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from harness import Broker
from transports.conftest import Authority
from transports.test_tls import TlsClient


def test_users_are_cut_though_a_certificate_is_gone(tmp_path: Path, authority: Authority) -> None:
    """The front has read the files and found them good; a shard reads them a moment later."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(Path(authority.path("server.pem")).read_bytes())
    key.write_bytes(Path(authority.path("server-key.pem")).read_bytes())
    tls = f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}\nallow_non_tls: true\n'

    def config(*users: str) -> str:
        return tls + f"authorization {{ users: [ {', '.join(f'{{user: {name}, password: x}}' for name in users)} ] }}\n"

    with Broker(tmp_path / "broker", config=config("stays", "goes")) as broker:
        stays, goes = (broker.client().connect(user=name, **{"pass": "x"}).flush() for name in ("stays", "goes"))
        with broker.stopped_shard(0):
            (tmp_path / "broker" / "server.conf").write_text(config("stays"))
            os.kill(broker.pid, signal.SIGHUP)
            broker.wait_log("Reloaded server configuration")
            certificate.unlink()
        goes.expect_closed(b"-ERR 'Authorization Violation'\r\n")
        stays.flush()
        broker.wait_log(r"\[ERR\].*cert.pem")
        # Connections to come have the certificate of before.
        TlsClient(broker.port, authority.context()).connect(user="stays", **{"pass": "x"}).flush()
