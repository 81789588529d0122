"""More of what jetstream_diff.py asks: consumers, what later versions have, names that are none, and every field wrong once."""

from __future__ import annotations

from typing import Any

from jetstream_cases import API, Step, create, headers, info, update

# A value of each kind of JSON; each of them is wrong for most fields.
KINDS: tuple[Any, ...] = (True, -5, 1.5, "x", [], {}, [1], None)
STREAM_FIELDS = (
    "allow_direct", "allow_msg_ttl", "allow_rollup_hdrs", "compression", "consumer_limits", "deny_delete", "deny_purge",
    "description", "discard", "discard_new_per_subject", "duplicate_window", "first_seq", "max_age", "max_bytes",
    "max_consumers", "max_msg_size", "max_msgs", "max_msgs_per_subject", "metadata", "mirror", "mirror_direct", "no_ack",
    "num_replicas", "persist_mode", "placement", "republish", "retention", "sealed", "sources", "storage",
    "subject_delete_marker_ttl", "subject_transform", "subjects", "template_owner",
)  # fmt: skip
CONSUMER_FIELDS = (
    "ack_policy", "ack_wait", "backoff", "deliver_group", "deliver_policy", "deliver_subject", "description", "direct",
    "durable_name", "filter_subject", "filter_subjects", "flow_control", "headers_only", "idle_heartbeat",
    "inactive_threshold", "max_ack_pending", "max_batch", "max_bytes", "max_deliver", "max_expires", "max_waiting",
    "mem_storage", "metadata", "num_replicas", "opt_start_seq", "opt_start_time", "pause_until", "rate_limit_bps",
    "replay_policy", "sample_freq",
)  # fmt: skip
OPERATIONS = (
    "STREAM.CREATE", "STREAM.UPDATE", "STREAM.INFO", "STREAM.DELETE", "STREAM.PURGE", "STREAM.MSG.GET",
    "STREAM.MSG.DELETE", "STREAM.SNAPSHOT", "STREAM.RESTORE", "CONSUMER.NAMES", "CONSUMER.LIST", "CONSUMER.CREATE",
)  # fmt: skip
NAMES = ("ä", "a%2Fb", "$x", '"', "{}", "x" * 300)


def consumer(stream: str, name: str, *, action: str = "", pedantic: bool = False, **config: Any) -> Step:
    asked: dict[str, Any] = {"stream_name": stream, "config": {"name": name, **config}}
    asked |= {"action": action} if action else {}
    asked |= {"pedantic": True} if pedantic else {}
    return (API + f"CONSUMER.CREATE.{stream}.{name}", asked)


def durable(stream: str, name: str, **config: Any) -> Step:
    asked = {"stream_name": stream, "config": {"durable_name": name, **config}}
    return (API + f"CONSUMER.DURABLE.CREATE.{stream}.{name}", asked)


def each_kind(field: str) -> list[Step]:
    """A stream made, as far as it can be, with each wrong value of a field, and taken away again."""
    made: list[Step] = []
    for value in KINDS:
        made += [create("F", **{"subjects": ["f"], field: value}), (API + "STREAM.DELETE.F", "")]
    return made


def each_kind_of_consumer(field: str) -> list[Step]:
    made: list[Step] = []
    for value in KINDS:
        made += [
            consumer("S", "c", **{"ack_policy": "explicit", field: value}),
            (API + "CONSUMER.DELETE.S.c", ""),
        ]
    return made


CASES: dict[str, list[Step]] = {
    "consumers": [
        create("S", subjects=["s.>"]),
        *[(f"s.{n % 3}", f"m{n}") for n in range(6)],
        consumer("S", "c", ack_policy="explicit"),
        consumer("S", "c", ack_policy="explicit"),
        consumer("S", "c", ack_policy="explicit", action="create"),
        consumer("S", "c", ack_policy="explicit", description="d", action="create"),
        consumer("S", "c", ack_policy="explicit", description="d", action="update"),
        consumer("S", "n", ack_policy="explicit", action="update"),
        consumer("S", "n", ack_policy="explicit", action="nonsense"),
        consumer("S", "n", ack_policy="what"),
        consumer("S", "n", deliver_policy="what"),
        consumer("S", "n", replay_policy="what"),
        consumer("S", "n", nonsense=1),
        consumer("NONE", "n"),
        (API + "CONSUMER.CREATE.S.n", {"stream_name": "T", "config": {"name": "n"}}),
        (API + "CONSUMER.CREATE.S.n", {"stream_name": "S", "config": {"name": "m"}}),
        (API + "CONSUMER.CREATE.S.n", {"stream_name": "S"}),
        (API + "CONSUMER.CREATE.S.n", {}),
        (API + "CONSUMER.CREATE.S.n", ""),
        (API + "CONSUMER.CREATE.S.n", "{"),
        (API + "CONSUMER.CREATE.S.n.s.1", {"stream_name": "S", "config": {"name": "n", "filter_subject": "s.2"}}),
        (API + "CONSUMER.CREATE.S.f.s.1", {"stream_name": "S", "config": {"name": "f", "filter_subject": "s.1"}}),
        (API + "CONSUMER.INFO.S.f", ""),
        durable("S", "d", ack_policy="all"),
        durable("S", "d", ack_policy="none"),
        (API + "CONSUMER.DURABLE.CREATE.S.e", {"stream_name": "S", "config": {"durable_name": "x"}}),
        (API + "CONSUMER.DURABLE.CREATE.S.e", {"stream_name": "S", "config": {}}),
        (API + "CONSUMER.CREATE.S", {"stream_name": "S", "config": {"durable_name": "x"}}),
        (API + "CONSUMER.NAMES.S", ""),
        (API + "CONSUMER.NAMES.S", {"offset": 2}),
        (API + "CONSUMER.NAMES.S", {"offset": 99}),
        (API + "CONSUMER.NAMES.NONE", ""),
        (API + "CONSUMER.LIST.S", ""),
        (API + "CONSUMER.LIST.S", {"offset": 2}),
        (API + "CONSUMER.LIST.NONE", ""),
        (API + "CONSUMER.INFO.S.c", ""),
        (API + "CONSUMER.INFO.S.c", "x"),
        (API + "CONSUMER.INFO.S.NONE", ""),
        (API + "CONSUMER.INFO.NONE.c", ""),
        (API + "CONSUMER.DELETE.S.NONE", ""),
        (API + "CONSUMER.DELETE.S.c", "x"),
        (API + "CONSUMER.DELETE.S.c", ""),
        (API + "CONSUMER.DELETE.NONE.c", ""),
        (API + "CONSUMER.PAUSE.S.d", {"pause_until": "2000-01-01T00:00:00Z"}),
        (API + "CONSUMER.PAUSE.S.d", ""),
        (API + "CONSUMER.PAUSE.S.d", "{"),
        (API + "CONSUMER.PAUSE.S.NONE", ""),
        (API + "CONSUMER.MSG.NEXT.S.NONE", ""),
        (API + "CONSUMER.MSG.NEXT.NONE.c", ""),
        (API + "CONSUMER.MSG.NEXT.S.d", {"batch": 1, "no_wait": True}),
    ],
    "consumer rules": [
        create("S", subjects=["s.>", "t"]),
        create("W", subjects=["w.>"], retention="workqueue"),
        create("L", subjects=["l"], consumer_limits={"max_ack_pending": 5, "inactive_threshold": 10**10}),
        consumer("S", "r", deliver_policy="by_start_sequence"),
        consumer("S", "r", deliver_policy="by_start_time"),
        consumer("S", "r", opt_start_seq=5),
        consumer("S", "r", opt_start_time="2020-01-01T00:00:00Z"),
        consumer("S", "r", deliver_policy="last_per_subject"),
        consumer("S", "r", deliver_policy="last", filter_subject="s.1", opt_start_seq=3),
        consumer("S", "r", filter_subject="x"),
        consumer("S", "r", filter_subject="s..1"),
        consumer("S", "r", filter_subject="s.1", filter_subjects=["s.2"]),
        consumer("S", "r", filter_subjects=["s.1", "s.1"]),
        consumer("S", "r", filter_subjects=["s.*", "s.1"]),
        consumer("S", "r", filter_subjects=["s.1", ""]),
        consumer("S", "r", max_deliver=2, backoff=[10**9, 10**9, 10**9]),
        consumer("S", "r", ack_policy="explicit", max_deliver=5, backoff=[10**9, 2 * 10**9]),
        (API + "CONSUMER.DELETE.S.r", ""),
        consumer("S", "r", deliver_subject="in", max_waiting=5),
        consumer("S", "r", deliver_subject="in", max_batch=5),
        consumer("S", "r", deliver_subject="in.*"),
        consumer("S", "r", deliver_subject="s.x"),
        consumer("S", "r", deliver_subject="in", flow_control=True),
        consumer("S", "r", deliver_subject="in", idle_heartbeat=5),
        consumer("S", "r", deliver_subject="in", ack_policy="none", max_ack_pending=5),
        (API + "CONSUMER.DELETE.S.r", ""),
        consumer("S", "r", deliver_group="g"),
        consumer("S", "r", deliver_group="g h", deliver_subject="in"),
        consumer("S", "r", flow_control=True),
        consumer("S", "r", idle_heartbeat=10**9),
        consumer("S", "r", rate_limit_bps=100),
        consumer("S", "r", ack_policy="none", ack_wait=10**9),
        (API + "CONSUMER.DELETE.S.r", ""),
        consumer("S", "r", max_expires=5),
        consumer("S", "r", max_waiting=-1),
        (API + "CONSUMER.DELETE.S.r", ""),
        consumer("S", "r", sample_freq="101"),
        (API + "CONSUMER.DELETE.S.r", ""),
        consumer("S", "r", sample_freq="what"),
        consumer("S", "r", num_replicas=3),
        consumer("S", "r", num_replicas=-1),
        consumer("S", "r", description="x" * 4097),
        consumer("S", "r", metadata={"k": "v" * 140000}),
        consumer("S", "r", inactive_threshold=-1),
        consumer("S", "r", ack_policy="none", max_deliver=3, pedantic=True),
        (API + "CONSUMER.DELETE.S.r", ""),
        consumer("W", "w", ack_policy="none"),
        consumer("W", "w", ack_policy="explicit", deliver_policy="new"),
        consumer("W", "w", ack_policy="explicit"),
        consumer("W", "v", ack_policy="explicit"),
        consumer("W", "v", ack_policy="explicit", filter_subject="w.a"),
        consumer("L", "l", ack_policy="explicit", max_ack_pending=6),
        consumer("L", "l", ack_policy="explicit", inactive_threshold=10**11),
        consumer("L", "l", ack_policy="explicit"),
    ],
    "limits under consumers": [
        create("S", subjects=["s"]),
        consumer("S", "a", ack_policy="explicit"),
        consumer("S", "b", ack_policy="explicit", max_ack_pending=5),
        update("S", subjects=["s"], consumer_limits={"max_ack_pending": 500}),
        update("S", subjects=["s"], consumer_limits={"max_ack_pending": 2000}),
        consumer("S", "a", ack_policy="explicit", inactive_threshold=10**11),
        update("S", subjects=["s"], consumer_limits={"max_ack_pending": 2000, "inactive_threshold": 10**10}),
        update("S", subjects=["s"], consumer_limits={"max_ack_pending": -1, "inactive_threshold": 10**12}),
    ],
    "durable no more": [
        create("S", subjects=["s"], consumer_limits={"inactive_threshold": -1}),
        consumer("S", "d", durable_name="d"),
        consumer("S", "d"),
        consumer("S", "d", inactive_threshold=10**11),
        consumer("S", "d"),
        consumer("S", "e"),
        create("T", subjects=["t"]),
        consumer("T", "d", durable_name="d"),
        consumer("T", "d"),
        (API + "CONSUMER.INFO.T.d", ""),
        consumer("T", "e"),
        consumer("T", "e", inactive_threshold=10**11),
        consumer("T", "e"),
    ],
    "odd pulls": [
        create("S", subjects=["s"]),
        consumer("S", "push", deliver_subject="nobody.there"),
        consumer("S", "pull", ack_policy="explicit"),
        *[
            (API + f"CONSUMER.MSG.NEXT.S.{name}", payload)
            for name in ("push", "pull")
            for payload in ('{"batch":"x"}', "{", '{"batch":1,"no_wait":true,"nonsense":[{}]}', "1")
        ],
    ],
    # By headers only: fields of later versions are unknown here, and taken there.
    "later": [
        create("S", subjects=["s.>"]),
        ("s.a", "", headers(Nats_Incr="1")),
        ("s.a", "", headers(Nats_Schedule="@at 2030-01-01T00:00:00Z", Nats_Schedule_Target="s.b")),
        ("s.a", "", headers(Nats_Batch_Id="x", Nats_Batch_Sequence="1")),
        ("s.a", "", headers(Nats_Batch_Id="x", Nats_Batch_Sequence="1", Nats_Batch_Commit="1")),
        info("S"),
    ],
    "no names": [
        create("S", subjects=["s"]),
        *[(API + f"{operation}.", "") for operation in OPERATIONS],
        *[(API + f"{operation}.", {}) for operation in OPERATIONS],
        *[(API + f"{operation}", "") for operation in OPERATIONS],
        *[(API + f"{operation}.S.", "") for operation in ("CONSUMER.INFO", "CONSUMER.DELETE", "CONSUMER.PAUSE")],
        *[(API + f"{operation}..c", "") for operation in ("CONSUMER.INFO", "CONSUMER.DELETE", "CONSUMER.PAUSE")],
        (API, ""),
        (API + ".", ""),
        (API + "STREAM", ""),
        (API + "STREAM..INFO", ""),
        (API + "stream.info.S", ""),
        info("S"),
    ],
    "odd names": [
        *[(API + f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"odd.{at}"]}) for at, name in enumerate(NAMES)],
        *[(API + f"STREAM.INFO.{name}", "") for name in NAMES],
        (API + "STREAM.CREATE.a", {"name": "a\u0000"}),
        (API + "STREAM.CREATE.a", '{"name":"\\ud800"}'),
        (API + "STREAM.CREATE.a", b"\xff\xfe".decode("latin-1")),
        (API + "STREAM.CREATE.a", "[" * 50),
        (API + "STREAM.CREATE.a", '{"name":"a","max_msgs":1e400}'),
        (API + "STREAM.CREATE.a", '{"name":"a","max_msgs":99999999999999999999}'),
        (API + "STREAM.CREATE.a", '{"name":"a","subjects":["\\u0000"]}'),
        (API + "STREAM.NAMES", ""),
    ],
    **{f"stream {field}": each_kind(field) for field in STREAM_FIELDS},
    **{
        f"consumer {field}": [create("S", subjects=["s"]), *each_kind_of_consumer(field)] for field in CONSUMER_FIELDS
    },
}
