"""``llamaherd onboard`` against lab hosts that stand in for boxes in many conditions."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import re
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import recorded_kernel
from dressed_box import BIN, DRESS, Box, ids
from onboard_support import (
    BARE_CARD,
    CARD_4090,
    CARD_5090,
    CLOSED_MODULE,
    LSPCI_4090,
    LSPCI_5090,
    OPEN_MODULE,
    ROW_4090,
    ROW_5090,
    SMI,
)

pytestmark = pytest.mark.lab

LAB = str(Path(__file__).resolve().parents[2] / "molecule" / "lab")
WORKING = {
    "lspci": LSPCI_4090,
    "module": OPEN_MODULE,
    "modinfo": "580.65.06",
    "gpus": ROW_4090,
    "cards": CARD_4090,
    "smi": SMI,
}
BOTH = {"lspci": f"{LSPCI_4090}\n{LSPCI_5090}"}
OLLAMA = "/usr/share/ollama/.ollama/models"
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "layers": [
            {
                "mediaType": "application/vnd.ollama.image.model",
                "digest": "sha256:" + "ac" * 32,
                "size": 19851335840,
            }
        ],
    },
    indent=2,
)


def _host(folder: Path, suite: str) -> Iterator[Box]:
    if LAB not in sys.path:
        sys.path.insert(0, LAB)
    from lab import lab_host

    with lab_host(f"{suite}-{secrets.token_hex(3)}", suite=suite) as lab:
        lab.run(DRESS)
        box = Box(lab, folder)
        box.set_up()
        yield box


@pytest.fixture(scope="module")
def dressed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A Debian 12 host."""
    yield from _host(tmp_path_factory.mktemp("bookworm"), "bookworm")


@pytest.fixture
def box(dressed: Box) -> Iterator[Box]:
    """The host, in nothing but its stand-ins, with the lab's key and host key known."""
    dressed.set_up()
    dressed.wear()
    yield dressed
    dressed.wear()


CONDITIONS = {
    "a working card": (WORKING, []),
    "no driver": ({"lspci": BARE_CARD["lspci"]}, ["driver.missing"]),
    "nouveau bound": (
        {"lspci": recorded_kernel.NOUVEAU_LSPCI.format(address="0000:01:00.0")},
        ["gpu.nouveau"],
    ),
    "driver too old for the card": (
        WORKING | BOTH | {"module": CLOSED_MODULE, "modinfo": "550.163.01"},
        ["driver.too-old"],
    ),
    "MIG on": (
        WORKING | {"cards": f"{CARD_4090.split(',')[0]}, {recorded_kernel.MIG_ROW}, 2"},
        ["gpu.mig"],
    ),
    "card fallen off the bus": (
        WORKING | BOTH | {"dmesg": recorded_kernel.XID_79.kernel.replace("0000:44", "0000:02")},
        ["gpu.fallen-off"],
    ),
    "card that fell off before it was probed": (
        WORKING | BOTH | {"dmesg": recorded_kernel.FALLEN_AT_BOOT.kernel.replace(":b3:", ":02:")},
        ["gpu.fallen-off"],
    ),
    "card that nvidia-smi ends on": (
        WORKING | BOTH | {"gpus": recorded_kernel.LOST_TOLD.error.splitlines()[0], "smi-fails": ""},
        ["gpu.fallen-off"],
    ),
    "open modules needed": (
        WORKING
        | BOTH
        | {
            "module": CLOSED_MODULE.replace("550.163.01", "580.105.08"),
            "modinfo": "580.105.08",
            "dmesg": recorded_kernel.OPEN_NEEDED_TIMED.kernel,
        },
        ["driver.open-needed"],
    ),
    "secure boot refuses the module": (
        {
            "lspci": BARE_CARD["lspci"],
            "modinfo": "580.65.06",
            "gpus": recorded_kernel.UNSIGNED.error.splitlines()[0],
            "smi-fails": "",
            "dmesg": recorded_kernel.UNSIGNED.kernel,
        },
        ["driver.secure-boot"],
    ),
    "two unlike cards": (
        WORKING | BOTH | {"gpus": f"{ROW_4090}\n{ROW_5090}", "cards": f"{CARD_4090}\n{CARD_5090}"},
        [],
    ),
    "driver upgraded under the module": (
        WORKING
        | {
            "gpus": "\n".join(recorded_kernel.MISMATCH.error.splitlines()[:2]),
            "smi-fails": "",
        },
        ["driver.mismatch"],
    ),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_cards_in_all_conditions(box: Box, condition: str) -> None:
    files, blockers = CONDITIONS[condition]
    box.wear(**files)
    status, report = box.look("root@box")
    assert ids(report) == blockers
    assert status == (1 if blockers else 0)
    assert len(report["probe"]["pci"]) == files["lspci"].count("[03")
    assert ("gpu.unlike" in ids(report, "warning")) == (condition == "two unlike cards")


def test_every_model_on_the_cards_when_asked(box: Box) -> None:
    box.wear(**WORKING)
    models = {fit["model"] for fit in box.look("root@box")[1]["fits"]}
    said = {word: box.llamaherd("root@box", *word.split()).stdout for word in ("", "--all-fits")}
    shown = {word: {model for model in models if model in text} for word, text in said.items()}
    assert len(models) > 10
    assert shown["--all-fits"] == models
    assert shown[""] < models


def test_a_login_without_root_sees_the_cards_as_well(box: Box) -> None:
    box.wear(**WORKING)
    status, report = box.look("dev@box")
    assert (status, ids(report)) == (1, ["sudo.none"])
    assert [gpu["name"] for gpu in report["probe"]["gpus"]] == ["NVIDIA GeForce RTX 4090"]
    status, report = box.look("ops@box")
    assert (status, report["probe"]["access"]["sudo"]) == (0, "passwordless")
    assert report["probe"]["access"]["permit_root"]


def test_debian_13(tmp_path: Path) -> None:
    for trixie in _host(tmp_path, "trixie"):
        trixie.wear(**WORKING)
        status, report = trixie.look("ops@box")
        machine = report["probe"]["machine"]
        assert (status, machine["version_id"], machine["libc"]) == (0, "13", "glibc 2.41")
        trixie.wear(**WORKING | {"module": OPEN_MODULE.replace("580.65", "570.86")})
        assert ids(trixie.look("ops@box")[1]) == ["driver.too-old"]


def test_a_full_disk(box: Box) -> None:
    box.lab.run("mount -t tmpfs -o size=64m none /opt")
    try:
        status, report = box.look("root@box")
    finally:
        box.lab.run("umount /opt")
    assert (status, ids(report)) == (1, ["disk.full"])


def test_a_wrong_clock(box: Box) -> None:
    """A stand-in for ``date`` is two hours behind: a lab host has this machine's own clock."""
    fake = "#!/bin/sh\nexec /usr/bin/date -d '-2 hours' \"$@\"\n"
    box.lab.run(f"cat > /usr/local/bin/date <<'END'\n{fake}END\nchmod 755 /usr/local/bin/date")
    status, report = box.look("root@box")
    assert (status, ids(report)) == (1, ["clock.wrong"])
    assert -7210 < report["probe"]["clock"]["offset"] < -7190


def test_models_that_ollama_has(box: Box) -> None:
    place = f"{OLLAMA}/manifests/registry.ollama.ai/library/qwen2.5-coder"
    # The account that Ollama's installer makes.
    box.lab.run("useradd --system --home-dir /usr/share/ollama ollama")
    box.lab.run(f"mkdir -p {place}; cat > {place}/32b <<'END'\n{MANIFEST}\nEND")
    cache = "/home/ops/.cache/huggingface/hub/models--org--tiny-GGUF"
    box.lab.run(
        f"mkdir -p {cache}/blobs {cache}/snapshots/{'ab' * 20}; "
        f"echo model > {cache}/blobs/{'ba' * 32}; "
        f"ln -s ../../blobs/{'ba' * 32} {cache}/snapshots/{'ab' * 20}/tiny-Q4_0.gguf"
    )
    status, report = box.look("ops@box")
    box.lab.run(f"rm -rf {OLLAMA} /home/ops/.cache; userdel ollama")
    found = [(m["source"], m["name"], m["size"], m["sha256"]) for m in report["probe"]["models"]]
    assert found == [
        ("hub", "org/tiny-GGUF/tiny-Q4_0.gguf", 6, "ba" * 32),
        ("ollama", "qwen2.5-coder:32b", 19851335840, "ac" * 32),
    ]
    assert status == 0
    assert "models.found" in ids(report, "info")


def test_software_that_runs_is_told(box: Box) -> None:
    box.lab.run(
        "printf '#!/bin/sh\\necho ollama version is 0.9.2\\n' > /usr/local/bin/ollama; "
        "chmod 755 /usr/local/bin/ollama; "
        "systemd-run -q --unit chat bash -c 'exec -a /srv/llama.cpp/bin/llama-server sleep 600'"
    )
    try:
        status, report = box.look("ops@box")
    finally:
        box.lab.run("systemctl stop chat; rm /usr/local/bin/ollama")
    programs = {p["kind"]: p for p in report["probe"]["programs"]}
    assert (status, programs["ollama"]["version"]) == (0, "0.9.2")
    assert not programs["ollama"]["active"]
    assert (programs["llama.cpp"]["unit"], programs["llama.cpp"]["active"]) == (
        "chat.service",
        True,
    )
    assert ids(report, "warning").count("software.running") == 1


def test_a_file_that_the_fleet_needs_is_told_from_others(box: Box) -> None:
    """The hub's cache of a user, with the very model that the fleet has locked, and another."""
    from lab import serve_hub

    endpoint = serve_hub(box.lab)
    fleet, source = box.folder / "adopting.yaml", box.folder / "source.tar.gz"
    source.write_bytes(b"source")
    digest = hashlib.sha256(b"source").hexdigest()
    fleet.write_text(
        "version: 1\n"
        "models: {smollm2: {hub: {repo: demo/SmolLM2-135M-Instruct-GGUF, quant: Q4_1}}}\n"
        "hosts:\n  gpu-01:\n    ssh: {hostname: 10.99.0.1}\n    cuda: {provider: none}\n"
        f"    llama_cpp: {{archive: {{path: source.tar.gz, sha256: {digest}}}, commit: 0c1e570, "
        "build_number: 1}\n    servers: {coder: {model: smollm2, port: 8123}}\n"
    )
    locked = subprocess.run(
        [str(BIN / "llamaherd"), "lock", str(fleet)],
        env=os.environ | {"HF_ENDPOINT": endpoint},
        capture_output=True,
        text=True,
        check=False,
    )
    assert locked.returncode == 0, locked.stderr
    (sha256,) = set(re.findall(r"sha256: '?([0-9a-f]{64})", locked_files(fleet)))
    cache = "/home/ops/.cache/huggingface/hub/models--demo--SmolLM2-GGUF"
    name = f"{cache}/snapshots/{'ab' * 20}/SmolLM2-Q4_1.gguf"
    box.lab.run(
        f"mkdir -p {cache}/blobs $(dirname {name}) /srv/models; echo > /srv/models/other.gguf; "
        f"truncate -s 98362432 {cache}/blobs/{sha256}; ln -s ../../blobs/{sha256} {name}"
    )
    try:
        status, report = box.look("ops@box", "--fleet", str(fleet), HF_ENDPOINT=endpoint)
    finally:
        box.lab.run("rm -rf /home/ops/.cache /srv/models")
    assert status == 0, report["findings"]
    assert report["adoptable"] == [{"model": "smollm2", "path": name, "certain": True}]
    assert len(report["probe"]["models"]) == 2
    # The way to the hub is measured with a file that the fleet needs.
    assert report["probe"]["hub"]["reached"]
    assert report["probe"]["hub"]["bytes_per_second"] > 0


def locked_files(fleet: Path) -> str:
    """The models' part of a lock file."""
    text = fleet.with_name(f"{fleet.stem}.lock.yaml").read_text()
    return text[text.index("models:") :].partition("llama_cpp:")[0]


def test_a_reboot_that_is_due_and_the_disks_below_our_folders(box: Box) -> None:
    box.lab.run("touch /run/reboot-required; echo linux-image-amd64 > /run/reboot-required.pkgs")
    try:
        status, report = box.look("root@box")
    finally:
        box.lab.run("rm /run/reboot-required*")
    assert status == 0
    (finding,) = [f for f in report["findings"] if f["id"] == "system.reboot"]
    assert "linux-image-amd64" in finding["message"]
    assert {space["path"] for space in report["probe"]["space"]} == {"/opt", "/var/lib"}
    assert all(disk["size"] > 0 for disk in report["probe"]["disks"])
    assert report["probe"]["clock"]["zone"]


def test_a_taken_port_and_a_box_that_is_in_the_fleet(box: Box) -> None:
    fleet = box.folder / "fleet.yaml"
    fleet.write_text(
        f"version: 1\nmodels:\n  tiny: {{path: tiny.gguf, sha256: {'ab' * 32}}}\n"
        "hosts:\n  gpu-01:\n"
        f"    ssh: {{hostname: {box.lab.address}}}\n    cuda: {{provider: none}}\n"
        "    llama_cpp: {ref: b8146}\n"
        "    servers:\n      coder: {model: tiny, port: 8123, context: 8192}\n"
    )
    box.lab.run("systemd-run -q --unit stranger systemd-socket-activate -l 8123 cat")
    try:
        status, report = box.look("root@box", "--fleet", str(fleet))
    finally:
        box.lab.run("systemctl stop stranger")
    assert (status, ids(report)) == (1, ["port.taken"])
    assert "stranger.service" in json.dumps(report["findings"])
    unit = "/etc/systemd/system/llama-server@coder.service"
    box.lab.run(f"echo '# Managed by llamaherd' > {unit}")
    status, report = box.look("root@box", "--fleet", str(fleet))
    box.lab.run(f"rm {unit}")
    assert (status, report["probe"]["onboarded"]["servers"]) == (0, ["coder"])
    assert "fleet.known" in ids(report, "info")


# First contact


def _fingerprint(box: Box) -> str:
    shown = box.lab.run("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").stdout
    match = re.search(r"SHA256:\S+", shown)
    assert match is not None
    return match[0]


@pytest.fixture
def stranger(box: Box, tmp_path: Path) -> Box:
    """The box with a key of ours that it hasn't seen, and no host key on record."""
    key = tmp_path / "key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@here", "-f", str(key)], check=True
    )
    box.set_up(key=str(key))
    box.known_hosts.unlink()
    return box


@pytest.fixture
def password(box: Box) -> str:
    """A password for ops and for root, and none after the test."""
    word = secrets.token_urlsafe(16)
    box.lab.run(f"printf '%s\\n' 'ops:{word}' 'root:{word}' | chpasswd")
    return word


def _second_sshd(box: Box, port: int, *options: str) -> None:
    words = " ".join(f"-o {option}" for option in options)
    box.lab.run(f"systemd-run -q --unit sshd-{port} /usr/sbin/sshd -D -p {port} {words}")
    box.lab.run(
        f"for i in $(seq 50); do ss -Hltn sport = :{port} | grep -q . && break; sleep .1; done"
    )


def test_a_host_key_is_never_taken_blind(stranger: Box) -> None:
    status, report = stranger.look("ops@box")
    assert (status, ids(report)) == (1, ["ssh.host-key-unknown"])
    assert report["contact"]["host_key"]["fingerprint"] == _fingerprint(stranger)
    wrong = "SHA256:" + "A" * 43
    assert ids(stranger.look("ops@box", "--fingerprint", wrong)[1]) == ["ssh.fingerprint-differs"]
    assert not stranger.known_hosts.exists()


def test_a_changed_host_key_is_never_replaced(stranger: Box) -> None:
    other = stranger.folder / "other"
    other.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    kind, blob = Path(f"{other}.pub").read_text().split()[:2]
    line = f"{stranger.lab.address} {kind} {blob}\n"
    stranger.known_hosts.write_text(line)
    status, report = stranger.look("ops@box", "--fingerprint", _fingerprint(stranger))
    assert (status, ids(report)) == (1, ["ssh.host-key-changed"])
    assert stranger.known_hosts.read_text() == line


def test_a_person_compares_the_fingerprint_on_a_terminal(stranger: Box) -> None:
    stranger.set_up()
    before = stranger.known_hosts.read_text()
    for answer, recorded in (("no", False), ("yes", True)):
        stranger.known_hosts.unlink()
        screen = _on_a_terminal(stranger, answer)
        assert _fingerprint(stranger) in screen
        assert stranger.known_hosts.exists() == recorded
        assert ("ssh.host-key-unknown" in screen or "isn't in known_hosts: " in screen) != recorded
        stranger.known_hosts.write_text(before)


TERMINAL_SECONDS = 120


def _on_a_terminal(box: Box, answer: str) -> str:
    """What a terminal shows while ``onboard`` runs on it and is given this answer."""
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    command = [str(Path(sys.executable).with_name("llamaherd")), "onboard", "ops@box"]
    command += ["--ssh-config", str(box.config), "--no-bandwidth"]
    # The system's own calls: gevent, once some test has loaded it, puts itself into subprocess.
    onto = [(os.POSIX_SPAWN_DUP2, theirs, number) for number in (0, 1, 2)]
    process = os.posix_spawn(command[0], command, os.environ, file_actions=onto)
    os.close(theirs)
    screen, ended, deadline = b"", False, time.monotonic() + TERMINAL_SECONDS
    # Not until the terminal's end alone: whoever else holds it would hold us too.
    with contextlib.suppress(OSError):
        while select.select([ours], [], [], 0.2)[0] or not ended:
            assert time.monotonic() < deadline, screen.decode(errors="replace")
            ended = ended or os.waitpid(process, os.WNOHANG)[0] == process
            if select.select([ours], [], [], 0)[0]:
                screen += os.read(ours, 65536)
    os.close(ours)
    if not ended:
        os.waitpid(process, 0)
    return " ".join(screen.decode(errors="replace").split())


def test_a_dry_run_says_the_steps_and_takes_none(stranger: Box, password: str) -> None:
    words = ("--fingerprint", _fingerprint(stranger), "--password", "env:PW", "--install-key")
    done = stranger.llamaherd("ops@box", *words, "--create-user", "herder", "--dry", PW=password)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall("^would ", done.stdout, re.MULTILINE)) == 3
    assert done.stdout.count("undo: ") == 3
    assert password not in done.stdout + done.stderr
    assert not stranger.known_hosts.exists()
    assert "me@here" not in stranger.lab.run("cat /home/ops/.ssh/authorized_keys").stdout
    assert stranger.lab.run("id herder", check=False).returncode != 0


def test_first_contact_by_password_leaves_key_and_user_once(stranger: Box, password: str) -> None:
    words = ("--fingerprint", _fingerprint(stranger))
    secret = ("--password", "env:PW", "--install-key")
    status, report = stranger.look("ops@box", *words, *secret, PW=password)
    assert (status, report["contact"]["login"]) == (0, "key")
    assert [step["done"] for step in report["steps"]] == [True, True]
    kept = stranger.known_hosts.read_text()
    status, report = stranger.look("ops@box", "--install-key")
    assert (status, [step["done"] for step in report["steps"]]) == (0, [False])
    keys = stranger.lab.run("cat /home/ops/.ssh/authorized_keys").stdout
    assert keys.count("me@here") == 1
    for done in (True, False):
        status, report = stranger.look("ops@box", "--create-user", "herder")
        assert (status, report["target"]["user"]) == (0, "herder")
        assert report["probe"]["access"] | {"permit_root": "", "password_login": ""} == {
            "user": "herder",
            "sudo": "passwordless",
            "permit_root": "",
            "password_login": "",
        }
        assert [step["done"] for step in report["steps"]] == [done]
    assert stranger.known_hosts.read_text() == kept
    rights = stranger.lab.run("stat -c '%a %U' /etc/sudoers.d/llamaherd-herder").stdout.split()
    assert rights == ["440", "root"]
    undo = report["steps"][0]["undo"].partition(": ")[2]
    stranger.lab.run(undo)
    assert stranger.lab.run("id herder", check=False).returncode != 0
    assert ids(stranger.look("herder@box")[1]) == ["ssh.key-refused"]


def _state(box: Box) -> str:
    """What a first contact may touch on a box; times aside."""
    return str(
        box.lab.run(
            "getent passwd; getent group; cat /etc/sudoers.d/* /home/*/.ssh/*; "
            "find /etc/sudoers.d /home -printf '%M %u %g %p\\n' | sort"
        ).stdout
    )


def test_each_step_is_taken_back_by_the_command_that_was_said(stranger: Box, password: str) -> None:
    """A login that has no folder for keys, and one that has: the box is as before."""
    named = ("--fingerprint", _fingerprint(stranger), "--password", "env:PW")
    stranger.lab.run(f"useradd --create-home fresh; echo 'fresh:{password}' | chpasswd")
    for user, words in (
        ("fresh", ("--install-key",)),
        ("ops", ("--install-key", "--create-user", "herder")),
    ):
        stranger.known_hosts.unlink(missing_ok=True)
        before = _state(stranger)
        _, report = stranger.look(f"{user}@box", *named, *words, PW=password)
        assert [step["done"] for step in report["steps"]] == [True] * (len(words) // 2 + 2)
        assert _state(stranger) != before
        for step in reversed(report["steps"]):
            on_box, _, command = step["undo"].rpartition("on the box, as root: ")
            if on_box or command != step["undo"]:
                stranger.lab.run(command)
            else:
                subprocess.run(command, shell=True, check=True, capture_output=True)
        assert _state(stranger) == before
        assert stranger.known_hosts.read_text() == ""
    stranger.lab.run("userdel --remove fresh")


def test_somebody_elses_account_is_left_alone(stranger: Box) -> None:
    stranger.set_up()
    status, report = stranger.look("root@box", "--create-user", "dev")
    assert (status, ids(report)) == (1, ["contact.step-failed"])
    assert "isn't llamaherd's" in report["findings"][0]["message"]
    assert stranger.lab.run("ls /etc/sudoers.d").stdout.find("llamaherd-dev") == -1


def test_a_wrong_password_says_so(stranger: Box) -> None:
    words = ("--fingerprint", _fingerprint(stranger), "--password", "env:PW")
    status, report = stranger.look("ops@box", *words, PW=secrets.token_urlsafe(12))
    assert (status, ids(report)) == (1, ["ssh.password-refused"])
    assert report["contact"]["login"] == ""


def test_root_login_off_and_passwords_only_and_a_wrong_port(box: Box, password: str) -> None:
    named = ("--fingerprint", _fingerprint(box))
    _second_sshd(box, 2222, "PermitRootLogin=no")
    _second_sshd(box, 2223, "PubkeyAuthentication=no", "PasswordAuthentication=yes")
    try:
        assert ids(box.look("root@box:2222", *named)[1]) == ["ssh.root-refused"]
        assert box.look("ops@box:2222", *named)[0] == 0
        assert ids(box.look("ops@box:2223", *named)[1]) == ["ssh.password-only"]
        status, report = box.look("ops@box:2223", "--password", "env:PW", PW=password)
        assert (status, report["contact"]["login"]) == (0, "password")
        assert "ssh.password-login" in ids(report, "warning")
    finally:
        box.lab.run("systemctl stop sshd-2222 sshd-2223")
    status, report = box.look("ops@box:2222")
    assert (status, ids(report)) == (1, ["ssh.unreachable"])


def test_several_boxes_are_shown_side_by_side(box: Box) -> None:
    box.wear(**WORKING)
    targets = box.folder / "boxes.txt"
    targets.write_text("# new ones\nroot@box\n\ndev@box  # for users\nops@127.0.0.1:1\n")
    done = box.llamaherd("--list", str(targets))
    assert done.returncode == 1
    assert "1 of 3 ready" in done.stdout
    table = done.stdout[done.stdout.index("BOX ") :].splitlines()
    assert [line.split()[1] for line in table[1:4]] == ["ready", "blocked", "unreached"]
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
