"""The checks of harness/load.py see each kind of fault: a checker that never complains proves nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from harness.load import Connection, Load, Publisher, Subscription, Swarm


class Silent:
    """Stands for a connection."""

    local_port = 1
    closed = False
    on_message = None

    def send(self, data: bytes) -> None:
        pass

    def ping(self, then: object) -> None:
        pass


def load_of(queue: str, members: int = 1, sent: int = 10) -> tuple[Load, list[Subscription]]:
    """One publisher of `sent` messages; subscriptions confirmed after the third, with all they must have."""
    load = Load(cast(Swarm, SimpleNamespace(problems=[])), ["a"])
    connection = cast(Connection, Silent())
    publisher = Publisher(load, connection)
    load.listen(connection)
    subscriptions = [load.subscribe(connection, "a", queue) for _ in range(members)]
    for number in range(sent):
        if number == 3:
            for subscription in subscriptions:
                subscription.confirmed = load.moment()
        publisher.publish(0, 0)
    for index, subscription in enumerate(subscriptions):
        subscription.got[0] = [n for n in range(2, sent) if n % members == index]
    return load, subscriptions


@pytest.mark.parametrize("queue", ["", "q"])
def test_right_is_right(queue: str) -> None:
    load, (only,) = load_of(queue)
    assert load.errors() == []
    only.got[0] = list(range(10))
    assert load.errors() == []
    load.unsubscribe(only)
    only.got[0] = [2, 3, 4]
    assert load.errors() == []


@pytest.mark.parametrize("queue", ["", "q"])
@pytest.mark.parametrize(
    "got",
    [
        [2, 3, 4, 6, 7, 8, 9],
        [2, 3, 4, 5, 6, 7, 8],
        [4, 5, 6, 7, 8, 9],
        [2, 3, 4, 5, 5, 6, 7, 8, 9],
        [2, 3, 5, 4, 6, 7, 8, 9],
        [9, 2, 3, 4, 5, 6, 7, 8],
        [],
    ],
    ids=["gap", "end lost", "late begin", "twice", "swapped", "rotated", "nothing"],
)
def test_wrong_is_seen(got: list[int], queue: str) -> None:
    load, (only,) = load_of(queue)
    only.got[0] = got
    assert load.errors()


def test_leaving_does_not_excuse_a_gap() -> None:
    load, (only,) = load_of("")
    load.unsubscribe(only)
    only.got[0] = [2, 3, 5]
    assert load.errors()


def test_groups() -> None:
    load, members = load_of("q", 3)
    assert load.errors() == []
    members[0].got[0].append(members[1].got[0][-1])
    assert load.errors()
