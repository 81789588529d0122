"""Names from clients as file names: they never leave the directory that they are put into, and no two share a file."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from shardbroker.stream.registry import file_name, name_of

NASTY = ["..", ".", "/", "../../x", "a/b", "/etc/x", "a\\b", "a\0b", "~", "-rf", "a b", "%2e%2e", "\u202e", "é", "日本",
         "x" * 300, "..%2f", "con", "LOCK", "registry.db", "a\nb", "a*", ">", "", "\ud800"]  # fmt: skip
names = st.text(st.characters(), max_size=300) | st.lists(st.sampled_from(NASTY), max_size=5).map("".join)


@given(names)
def test_a_file_name_has_nothing_that_a_file_system_minds(name: str) -> None:
    made = file_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_%-]{1,255}", made)
    assert (Path("/store") / made).resolve().parent == Path("/store")


@given(names, names)
def test_two_names_have_two_files(a: str, b: str) -> None:
    assert (file_name(a) == file_name(b)) == (a == b)


@given(names)
def test_a_file_tells_its_name_or_nothing(name: str) -> None:
    found = name_of(file_name(name))
    assert found in (None, name)
    assert found == name or len(name.encode(errors="surrogatepass")) > 60 or not name or max(name) >= "\ud800"
