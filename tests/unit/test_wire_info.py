"""INFO lines: fields, ids, and what is advertised."""

from __future__ import annotations

import base64
import binascii
import json

import pytest

from shardbroker.options import Options
from shardbroker.wire.info import InfoLines, connect_urls, join_host_port, new_server_id, parse_host_port

LOCAL = Options(host="127.0.0.1", port=4333)


def read(line: bytes) -> dict[str, object]:
    assert line.startswith(b"INFO {")
    assert line.endswith(b"} \r\n")
    fields: dict[str, object] = json.loads(line[5:])
    return fields


def test_server_ids_have_the_form_of_keys() -> None:
    server_id = new_server_id()
    raw = base64.b32decode(server_id)
    assert server_id[0] == "N"
    assert len(server_id) == 56
    assert binascii.crc_hqx(raw[:-2], 0).to_bytes(2, "little") == raw[-2:]
    assert new_server_id() != server_id


def test_a_plain_server() -> None:
    assert read(InfoLines(LOCAL, server_id="NID").line(7, "10.0.0.1")) == {
        "server_id": "NID", "server_name": "NID", "version": "2.12.0", "proto": 1, "go": "python",
        "host": "127.0.0.1", "port": 4333, "headers": True, "max_payload": 1048576,
        "client_id": 7, "client_ip": "10.0.0.1",
    }  # fmt: skip


def test_what_settings_change() -> None:
    options = Options(
        host="127.0.0.1", port=1, token="x", server_name="alpha", max_payload=5, no_header_support=True,
        client_advertise="example.org:99",
    )  # fmt: skip
    fields = read(InfoLines(options, server_id="NID").line(1, "::1"))
    assert fields["auth_required"] is True
    assert fields["headers"] is False
    assert (fields["server_name"], fields["max_payload"]) == ("alpha", 5)
    assert (fields["host"], fields["port"], fields["connect_urls"]) == ("example.org", 99, ["example.org:99"])
    assert fields["client_ip"] == "::1"
    assert "ldm" not in fields
    lame = read(InfoLines(options, server_id="NID", lame_duck=True).line(1, "::1"))
    assert lame["ldm"] is True
    assert "connect_urls" not in lame


def test_the_line_behind_the_first_pong() -> None:
    lines = InfoLines(LOCAL, server_id="NID")
    first, second = read(lines.line(3, "1.2.3.4")), read(lines.connect_line(3, "1.2.3.4", b"", "$G", False))
    assert second == first | {"connect_info": True, "remote_account": "$G"}


def test_only_what_the_operator_advertises() -> None:
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "::"):
        assert connect_urls(Options(host=host)) == []
        assert "connect_urls" not in read(InfoLines(Options(host=host), server_id="N").line(1, ""))
    assert connect_urls(Options(client_advertise="10.1.1.1", port=5)) == ["10.1.1.1:5"]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("a", "a", 4222), ("a:1", "a", 1), ("a:0", "a", 4222), ("a:-1", "a", 4222), ("[::1]:5", "::1", 5),
        ("[::1]", "::1", 4222), (" a:1 ", "a", 1),
    ],
)  # fmt: skip
def test_host_and_port(text: str, host: str, port: int) -> None:
    assert parse_host_port(text, 4222) == (host, port)


@pytest.mark.parametrize("text", ["", "a:b", "::1", "[::1", "a:99999", "[::1]x"])
def test_no_host_and_port(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_host_port(text, 4222)


def test_join() -> None:
    assert join_host_port("::1", 4) == "[::1]:4"
    assert join_host_port("a", 4) == "a:4"


def test_a_nonce_and_the_system_account() -> None:
    lines = InfoLines(LOCAL, server_id="NID")
    assert read(lines.line(3, "1.2.3.4", b"PXoWU7zWAMt75FY"))["nonce"] == "PXoWU7zWAMt75FY"
    last = read(lines.connect_line(3, "1.2.3.4", b"", 'a"b', True))
    assert (last["remote_account"], last["acc_is_sys"]) == ('a"b', True)
