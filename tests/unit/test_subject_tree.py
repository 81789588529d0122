"""SubjectTree against comparing each with each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardbroker.subject import collides, is_subset
from shardbroker.subject_tree import NOBODY, SubjectTree

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
