"""Whether a server's layers are on a GPU: from what real cards' ``nvidia-smi`` said."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_host import CUDA, MODEL, SETTINGS, answer
from pyinfra.api.exceptions import FactProcessError

from facts.gpu import parse_gpus
from facts.server_gpus import ServerGpus, ServerGpusState, ServerProcesses, parse_server_gpus
from inventories.settings import Artifact, HostSettings
from llamaherd.verification import Finding, judge_gpu, on_gpu

CASES = Path(__file__).parents[1] / "facts" / "gpu" / "cases"
SERVER = replace(CUDA.servers[0], gpus=None)


def recorded(case: str) -> list[str]:
    output = json.loads((CASES / f"{case}.json").read_text())["output"]
    assert isinstance(output, list)
    return output


def state(output: list[str], pids: list[int], device: bool = True) -> ServerGpusState:
    lines = [f"{pid}" for pid in pids] + ["device"] * device
    return parse_server_gpus(
        ["@@llamaherd:gpus", *output, "@@llamaherd:server coder", *(lines if pids else [])]
    )


def judged(found: ServerGpusState, size: int = 4096) -> Finding:
    model = replace(MODEL, files=(Artifact("m.gguf", size, "a" * 64, url="x"),))
    (finding,) = judge_gpu(replace(CUDA, models=(model,)), SERVER, found)
    assert (finding.subject, finding.check) == ("server coder", "gpu")
    return finding


H100 = "h100-80gb-hbm3-driver-590.48.01"


def busy() -> list[int]:
    """Processes on the first of the recorded H100s."""
    return [process.pid for process in parse_gpus(recorded(H100))[0].processes]


def test_what_its_processes_hold_is_told_by_card() -> None:
    (gpu, *_) = parse_gpus(recorded(H100))
    held = sum(process.memory or 0 for process in gpu.processes)
    found = judged(state(recorded(H100), [1, *busy()]))
    assert (found.ok, found.unknown, found.remedy) == (True, False, "")
    assert found.detail == f"{held} MiB of GPU {gpu.index} ({gpu.name})"


def test_less_than_its_layers_take_is_a_fallback_to_the_processor() -> None:
    found = judged(state(recorded(H100), busy()), size=10**12)
    assert not found.ok
    assert found.detail.startswith("computes on the processor: ")
    assert "journalctl -u llama-server@coder.service" in found.remedy


@pytest.mark.parametrize("case", [H100, "rtx-4090", "no-nvidia-smi", "no-devices"])
def test_a_process_on_no_gpu_is_a_failure_with_a_remedy(case: str) -> None:
    found = judged(state(recorded(case), [4711], device=False))
    assert (found.ok, found.unknown) == (False, False)
    assert found.detail.startswith("computes on the processor: its process is on no GPU")
    assert ("nvidia-smi lists no GPU" in found.detail) is case.startswith("no-")
    assert "why CUDA did not start" in found.remedy


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (recorded("h200-mig-driver-590.48.01"), "its GPU is parted (MIG)"),
        (recorded("rtx-4090"), "nvidia-smi lists none of its processes"),
        (
            [
                *recorded("rtx-4090"),
                "process: GPU-5905c857-91f0-4fd2-b1d7-6ce3f8b8b0f2, 4711, llama-server, [N/A]",
            ],
            "it is on GPU 0, which doesn't tell its memory",
        ),
        (recorded("driver-library-mismatch"), "Driver/library version mismatch"),
    ],
    ids=["MIG", "container", "no memory", "no answer"],
)
def test_what_nobody_can_tell_is_no_failure_and_no_proof(output: list[str], why: str) -> None:
    found = judged(state(output, [4711]))
    assert (found.ok, found.unknown) == (True, True)
    assert found.detail.startswith("unknown: ")
    assert why in found.detail


def test_only_servers_that_are_to_be_on_a_gpu_are_asked_for() -> None:
    assert on_gpu(CUDA, SERVER)
    assert not on_gpu(SETTINGS, SERVER), "a build for the processor"
    assert not on_gpu(CUDA, replace(SERVER, gpus=()))
    assert not on_gpu(CUDA, replace(SERVER, gpu_layers="0"))


def test_an_answer_that_makes_no_sense_fails_the_host_alone() -> None:
    with pytest.raises(FactProcessError, match="cannot make sense"):
        parse_server_gpus(["sudo: a password is required"])


def test_the_facts_own_command_finds_all_processes_of_the_unit(tmp_path: Path) -> None:
    for name, text in {
        "systemctl": f"echo {os.getpid()}",
        "nvidia-smi": "exit 1",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    command = ServerGpus().command(["coder", "it's"])
    done = subprocess.run(
        ["sh", "-c", command],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = ServerGpus().process(done.stdout.splitlines())
    assert found.error.startswith("nvidia-smi: ")
    assert found.servers.keys() == {"coder", "it's"}
    assert found.servers["coder"].pids[0] == os.getpid()


def test_a_unit_that_isnt_running_has_no_process(tmp_path: Path) -> None:
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho 0\n")
    (tmp_path / "systemctl").chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", ServerGpus().command(["coder"])],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert parse_server_gpus(done.stdout.splitlines()).servers == {"coder": ServerProcesses()}


@pytest.mark.parametrize(("settings", "healthy"), [(CUDA, 200), (CUDA, 503), (SETTINGS, 200)])
def test_a_host_is_asked_once_and_only_for_servers_on_a_gpu_that_answer(
    settings: HostSettings, healthy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llamaherd.verify import ask_hosts  # isort: skip
    from pyinfra.connectors.fake import FakeConnector

    asked = []
    run = FakeConnector.run_shell_command

    def note(connector: Any, command: Any, *args: Any, **more: Any) -> Any:
        asked.append(str(command))
        return run(connector, command, *args, **more)

    monkeypatch.setattr(FakeConnector, "run_shell_command", note)
    output = ["@@llamaherd:gpus", *recorded(H100)]
    output += ["@@llamaherd:server coder", str(busy()[0]), "device"]
    answers = {
        "query-compute-apps": output,
        "stream completion": ["@@llamaherd:health", answer({"status": "ok"}, healthy)],
    }
    data = {"fake_delay": 0, "fake_delay_jitter": 0, "fake_responses": answers}
    wanted = replace(settings, opencode=None)
    (report,) = ask_hosts({"@fake/gpu-01": wanted}, [("@fake/gpu-01", data)])
    checks = [finding.check for finding in report.findings]
    on_card = settings is CUDA and healthy == 200
    assert checks == ["health", "gpu"] if on_card else ["health"]
    assert sum("nvidia-smi" in command for command in asked) == on_card
