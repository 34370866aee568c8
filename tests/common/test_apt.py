"""apt and dpkg that somebody else holds, in the real shell; what they say is recorded."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deploys.common.apt import APT_FUNCTIONS, LOCK_SECONDS
from deploys.common.jobs import REASON

# dpkg 1.21 and 1.20, and apt 2.6, in the C locale.
DPKG = "dpkg: error: dpkg frontend lock was locked by another process with pid {pid}"
OLD_DPKG = "dpkg: error: dpkg frontend lock is locked by another process"
APT = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process {pid} (apt-get)"
BROKEN = """\
Setting up theirs (1.0) ...
dpkg: error processing package theirs (--configure):
 installed theirs package post-installation script subprocess returned error exit status 1
Errors were encountered while processing:
 theirs
"""


def run(
    call: str, tmp_path: Path, said: str, times: int, program: str
) -> subprocess.CompletedProcess[str]:
    """A function's run where ``program`` says so the first ``times`` times, and then ends well."""
    (tmp_path / "said").write_text(said)
    stand_in = tmp_path / "bin" / program
    stand_in.parent.mkdir()
    stand_in.write_text(
        f"#!/bin/sh\necho $0 >> {tmp_path}/calls\n"
        f"[ $(wc -l < {tmp_path}/calls) -gt {times} ] || {{ cat {tmp_path}/said >&2; exit 2; }}\n"
    )
    stand_in.chmod(0o755)
    script = APT_FUNCTIONS.replace("sleep 5", ":") + call
    return subprocess.run(
        ["sh", "-eu", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{stand_in.parent}:{os.environ['PATH']}"},
    )


def calls(tmp_path: Path) -> int:
    return len((tmp_path / "calls").read_text().splitlines())


@pytest.mark.parametrize(
    ("call", "program", "said"),
    [
        ("dpkg_ready", "dpkg", DPKG),
        ("dpkg_ready", "dpkg", OLD_DPKG),
        ("apt_update", "apt-get", APT),
    ],
)
def test_a_lock_is_waited_for(tmp_path: Path, call: str, program: str, said: str) -> None:
    result = run(call, tmp_path, said.format(pid=os.getpid()), 3, program)
    assert result.returncode == 0, result.stderr
    assert calls(tmp_path) == 4
    assert result.stdout.count("which holds the lock of the package manager") == 1


@pytest.mark.parametrize(
    ("call", "program", "said"), [("dpkg_ready", "dpkg", DPKG), ("apt_update", "apt-get", APT)]
)
def test_who_holds_it_for_too_long_is_named(
    tmp_path: Path, call: str, program: str, said: str
) -> None:
    result = run(call, tmp_path, said.format(pid=os.getpid()), 1000, program)
    assert result.returncode != 0
    own = Path("/proc/self/comm").read_text().strip()
    assert (
        f"{REASON}{own} ({os.getpid()}) has held the lock of the host's package manager for "
        in (result.stderr)
    )
    assert calls(tmp_path) == LOCK_SECONDS / 5 + 1


def test_a_package_that_cannot_be_set_up_is_named(tmp_path: Path) -> None:
    result = run("dpkg_ready", tmp_path, BROKEN, 1000, "dpkg")
    assert result.returncode != 0
    assert f"{REASON}dpkg can't set up what is half installed: theirs: run " in result.stderr
    assert calls(tmp_path) == 1


def test_an_install_begins_with_what_was_left_half_done(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for program in ("dpkg", "apt-get"):
        (tmp_path / "bin" / program).write_text(f'#!/bin/sh\necho "{program} $*" >> log\n')
        (tmp_path / "bin" / program).chmod(0o755)
    subprocess.run(
        ["sh", "-euc", APT_FUNCTIONS + "apt_get install -- jq"],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
    )
    assert (tmp_path / "log").read_text().splitlines() == [
        "dpkg --configure -a",
        f"apt-get -y -q -o DPkg::Lock::Timeout={LOCK_SECONDS} install -- jq",
    ]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "E: Release file for http://deb.example/InRelease is not valid yet (invalid for "
            "another 364d). Updates for this repository will not be applied.\n",
            ", and its clock (it says 20",
        ),
        ("W: odd\nE: The repository 'http://deb.example' has no Release file.\n", "sources\n"),
    ],
)
def test_why_lists_cannot_be_fetched_is_told(tmp_path: Path, said: str, words: str) -> None:
    result = run("apt_update", tmp_path, said, 1000, "apt-get")
    assert result.returncode != 0
    told = said.splitlines()[-1].removeprefix("E: ")
    assert f"{REASON}apt: {told}: check the host's package sources" in result.stderr
    assert words in result.stderr
