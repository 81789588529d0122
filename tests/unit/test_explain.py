"""`shardbroker check config`: what a file comes to, and the lines that are wrong."""

from __future__ import annotations

from pathlib import Path

import orjson
from click.testing import CliRunner

from shardbroker.cli.check import check
from shardbroker.control.config.explain import excerpt, explain

GOOD = """port: 4333
max_payload: 2MB
shardbroker { workers: 2 }
authorization { user: joe, password: hush-hush, timeout: 3 }
server_tags: [a, b]
"""


def run(path: Path, *more: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(check, ["config", str(path), *more])
    return done.exit_code, done.stdout, done.stderr


def test_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_text(GOOD)
    settings = {setting.name: setting for setting in explain(str(path)).settings}
    assert (settings["port"].value, settings["port"].default) == ("4333", "4222")
    assert settings["port"].place == f"{path}:1:1"
    assert settings["workers"].place == f"{path}:3:1"
    assert (settings["server_tags"].value, settings["password"].value) == ("[a, b]", "(set)")
    status, out, err = run(path)
    assert (status, err) == (0, "")
    assert "is valid (sha256:" in out and "max_payload" in out
    status, out, _ = run(path, "--json")
    assert orjson.loads(out)["errors"] == []
    assert "hush" not in out


def test_a_wrong_file(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_text("port: x\n\tfoo: 1\nauthorization { passwort: hush-hush }\n")
    status, out, err = run(path)
    assert (status, out) == (1, "")
    assert f"error: {path}:1:1: port: expected an integer, got a string\n    port: x\n    ^\n" in err
    assert "     foo: 1\n     ^\n" in err
    assert "3 errors" in err
    assert "hush" not in err
    assert len(orjson.loads(run(path, "--json")[1])["errors"]) == 3


def test_an_error_of_syntax(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_text("a: b\nport: 1 {\n")
    (error,) = explain(str(path)).errors
    assert excerpt(error) == "port: 1 {\n        ^"
    assert run(tmp_path / "none.conf")[0] == 1
    assert excerpt("no place") == ""
