"""What the host is after an upgrade and after a release that couldn't serve."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

import pytest
import testinfra
import yaml
from testinfra.host import Host

EPHEMERAL = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
STORE = "/var/lib/llamaherd/releases/coder"
SAID = re.compile(r"release ([0-9a-f]{16}) serves again after (\d+\.\d) s of interruption")


@pytest.fixture(scope="module")
def solo() -> Host:
    return testinfra.get_host(
        "ansible://solo", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"]
    )


@pytest.fixture(scope="module")
def process(solo: Host) -> str:
    """The server's process, below /proc."""
    return f"/proc/{solo.check_output('systemctl show -P MainPID llama-server@coder')}"


def test_the_running_build_is_the_second_one(solo: Host, process: str) -> None:
    binary = solo.check_output(f"readlink {process}/exe")
    assert re.fullmatch(r"/opt/llama\.cpp/b2-0c1e570-[0-9a-f]{12}/bin/llama-server", binary)
    key = yaml.safe_load((EPHEMERAL / "environment.yml").read_text())["LAB_API_KEY"]
    props = solo.check_output(
        f"printf 'Authorization: Bearer %s' {key} | curl -s -H @- 127.0.0.1:8888/props"
    )
    assert json.loads(props)["build_info"] == "b2-0c1e570"
    # Other flags, and they are in it: the first one's build is linked with OpenMP.
    assert "libgomp" not in solo.check_output(f"ldd {binary}")


def test_both_releases_are_kept_with_their_builds(solo: Host) -> None:
    builds = {
        name: solo.check_output(f"head -n 1 {STORE}/{name}/uses")
        for name in ("current", "previous")
    }
    assert builds["current"].startswith("/opt/llama.cpp/b2-")
    assert builds["previous"].startswith("/opt/llama.cpp/b1-")
    assert all(solo.file(f"{path}/bin/llama-server").exists for path in builds.values())
    assert "libgomp" in solo.check_output(f"ldd {builds['previous']}/bin/llama-server")


def test_the_broken_release_was_told_and_undone(solo: Host, process: str) -> None:
    said = (EPHEMERAL / "broken.txt").read_text()
    found = SAID.search(said)
    assert found, said
    assert "/nowhere.gguf" in said
    assert found[1] == solo.check_output(f"readlink {STORE}/current")
    environment = solo.check_output(f"tr '\\0' '\\n' < {process}/environ")
    assert f"LLAMAHERD_CONFIG={found[1]}" in environment.splitlines()
    arguments = solo.check_output(f"tr '\\0' ' ' < {process}/cmdline")
    assert "--lora" not in arguments


def test_the_interruption_is_what_was_seen_beside_it(solo: Host) -> None:
    found = SAID.search((EPHEMERAL / "broken.txt").read_text())
    assert found
    rows = [line.split() for line in solo.check_output("cat /run/watch.log").splitlines()]
    answered = [float(row[0]) for row in rows if row[1:] == ["200"]]
    gaps = [later - earlier for earlier, later in itertools.pairwise(answered)]
    # The upgrade's own restart may be shorter than that: one start of a small model.
    longest = max(gaps)
    print(f"\nnobody answered for {longest:.1f} s; said: {found[2]} s")
    assert 0.5 < longest <= float(found[2]) + 2
    assert answered[-1] >= float(rows[-1][0]) - 5
