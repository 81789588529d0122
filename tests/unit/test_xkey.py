"""Boxes between the server and a callout's service: each is another, and for its owner only (CVE-2023-46129 was a fixed key)."""

from __future__ import annotations

import os

import pytest

from shardbroker.auth import xkey


def test_boxes_are_never_the_same_and_open_for_their_owner_only() -> None:
    server, service, stranger = (xkey.secret_of(os.urandom(32)) for _ in range(3))
    assert len({xkey.public_of(secret) for secret in (server, service, stranger)}) == 3
    boxes = {xkey.seal(server, xkey.public_of(service), b"text") for _ in range(50)}
    assert len(boxes) == 50
    for box in boxes:
        assert b"text" not in box
        assert xkey.open_box(service, xkey.public_of(server), box) == b"text"
        for secret, sender in ((stranger, server), (service, stranger)):
            with pytest.raises(xkey.XKeyError):
                xkey.open_box(secret, xkey.public_of(sender), box)
