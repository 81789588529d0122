"""The table of API errors is whole, and what is raised from it reads as nats-server's."""

from __future__ import annotations

import string

import pytest

from shardbroker.stream.errors import TEXTS, ApiError, Code


def test_every_code_has_a_text_and_its_fields_can_be_filled() -> None:
    assert set(TEXTS) == set(Code)
    assert len({*Code}) == len(Code.__members__)
    for code, (status, text) in TEXTS.items():
        assert 400 <= status <= 503
        names = [name for _, name, _, _ in string.Formatter().parse(text) if name]
        filled = ApiError(code, **dict.fromkeys(names, "{x}"))
        assert filled.description == str(filled)
        assert filled.description.count("{x}") == len(names)


def test_as_json() -> None:
    with pytest.raises(ApiError) as e:
        raise ApiError(Code.INVALID_JSON, err="unexpected EOF")
    assert e.value.to_json() == {
        "code": 400,
        "err_code": 10025,
        "description": "invalid JSON: unexpected EOF",
    }
