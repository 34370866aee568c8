"""A host that was tampered with: what ``llamaherd drift`` says, and that a converge mends it."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from converge_support import Site
from tampered_states import (
    BATCHES,
    MODEL_FILE,
    PREAMBLE,
    SERVERS,
    Batch,
    Seen,
    State,
    port,
)

from llamaherd.drift.history import reports_directory

pytestmark = pytest.mark.lab

# The budget (docs/performance.md) of a host in order with one server and OpenCode.
MOST_COMMANDS = 15
MOST_OPERATIONS = 12


@pytest.fixture(scope="session", autouse=True)
def state_home(site: Site, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where reports and locks are kept: not in the home of whoever runs the tests."""
    home = str(tmp_path_factory.mktemp("state"))
    site.environment["XDG_STATE_HOME"] = home
    return home


@pytest.fixture(scope="session")
def served(site: Site) -> Path:
    """The fleet file of the same host with six servers, converged."""
    coder = next(line for line in site.fleet.read_text().splitlines() if "coder:" in line)
    more = [
        coder.replace("coder", name).replace(str(port("coder")), str(port(name)))
        for name in SERVERS[1:]
    ]
    users = "opencode: {users: [dev]}"
    fleet = site.variant(
        "served",
        (coder, "\n".join([coder, *more])),
        (users, "opencode: {users: [dev], default: coder}"),
    )
    result = site.converge(fleet=fleet)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return fleet


@pytest.fixture(scope="session")
def ordered(site: Site) -> Path:
    """The fleet file with one server, after the host was brought back to it."""
    result = site.converge()
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return site.fleet


def check(site: Site, fleet: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit status and report of ``llamaherd drift --json``."""
    result = site.run("llamaherd", "drift", str(fleet), "--json", *options)
    assert result.stdout, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return result.returncode, report


def findings(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What was found on the only host, which could be judged."""
    (host,) = report["hosts"]
    assert host["error"] == ""
    found: list[dict[str, Any]] = host["findings"]
    return found


def root(site: Site, script: str) -> None:
    """Run a script on the host; it must succeed."""
    done = subprocess.run(
        [*site.lab.ssh(), "bash"],
        input=PREAMBLE + script,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"


def matches(seen: Seen, finding: dict[str, Any]) -> bool:
    """Whether a finding is the expected one."""
    return (
        (finding["plane"], finding["component"]) == (seen.plane, seen.component)
        and re.fullmatch(seen.subject, finding["subject"]) is not None
        and re.search(seen.summary, finding["summary"]) is not None
    )


def tell(found: list[dict[str, Any]]) -> str:
    """Findings for a person who reads a failure."""
    rows = (f"  {f['plane']} {f['component']} {f['subject']}: {f['summary']}" for f in found)
    return "\n".join(rows) or "  nothing"


def unreported(states: tuple[State, ...], found: list[dict[str, Any]]) -> list[str]:
    """Names of the states that were tampered with and not told."""
    return [
        f"{state.name}: {seen}"
        for state in states
        for seen in state.seen
        if not any(matches(seen, finding) for finding in found)
    ]


def unexpected(states: tuple[State, ...], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Findings about what nobody touched."""
    expected = [seen for state in states for seen in (*state.seen, *state.echoes)]
    return [f for f in found if not any(matches(seen, f) for seen in expected)]


def without_a_remedy(states: tuple[State, ...], found: list[dict[str, Any]]) -> list[str]:
    """States that a person must mend, of which the report doesn't say how."""
    return [
        state.name
        for state in states
        if state.by_hand
        and not any(matches(seen, f) and f["remedy"] for seen in state.seen for f in found)
    ]


def test_there_are_thirty_tampered_states() -> None:
    names = [state.name for batch in BATCHES for state in batch.states]
    assert len(set(names)) == len(names) >= 30


@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: batch.name.replace(" ", "-"))
def test_each_tampered_state_is_told_and_a_converge_mends_it(
    site: Site, batch: Batch, request: pytest.FixtureRequest
) -> None:
    fleet = request.getfixturevalue("ordered" if batch.servers == 1 else "served")
    root(site, "\n".join(state.tamper for state in batch.states))
    code, report = check(site, fleet)
    found = findings(report)
    assert unreported(batch.states, found) == [], f"found:\n{tell(found)}"
    assert unexpected(batch.states, found) == [], f"found:\n{tell(found)}"
    assert without_a_remedy(batch.states, found) == []
    assert code == 2

    for state in batch.states:
        root(site, f"{state.survives or ':'}\n{state.by_hand}")
    result = site.converge(fleet=fleet)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    code, report = check(site, fleet)
    assert (code, findings(report)) == (0, []), f"after the converge:\n{tell(findings(report))}"
    for state in batch.states:
        root(site, f"{state.survives or ':'}\n{state.gone or ':'}")


def test_servers_still_answer_after_all_that(site: Site, ordered: Path) -> None:
    result = site.run("llamaherd", "verify", str(ordered))
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_flipped_bit_under_the_same_size_and_time_is_seen_with_deep_alone(
    site: Site, ordered: Path
) -> None:
    flip = r"""
    byte=$(od -An -tu1 -j 50000000 -N 1 "$MODEL"); time=$(stat -c %y "$MODEL")
    printf "\\x$(printf %x $((byte ^ 1)))" |
      dd of="$MODEL" bs=1 seek=50000000 conv=notrunc status=none
    touch -d "$time" "$MODEL"
    """
    root(site, flip)
    assert check(site, ordered)[0] == 0
    code, report = check(site, ordered, "--deep")
    (finding,) = findings(report)
    assert code == 2
    assert matches(Seen("declared", "models", MODEL_FILE, "its SHA-256 is"), finding)
    assert "/.verified/" in finding["remedy"]
    root(site, 'rm "$(dirname "$MODEL")/.verified/"*.json')
    assert site.converge(fleet=ordered).returncode == 0
    assert check(site, ordered, "--deep")[0] == 0


def test_a_fleet_in_order_is_in_order_ten_times_in_a_row(site: Site, ordered: Path) -> None:
    assert [check(site, ordered)[0] for _ in range(10)] == [0] * 10


def test_a_host_in_order_is_judged_within_the_budget(site: Site, ordered: Path) -> None:
    code, report = check(site, ordered)
    (host,) = report["hosts"]
    assert code == 0
    assert 0 < host["commands"] <= MOST_COMMANDS
    assert 0 < host["operations"] <= MOST_OPERATIONS


# What changes by itself, drift or no drift, and why it isn't compared:
# - /proc, /sys, /dev: the kernel's, not files (find -xdev would leave them out too)
# - /run/systemd, /run/log, /var/log/journal: systemd's own notes on running units, and the journal,
#   in which sshd tells of each login
# - /run/utmp, /var/log/{wtmp,lastlog,btmp,auth.log}, /run/sshd: traces of a login, the test's too
# - /run/motd.dynamic: what PAM greets each login with, written anew; and so the time of /run
# - /run/sudo, /var/lib/sudo: when a user last used sudo, of our connection's account
# - the ctime of directories: a lab host's are overlayfs', which drops a mark of its own from some
#   when they are first listed (ovl_cache_get_impure), here by find
# - the ctime of packages that apt keeps: lab hosts share them by hard links, and another host that
#   comes or goes moves it
SNAPSHOT = r"""
find / /run /tmp /dev/shm -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run/systemd \
  -o -path /run/log -o -path /var/log/journal -o -path /run/utmp -o -path /var/log/wtmp \
  -o -path /var/log/lastlog -o -path /var/log/btmp -o -path /var/log/auth.log -o -path /run/sshd \
  -o -path /run/sudo -o -path '/run/motd.dynamic*' -o -path /var/lib/sudo \) -prune \
  -o \( \( -type d -o -path '/var/cache/apt/archives/*' \) -printf '%p|%y|%m|%U:%G|%T@\n' \
  -o -printf '%p|%y|%m|%U:%G|%s|%T@|%C@|%l\n' \)
find /etc /home /root /opt /usr/local /srv /var/lib /run/credentials -xdev -type f -size -256k \
  -exec sha256sum {} +
"""

# Every process but the kernel's, and those of the connection that asks.
PROCESS_LIST = r"""
for stat in /proc/[0-9]*/stat; do
  pid=${stat#/proc/}; pid=${pid%/stat}
  command=$(tr '\0' ' ' 2>/dev/null < /proc/$pid/cmdline) || continue
  case $command in ''|sshd:*|bash*) continue;; esac
  started=$(sed 's/.*) //' "$stat" 2>/dev/null | cut -d ' ' -f 20)
  [ -z "$started" ] || echo "$pid|$started|$command"
done
"""


def snapshot(site: Site) -> tuple[set[str], set[str]]:
    """The host's files, and its processes."""

    def lines(script: str) -> set[str]:
        done = subprocess.run(
            [*site.lab.ssh(), "bash"],
            input=script,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.stdout, done.stderr
        return set(done.stdout.splitlines())

    processes = {line for line in lines(PROCESS_LIST) if not re.search(r"\|(sh|sed|cut|tr) ", line)}
    files = {line for line in lines(SNAPSHOT) if not line.startswith("/run|d|")}
    return files, processes


def test_a_check_changes_nothing_on_the_host(site: Site, ordered: Path) -> None:
    files, processes = snapshot(site)
    assert any("/opencode.json|f|" in line for line in files)
    assert any("llama-server" in line for line in processes)
    assert check(site, ordered, "--deep")[0] == 0
    files_after, processes_after = snapshot(site)
    assert files_after ^ files == set()
    assert processes_after ^ processes == set()


def test_a_check_of_a_tampered_host_changes_nothing_either(site: Site, ordered: Path) -> None:
    try:
        root(site, "systemctl stop llama-server@coder; rm /etc/opencode/opencode.json $CONFIG")
        files, processes = snapshot(site)
        assert check(site, ordered)[0] == 2
        files_after, processes_after = snapshot(site)
    finally:
        assert site.converge().returncode == 0
    assert files_after ^ files == set()
    assert processes_after ^ processes == set()


def with_host(site: Site, name: str, ssh: str) -> Path:
    """The fleet file with another host before the good one."""
    return site.variant(name, ("  box:\n", f"  {name}:\n    ssh: {ssh}\n  box:\n"))


def states(report: dict[str, Any]) -> dict[str, str]:
    """State by host."""
    return {host["name"]: host["state"] for host in report["hosts"]}


def test_an_unreachable_host_hides_nothing_of_the_others(site: Site, ordered: Path) -> None:
    fleet = with_host(site, "gone", "{hostname: 127.0.0.1, port: 9}")
    code, report = check(site, fleet)
    assert code == 1
    assert states(report) == {"gone": "unreachable", "box": "ok"}
    assert "cannot connect" in report["hosts"][0]["error"]


@contextlib.contextmanager
def silent_listener() -> Iterator[int]:
    """A port on which connections are accepted, and then nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


def test_a_host_that_never_answers_ends_within_its_limit(site: Site, ordered: Path) -> None:
    with silent_listener() as number:
        fleet = with_host(site, "hung", f"{{hostname: 127.0.0.1, port: {number}}}")
        began = time.monotonic()
        code, report = check(site, fleet, "--timeout", "15")
    assert code == 1
    assert states(report) == {"hung": "unreachable", "box": "ok"}
    assert report["hosts"][0]["seconds"] < 17
    assert time.monotonic() - began < 60


def test_a_second_check_of_a_fleet_says_who_holds_it(
    site: Site, ordered: Path, state_home: str
) -> None:
    with silent_listener() as number:
        fleet = with_host(site, "slow", f"{{hostname: 127.0.0.1, port: {number}}}")
        reports = reports_directory(fleet, {"XDG_STATE_HOME": state_home})
        lock = reports.parents[1] / f"{reports.name}.lock"
        first: list[int] = []
        thread = threading.Thread(
            target=lambda: first.append(check(site, fleet, "--timeout", "8")[0])
        )
        thread.start()
        try:
            wait_until_held(lock)
            second = site.run("llamaherd", "drift", str(fleet))
        finally:
            thread.join()
    assert first == [1]
    assert second.returncode == 1
    holder = rf"another drift check of {fleet} runs since 20\S+ \(process \d+\)"
    assert re.search(holder, second.stderr), second.stderr
    assert "Traceback" not in second.stderr


def wait_until_held(lock: Path) -> None:
    """Until a check has noted in the lock file that it runs."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if lock.exists() and lock.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"nobody took {lock}")
