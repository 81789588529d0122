"""Names, subjects and keys with any letters in them, through the whole API; and what is no name at all."""

from __future__ import annotations

import base64
import json

import pytest
from nats.errors import NoRespondersError

from harness import Broker
from stream.client import Asker, run

ODD = ("ä", "日本", "a%2Fb", "$x", '"', "{}", "-", "_", "é" * 100)


@pytest.mark.ours
def test_names_of_any_letters(js: Broker, name: str) -> None:
    """Streams, consumers, subjects and keys: what is no ASCII is UTF-8 everywhere, and found again by every way to ask."""

    async def test(asker: Asker) -> None:
        for odd in ODD:
            stream, subject = f"{name}{odd}", f"{name}.{odd}"
            made = await asker.create(stream, subjects=[subject], allow_direct=True)
            assert made["config"]["name"] == stream
            assert (await asker.publish(subject, odd))["stream"] == stream
            assert (await asker.state(stream, subjects_filter=">"))["subjects"] == {subject: 1}
            got = (await asker.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject}))["message"]
            assert got["subject"] == subject and base64.b64decode(got["data"]).decode() == odd
            for asked in ({"last_by_subj": subject}, {"next_by_subj": subject}, {"multi_last": [subject]}):
                inbox = asker.client.new_inbox()
                subscription = await asker.client.subscribe(inbox)
                await asker.client.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(asked).encode(), reply=inbox)
                assert (await subscription.next_msg(timeout=60)).data.decode() == odd, asked
                await subscription.unsubscribe()
            got = await asker.client.request(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"", timeout=60)
            assert got.data.decode() == odd
            config = {"name": odd, "ack_policy": "explicit", "filter_subject": subject}
            answer = await asker.api(f"CONSUMER.CREATE.{stream}.{odd}.{subject}", {"stream_name": stream, "config": config})
            assert answer["name"] == odd, answer
            message = await asker.next_message(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{odd}")
            assert (message.subject, message.data.decode()) == (subject, odd)
            await asker.client.request(message.reply, b"+ACK", timeout=60)
            assert (await asker.api(f"CONSUMER.INFO.{stream}.{odd}"))["ack_floor"]["stream_seq"] == 1
            assert stream in (await asker.api("STREAM.NAMES", {"subject": subject}))["streams"]
            assert (await asker.api(f"STREAM.DELETE.{stream}"))["success"]

    run(test, js)


@pytest.mark.ours
def test_names_that_are_too_long(js: Broker, name: str) -> None:
    """255 bytes are the most. nats-server fails at its file system for a consumer's name that is not durable."""

    async def test(asker: Asker) -> None:
        await asker.create(name)
        for length, code in ((255, None), (256, 10102)):
            for field in ("name", "durable_name"):
                config = {field: "x" * length, "ack_policy": "explicit"}
                subject = f"CONSUMER.CREATE.{name}.{'x' * length}"
                answer = await asker.api(subject, {"stream_name": name, "config": config})
                assert answer.get("error", {}).get("err_code") == code

    run(test, js)


@pytest.mark.ours
@pytest.mark.parametrize("operation", ["STREAM.INFO", "STREAM.CREATE", "STREAM.RESTORE", "STREAM.DELETE", "CONSUMER.LIST"])
def test_a_subject_that_is_none_reaches_nobody(js: Broker, operation: str) -> None:
    """And its publisher is told so at once, whatever should have stood there (no stream has an empty name)."""

    async def test(asker: Asker) -> None:
        for subject in (f"$JS.API.{operation}.", f"$JS.API.{operation}..x", "$JS.API.", "$JS.API.."):
            with pytest.raises(NoRespondersError):
                await asker.client.request(subject, b"{}", timeout=60)

    run(test, js)


@pytest.mark.ours
def test_a_request_that_cannot_be_carried_out_takes_none_with_it(js: Broker, name: str) -> None:
    """Text that no subject can be made of, in the same batch as others: each is answered for itself."""

    async def test(asker: Asker) -> None:
        republish = {"src": f"{name}.*", "dest": "ä.{{wildcard(1)}}"}
        await asker.create(name, subjects=[f"{name}.>"], allow_direct=True, republish=republish)
        inbox = asker.client.new_inbox()
        subscription = await asker.client.subscribe(f"{inbox}.*")
        await asker.client.publish(f"{name}.x", b"1", reply=f"{inbox}.0")
        odd = ['{"last_by_subj":"\\ud800"}', '{"multi_last":["\\udfff"]}', '{"next_by_subj":"\\u0000"}']
        odd.append(json.dumps({"last_by_subj": f"{name}.x"}))
        for number, payload in enumerate(odd):
            await asker.client.publish(f"$JS.API.DIRECT.GET.{name}", payload.encode(), reply=f"{inbox}.{number + 1}")
        await asker.client.publish(f"{name}.y", b"2", reply=f"{inbox}.5")
        seen = {(await subscription.next_msg(timeout=60)).subject for _ in range(6)}
        assert seen == {f"{inbox}.{number}" for number in range(6)}

    run(test, js)
