"""options, limits, errors, clock: the words and numbers, against nats-server's and against the compiled side."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import shardbroker
from shardbroker import errors, limits
from shardbroker.clock import ManualClock, SystemClock
from shardbroker.errors import CLIENT_ERRORS, CLOSE_TEXTS, CloseReason, close_text
from shardbroker.options import EngineSettings, Options

PACKAGE = Path(shardbroker.__file__).parent


def test_close_reasons_are_numbered_as_nats_server_numbers_them() -> None:
    theirs = [reason for reason in CloseReason if reason < 100]
    assert [int(reason) for reason in theirs] == list(range(1, 38))
    assert (int(CloseReason["SERVER_SHUTDOWN"]), int(CloseReason["PROXY_REQUIRED"])) == (21, 37)
    assert set(CLOSE_TEXTS) == set(CloseReason)
    assert len(set(CLOSE_TEXTS.values())) == len(CLOSE_TEXTS)
    assert close_text(5) == "Slow Consumer (Pending Bytes)"
    assert close_text(99) == "Unknown State"


def test_the_data_path_has_the_same_numbers() -> None:
    found = re.findall(r"REASON_(\w+) = (\d+)", (PACKAGE / "hot" / "reasons.pxd").read_text())
    assert found
    for name, number in found:
        assert CloseReason[name] == int(number), name


def test_wire_texts() -> None:
    assert errors.MAXIMUM_PAYLOAD.wire() == b"-ERR 'Maximum Payload Violation'\r\n"
    assert errors.TOO_MANY_TOKENS.wire(subject="a.b").endswith(b'"a.b", too many tokens\'\r\n')
    assert all(error.source for error in CLIENT_ERRORS)
    keeps = {error.text for error in CLIENT_ERRORS if error.closes is None}
    assert {"Invalid Subject", "Invalid Publish Subject", "maximum subscriptions exceeded"} <= keeps


def test_defaults_are_nats_servers() -> None:
    options = Options()
    assert (options.host, options.port, options.http_port) == ("0.0.0.0", 4222, 0)
    assert (options.max_payload, options.max_control_line, options.max_pending) == (1 << 20, 4096, 64 << 20)
    assert (options.max_connections, options.max_subscriptions) == (65536, 0)
    assert (options.ping_interval, options.ping_max, options.write_deadline) == (120, 2, 10)
    assert (options.auth_timeout, options.lame_duck_duration, options.lame_duck_grace_period) == (2, 120, 10)
    assert options.logtime
    assert options.headers
    assert not options.auth_required


def test_secrets_are_in_no_text() -> None:
    options = Options(
        user="someone", password="pw-secret", token="tk-secret", arguments=("--pass", "pw-secret")
    )
    for text in (repr(options), str(options), f"{options}", repr([options])):
        assert "secret" not in text
        assert "someone" not in text
    assert options.auth_required


def test_options_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().port = 1  # type: ignore[misc]


def test_engine_settings_are_in_nanoseconds_and_bytes() -> None:
    options = Options(
        write_deadline=0.2,
        ping_interval=1.5,
        auth_timeout=2,
        no_header_support=True,
        no_fast_producer_stall=True,
        token="x",
        spin=0.00005,
        max_sub_tokens=16,
    )
    settings = options.engine_settings()
    assert settings.write_deadline_ns == 200_000_000
    assert settings.ping_interval_ns == 1_500_000_000
    assert settings.auth_timeout_ns == 2_000_000_000
    assert settings.spin_ns == 50_000
    assert settings.max_subscription_tokens == 16
    assert (settings.headers, settings.stall, settings.auth_required) == (False, False, True)
    for field in dataclasses.fields(EngineSettings):
        assert type(getattr(settings, field.name)) in (int, bool), field.name


@pytest.mark.parametrize(("cpus", "count"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (200, 64)])
def test_auto_workers(cpus: int, count: int) -> None:
    assert Options().worker_count(cpus) == count
    assert Options(workers=7).worker_count(cpus) == 7


def test_limits_fit_each_other() -> None:
    assert limits.CONTROL_LINE_BYTES < limits.RING_BYTES_MAX
    assert limits.RING_BYTES_MIN <= limits.CONTROL_RING_BYTES <= limits.RING_BYTES <= limits.RING_BYTES_MAX
    for size in (limits.RING_BYTES_MIN, limits.CONTROL_RING_BYTES, limits.RING_BYTES):
        assert size & (size - 1) == 0
    assert re.fullmatch(r"2\.1[0-2]\.\d+", limits.PROTOCOL_VERSION)


def test_clocks() -> None:
    real = SystemClock()
    assert real.monotonic_ns() <= real.monotonic_ns()
    assert real.time_ns() > 1_600_000_000 * 10**9
    clock = ManualClock(5, time_ns=1005)
    clock.advance(1.5)
    assert (clock.monotonic_ns(), clock.time_ns()) == (1_500_000_005, 1_500_001_005)
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)
