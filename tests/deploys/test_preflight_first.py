"""Every host is checked before the first change on any: the real command line, simulated hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
INVENTORY = """
import sys
sys.path[:0] = [{project!r}, {support!r}]
from dataclasses import replace as _replace
from fake_host import SETTINGS as _SETTINGS, FakeHost as _FakeHost
from inventories.settings import to_data as _to_data

_disabled = {{"UnitFileState": "disabled"}}
_stranger = ("8888 nginx[99] nginx.service",)
_hosts = {{
    "gpu-01": _FakeHost(unit=_disabled),
    "gpu-02": _FakeHost(unit=_disabled, listeners=_stranger, root={root}),
    "gpu-03": _FakeHost(unit=_disabled),
}}
all = [
    (f"@fake/{{name}}", host.data | {{"fleet": _to_data(_replace(host.settings, name=name))}})
    for name, host in _hosts.items()
]
"""


@pytest.fixture
def run(tmp_path: Path) -> str:
    return converge(tmp_path, "-y")


def converge(folder: Path, *options: str, root: bool = True) -> str:
    """What ``pyinfra inventory.py deploy.py`` says with every command that it sends."""
    inventory = folder / "inventory.py"
    text = INVENTORY.format(
        project=str(PROJECT), support=str(PROJECT / "tests" / "support"), root=root
    )
    inventory.write_text(text)
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "pyinfra"),
            *("--debug", *options, str(inventory), "deploy.py"),
        ],
        cwd=PROJECT,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)


def commands(text: str) -> list[tuple[str, str]]:
    """Host and first line of each command that was sent, in their order."""
    return re.findall(r"\[fake\] simulating command on @fake/(\S+): (.*)", text)


def test_no_host_is_changed_before_all_were_checked(run: str) -> None:
    headings = [match.start() for match in re.finditer("--> Starting operation", run)]
    first = run[headings[0] : headings[1]]

    assert "Preflight" in first
    for host in ("gpu-01", "gpu-02", "gpu-03"):
        assert f"[@fake/{host}]" in first
    assert "systemctl enable" not in run[: headings[1]]
    assert "systemctl enable" in run[headings[1] :]


def test_a_host_that_preflight_refuses_is_left_alone_and_the_others_go_on(run: str) -> None:
    enabled = {host for host, command in commands(run) if command.startswith("systemctl enable")}
    assert enabled == {"gpu-01", "gpu-03"}
    after = run[[match.start() for match in re.finditer("--> Starting operation", run)][1] :]
    assert "gpu-02" not in {host for host, _ in commands(after)}


def test_the_last_lines_are_a_table_of_whom_preflight_stopped(run: str) -> None:
    assert run.rstrip().splitlines()[-6:] == [
        "--> preflight:",
        "    HOST          RIGHTS  SYSTEM  DISK  GPU  BUILD  MEMORY  PORTS  SETTINGS",
        "    @fake/gpu-02  ok      ok      ok    ok   ok     ok      NO     ok",
        "    2 others are in order",
        "--> 1 host failed; the others went on:",
        "    @fake/gpu-02: Preflight | Check the host against the fleet: port 8888 of server coder "
        "is taken by nginx[99]: stop that, or set servers.coder.port",
    ]


def test_several_obstacles_are_told_line_by_line_and_in_a_dry_run_too(tmp_path: Path) -> None:
    said = converge(tmp_path, "--dry", root=False)
    assert (
        "    @fake/gpu-02  NO      ok      ok    ok   ok     ok      NO     ok" in said.splitlines()
    )
    assert "would fail: " in said
