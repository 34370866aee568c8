"""Lab hosts are real systemd hosts, reached over SSH with a known key, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import machines
import pytest
from lab import Lab, lab_host

pytestmark = pytest.mark.lab

SCRIPTS = Path(machines.__file__).parent
RunLab = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def other(lab_name: Callable[[str], str]) -> Iterator[Lab]:
    with lab_host(lab_name("other")) as lab:
        yield lab


def test_systemd_is_process_one_and_no_unit_failed(bookworm: Lab) -> None:
    assert bookworm.run("cat /proc/1/comm").stdout.strip() == "systemd"
    assert bookworm.run("systemctl --failed --quiet --plain").stdout.strip() == ""


def test_root_ops_and_dev_log_in_and_only_ops_may_become_root(bookworm: Lab) -> None:
    for user in ("root", "ops", "dev"):
        assert bookworm.run("id -un", user=user).stdout.strip() == user
    assert bookworm.run("sudo -n id -un", user="ops").stdout.strip() == "root"
    assert bookworm.run("sudo -n id -un", user="dev", check=False).returncode != 0


def test_a_changed_host_key_is_refused(bookworm: Lab, tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "k")], check=True
    )
    kind, blob, *_ = (tmp_path / "k.pub").read_text().split()
    wrong = tmp_path / "known_hosts"
    wrong.write_text(f"{bookworm.address},{bookworm.alias} {kind} {blob}\n")
    refused = subprocess.run(
        [*bookworm.ssh("-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={wrong}"), "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 255
    assert "Host key verification failed" in refused.stderr


def test_the_package_archives_answer(bookworm: Lab) -> None:
    assert bookworm.run("apt-get -q update && apt-get -q download hello").returncode == 0


def test_sandboxed_units_work(bookworm: Lab) -> None:
    sandbox = "-p DynamicUser=yes -p ProtectSystem=strict -p PrivateTmp=yes -p NoNewPrivileges=yes"
    answer = bookworm.run(f"systemd-run --quiet --wait --pipe {sandbox} touch /etc/x", check=False)
    assert answer.returncode != 0
    assert "Read-only file system" in answer.stderr


def test_a_restart_keeps_files_and_forgets_processes(bookworm: Lab) -> None:
    bookworm.run("echo kept > /srv/kept; systemd-run --quiet --unit=passing sleep 1000")
    before = bookworm.run("cat /proc/sys/kernel/random/boot_id /proc/1/stat").stdout
    restarted = machines.restart(machines.load(bookworm.name))
    assert restarted.process != bookworm.process
    assert restarted.run("cat /srv/kept").stdout == "kept\n"
    assert restarted.run("systemctl is-active passing", check=False).stdout.strip() == "inactive"
    assert restarted.run("cat /proc/sys/kernel/random/boot_id /proc/1/stat").stdout != before


def test_two_hosts_run_at_once_and_reach_each_other(bookworm: Lab, other: Lab) -> None:
    assert bookworm.network.subnet != other.network.subnet
    banner = f"timeout 5 bash -c 'head -c 4 < /dev/tcp/{other.address}/22'"
    assert bookworm.run(banner).stdout == "SSH-"


def test_stopping_a_unit_on_one_host_leaves_its_namesake_on_the_other(
    bookworm: Lab, other: Lab
) -> None:
    for lab in (bookworm, other):
        lab.run("systemd-run --quiet --unit=namesake sleep 1000")
    bookworm.run("systemctl stop namesake")
    assert other.run("systemctl is-active namesake").stdout.strip() == "active"


def test_a_second_lab_of_one_name_is_refused_and_the_first_unharmed(
    bookworm: Lab, run_lab: RunLab
) -> None:
    answer = run_lab("create", bookworm.name)
    assert answer.returncode == 1
    assert f"lab.py destroy {bookworm.name}" in answer.stderr
    assert bookworm.run("true").returncode == 0


def test_exec_passes_words_and_the_exit_code_on(bookworm: Lab, run_lab: RunLab) -> None:
    answer = run_lab("exec", bookworm.name, "--user", "dev", "--", "sh", "-c", "id -un; exit 7")
    assert (answer.stdout, answer.returncode) == ("dev\n", 7)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("destroy", "nobody"), "no lab 'nobody'"),
        (("exec", "nobody", "--", "true"), "no lab 'nobody'"),
        (("create", "no/name"), "is no lab name"),
    ],
)
def test_a_wrong_name_is_one_clear_line(
    run_lab: RunLab, arguments: tuple[str, ...], said: str
) -> None:
    answer = run_lab(*arguments)
    assert answer.returncode == 1
    assert said in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


# --- nothing is left -----------------------------------------------------------------------


def traces(name: str) -> dict[str, str]:
    """What a lab of that name could have left on this machine, by other means than the lab's."""
    identity = machines.identity_of(name)
    mine = (identity, f"/{name}/")
    found = {
        "process": _lines_with(mine, "ps", "-eo", "pid,args"),
        "mount": _lines_with(mine, "cat", "/proc/self/mounts"),
        "link": _lines_with(mine, "ip", "-brief", "link"),
        "address": _lines_with(mine, "ip", "-brief", "address"),
        "rule": _lines_with(mine, "nft", "list", "tables"),
        "group": "\n".join(str(path) for path in Path("/sys/fs/cgroup").glob(f"*/lab-{identity}")),
        "run": "\n".join(str(path) for path in Path("/run").glob(f"**/*{identity}*")),
        "state": name if (machines.STATE / name).exists() else "",
    }
    return {kind: text for kind, text in found.items() if text}


def _lines_with(words: tuple[str, ...], *command: str) -> str:
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return "\n".join(line for line in output.splitlines() if any(word in line for word in words))


def test_a_destroyed_lab_leaves_nothing(lab_name: Callable[[str], str], run_lab: RunLab) -> None:
    name = lab_name("gone")
    assert run_lab("create", name).returncode == 0
    assert {"process", "link", "rule", "group", "state"} <= set(traces(name))
    run_lab("exec", name, "--", "systemd-run", "--quiet", "sleep", "1000")
    assert run_lab("destroy", name).returncode == 0
    assert traces(name) == {}


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGINT, 0.0),
        (signal.SIGINT, 0.1),
        (signal.SIGINT, 0.6),
        (signal.SIGTERM, 0.03),
        (signal.SIGTERM, 0.3),
        (signal.SIGHUP, 0.2),
    ],
)
def test_a_creation_cut_off_leaves_nothing(
    lab_name: Callable[[str], str], number: signal.Signals, after: float
) -> None:
    name = lab_name(f"cut-{number.name[3:].lower()}-{int(after * 1000)}")
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "lab.py"), "create", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    while not (machines.STATE / name).exists() and process.poll() is None:
        time.sleep(0.001)
    time.sleep(after)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    if process.returncode == 0:  # it was faster than we: then it is there, whole
        machines.destroy(machines.load(name))
    assert b"Traceback" not in output
    assert traces(name) == {}


def test_a_block_that_raises_leaves_nothing(lab_name: Callable[[str], str]) -> None:
    name = lab_name("raised")
    with pytest.raises(ZeroDivisionError), lab_host(name):
        raise ZeroDivisionError
    assert traces(name) == {}


def test_a_lab_whose_machine_was_killed_can_still_be_destroyed(
    lab_name: Callable[[str], str], run_lab: RunLab
) -> None:
    name = lab_name("killed")
    assert run_lab("create", name).returncode == 0
    os.kill(machines.load(name).process.pid, signal.SIGKILL)
    assert run_lab("destroy", name).returncode == 0
    assert traces(name) == {}


def test_a_process_that_took_over_the_number_is_not_ours() -> None:
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert machines.Process(os.getpid(), started).is_running
    assert not machines.Process(os.getpid(), started - 1).is_running


FORWARDING = """
import networks
from pathlib import Path
forward = lambda: Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()
states = [forward()]
first = networks.create_network("0000000a")
second = networks.create_network("0000000b")
states.append(forward())
networks.destroy_network(first)
states.append(forward())
networks.destroy_network(second)
states.append(forward())
assert first.subnet != second.subnet
print(*states, list(Path("/run").iterdir()))
"""


@pytest.mark.parametrize(("before", "states"), [("0", "0 1 1 0 []"), ("1", "1 1 1 1 []")])
def test_forwarding_goes_back_to_what_it_was_with_the_last_lab(before: str, states: str) -> None:
    # In a network of its own, so that labs that are up meanwhile neither see nor disturb it.
    script = f'mount -t tmpfs none /run; echo {before} > /proc/sys/net/ipv4/ip_forward; exec "$@"'
    answer = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", FORWARDING],
        capture_output=True,
        text=True,
        check=False,
        cwd=SCRIPTS,
    )
    assert answer.stdout.strip() == states, answer.stderr
