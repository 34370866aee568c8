"""What hosts said of themselves, recorded, one file a host; and what is made of it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from pyinfra.api.exceptions import FactProcessError
from pyinfra_cli.util import json_encode

from facts.system import Listener, System, SystemState, parse_system

CASES = Path(__file__).parent / "system"


def case(name: str) -> SystemState:
    return parse_system((CASES / f"{name}.txt").read_text().splitlines())


def test_a_debian_12_host_without_gpus() -> None:
    state = case("debian12-lab")
    assert (state.platform, state.architecture, state.glibc) == ("debian12", "x86_64", "2.36")
    assert (state.cores, state.cpu, state.systemd, state.root) == (2, "AMD EPYC", 252, True)
    assert state.memory_total == 24684092 * 1024
    assert state.disk_free == {"/opt": 78450823168, "/var/lib": 78450823168}
    assert state.gpus == ()
    assert state.listeners == (Listener(22, "sshd[36]", "ssh.service"),)


def test_a_debian_13_host() -> None:
    state = case("debian13-lab")
    assert (state.platform, state.glibc, state.systemd) == ("debian13", "2.41", 257)
    assert state.memory_available == 20887660 * 1024
    assert [listener.unit for listener in state.listeners] == ["ssh.service"]


def test_a_container_has_no_systemd() -> None:
    state = case("debian12-container-without-systemd")
    assert state.systemd == 0
    assert state.listeners == ()


@pytest.mark.parametrize(
    ("distribution", "version", "platform"),
    [
        ("debian", "13", "debian13"),
        ("ubuntu", "24.04", "ubuntu2404"),
        ("rocky", "9.5", "rhel9"),
        ("fedora", "42", "fedora42"),
    ],
)
def test_vendors_names_of_distributions(distribution: str, version: str, platform: str) -> None:
    assert SystemState(distribution=distribution, version_id=version).platform == platform


@pytest.mark.parametrize("cut", [0, 5, 12, 13])
def test_cut_output_fails_this_host_alone(cut: int) -> None:
    lines = (CASES / "debian12-lab.txt").read_text().splitlines()[:cut]
    with pytest.raises(FactProcessError, match="what the host says it is"):
        parse_system(lines)


def test_every_facts_value_can_be_printed_by_pyinfras_command_line() -> None:
    printed = json.loads(json.dumps(case("debian12-lab"), default=json_encode))
    assert printed["distribution"] == "debian"
    assert printed["listeners"][0]["port"] == 22


def test_the_compiler_is_the_one_that_cc_starts(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\n[ "$1" = -dumpfullversion ] && echo 14.2.0\n')
    compiler.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", System().command()],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert parse_system(done.stdout.splitlines()).compiler == "14.2.0"


def test_a_host_without_a_compiler_says_none() -> None:
    assert case("debian12-lab").compiler == ""


def test_what_lies_behind_a_link_to_another_disk_counts_as_there(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "org").mkdir(parents=True)
    (data / "org" / "m.gguf").write_bytes(b"1234")
    (tmp_path / "models").symlink_to(data)
    script = System().command().replace("/var/lib/llamaherd/models", f"{tmp_path}/models")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    there = parse_system(done.stdout.splitlines()).there
    assert there[f"{tmp_path}/models/org/m.gguf"] == 4


def asked(**questions: tuple[str, ...]) -> SystemState:
    """Ask this machine."""
    command = System().command(**questions)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    return parse_system(done.stdout.splitlines())


def test_what_was_asked_for_and_is_not_there_is_told(tmp_path: Path) -> None:
    here, gone = tmp_path / "a key", tmp_path / "gone key"
    here.touch()
    found = asked(
        accounts=("root", "nobody-of-that-name"),
        groups=("root", "no-such-group"),
        files=(str(here), str(gone)),
    )
    assert found.missing == ("account nobody-of-that-name", "group no-such-group", f"file {gone}")


def test_a_toolkit_that_was_asked_for_tells_its_version(tmp_path: Path) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.4, V12.4.131'\n")
    nvcc.chmod(0o755)
    found = asked(toolkits=(str(tmp_path), "/nowhere"))
    assert found.toolkits == {str(tmp_path): "12.4.131", "/nowhere": ""}


def test_a_masked_unit_of_a_server_is_told(tmp_path: Path) -> None:
    (tmp_path / "llama-server@coder.service").symlink_to("/dev/null")
    (tmp_path / "llama-server@chat.service").write_text("[Service]\n")
    script = System().command().replace("/etc/systemd/system/llama", f"{tmp_path}/llama")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert parse_system(done.stdout.splitlines()).masked == ("llama-server@coder.service",)


def test_repositories_that_are_not_switched_off_are_told(tmp_path: Path) -> None:
    text = "[baseos]\nname=x\nenabled=1\n[crb]\nenabled = 0\n[epel]\nname=EPEL\n"
    (tmp_path / "rocky.repo").write_text(text)
    script = System().command().replace("/etc/yum.repos.d", str(tmp_path))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert parse_system(done.stdout.splitlines()).repositories == ("baseos", "epel")
