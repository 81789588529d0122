"""A store on a file system that is full: publishers are told, nothing is acknowledged, core traffic does not notice, and it goes
on by itself when there is space. The file system is a small tmpfs in a mount namespace of the broker's own; no rights are
needed for it where user namespaces are allowed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stream.client import Asker, run

from harness import Broker

MOUNT = 'mount -t tmpfs -o size=8m tmpfs "$0" && exec "$@"'
BALLAST = 3 << 20
PAYLOAD = "x" * 1000
MESSAGES_MAX = 20_000

pytestmark = pytest.mark.ours


def namespaces(directory: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rm", "sh", "-c", MOUNT, str(directory), "true"], capture_output=True).returncode == 0


def test_publishers_are_told_and_it_goes_on(tmp_path: Path, workers: int) -> None:
    store = tmp_path / "store"
    store.mkdir()
    if not namespaces(store):
        pytest.skip("no user namespaces here")

    async def test(ask: Asker) -> None:
        inside = Path(f"/proc/{broker.pid}/root{store}")
        await ask.create("S", subjects=["s"])
        assert (await ask.publish("s", PAYLOAD))["seq"] == 1
        (inside / "ballast").write_bytes(bytes(BALLAST))
        last, refused = 1, {}
        while not refused:
            answer = await ask.publish("s", PAYLOAD)
            if "error" in answer:
                refused = answer
            else:
                assert answer["seq"] == last + 1
                last += 1
            assert last < MESSAGES_MAX
        assert refused["error"]["code"] == 503 and "no space left on device" in refused["error"]["description"], refused
        assert "seq" not in refused or refused["seq"] == 0
        assert (await ask.state("S"))["messages"] == last
        # Others, and core traffic, do not notice.
        box = await ask.client.subscribe("core")
        await ask.client.publish("core", b"y")
        assert (await box.next_msg(timeout=60)).data == b"y"
        message = await ask.api("STREAM.MSG.GET.S", {"seq": last})
        assert message["message"]["seq"] == last
        (inside / "ballast").unlink()

        async def taken() -> bool:
            return "error" not in await ask.publish("s", PAYLOAD)

        await ask.until(taken, "a message to be taken again")
        assert (await ask.state("S"))["messages"] == last + 1
        # What is removed makes room, too.
        assert (await ask.api("STREAM.PURGE.S"))["success"]

    executable = ["unshare", "-rm", "sh", "-c", MOUNT, str(store), sys.executable, "-m", "shardbroker", "--workers", str(workers)]
    with Broker(tmp_path, workers=workers, executable=executable, args=["-js", "-sd", str(store)]) as broker:
        run(test, broker)
