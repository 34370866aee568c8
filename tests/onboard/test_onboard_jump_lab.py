"""``llamaherd onboard`` by way of a jump host, and by IPv6: two lab hosts.

The box's name is known to the jump host alone, so that nothing else can have led there.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dressed_box import BIN, Box, ids

pytestmark = pytest.mark.lab

PROJECT = Path(__file__).resolve().parents[2]
LAB = str(PROJECT / "molecule" / "lab")
CONFIG = """\
Host jump
  HostName {jump.address}
  User ops
  IdentityFile {jump.directory}/key
Host inner
  HostName box.inside
  IdentityFile {box.directory}/key
  ProxyJump jump
Host commanded
  HostName box.inside
  IdentityFile {box.directory}/key
  ProxyCommand ssh -F {config} -W %h:%p jump
Host stranger-at-the-gate
  HostName box.inside
  IdentityFile {box.directory}/key
  ProxyJump nobody@jump
Host *
  IdentitiesOnly yes
  UserKnownHostsFile {known_hosts}
"""
FLEET = """\
version: 1
models:
  tiny: {path: tiny.gguf, sha256: MODEL}
defaults:
  cuda: {provider: none}
  llama_cpp:
    archive: {path: source.tar.gz, sha256: SOURCE}
    commit: 0c1e570
    build_number: 1
groups:
  lab:
    servers:
      coder: {model: tiny, port: 8888, context: 8192}
hosts: {}
"""


@pytest.fixture(scope="module")
def labs() -> Iterator[tuple[Any, Any]]:
    """The jump host and the box."""
    if LAB not in sys.path:
        sys.path.insert(0, LAB)
    from lab import lab_host

    with (
        lab_host(f"jump-{secrets.token_hex(3)}") as jump,
        lab_host(f"inner-{secrets.token_hex(3)}") as box,
    ):
        jump.run(f"echo '{box.address} box.inside' >> /etc/hosts")
        yield jump, box


@pytest.fixture
def inner(labs: tuple[Any, Any], tmp_path: Path) -> Box:
    """The box behind the jump host, whose own key is known; the box's isn't."""
    jump, lab = labs
    box = Box(lab, tmp_path)
    box.known_hosts.write_text((jump.directory / "known_hosts").read_text())
    box.config.write_text(
        CONFIG.format(jump=jump, box=lab, config=box.config, known_hosts=box.known_hosts)
    )
    return box


def _fingerprint(box: Box) -> str:
    shown = box.lab.run("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").stdout
    match = re.search(r"SHA256:\S+", shown)
    assert match is not None
    return match[0]


@pytest.mark.parametrize("alias", ["inner", "commanded"])
def test_a_box_behind_a_jump_host_is_reached_as_any_other(inner: Box, alias: str) -> None:
    status, report = inner.look(f"ops@{alias}")
    assert (status, ids(report)) == (1, ["ssh.host-key-unknown"])
    assert report["contact"]["host_key"]["fingerprint"] == _fingerprint(inner)
    status, report = inner.look(f"ops@{alias}", "--fingerprint", _fingerprint(inner))
    assert (status, report["contact"]["login"]) == (0, "key"), report["findings"]
    hostname = inner.lab.run("hostname").stdout.strip()
    assert report["probe"]["machine"]["hostname"] == hostname
    assert "box.inside ssh-ed25519" in inner.known_hosts.read_text()


def test_the_first_contact_goes_the_same_way(inner: Box) -> None:
    words = ("--fingerprint", _fingerprint(inner), "--create-user", "herder")
    status, report = inner.look("ops@inner", *words)
    assert (status, report["target"]["user"], ids(report)) == (0, "herder", [])
    inner.lab.run(report["steps"][-1]["undo"].partition(": ")[2])


def test_the_entry_leads_there_too(inner: Box) -> None:
    fleet = inner.folder / "fleet.yaml"
    text = FLEET
    for name, mark in (("tiny.gguf", "MODEL"), ("source.tar.gz", "SOURCE")):
        (inner.folder / name).write_bytes(b"GGUF" + bytes(60))
        digest = hashlib.sha256((inner.folder / name).read_bytes()).hexdigest()
        text = text.replace(mark, digest)
    fleet.write_text(text)
    words = ("--fingerprint", _fingerprint(inner), "--fleet", str(fleet), "--write", "--yes")
    status, report = inner.look("ops@inner", *words)
    assert status == 0, report["findings"]
    done = subprocess.run(
        [str(BIN / "pyinfra"), "inventory.py", "exec", "--", "hostname"],
        cwd=PROJECT,
        env=os.environ | {"FLEET": str(fleet)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert inner.lab.run("hostname").stdout.strip() in done.stdout + done.stderr


def test_a_jump_host_that_is_not_known_is_not_trusted_and_nobody_is_asked(inner: Box) -> None:
    inner.known_hosts.write_text("")
    status, report = inner.look("ops@inner", "--fingerprint", _fingerprint(inner))
    assert (status, ids(report)) == (1, ["ssh.unreachable"])
    (finding,) = report["findings"]
    assert "by way of jump: " in finding["message"]
    assert "Host key verification failed" in finding["message"]
    assert "ssh jump" in finding["remedy"]
    assert inner.known_hosts.read_text() == ""


def test_a_jump_host_that_lets_nobody_in_says_so(inner: Box) -> None:
    status, report = inner.look("ops@stranger-at-the-gate")
    assert (status, ids(report)) == (1, ["ssh.unreachable"])
    assert "Permission denied" in report["findings"][0]["message"]


def test_an_ipv6_address_with_a_port(inner: Box) -> None:
    network = secrets.token_hex(2)
    here, there = f"fd5a:{network}::1", f"fd5a:{network}::2"
    bridge = _bridge_of(inner.lab)
    subprocess.run(["ip", "-6", "address", "add", f"{here}/64", "dev", bridge, "nodad"], check=True)
    inner.lab.run(
        f"ip -6 address add {there}/64 dev $(ip -o -4 route show default | cut -d ' ' -f 5) nodad; "
        "systemd-run -q --unit sshd-six /usr/sbin/sshd -D -p 2226; "
        "for i in $(seq 50); do ss -Hltn sport = :2226 | grep -q . && break; sleep .1; done"
    )
    named = ("--fingerprint", _fingerprint(inner), "--key", str(inner.lab.directory / "key"))
    status, report = inner.look(f"ops@[{there}]:2226", *named)
    assert (status, ids(report)) == (0, []), report
    assert (report["target"]["hostname"], report["target"]["port"]) == (there, 2226)
    assert f"[{there}]:2226 ssh-ed25519" in inner.known_hosts.read_text()
    assert inner.look(f"ssh://ops@[{there}]:2226/", *named[2:])[0] == 0


def _bridge_of(lab: Any) -> str:
    """This machine's interface towards a lab host."""
    routes = subprocess.run(
        ["ip", "-o", "route", "get", lab.address], capture_output=True, text=True, check=True
    ).stdout
    return routes.split(" dev ")[1].split()[0]
