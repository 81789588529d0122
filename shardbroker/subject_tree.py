"""Many subjects at once: which of them collides with one, which covers it, without comparing each with each.

A request of a client may name tens of thousands of subjects; pairs of them would be minutes of a shard's time.

    tree = SubjectTree(["a.*", "b.>"])
    tree.collides("a.b")    0
    tree.covers("b.c.*")    1

A step is one token of the subject that is asked for: a literal leads to at most two children of a node, only a `*` in it to all.
So `a1.*.b1` beside thousands of `*.c1.d1` are pairs again; a tree that was asked too many such questions says TooIntricate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from shardbroker.subject import ONE, REST, split

NOBODY: Final = -1
# About a second, on a slow machine. One question visits each node once at the most.
STEPS_MAX: Final = 1_000_000


class TooIntricate(ValueError):
    """The subjects have too many wildcards in too many places to be compared in the time that a request may take."""

    def __init__(self) -> None:
        super().__init__("too many subjects with wildcards to compare")


class _Node:
    __slots__ = ("children", "first", "second")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        # The numbers of two subjects that end here, so that one of them is another one than whoever asks.
        self.first = NOBODY
        self.second = NOBODY

    def other_than(self, number: int) -> int:
        return self.first if self.first != number else self.second


class SubjectTree:
    """Valid subjects and patterns, numbered as they come. Answers are numbers, NOBODY for none. Raises TooIntricate when all
    questions together took STEPS_MAX more than their tokens."""

    def __init__(self, subjects: Iterable[str] = ()) -> None:
        self._root = _Node()
        self._steps = 0
        for number, subject in enumerate(subjects):
            self.add(subject, number)

    def add(self, subject: str, number: int) -> None:
        node = self._root
        for token in split(subject):
            following = node.children.get(token)
            if following is None:
                following = node.children[token] = _Node()
            node = following
        if node.first == NOBODY:
            node.first = number
        elif node.second == NOBODY:
            node.second = number

    def _count(self, steps: int) -> None:
        self._steps += max(steps, 0)
        if self._steps > STEPS_MAX:
            raise TooIntricate

    def collides(self, subject: str, but: int = NOBODY) -> int:
        """Of a subject, other than number `but`, that some literal matches which this one matches too."""
        tokens = split(subject)
        waiting = [(self._root, 0)]
        steps = 0
        while waiting:
            node, at = waiting.pop()
            steps += 1
            if at == len(tokens):
                if (found := node.other_than(but)) != NOBODY:
                    return found
                continue
            token = tokens[at]
            if token == REST:
                if (found := _any_below(node, but)) != NOBODY:
                    return found
                continue
            rest = node.children.get(REST)
            if rest is not None and (found := rest.other_than(but)) != NOBODY:
                return found
            if token == ONE:
                waiting += [(child, at + 1) for name, child in node.children.items() if name != REST]
            else:
                waiting += [(child, at + 1) for name in (ONE, token) if (child := node.children.get(name)) is not None]
        self._count(steps - len(tokens) - 1)
        return NOBODY

    def covers(self, subject: str, but: int = NOBODY) -> int:
        """Of a subject, other than number `but`, that matches all that this one matches."""
        tokens = split(subject)
        waiting = [(self._root, 0)]
        steps = 0
        while waiting:
            node, at = waiting.pop()
            steps += 1
            if at == len(tokens):
                if (found := node.other_than(but)) != NOBODY:
                    return found
                continue
            rest = node.children.get(REST)
            if rest is not None and (found := rest.other_than(but)) != NOBODY:
                return found
            token = tokens[at]
            if token == REST:
                continue
            names = (ONE,) if token == ONE else (ONE, token)
            waiting += [(child, at + 1) for name in names if (child := node.children.get(name)) is not None]
        self._count(steps - len(tokens) - 1)
        return NOBODY


def _any_below(node: _Node, but: int) -> int:
    """Of whatever subject that goes on behind a node."""
    waiting = list(node.children.values())
    while waiting:
        at = waiting.pop()
        if (found := at.other_than(but)) != NOBODY:
            return found
        waiting += at.children.values()
    return NOBODY
