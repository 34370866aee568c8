"""What a bare host of each distribution is told, as text that people read: ``snapshots/``.

A plan is carried out on pyinfra's fake connector: packages, driver, toolkit. Each job's script is
in the file as the host gets it, but for the functions that all of them share. After a change that
is meant, ``make snapshots`` writes them anew; the diff is what reviewers look at.
"""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cuda_settings import WHEELS
from pyinfra.api import Config, Inventory, State
from pyinfra.api.connect import connect_all
from pyinfra.api.deploy import add_deploy
from pyinfra.api.operations import run_ops
from pyinfra.api.state import StateStage
from pyinfra.connectors.fake import FakeConnector
from pyinfra.context import ctx_state

from deploys.common.downloads import fetch_functions
from deploys.cuda import cuda
from deploys.driver import driver
from deploys.packages import packages
from inventories.settings import (
    AptPackage,
    Artifact,
    CudaRepository,
    CudaSettings,
    DriverSettings,
    GitSource,
    HostSettings,
    LlamaCppSettings,
    ServerSettings,
    SshSettings,
    to_data,
)

SNAPSHOTS = Path(__file__).with_name("snapshots")
UPDATE = os.environ.get("LLAMAHERD_UPDATE_SNAPSHOTS") == "1"
COMMIT = "0c1e570" + "0" * 33
BUILD = LlamaCppSettings(
    GitSource("https://example.org/llama.cpp", COMMIT), 8146, COMMIT, architectures=("89",)
)
SERVER = ServerSettings("coder", "glm", 8888, 65536)

# os-release of each: ID, VERSION_ID, ID_LIKE; and the vendor's signing key there.
DISTRIBUTIONS = {
    "debian12": ("debian", "12", "", "3bf863cc.pub"),
    "debian13": ("debian", "13", "", "8793F200.pub"),
    "ubuntu2204": ("ubuntu", "22.04", "debian", "3bf863cc.pub"),
    "ubuntu2404": ("ubuntu", "24.04", "debian", "3bf863cc.pub"),
    "ubuntu2604": ("ubuntu", "26.04", "debian", "3bf863cc.pub"),
    "rhel9": ("rocky", "9.6", "rhel centos fedora", "D42D0685.pub"),
    "rhel10": ("rhel", "10.1", "fedora", "CDF6BA43.pub"),
}


def repository(name: str, packages: dict[str, str]) -> CudaRepository:
    """The vendor's repository for a distribution, with what a lock file would say."""
    url = f"https://cuda.invalid/repos/{name}/x86_64/"
    key = DISTRIBUTIONS[name][3]
    return CudaRepository(
        name,
        url,
        Artifact(key, 1600, "c" * 64, url=url + key),
        tuple(AptPackage(each, version, "d" * 64) for each, version in sorted(packages.items())),
    )


def toolkit(name: str, version: str = "13.0") -> CudaSettings:
    """The minimal profile as it is locked for that distribution."""
    series, dev = version.replace(".", "-"), "devel" if name.startswith("rhel") else "dev"
    found = {
        f"cuda-nvcc-{series}": f"{version}.88-1",
        f"cuda-cudart-{dev}-{series}": f"{version}.96-1",
        f"libcublas-{dev}-{series}": f"{version}.1.3-1",
        f"cuda-cccl-{series}": f"{version}.85-1",
        f"cuda-driver-{dev}-{series}": f"{version}.96-1",
    }
    return CudaSettings("nvidia-repo", version, repositories=(repository(name, found),))


def managed(name: str) -> DriverSettings:
    """The driver as it is locked for that distribution."""
    kind = name.rstrip("0123456789")
    names = {
        "debian": ("nvidia-open", "nvidia-driver-cuda", "nvidia-kernel-open-dkms"),
        "ubuntu": ("nvidia-open-580", "nvidia-driver-580-open", "nvidia-dkms-580-open"),
        "rhel": ("nvidia-open", "nvidia-driver-cuda", "kmod-nvidia-open-dkms"),
    }[kind]
    endings = {"debian": "-1", "ubuntu": "-0ubuntu1", "rhel": f"-1.el{name.removeprefix('rhel')}"}
    version = f"{'3:' if kind == 'rhel' else ''}580.95.05{endings[kind]}"
    chosen = repository(name, dict.fromkeys(names, version))
    return DriverSettings(580, "580.95.05", (chosen,), reboot="allowed")


def told(monkeypatch: pytest.MonkeyPatch, name: str, settings: HostSettings) -> str:
    """Everything that a bare host of that distribution is told, in order."""
    identity, version, like, _ = DISTRIBUTIONS[name]
    system = ["@@llamaherd:os", f"ID={identity}", f'VERSION_ID="{version}"', f'ID_LIKE="{like}"']
    system += ["@@llamaherd:machine", "x86_64", "2", "0", "@@llamaherd:disk", "/opt 100000000000"]
    answers = {
        "@@llamaherd:machine": system,
        "@@llamaherd:toolkits": ["@@llamaherd:toolkits"],
        "@@llamaherd:boot": [
            *("@@llamaherd:boot", "b-1", "@@llamaherd:smi", "580.95.05", "@@llamaherd:status 0")
        ],
        "systemctl show": ["@@llamaherd:state", "inactive", "@@llamaherd:status", "0"],
    }
    data = {
        "fake_delay": 0,
        "fake_delay_jitter": 0,
        "fake_responses": answers,
        "fleet": to_data(settings),
    }
    seen: list[str] = []
    respond = FakeConnector.run_shell_command

    def record(connector: FakeConnector, command: Any, *args: Any, **options: Any) -> Any:
        if "systemd-run" in str(command):
            stdin = options.get("_stdin") or []
            sent = dict(line.split(" ", 1) for line in stdin if " " in line)
            seen.append(base64.b64decode(sent["script"]).decode())
        return respond(connector, command, *args, **options)

    monkeypatch.setattr(FakeConnector, "run_shell_command", record)
    state = State(Inventory(([("@fake", data)], {})), Config())
    with ctx_state.use(state):
        connect_all(state)
        state.set_stage(StateStage.Prepare)
        for one in (packages, driver, cuda):
            add_deploy(state, one)
        state.set_stage(StateStage.Execute)
        state.is_executing = True
        run_ops(state)
    short = "# (the functions fetch and adopt)\n"
    return "\n".join(
        f"##### job {number}\n{script.replace(fetch_functions(), short).strip()}\n"
        for number, script in enumerate(seen, 1)
    )


def compare(name: str, text: str) -> None:
    """The snapshot must be this text; written where the update was asked for."""
    path = SNAPSHOTS / f"{name}.txt"
    if UPDATE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, "see the diff; if it is meant: make snapshots"


def host(cuda_settings: CudaSettings, **more: Any) -> HostSettings:
    return HostSettings(
        "gpu-01",
        SshSettings("gpu-01"),
        cuda=cuda_settings,
        llama_cpp=BUILD,
        servers=(SERVER,),
        **more,
    )


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
def test_the_vendors_repository_with_a_managed_driver(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    text = told(monkeypatch, name, host(toolkit(name), driver=managed(name)))
    assert text.count("##### job") == 3
    compare(f"{name}-nvidia-repo-driver", text)


@pytest.mark.parametrize("name", ["debian12", "ubuntu2404"])
def test_the_distributions_own_toolkit(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    compare(f"{name}-distribution", told(monkeypatch, name, host(CudaSettings("distribution"))))


@pytest.mark.parametrize("name", ["debian12", "rhel9"])
def test_the_wheels(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    compare(f"{name}-wheels", told(monkeypatch, name, host(WHEELS)))


@pytest.mark.parametrize("name", ["debian12", "rhel9"])
def test_two_toolkits_side_by_side_and_a_vulkan_build(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    second = replace(SERVER, name="old", port=8889, cuda=toolkit(name, "12.9"))
    third = replace(SERVER, name="vk", port=8890, llama_cpp=replace(BUILD, backends=("vulkan",)))
    settings = replace(host(toolkit(name)), servers=(SERVER, second, third))
    compare(f"{name}-side-by-side", told(monkeypatch, name, settings))
