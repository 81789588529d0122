"""SubjectTree against comparing each with each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbroker.subject import collides, is_subset
from shardbroker.subject_tree import NOBODY, STEPS_MAX, SubjectTree, TooIntricate

tokens = st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=4)
patterns = st.builds(lambda words, rest: ".".join(words + [">"] * rest), tokens, st.integers(0, 1)) | st.just(">")


@given(st.lists(patterns, max_size=6), patterns)
def test_as_with_pairs(subjects: list[str], asked: str) -> None:
    tree = SubjectTree(subjects)
    colliding = {number for number, subject in enumerate(subjects) if collides(subject, asked)}
    covering = {number for number, subject in enumerate(subjects) if is_subset(asked, subject)}
    assert tree.collides(asked) in (colliding or {NOBODY})
    assert tree.covers(asked) in (covering or {NOBODY})


@given(st.lists(patterns, min_size=1, max_size=6))
def test_others_than_oneself(subjects: list[str]) -> None:
    tree = SubjectTree(subjects)
    for at, asked in enumerate(subjects):
        others = [(number, subject) for number, subject in enumerate(subjects) if number != at]
        assert (tree.collides(asked, at) != NOBODY) == any(collides(subject, asked) for _, subject in others)
        assert (tree.covers(asked, at) != NOBODY) == any(is_subset(asked, subject) for _, subject in others)


def test_what_would_be_pair_by_pair_is_refused() -> None:
    size = 1200
    one = [f"a{at}.*.b{at}" for at in range(size)]
    other = [f"*.c{at}.d{at}" for at in range(size)]
    tree = SubjectTree([*one, *other])
    assert size * size > STEPS_MAX
    with pytest.raises(TooIntricate):
        all(tree.collides(subject, at) == NOBODY for at, subject in enumerate(one))


def test_literals_beside_all_ways_to_put_wildcards_are_refused() -> None:
    ways = [".".join("*" if at >> bit & 1 else "a" for bit in range(10)) for at in range(1024)]
    tree = SubjectTree(f"{way}.b" for way in ways)
    with pytest.raises(TooIntricate):
        all(tree.covers(f"a.a.a.a.a.a.a.a.a.a.c{at}") == NOBODY for at in range(1000))


def test_questions_that_need_no_more_steps_than_tokens_are_free() -> None:
    tree = SubjectTree(f"a.{at}.*" for at in range(1000))
    tree.collides("*.*.b.c")
    before = tree._steps
    for at in range(1000):
        assert tree.collides(f"a.{at}.b") == at
        assert tree.collides(f"b.{at}.b") == NOBODY
    assert tree._steps == before
