"""The driver component without a host: its fact, what it decides, and preflight beside it."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import StringCommand
from pyinfra.api.exceptions import FactProcessError

from deploys.driver import install, reboot, waiting
from deploys.driver.reboot import in_vain, needed, settle
from deploys.preflight import problems
from facts.cuda import CudaState
from facts.driver import Driver, DriverState, parse_driver
from facts.gpu import Gpu
from facts.system import SystemState
from inventories.settings import (
    AptPackage,
    Artifact,
    CudaRepository,
    CudaSettings,
    DriverSettings,
    HostSettings,
    ServerSettings,
    SshSettings,
)

KEY = Artifact("3bf863cc.pub", 1600, "c" * 64, url="https://cuda.invalid/key")
PACKAGES = tuple(
    AptPackage(name, "580.95.05-1", "d" * 64) for name in ("nvidia-driver", "nvidia-open")
)
APT = CudaRepository("debian12", "https://cuda.invalid/repos/debian12/x86_64/", KEY, PACKAGES)
RPM = replace(APT, distribution="rhel9", url="https://cuda.invalid/repos/rhel9/x86_64/")
SETTINGS = DriverSettings(580, "580.95.05", (APT, RPM))
VERSION = "580.95.05"


def answer(smi: list[str], status: int, note: str = "", modules: str = "") -> DriverState:
    return parse_driver(
        [
            *("@@llamaherd:boot", "b-2", "@@llamaherd:smi", *smi, f"@@llamaherd:status {status}"),
            *("@@llamaherd:note", note, "@@llamaherd:modules", modules),
        ]
    )


def test_a_driver_that_answers_is_the_one_that_runs() -> None:
    assert answer(["580.95.05", "580.95.05"], 0) == DriverState(VERSION, "", "b-2")


@pytest.mark.parametrize(
    ("smi", "status", "error"),
    [
        (["Failed to initialize NVML: Driver/library version mismatch"], 18, "mismatch"),
        (["sh: 1: nvidia-smi: not found"], 127, "not found"),
        ([], 124, "there is no nvidia-smi"),
        (["No devices were found"], 0, "No devices were found"),
    ],
)
def test_one_that_doesnt_answer_is_told_with_what_it_says(
    smi: list[str], status: int, error: str
) -> None:
    found = answer(smi, status)
    assert found.running == ""
    assert error in found.error


def test_the_note_and_nouveau_are_read() -> None:
    found = answer(["x"], 9, '{"version": "580.95.05", "boot": "b-1"}', "nouveau")
    assert (found.noted_version, found.noted_boot, found.nouveau) == (VERSION, "b-1", True)
    assert answer(["x"], 9, "{broken").noted_version == ""


def test_a_host_without_a_boot_id_fails_alone() -> None:
    with pytest.raises(FactProcessError):
        parse_driver(["@@llamaherd:smi", "580"])


def test_the_facts_own_command_runs_here() -> None:
    done = subprocess.run(
        ["sh", "-c", Driver().command()], capture_output=True, text=True, check=True
    )
    assert Driver().process(done.stdout.splitlines()).boot


@pytest.mark.parametrize(
    ("state", "reason", "vain"),
    [
        (DriverState(VERSION, boot="b-1"), "", False),
        (
            DriverState("570.86", boot="b-1"),
            "reboot needed: driver 570.86 runs, 580.95.05 is installed",
            False,
        ),
        (DriverState(error="mismatch", boot="b-1"), "reboot needed", False),
        (DriverState(error="x", boot="b-1", nouveau=True), "(nouveau is loaded)", False),
        (DriverState("", "x", "b-1", VERSION, "b-1"), "reboot needed", False),
        (DriverState("", "x", "b-2", VERSION, "b-1"), "reboot needed", True),
        (DriverState("", "x", "b-2", "570.86", "b-1"), "reboot needed", False),
    ],
)
def test_when_a_reboot_is_needed_and_when_it_was_in_vain(
    state: DriverState, reason: str, vain: bool
) -> None:
    found = needed(state, VERSION)
    assert bool(found) == bool(reason)
    assert reason in found
    assert in_vain(state, VERSION) is vain
    if reason:
        change = waiting(state, VERSION, found)
        assert change.plane == "running"
        assert ("dkms status" if vain else "driver.reboot to allowed") in change.remedy


def test_a_host_whose_note_cant_be_written_is_not_rebooted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(host: Any, command: StringCommand) -> list[str] | None:
        asked.append(command.get_raw_value())
        if "nvidia-smi" not in asked[-1]:
            return None
        return ["@@llamaherd:boot", "b-1", "@@llamaherd:smi", "none", "@@llamaherd:status 9"]

    monkeypatch.setattr(reboot, "_run", run)
    host = SimpleNamespace(name="gpu-01", print_prefix="")
    assert not settle(None, host, VERSION, allowed=True)  # type: ignore[arg-type]
    assert not [command for command in asked if "systemctl reboot" in command]


@pytest.mark.parametrize("rpm", [False, True])
def test_a_host_in_order_has_no_difference_and_each_thing_that_moves_is_one(rpm: bool) -> None:
    chosen = RPM if rpm else APT
    bare = CudaState()
    hashes = {
        file.path: hashlib.sha256(file.content.encode()).hexdigest()
        for file in install.files(chosen, bare, rpm)
    }
    key = next(path for path in install.own_files(rpm) if "KEY" in path or "keyrings" in path)
    state = CudaState(packages=dict(install.by_name(chosen)), files={**hashes, key: KEY.sha256})
    assert install.differences(chosen, state, rpm) == ()
    for path in state.files:
        assert install.differences(chosen, replace(state, files={**state.files, path: "0"}), rpm)
    older = {**state.packages, "nvidia-open": "570.86-1"}
    assert install.differences(chosen, replace(state, packages=older), rpm) == (
        "nvidia-open 570.86-1 -> 580.95.05-1",
    )


@pytest.mark.parametrize("rpm", [False, True])
def test_the_script_is_sound_shell_and_keeps_nouveau_away(rpm: bool) -> None:
    chosen = RPM if rpm else APT
    text = install.script(SETTINGS, chosen, CudaState(), rpm)
    for shell in ("sh", "bash"):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)
    assert "blacklist nouveau" in text
    assert "@" not in text.replace('"$@"', "").replace("@@", "")


@pytest.mark.parametrize(
    ("distribution", "modules", "stream"),
    [
        ("rhel9", "open", "nvidia-driver:580-open"),
        ("rhel9", "proprietary", "nvidia-driver:580-dkms"),
        ("rhel10", "open", ""),
        ("debian12", "open", ""),
    ],
)
def test_rhel_9_keeps_a_branch_in_a_module_stream(
    distribution: str, modules: str, stream: str
) -> None:
    settings = replace(SETTINGS, modules=modules)  # type: ignore[arg-type]
    assert install.module_stream(settings, distribution) == stream


GOOD = SystemState(
    distribution="debian",
    version_id="12",
    architecture="x86_64",
    glibc="2.36",
    systemd=252,
    root=True,
    gpu_error="nvidia-smi: couldn't communicate (reinstall)",
)
HOST = HostSettings(
    "gpu-01",
    SshSettings("gpu-01"),
    cuda=CudaSettings("wheels", "13.0"),
    servers=(ServerSettings("coder", "glm", 8888, 65536),),
    driver=SETTINGS,
)


def test_a_driver_that_we_bring_needn_t_be_there_yet() -> None:
    assert problems(HOST, GOOD) == []
    assert problems(replace(HOST, driver=None), GOOD) != []


def test_a_branch_that_cant_run_the_toolkit_or_the_card_is_refused_with_its_setting() -> None:
    old = replace(HOST, driver=replace(SETTINGS, branch=570))
    assert "set driver.branch to 580 or more" in "".join(problems(old, GOOD))
    card = Gpu(0, "Tesla V100", "GPU-3", 32768, 32000, "7.0", "535.1")
    facts = replace(GOOD, gpu_error="", gpus=(card,))
    assert "set driver.modules to proprietary" in "".join(problems(HOST, facts))
