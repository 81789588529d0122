"""Workloads: words, files and what was seen of a running server become weighted loads."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbroker.bench import LoadError
from shardbroker.tune.workload import Seen, derived, from_file, from_words


def test_words_have_equal_shares() -> None:
    workload = from_words(["fanout:1x8:128B", "request:4x2:64"])
    assert [part.share for part in workload.parts] == [0.5, 0.5]
    load = workload.parts[0].load
    assert (load.shape, load.left, load.right, load.size) == ("fanout", 1, 8, "128")


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text(
        '[[load]]\nshape = "wildcard:2x4:1KB"\nweight = 3\nsubjects = 10\nheaders = ["A: b"]\n'
        '[[load]]\nshape = "pub"\nsize = "lognormal:200,1"\n'
    )
    first, second = from_file(path).parts
    assert (first.share, first.load.subjects, first.load.headers) == (0.75, 10, ("A: b",))
    assert (second.share, second.load.size) == (0.25, "lognormal:200,1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a list of"),
        ("[[load]]\nweight = 1", "shape is missing"),
        ('[[load]]\nshape = "nope"', "load 1: no shape is called"),
        ('[[load]]\nshape = "pub"\nwieght = 1', "unknown key 'wieght'"),
        ('[[load]]\nshape = "pub"\nweight = "much"', "weight is a number"),
        ('[[load]]\nshape = "pub"\nweight = 0', "weights above 0"),
        ('[[load]]\nshape = "pub"\nsubjects = "x"', "subjects has the wrong type"),
        ('[[load]]\nshape = "js-fetch"', "cannot be tuned for"),
        ("[[load", "w.toml"),
        ('other = 1\n[[load]]\nshape = "pub"', "and nothing else"),
    ],
)
def test_a_bad_file_is_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "w.toml"
    path.write_text(text)
    with pytest.raises(LoadError, match=said):
        from_file(path)


def test_what_is_written_reads_the_same(tmp_path: Path) -> None:
    workload = derived(Seen(10, 1000, 128_000, 2400, 9, 3, 5), "here")
    path = tmp_path / "w.toml"
    path.write_text(workload.to_toml())
    again = from_file(path)
    assert [(p.load.describe(), round(p.share, 3)) for p in again.parts] == [
        (p.load.describe(), round(p.share, 3)) for p in workload.parts
    ]


def fan_out(shape: str, right: int) -> int:
    return right if shape == "pubsub" else 1 if shape == "request" else 0


@given(
    in_msgs=st.integers(10, 10**7), ratio=st.floats(0, 40), size=st.integers(16, 10_000), publishers=st.integers(0, 30),
    asked=st.floats(0, 0.5),
)  # fmt: skip
def test_rates_and_sizes_of_what_was_seen_are_kept(
    in_msgs: int, ratio: float, size: int, publishers: int, asked: float
) -> None:
    requests = int(in_msgs * asked)
    out = 2 * requests + int((in_msgs - 2 * requests) * ratio)
    seen = Seen(10, in_msgs, in_msgs * size, out, 20, publishers, 5, min(publishers, 2), requests)
    workload = derived(seen, "there")
    assert sum(part.share for part in workload.parts) == pytest.approx(1)
    assert all(part.load.size == str(size) for part in workload.parts)
    # deliveries per message, requests with their answers counted as two each way
    came = sum(part.share * (2 if part.load.shape == "request" else 1) for part in workload.parts)
    went = sum(
        part.share * (2 if part.load.shape == "request" else fan_out(part.load.shape, part.load.right))
        for part in workload.parts
    )
    assert went / came == pytest.approx(out / in_msgs, rel=0.05, abs=0.05)


def test_no_traffic_is_no_workload() -> None:
    with pytest.raises(LoadError, match="nothing to derive"):
        derived(Seen(10, 3, 100, 3, 2), "there")


def test_rates_of_a_mix_are_joined_by_time() -> None:
    workload = from_words(["pub", "pubsub"])
    assert workload.joined([100.0, 100.0]) == pytest.approx(100.0)
    assert workload.joined([100.0, 50.0]) == pytest.approx(200 / 3)
    assert workload.joined([100.0, 0.0]) == 0.0
