"""resolver: URL(https://...), with a password in the address and certificates on both sides."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

from protocol.test_operator import USER, VIOLATION, estate, login, user_of

from harness import Broker
from harness.account_server import AccountServer
from transports.conftest import Authority


def test_https_with_a_password(tmp_path: Path, authority: Authority) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.path("server.pem"), authority.path("server-key.pem"))
    context.load_verify_locations(authority.path("ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    with AccountServer((estate.a, estate.account_token(estate.a)), context=context, word="me:s3cret") as web:
        text = f"operator: {estate.operator_token()}\nresolver: URL({web.url('https', 'me:s3cret@')})\n"
        tls = f'resolver_tls {{ {authority.trusted}, cert_file: "{authority.path("client.pem")}"\n'
        tls += f'key_file: "{authority.path("client-key.pem")}" }}'
        with Broker(tmp_path, config=text + tls) as broker:
            user_of(broker, estate.a)
            login(broker.client(), estate.user_token(USER, estate.b)).expect_closed(VIOLATION)
            assert "s3cret" not in broker.log()
        # Without our authority nobody is trusted, and the broker does not start.
        (tmp_path / "strict.conf").write_text(text)
        command = [sys.executable, "-m", "shardbroker", "-p", "-1", "-a", "127.0.0.1", "-c", str(tmp_path / "strict.conf")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 1
        assert "CERTIFICATE_VERIFY_FAILED" in ended.stderr
        assert "s3cret" not in ended.stderr
