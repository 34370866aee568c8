"""The one look at a box: the script itself on folders of ours, and what is made of its answers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from onboard_support import LSPCI_4090, OPEN_MODULE, WORKING, output
from pyinfra.api.exceptions import FactProcessError
from pyinfra_cli.util import json_encode

from facts.found_models import FoundModel
from facts.onboarding import Now, Onboarding
from facts.onboarding_hub import Bandwidth, parse_bandwidth
from facts.onboarding_parse import parse_probe
from facts.onboarding_values import Probe, Program
from facts.sections import SECTION


def look(sys: Path, proc: Path) -> Probe:
    """The script, run here, on folders that stand for sysfs and procfs."""
    command = Onboarding().command(sys=str(sys), proc=str(proc))
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    return parse_probe(done.stdout.splitlines())


def device(
    sys: Path, address: str, *, config: bytes, driver: str = "", kind: str = "0x030000"
) -> None:
    """A device of NVIDIA's on the bus."""
    folder = sys / "bus/pci/devices" / address
    folder.mkdir(parents=True)
    (folder / "vendor").write_text("0x10de\n")
    (folder / "device").write_text("0x2684\n")
    (folder / "class").write_text(f"{kind}\n")
    (folder / "config").write_bytes(config)
    if driver:
        (folder / "driver").symlink_to(f"/sys/bus/pci/drivers/{driver}")


def test_sysfs_and_procfs_are_read_by_the_script_itself(tmp_path: Path) -> None:
    sys, proc = tmp_path / "a sys", tmp_path / "proc"
    device(sys, "0000:01:00.0", config=b"\xde\x10\x84\x26", driver="nouveau")
    device(sys, "0000:01:00.1", config=b"\xde\x10\xba\x22", kind="0x040300")
    device(sys, "0000:41:00.0", config=b"\xff" * 64, kind="0x030200")
    (sys / "module/nouveau").mkdir(parents=True)
    (sys / "class/dmi/id").mkdir(parents=True)
    (sys / "class/dmi/id/sys_vendor").write_text("Supermicro\n")
    (sys / "class/dmi/id/product_name").write_text("AS -4125GS-TNRT\n")
    (sys / "firmware/efi/efivars").mkdir(parents=True)
    name = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    (sys / "firmware/efi/efivars" / name).write_bytes(b"\x06\0\0\0\x01")
    (proc / "driver/nvidia").mkdir(parents=True)
    (proc / "driver/nvidia/version").write_text(OPEN_MODULE)
    probe = look(sys, proc)
    assert [(gpu.address, gpu.driver, gpu.enabled) for gpu in probe.pci] == [
        ("0000:01:00.0", "nouveau", True),
        ("0000:41:00.0", "", False),
    ]
    assert (probe.machine.vendor, probe.machine.model) == ("Supermicro", "AS -4125GS-TNRT")
    assert probe.machine.secure_boot is True
    assert probe.driver.nouveau
    assert (probe.driver.loaded, probe.driver.open_module) == ("580.65.06", True)


def test_without_any_of_it_the_box_is_still_a_box(tmp_path: Path) -> None:
    probe = look(tmp_path / "none", tmp_path / "none")
    assert probe.pci == ()
    assert probe.machine.secure_boot is None
    assert {space.path for space in probe.space} == {"/opt", "/var/lib"}
    assert probe.machine.cores >= 1


def test_a_working_card() -> None:
    probe = parse_probe(output(**WORKING))
    assert [(gpu.address, gpu.name, gpu.driver) for gpu in probe.pci] == [
        ("0000:01:00.0", "AD102 [GeForce RTX 4090]", "nvidia")
    ]
    assert [card.address for card in probe.cards] == ["0000:01:00.0"]
    assert (probe.driver.cuda, probe.driver.userland) == ("13.0", "580.65.06")
    assert (probe.driver.installed, probe.driver.open_module) == ("580.65.06", True)


def test_disks_by_their_speed() -> None:
    disks = (
        'NAME="nvme0n1" SIZE="2000398934016" ROTA="0" TRAN="nvme" TYPE="disk" MODEL="SSD 990 PRO"\n'
        'NAME="sda" SIZE="16000900661248" ROTA="1" TRAN="sata" TYPE="disk" MODEL="ST16000NM"\n'
        'NAME="sdb" SIZE="0" ROTA="1" TRAN="usb" TYPE="disk" MODEL="Card Reader"\n'
        'NAME="vda" SIZE="274877906944" ROTA="1" TRAN="virtio" TYPE="disk" MODEL=""'
    )
    stack = (
        "/dev/mapper/vg-lib ext4 999 0 900 1% /var/lib\n"
        'NAME="vg-lib" ROTA="0" TRAN=""\nNAME="md0" ROTA="0" TRAN=""\n'
        'NAME="sda" ROTA="1" TRAN="sata"\nNAME="nvme0n1" ROTA="0" TRAN="nvme"'
    )
    share = "nas:/models nfs4 999 0 900 1% /opt"
    probe = parse_probe(output(disks=disks, space_var=stack, space_opt=share))
    assert [(disk.device, disk.speed) for disk in probe.disks] == [
        ("nvme0n1", "nvme"),
        ("sda", "hdd"),
        ("vda", "unknown"),
    ]
    assert {space.path: space.speed for space in probe.space} == {
        "/opt": "network",
        "/var/lib": "hdd",
    }


def test_software_and_its_models() -> None:
    probe = parse_probe(
        output(
            programs=(
                "ollama|/usr/local/bin/ollama|ollama version is 0.9.2|ollama.service|active\n"
                "llama-server|/usr/bin/llama-server|version: 6123 (79c1160b)||\n"
                "container|vllm-1|vllm/vllm-openai:v0.10.0||active"
            ),
            models=(
                "llama.cpp|5|/home/a/.cache/llama.cpp|/home/a/.cache/llama.cpp/x_Q4.gguf|\n"
                "file|7|/models|/models/sub folder/y.gguf|"
            ),
            ollama="/root/.ollama/models\nregistry.ollama.ai/me/own/latest\n{damaged",
        )
    )
    assert probe.programs == (
        Program("ollama", "/usr/local/bin/ollama", "0.9.2", "ollama.service", True),
        Program("llama.cpp", "/usr/bin/llama-server", "6123"),
        Program("container", "vllm-1", "vllm/vllm-openai:v0.10.0", "", True),
    )
    assert probe.models == (
        FoundModel("file", "sub folder/y.gguf", "/models/sub folder/y.gguf", 7),
        FoundModel("llama.cpp", "x_Q4.gguf", "/home/a/.cache/llama.cpp/x_Q4.gguf", 5),
    )


@pytest.mark.parametrize(
    ("access", "sudo"),
    [
        ("root\nroot\nroot", "root"),
        ("ops\npasswordless\nops sudo", "passwordless"),
        ("ops\nnone\nops sudo", "password"),
        ("dev\nnone\ndev", "none"),
    ],
)
def test_what_the_login_may_do(access: str, sudo: str) -> None:
    assert parse_probe(output(access=access)).access.sudo == sudo


def test_what_a_box_says_cannot_steer_a_terminal() -> None:
    lspci = LSPCI_4090.replace("GeForce", "\x1b[2J\x9bGeForce")
    assert parse_probe(output(lspci=lspci)).pci[0].name == "AD102 [[2JGeForce RTX 4090]"


def test_names_that_makers_forgot_to_fill_in_are_no_names() -> None:
    probe = parse_probe(output(box="vendor=To Be Filled By O.E.M.\nmodel=System Product Name"))
    assert (probe.machine.vendor, probe.machine.model) == ("", "")


@pytest.mark.parametrize("cut", [0, 8, 45])
def test_cut_output_fails_this_box_alone(cut: int) -> None:
    with pytest.raises(FactProcessError, match="cannot make sense"):
        parse_probe(output()[:cut])


def test_it_can_be_printed_by_pyinfras_command_line() -> None:
    printed = json.loads(json.dumps(parse_probe(output(**WORKING)), default=json_encode))
    assert printed["gpus"][0]["name"] == "NVIDIA GeForce RTX 4090"


def test_the_boxs_clock() -> None:
    done = subprocess.run(Now().command(), shell=True, capture_output=True, text=True, check=True)
    assert Now().process(done.stdout.splitlines()) > 1_700_000_000
    with pytest.raises(FactProcessError, match="no time"):
        Now().process(["yesterday"])


HUB = f"{SECTION}hub"


@pytest.mark.parametrize(
    ("lines", "reached", "error", "speed"),
    [
        (["206 8388608 1.500000 0.500000"], True, "", 8388608),
        (["200 100 0.2 0.1"], True, "", None),
        (["404 9 0.2 0.1"], True, "it answered 404", None),
        (
            ["curl: (6) Could not resolve host: h", "000 0 0.1 0.0"],
            False,
            "Could not resolve",
            None,
        ),
        (["no-curl"], False, "no curl on the box", None),
        ([], False, "no answer", None),
    ],
)
def test_the_hubs_answers(lines: list[str], reached: bool, error: str, speed: int | None) -> None:
    answer = parse_bandwidth([HUB, "https://hub.example.org", *lines])
    assert (answer.endpoint, answer.reached) == ("https://hub.example.org", reached)
    assert error in answer.error
    assert bool(error) == bool(answer.error)
    assert answer.bytes_per_second == speed


def test_a_hub_that_is_asked_for_real(tmp_path: Path) -> None:
    big = tmp_path / "model.gguf"
    big.write_bytes(b"\0" * 4_000_000)
    command = Bandwidth().command("file", f"file://{big}")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    # curl gives no HTTP status for a file: it isn't taken for an answer of a hub.
    assert Bandwidth().process(done.stdout.splitlines()).reached is False


def process(proc: Path, pid: int, *words: str, unit: str = "") -> None:
    """A process, as procfs shows it."""
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
    (folder / "exe").symlink_to(words[0])
    place = f"system.slice/{unit}" if unit else "user.slice/user-1000.slice/session-2.scope"
    (folder / "cgroup").write_text(f"0::/{place}\n")


def test_what_runs_is_seen_wherever_it_lies(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    server = "/home/a/llama.cpp/build/bin/llama-server"
    process(proc, 11, server, "-m", "x.gguf", unit="chat.service")
    process(proc, 12, "/opt/ours/llama-server", "-m", "x", unit="llama-server@coder.service")
    process(proc, 13, "/usr/bin/python3.12", "-m", "vllm.entrypoints.openai.api_server")
    process(proc, 14, "/usr/bin/python3", "/home/b/venv/bin/vllm", "serve", "m")
    process(proc, 15, "/usr/bin/journalctl", "-u", "ollama")
    process(proc, 16, "/bin/sh", "-c", "llama-server | ollama")
    process(proc, 17, "/usr/local/bin/ollama", "runner", "--model", "/blobs/x")
    process(proc, 18, "/usr/local/bin/ollama", "serve", unit="my-ollama.service")
    running = [(p.kind, p.path, p.unit) for p in look(tmp_path, proc).programs if p.active]
    assert running == [
        ("llama.cpp", server, "chat.service"),
        ("vllm", "vllm.entrypoints.openai.api_server", ""),
        ("vllm", "/home/b/venv/bin/vllm", ""),
        ("ollama", "/usr/local/bin/ollama", "my-ollama.service"),
    ]


def test_a_program_that_is_installed_and_runs_is_one() -> None:
    lines = (
        "ollama|/usr/local/bin/ollama|ollama version is 0.9.2|ollama.service|inactive\n"
        "process|/usr/local/bin/ollama|ollama||active\n"
        "llama-server|/usr/bin/llama-server|version: 6123 (79c1160b)||\n"
        "process|/usr/bin/python3.11|/home/b/koboldcpp.py||active"
    )
    assert parse_probe(output(programs=lines)).programs == (
        Program("ollama", "/usr/local/bin/ollama", "0.9.2", "ollama.service", True),
        Program("llama.cpp", "/usr/bin/llama-server", "6123"),
        Program("koboldcpp.py", "/home/b/koboldcpp.py", "", "", True),
    )
