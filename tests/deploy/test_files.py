"""The files under deploy/ parse, and name options, paths and endpoints that exist.

What has a linter is given to it where that is installed: systemd-analyze, hadolint, and the schemas of
kubernetes-validate. None of it is run as such: there is no service manager, no container engine and no cluster here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.tools import run, tool
from shardbroker.cli.signals import COMMANDS
from shardbroker.control.config.flags import parse_flags
from shardbroker.control.config.load import load

TOP = Path(__file__).resolve().parents[2]
DEPLOY = TOP / "deploy"
UNIT = DEPLOY / "systemd" / "shardbroker.service"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
MANIFEST = DEPLOY / "kubernetes" / "shardbroker.yaml"


@pytest.mark.parametrize("path", [DEPLOY / "systemd" / "nats.conf", DEPLOY / "docker" / "nats.conf"], ids=str)
def test_configuration_files(path: Path) -> None:
    options = load(["-c", str(path)])
    assert options.warnings == ()
    assert options.jetstream.enabled
    # Nobody is asked who he is there.
    assert options.http_host == "127.0.0.1"


# -- systemd --


def unit_lines() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_starts_what_there_is() -> None:
    unit = unit_lines()
    program, *arguments = unit["ExecStart"][0].split()
    assert program.endswith("/shardbroker")
    given = parse_flags(arguments)
    assert given.rest == ()
    assert given.given["c"] == "/etc/shardbroker/nats.conf"
    assert given.given["P"].startswith(f"/run/{unit['RuntimeDirectory'][0]}/")
    store = load(["-c", str(DEPLOY / "systemd" / "nats.conf")])
    assert store.jetstream.store_dir == f"/var/lib/{unit['StateDirectory'][0]}"
    assert int(unit["TimeoutStopSec"][0]) > store.lame_duck_duration
    assert unit["Type"] == ["notify"]
    assert unit["ExecReload"][0].split()[2] == "HUP"
    assert unit["ExecStop"][0].split()[2] == COMMANDS["ldm"].name.removeprefix("SIG")


def test_the_unit_is_one_and_is_hardened(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    # The program is not installed here.
    copy = tmp_path / "shardbroker.service"
    copy.write_text(re.sub(r"ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text()))
    done = subprocess.run(
        [analyze, "verify", str(copy)], capture_output=True, text=True, check=False, timeout=60
    )
    complaints = [line for line in done.stderr.splitlines() if "shardbroker" in line]
    assert complaints == []
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=20", str(copy)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze judges running units only")
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


# -- container --


def docker_steps() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ")
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]


def test_the_image_starts_what_there_is() -> None:
    steps = docker_steps()
    one = dict(steps)
    assert json.loads(one["ENTRYPOINT"]) == ["shardbroker"]
    assert parse_flags(json.loads(one["CMD"])).given == {"c": "/etc/shardbroker/nats.conf"}
    assert one["USER"].split(":")[0] not in ("", "0", "root")
    for word, rest in steps:
        if word == "COPY" and "--from" not in rest:
            assert (TOP / rest.split()[0]).exists()
    health = json.loads(one["HEALTHCHECK"].partition("CMD ")[2])
    assert health[:3] == ["shardbroker", "check", "health"]
    options = load(["-c", str(DEPLOY / "docker" / "nats.conf")])
    assert health[3] == f"http://127.0.0.1:{options.http_port}"
    assert one["EXPOSE"].split() == [str(options.port), str(options.http_port)]
    assert one["VOLUME"] == options.jetstream.store_dir


def test_what_the_image_is_built_from_is_not_left_out() -> None:
    left_out = (TOP / ".dockerignore").read_text().split()
    for name in ("shardbroker", "pyproject.toml", "README.md", "LICENSE", "deploy"):
        assert name not in left_out
        assert (TOP / name).exists()


def test_hadolint() -> None:
    run(tool("hadolint"), str(DOCKERFILE))


# -- Kubernetes --


def manifests() -> dict[str, dict[str, Any]]:
    return {
        f"{doc['kind']}/{doc['metadata']['name']}": doc for doc in yaml.safe_load_all(MANIFEST.read_text())
    }


def test_the_pod_starts_what_there_is(tmp_path: Path) -> None:
    documents = manifests()
    config = tmp_path / "nats.conf"
    config.write_text(documents["ConfigMap/shardbroker"]["data"]["nats.conf"])
    options = load(["-c", str(config)])
    assert options.warnings == ()
    spec = documents["StatefulSet/shardbroker"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert parse_flags(container["args"]).given == {"c": "/etc/shardbroker/nats.conf"}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"/etc/shardbroker", "/data", "/run/shardbroker", "/dev/shm"}
    assert options.jetstream.store_dir in mounts
    assert str(Path(options.pid_file).parent) in mounts
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"nats": options.port, "monitor": options.http_port}
    program, *stop = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "shardbroker"
    assert parse_flags(stop).given == {"sl": f"ldm={options.pid_file}"}
    assert spec["terminationGracePeriodSeconds"] > options.lame_duck_duration
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in ("/livez", "/readyz")


def test_the_pod_has_no_rights_it_does_not_need() -> None:
    spec = manifests()["StatefulSet/shardbroker"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not spec["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_names_and_labels_meet() -> None:
    documents = manifests()
    stateful = documents["StatefulSet/shardbroker"]["spec"]
    labels = stateful["template"]["metadata"]["labels"]
    assert stateful["selector"]["matchLabels"] == labels
    assert f"Service/{stateful['serviceName']}" in documents
    for name in ("Service/shardbroker", "Service/shardbroker-headless"):
        assert documents[name]["spec"]["selector"] == labels
    assert documents["PodDisruptionBudget/shardbroker"]["spec"]["selector"]["matchLabels"] == labels
    assert documents["NetworkPolicy/shardbroker"]["spec"]["podSelector"]["matchLabels"] == labels


@pytest.mark.parametrize("version", ["1.29", "1.31"])
def test_schemas_of_kubernetes(version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for document in manifests().values():
        validate.validate(document, version, strict=True)
