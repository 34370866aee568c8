"""The scheduled check on a real host: installed by pyinfra, run by systemd, against itself."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deploys.drift_timer.program import MODULES, PACKAGES
from facts.drift_timer import SERVICE, TIMER
from schemas.validate import load_schema

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parents[2]
LAB = str(ROOT / "molecule" / "lab")
BIN = Path(sys.executable).parent
STATE = "/var/lib/llamaherd-drift"
FLEET = """\
version: 1
drift:
  schedule: "06:00"
  randomized_delay: 60
  keep: 4
  prometheus: /var/lib/metrics/llamaherd.prom
  html: /var/lib/metrics/drift.html
  on_drift: {{command: [sh, -c, 'cat >> {state}/told; echo >> {state}/told']}}
hosts:
  watcher:
    controller: true
    ssh: {{hostname: {host}, key: {key}, known_hosts: {known_hosts}}}
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Any]:
    """A Debian 12 host of this module's own."""
    if LAB not in sys.path:
        sys.path.insert(0, LAB)
    from lab import lab_host

    with lab_host(f"watch-{secrets.token_hex(3)}") as lab:
        lab.run("mkdir -p /var/lib/metrics")
        yield lab


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as it is now: an edit while the tests run would be another version of it."""
    folder: Path = tmp_path_factory.mktemp("project")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("*.pyc"))
    for module in MODULES:
        shutil.copy(ROOT / module, folder)
    return folder


@pytest.fixture(scope="module")
def fleet(host: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet of this one host, locked."""
    path: Path = tmp_path_factory.mktemp("fleet") / "fleet.yaml"
    folder = host.directory
    text = FLEET.format(
        state=STATE, host=host.address, key=folder / "key", known_hosts=folder / "known_hosts"
    )
    path.write_text(text)
    subprocess.run([BIN / "llamaherd", "lock", path], check=True, capture_output=True, timeout=60)
    return path


Converge = Callable[[], str]


@pytest.fixture(scope="module")
def converge(copy: Path, fleet: Path) -> Converge:
    """A converge that must go well; answers with what it printed."""
    return lambda: run_pyinfra(copy, fleet)


def run_pyinfra(copy: Path, fleet: Path) -> str:
    done = subprocess.run(
        [BIN / "pyinfra", "-y", "inventory.py", "deploy.py"],
        cwd=copy,
        env={**os.environ, "FLEET": str(fleet)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def converged(host: Any, converge: Converge) -> str:
    """The host after a converge, its key let in; what the converge printed."""
    output = converge()
    host.run(f"cat {STATE}/.ssh/id_ed25519.pub >> /root/.ssh/authorized_keys")
    return output


def check(host: Any) -> tuple[str, int]:
    """Run the service once: the unit's result, and the check's exit status."""
    host.run(f"systemctl start {SERVICE}", check=False)
    shown = host.run(f"systemctl show -p Result -p ExecMainStatus {SERVICE}").stdout
    values = dict(line.split("=") for line in shown.split())
    return values["Result"], int(values["ExecMainStatus"])


def log(host: Any) -> str:
    return str(host.run(f"journalctl -u {SERVICE} --no-pager -o cat -n 40").stdout)


def told(host: Any) -> list[dict[str, Any]]:
    lines = host.run(f"cat {STATE}/told 2>/dev/null || :").stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_the_converge_shows_the_key_that_must_be_let_in(host: Any, converged: str) -> None:
    public = host.run(f"cat {STATE}/.ssh/id_ed25519.pub").stdout.strip()
    assert public in converged


def test_a_second_converge_changes_nothing(converge: Converge, converged: str) -> None:
    line = next(line for line in converge().splitlines() if "Grand total" in line)
    assert line.split()[2:] == ["3", "-", "-", "3"]


def test_the_timer_waits_for_its_time(host: Any, converged: str) -> None:
    assert host.run(f"systemctl is-active {TIMER}").stdout.strip() == "active"
    assert host.run(f"systemctl is-enabled {TIMER}").stdout.strip() == "enabled"
    at = host.run(f"systemctl show -P NextElapseUSecRealtime {TIMER}").stdout
    assert " 06:0" in at


def test_the_service_judges_its_own_host_in_order(host: Any, converged: str) -> None:
    assert check(host) == ("success", 0), log(host)
    assert told(host) == []
    page = host.run("stat -c '%a %U' /var/lib/metrics/drift.html").stdout
    assert page == "644 root\n"
    assert "llamaherd" in host.run("cat /var/lib/metrics/llamaherd.prom").stdout


def test_drift_is_found_and_told_once_and_is_no_failure_of_the_unit(
    host: Any, converged: str
) -> None:
    host.run("chmod 700 /etc/llamaherd/publish")
    for _ in range(2):
        assert check(host) == ("success", 2), log(host)
    (message,) = told(host)
    jsonschema.validate(message, load_schema("drift.notification.schema.json"))
    assert (message["previous"], message["state"]) == ("ok", "drift")
    assert "/etc/llamaherd/publish" in message["failures"][0]["message"]


def test_a_converge_heals_it_and_that_is_told_too(
    host: Any, converge: Converge, converged: str
) -> None:
    converge()
    assert check(host) == ("success", 0), log(host)
    assert [message["state"] for message in told(host)] == ["drift", "ok"]


def test_a_host_out_of_reach_is_a_failure_of_the_unit(host: Any, converged: str) -> None:
    keys = "/root/.ssh/authorized_keys"
    host.run(f"cp -p {keys} {keys}.all && sed -i /llamaherd-drift@/d {keys}")
    assert check(host) == ("exit-code", 1)
    host.run(f"mv {keys}.all {keys}")
    assert "Authentication failed" in log(host)


def test_the_history_on_the_controller_tells_all_of_it(host: Any, converged: str) -> None:
    command = (
        f"runuser -u llamaherd-drift -- env STATE_DIRECTORY={STATE} "
        "/opt/llamaherd/current/bin/llamaherd drift /etc/llamaherd/fleet.yaml --history --json"
    )
    document = json.loads(host.run(command).stdout)
    jsonschema.validate(document, load_schema("drift.history.schema.json"))
    states = [entry["state"] for entry in document["checks"]]
    assert states == ["drift", "drift", "ok", "error"], "the last four are kept"


def test_what_the_page_says_to_type_on_the_controller(host: Any, converged: str) -> None:
    assert TIMER in host.run(f"systemctl list-timers {TIMER}").stdout
    # The last check could not judge: what an alert looks at.
    assert host.run(f"systemctl is-failed {SERVICE}").stdout.strip() == "failed"
    host.run(f"systemctl disable --now {TIMER}")
    assert host.run(f"systemctl is-enabled {TIMER}", check=False).stdout.strip() == "disabled"
    host.run(f"systemctl enable --now {TIMER}")


def test_the_administrators_file_reaches_the_check_and_survives(
    host: Any, converge: Converge, converged: str
) -> None:
    host.run("echo LLAMAHERD_SSH_KEY=/nonexistent >> /etc/llamaherd/drift.env")
    assert check(host) == ("exit-code", 1)
    assert "/nonexistent" in log(host)
    converge()
    assert "/nonexistent" in host.run("cat /etc/llamaherd/drift.env").stdout
