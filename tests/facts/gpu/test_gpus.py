"""The GPU fact: recorded output in, GPUs out, a file a case; and its query in a real shell."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyinfra.api.exceptions import FactProcessError
from pyinfra_cli.util import json_encode  # type: ignore[import-untyped]

from facts.gpu import GPU_QUERY, Gpu, GpuError, GpuProcess, Gpus, parse_gpus

CASES = sorted((Path(__file__).parent / "cases").glob("*.json"))
ROW = "0, NVIDIA GeForce RTX 3090, GPU-2b1e5f77, 24576, 24126, 595.71.05"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_recorded_output_gives_the_recorded_answer(path: Path) -> None:
    case: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "error" in case:
        with pytest.raises(FactProcessError, match=case["error"]):
            Gpus().process(case["output"])
        return
    # Cases recorded with fewer columns say nothing of the rest: that stays at its default.
    rest = dataclasses.asdict(Gpu(0, "", "", None, None, None, ""))
    gpus = [json.loads(json.dumps(dataclasses.asdict(gpu))) for gpu in parse_gpus(case["output"])]
    assert gpus == [{**rest, "processes": [], **gpu} for gpu in case["gpus"]]
    assert Gpus().process(case["output"]) == parse_gpus(case["output"])


def test_an_error_repeats_what_nvidia_smi_said() -> None:
    with pytest.raises(GpuError, match=r"version mismatch; NVML library version: 550\.144"):
        parse_gpus(
            [
                "Failed to initialize NVML: Driver/library version mismatch",
                "NVML library version: 550.144",
            ]
        )


@given(st.lists(st.text(max_size=60), max_size=4))
def test_whatever_is_printed_gives_gpus_or_a_gpu_error(lines: list[str]) -> None:
    try:
        gpus = parse_gpus(lines)
    except GpuError:
        return
    assert all(isinstance(gpu, Gpu) for gpu in gpus)


@pytest.mark.parametrize(
    ("capability", "architecture"), [("8.9", "89"), ("12.0", "120"), (None, None)]
)
def test_an_architecture_is_the_capability_without_its_dot(
    capability: str | None, architecture: str | None
) -> None:
    gpu = Gpu(0, "GPU", "GPU-1", 1, 1, capability, "580.65.06")
    assert gpu.architecture == architecture


def query(directory: Path, script: str | None) -> list[str]:
    """Run the fact's own command with a stand-in nvidia-smi, as the remote shell would."""
    if script is not None:
        smi = directory / "nvidia-smi"
        smi.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        smi.chmod(0o755)
    for name in ("timeout",):
        (directory / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        ["/bin/sh", "-c", GPU_QUERY],
        env={**os.environ, "PATH": f"{directory}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_host_without_nvidia_smi_prints_nothing(tmp_path: Path) -> None:
    assert query(tmp_path, None) == []


@pytest.mark.parametrize("word", ["CUDA Version       ", "CUDA UMD version   "])
def test_a_healthy_driver_is_asked_for_cards_processes_and_version(
    tmp_path: Path, word: str
) -> None:
    script = f"""echo "$1" >>{tmp_path}/log
      case "$*" in *query-gpu*) echo '{ROW}, 8.6, [N/A], Disabled, 350.00';;
      *query-compute-apps*) echo 'GPU-2b1e5f77, 4711, /opt/a, b/llama-server, 20480';;
      --version) echo 'DRIVER version      : 595.71.05'; echo '{word} : 13.2';; esac"""
    (gpu,) = parse_gpus(query(tmp_path, script))
    assert (gpu.mig, gpu.ecc, gpu.power_limit, gpu.cuda) == (None, False, 350.0, "13.2")
    assert gpu.processes == (GpuProcess(4711, "/opt/a, b/llama-server", 20480),)
    assert len((tmp_path / "log").read_text(encoding="utf-8").splitlines()) == 3


def test_a_driver_that_fails_is_asked_once(tmp_path: Path) -> None:
    query(tmp_path, f"echo asked >>{tmp_path}/log; exit 9")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "asked\n"


@pytest.mark.parametrize(
    "line",
    [
        f"{ROW}, 8.6, Perhaps, Disabled, 350.00",
        f"{ROW}, 8.6, [N/A], Disabled, lots",
        f"{ROW}, 8.6, [N/A], Disabled",
        "process: GPU-2b1e5f77, ???, name, 3",
        "process: GPU-2b1e5f77",
    ],
)
def test_a_malformed_answer_fails_this_host_alone(line: str) -> None:
    rows = [line] if line.startswith("0") else [f"{ROW}, 8.6, [N/A], Disabled, 350.00", line]
    with pytest.raises(FactProcessError, match="nvidia-smi: "):
        parse_gpus(rows)


def test_an_old_driver_is_asked_again_without_the_capability(tmp_path: Path) -> None:
    script = f"""case "$*" in *compute_cap*)
      echo 'Field "compute_cap" is not a valid field to query.'; exit 2;; esac
      echo '{ROW}'"""
    lines = query(tmp_path, script)
    assert lines == [ROW]
    assert parse_gpus(lines)[0].compute_capability is None


def test_a_failure_is_told_with_its_exit_status(tmp_path: Path) -> None:
    script = "echo 'Failed to initialize NVML: Driver/library version mismatch' >&2; exit 18"
    assert query(tmp_path, script) == [
        "Failed to initialize NVML: Driver/library version mismatch",
        "nvidia-smi exited 18",
    ]


def test_a_silent_success_is_a_host_without_gpus(tmp_path: Path) -> None:
    assert parse_gpus(query(tmp_path, "exit 0")) == ()


def test_pyinfras_command_line_can_print_the_fact() -> None:
    printed = json.loads(json.dumps(parse_gpus([f"{ROW}, 8.6"]), default=json_encode))
    assert printed[0]["name"] == "NVIDIA GeForce RTX 3090"
