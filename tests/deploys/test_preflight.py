"""What can't work is refused beforehand, with the setting that mends it."""

from dataclasses import replace

import pytest

from deploys.preflight import problems
from deploys.preflight.compatibility import Combination, conflicts
from facts.gpu import Gpu
from facts.system import Listener, SystemState
from inventories.settings import (
    CudaSettings,
    HostSettings,
    ServerSettings,
    SshSettings,
)

GIB = 1024**3
RTX4090 = Gpu(0, "NVIDIA GeForce RTX 4090", "GPU-1", 24564, 24000, "8.9", "580.65.06")
RTX5090 = Gpu(0, "NVIDIA GeForce RTX 5090", "GPU-2", 32607, 32000, "12.0", "580.65.06")
V100 = Gpu(0, "Tesla V100", "GPU-3", 32768, 32000, "7.0", "580.65.06")
GOOD = SystemState(
    distribution="debian",
    version_id="12",
    architecture="x86_64",
    glibc="2.36",
    systemd=252,
    root=True,
    disk_free={"/opt": 50 * GIB, "/var/lib": 50 * GIB},
    gpus=(RTX4090,),
)
HOST = HostSettings(
    name="gpu-01",
    ssh=SshSettings("10.0.0.11", user="ops"),
    cuda=CudaSettings("nvidia-repo", "13.0"),
    servers=(ServerSettings("coder", "glm", 8888, 65536),),
)


def test_a_good_host_has_no_problems() -> None:
    assert problems(HOST, GOOD) == []


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (replace(GOOD, root=False), "no root rights as ops: allow that user sudo"),
        (replace(GOOD, systemd=0), "a host without systemd"),
        (replace(GOOD, systemd=239), "needs systemd 247"),
        (replace(GOOD, disk_free={"/opt": GIB // 2}), "/opt has 512.0 MiB left"),
        (replace(GOOD, gpus=()), "no GPU answers (nvidia-smi)"),
        (
            replace(GOOD, listeners=(Listener(8888, "nginx[7]", "nginx.service"),)),
            "port 8888 of server coder is taken by nginx[7]: stop that, or set servers.coder.port",
        ),
    ],
)
def test_a_problem_names_its_remedy(facts: SystemState, message: str) -> None:
    (found,) = problems(HOST, facts)
    assert message in found


def test_our_own_server_on_its_port_is_no_stranger() -> None:
    own = replace(
        GOOD, listeners=(Listener(8888, "llama-server[9]", "llama-server@coder.service"),)
    )
    assert problems(HOST, own) == []


def test_all_problems_are_told_at_once() -> None:
    assert len(problems(HOST, replace(GOOD, systemd=0, gpus=()))) == 2


@pytest.mark.parametrize(
    ("toolkit", "glibc", "gpu", "message"),
    [
        ("12.9", "2.41", RTX4090, "set cuda.version to 13.0"),
        ("13.0", "2.36", replace(RTX4090, driver="570.133.07"), "set cuda.version to 12.8"),
        ("12.4", "2.36", RTX5090, "needs CUDA 12.8 or newer"),
        ("13.0", "2.36", V100, "set cuda.version to 12.9"),
    ],
)
def test_what_does_not_go_together(toolkit: str, glibc: str, gpu: Gpu, message: str) -> None:
    (found,) = conflicts(Combination(toolkit, glibc, (gpu,)))
    assert message in found


@pytest.mark.parametrize(
    ("toolkit", "glibc", "gpu"),
    [
        ("13.0", "2.41", RTX4090),
        ("13.0", "2.36", RTX5090),
        ("12.9", "2.36", V100),
        ("", "", RTX4090),
        ("13.0", "2.36", replace(RTX4090, compute_capability=None, driver="[N/A]")),
    ],
)
def test_what_goes_together_or_is_not_known(toolkit: str, glibc: str, gpu: Gpu) -> None:
    assert conflicts(Combination(toolkit, glibc, (gpu,))) == []
