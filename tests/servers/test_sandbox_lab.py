"""Servers of every kind of device in their sandbox, on each systemd that a lab host can have.

No lab host has a GPU: the units of CUDA and Vulkan builds run the CPU build there, which shows that
the settings around it hold together and what they leave open, and not that a driver works in them.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from converge_support import LAB
from servers_lab_support import certificate

sys.path.insert(0, str(Path(__file__).parents[1] / "deploys"))
from servers_support import instance_of, settings_of

from deploys.llama_server.files import account_file, server_files
from deploys.llama_server.instance import SETTINGS, Instance

pytestmark = pytest.mark.lab

SYSTEMD = {"bookworm": 252, "trixie": 257}
DEVICES = ("cpu", "gpu", "vulkan")
# In tenths, of systemd-analyze's 10; see tests/deploys/test_llama_server_settings.py.
LOOPBACK = {"cpu": 10, "gpu": 12, "vulkan": 12}
SERVERS = {
    "secure": (
        "{model: glm, port: 8921, context: 512, parallel: 1, slot_save: true, api_key: {env: K}, "
        "tls: {certificate: /etc/ssl/sandbox/cert.pem, key: /etc/ssl/sandbox/key.pem}}"
    ),
    "hidden": (
        "{model: glm, context: 512, parallel: 1, unix_socket: true, socket_group: www-data}"
    ),
}
MODEL = "/var/lib/llamaherd/models/demo/SmolLM2-135M-Instruct-GGUF/*/*.gguf"
BINARY = "/opt/llama.cpp/b*/bin/llama-server"


@dataclass(frozen=True)
class Box:
    """A lab host that has a llama-server and a model, and the means to work on it."""

    ssh: Callable[..., list[str]]
    suite: str
    binary: str
    model: str

    def run(self, command: str, text: str = "") -> str:
        """What a command says on the host, run by root; it must not fail."""
        done = subprocess.run(
            [*self.ssh(), command], input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """A file of root's."""
        self.run(f"install -D -m {mode} /dev/stdin {shlex.quote(path)}", text)


def copied(site, target: Callable[..., list[str]]) -> None:
    """The build and the model of the one host, on the other."""
    pack = f"tar -C / -cf - $(cd / && ls -d .{BINARY} .{MODEL})"
    with subprocess.Popen([*site.lab.ssh(), pack], stdout=subprocess.PIPE) as source:
        subprocess.run([*target(), "tar -C / -xf -"], stdin=source.stdout, check=True)
    assert source.returncode == 0


@pytest.fixture(scope="module", params=SYSTEMD)
def box(site, request: pytest.FixtureRequest) -> Iterator[Box]:
    """A host of each Debian with the same binary and model, and what all servers here need."""
    sys.path.insert(0, LAB)
    from lab import lab_host

    if request.param == "bookworm":
        yield prepared(site.lab.ssh, request.param)
        return
    with lab_host(f"sandbox-{secrets.token_hex(3)}", suite=request.param) as lab:
        copied(site, lab.ssh)
        done = subprocess.run(
            [*lab.ssh(), "apt-get update -qq && apt-get install -qq libgomp1 libssl3"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        yield prepared(lab.ssh, request.param)


def prepared(ssh: Callable[..., list[str]], suite: str) -> Box:
    """Certificate, account and a file of the group ``render``."""
    box = Box(ssh, suite, "", "")
    found = replace(box, binary=box.run(f"ls -d {BINARY}"), model=box.run(f"ls -d {MODEL}"))
    for name, text in zip(("cert", "key"), certificate(), strict=True):
        box.write(f"/etc/ssl/sandbox/{name}.pem", text, "600")
    box.write("/etc/sysusers.d/sandbox.conf", "g render -\n")
    box.run("systemd-sysusers /etc/sysusers.d/sandbox.conf")
    box.write("/etc/sysusers.d/llama-server.conf", account_file().content)
    box.run("systemd-sysusers /etc/sysusers.d/llama-server.conf")
    box.run("install -m 640 -g render /dev/null /etc/of-render")
    return found


@contextmanager
def laid(box: Box, folder: Path, kind: str, devices: str) -> Iterator[Instance]:
    """A server's files on the host, its unit loaded and not started; nothing of it stays.

    The host is other tests' too: a converge of theirs would remove a unit that its fleet file
    doesn't declare, and so not be the no-op that they ask for.
    """
    instance = instance_of(settings_of(folder, SERVERS[kind]), gpu=devices == "gpu")
    name = f"{kind}-{devices}"
    instance = replace(
        instance,
        server=replace(instance.server, name=name),
        binary=box.binary,
        vulkan=devices == "vulkan",
    )
    files = server_files(instance)
    for file in files:
        box.write(file.path, file.content.replace(instance.model.path, box.model), file.mode)
    box.run("systemctl daemon-reload")
    try:
        yield instance
    finally:
        box.run(f"systemctl stop llama-server@{name}")
        box.run(f"rm {shlex.join(file.path for file in files)} && rmdir {SETTINGS}/{name}")
        box.run(f"systemctl daemon-reload; systemctl reset-failed 'llama-server@{name}*'")


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("devices", DEVICES)
def test_a_server_answers_in_its_sandbox(box: Box, tmp_path: Path, devices: str, kind: str) -> None:
    assert f"systemd {SYSTEMD[box.suite]} " in box.run("systemctl --version | head -n 1")
    with laid(box, tmp_path, kind, devices) as instance:
        unit = f"llama-server@{instance.server.name}"
        # The start job ends with the readiness script, so the server has answered by then.
        box.run(f"systemctl start {unit} || {{ journalctl -n 30 -u {unit}; false; }}")
        require_answer(box, instance)
        report = box.run(f"systemd-analyze security --no-pager {unit}")
        require_sandbox(box, unit)
        box.run(f"systemctl restart {unit}")  # slots are saved and restored, a socket is replaced
        require_answer(box, instance)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", report)
    assert exposure is not None, report
    less = 4 if instance.server.unix_socket else 0
    assert round(float(exposure[1]) * 10) <= LOOPBACK[devices] - less, report


def require_answer(box: Box, instance: Instance) -> None:
    """A completion, asked for as its clients do."""
    server = instance.server
    how = (
        f"--unix-socket {server.socket_path} http://localhost"
        if server.socket_path is not None
        else f"--cacert /etc/ssl/sandbox/cert.pem --resolve box.example.com:{server.port}:127.0.0.1"
        f" -H @- https://box.example.com:{server.port}"
    )
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3})
    key = f"Authorization: Bearer {instance.api_key}"
    answer = json.loads(box.run(f"curl -sf -d '{body}' {how}/v1/chat/completions", key))
    assert answer["usage"]["completion_tokens"] > 0


def require_sandbox(box: Box, unit: str) -> None:
    """What the kernel says of the process: no capability, a user namespace, a filter."""
    process = box.run(f"systemctl show -P MainPID {unit}")
    status = box.run(f"cat /proc/{process}/status")
    for line in ("CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in status
    mine, theirs = (box.run(f"readlink /proc/{who}/ns/user") for who in ("self", process))
    assert mine != theirs


def test_a_group_opens_files_in_the_user_namespace_of_a_unit(box: Box, tmp_path: Path) -> None:
    """Render nodes are of the group ``render``, which the namespace has no name for."""
    tried = {}
    for devices in ("gpu", "vulkan"):
        with laid(box, tmp_path, "hidden", devices) as instance:
            unit = f"llama-server@{instance.server.name}"
            drop_in = f"/run/systemd/system/{unit}.service.d/try.conf"
            box.write(drop_in, "[Service]\nExecStartPre=/bin/cat /etc/of-render\nRestart=no\n")
            box.run("systemctl daemon-reload")
            tried[devices] = box.run(f"systemctl start {unit} && echo opened || echo closed")
            box.run(f"rm {drop_in}")
    assert tried == {"gpu": "closed", "vulkan": "opened"}
