"""What a check finds on hosts in many states: real workers, real deploys, simulated answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fake_host import (
    COMPUTING,
    CUDA,
    OPENCODE,
    RTX4090,
    SERVER,
    SETTINGS,
    FakeHost,
)

from deploys.common.files import ManagedFile
from deploys.opencode.config import SYSTEM_CONFIG, user_config
from inventories.settings import HostSettings, SecretReference
from llamaherd.drift.pool import check_in_processes
from llamaherd.drift.report import Finding, HostReport
from llamaherd.drift.targets import Options, Target

UNIT = "llama-server@coder.service"
UNIT_PATH = f"/etc/systemd/system/{UNIT}"
HOST = FakeHost()
GPU_HOST = FakeHost(CUDA, gpus=(RTX4090,), running=COMPUTING)
BINARY = HOST.instance.binary
ETC = ManagedFile(SYSTEM_CONFIG, '{"share": "auto"}\n')
USER_FILE = "/home/dev/.config/opencode/opencode.json"
OURS = user_config("", OPENCODE, USER_FILE)
STRANGER = ("8888 llama-server[99] session-4.scope",)
UNIT_FILE = ManagedFile(UNIT_PATH, "[Service]\n")
RECORDED = Path(__file__).parents[1] / "facts" / "gpu" / "cases" / "driver-library-mismatch.json"
MISMATCH = tuple(json.loads(RECORDED.read_text())["output"])

assert CUDA.llama_cpp is not None
# With its architectures declared, the build is known where no card tells of itself.
FIXED = replace(CUDA, llama_cpp=replace(CUDA.llama_cpp, architectures=("89",)))
UPGRADED = FakeHost(
    FIXED, gpus=MISMATCH, running=COMPUTING, unit={"Replaced": "/usr/lib/libcuda.so.580.65.06"}
)


@dataclass(frozen=True)
class Case:
    """A damaged host, and each finding that it must have: plane, component, subject, words."""

    host: FakeHost
    findings: tuple[tuple[str, str, str, str], ...]


def unit(**values: str) -> FakeHost:
    return replace(HOST, unit=values)


def gpu(**values: object) -> FakeHost:
    return replace(GPU_HOST, **values)  # type: ignore[arg-type]


DAMAGE: Mapping[str, Case] = {
    "a package removed": Case(
        replace(HOST, missing_packages=frozenset({"ripgrep"})),
        (("declared", "packages", "ripgrep", "not installed"),),
    ),
    "the build removed": Case(
        replace(HOST, built=False, unit={"Executable": f"{BINARY} (deleted)"}),
        (
            ("declared", "llama_cpp", BINARY.removesuffix("/bin/llama-server"), "not built"),
            ("running", "llama_server", UNIT, "(deleted)"),
        ),
    ),
    "a binary replaced": Case(
        replace(HOST, binaries={"llama-server": "901 100"}),
        (("declared", "llama_cpp", BINARY, "not the file that was built"),),
    ),
    "a binary deleted": Case(
        replace(HOST, binaries={"llama-cli": ""}),
        (("declared", "llama_cpp", "bin/llama-cli", "not the file that was built"),),
    ),
    "a model truncated": Case(
        replace(HOST, model_stat="1000 101 7"),
        (("declared", "models", "m.gguf", "1000 bytes -> 4096"),),
    ),
    "a model touched": Case(
        replace(HOST, model_stat="4096 101 7"),
        (("declared", "models", "m.gguf", "not the bytes that were verified"),),
    ),
    "a model gone": Case(
        replace(HOST, model_stat=""), (("declared", "models", "m.gguf", "missing"),)
    ),
    "a record gone": Case(
        replace(HOST, model_record=None), (("declared", "models", "m.gguf", "there is no record"),)
    ),
    "a unit edited": Case(
        replace(HOST, files={UNIT_PATH: UNIT_FILE}, unit={"NeedDaemonReload": "yes"}),
        (("declared", "llama_server", UNIT_PATH, "content differs"),),
    ),
    "a unit's mode": Case(
        replace(HOST, files={UNIT_PATH: replace(HOST.unit_file, mode="600")}),
        (("declared", "llama_server", UNIT_PATH, "mode 600 -> 644"),),
    ),
    "a unit's owner": Case(
        replace(HOST, files={UNIT_PATH: replace(HOST.unit_file, user="ops")}),
        (("declared", "llama_server", UNIT_PATH, "owner ops:ops -> root:root"),),
    ),
    "a unit's file gone": Case(
        replace(HOST, files={UNIT_PATH: None}),
        (("declared", "llama_server", UNIT_PATH, "missing"),),
    ),
    "a drop-in not reloaded": Case(
        unit(NeedDaemonReload="yes", DropInPaths=f"{UNIT_PATH}.d/mine.conf"),
        (("running", "llama_server", UNIT, "mine.conf"),),
    ),
    "a drop-in not in force": Case(
        replace(
            HOST,
            unit={"DropInPaths": f"{UNIT_PATH}.d/mine.conf"},
            newer=(f"{UNIT_PATH}.d/mine.conf",),
        ),
        (("running", "llama_server", UNIT, "is newer than its process"),),
    ),
    "stopped": Case(
        replace(HOST, unit={"ActiveState": "inactive", "MainPID": "0"}, listeners=(), health=503),
        (("running", "llama_server", UNIT, "it is inactive"),),
    ),
    "disabled": Case(
        unit(UnitFileState="disabled"), (("running", "llama_server", UNIT, "won't start at boot"),)
    ),
    "masked": Case(
        replace(HOST, unit={"LoadState": "masked", "ActiveState": "inactive"}, listeners=()),
        (
            ("running", "llama_server", UNIT, "it is inactive"),
            ("running", "llama_server", UNIT, "masked"),
        ),
    ),
    "started by hand": Case(
        replace(
            HOST,
            unit={"ActiveState": "inactive", "MainPID": "0"},
            listeners=STRANGER,
            live={"default_generation_settings": {"n_ctx": 2048}},
        ),
        (
            ("running", "llama_server", "port 8888", "is taken by llama-server[99]"),
            ("running", "llama_server", UNIT, "it is inactive"),
            ("running", "llama_server", UNIT, "context: 2048 a slot, expected 8192"),
        ),
    ),
    "other arguments": Case(
        unit(Arguments="L3gvbGxhbWEtc2VydmVyAC0tcG9ydAA5OTk5AA=="),
        (("running", "llama_server", UNIT, "other arguments (/x/llama-server 9999 instead of"),),
    ),
    "a stale hash": Case(
        unit(Config="0" * 16),
        (("running", "llama_server", UNIT, "started with another configuration"),),
    ),
    "a deleted binary": Case(
        unit(Executable=f"{BINARY} (deleted)"),
        (("running", "llama_server", UNIT, "(deleted)"),),
    ),
    "crashing": Case(
        unit(NRestarts="3", Age="40"),
        (("running", "llama_server", UNIT, "restarted it 3 times, the last time 40 s ago"),),
    ),
    "another model in its own words": Case(
        replace(HOST, live={"model_path": "/tmp/other.gguf"}),
        (("running", "llama_server", UNIT, "model: loaded /tmp/other.gguf"),),
    ),
    "another build in its own words": Case(
        replace(HOST, live={"build_info": "b1-ffffff"}),
        (("running", "llama_server", UNIT, "build: b1-ffffff, expected b8146"),),
    ),
    "not answering": Case(
        replace(HOST, health=500), (("running", "llama_server", UNIT, "health: "),)
    ),
    "an undeclared server": Case(
        replace(HOST, others=("old",)),
        (("declared", "llama_server", "llama-server@old.service", "declared no longer"),),
    ),
    "the account deleted": Case(
        replace(HOST, account=False),
        (("declared", "llama_server", "llama-server", "account is missing"),),
    ),
    "OpenCode's binary replaced": Case(
        replace(HOST, opencode_size=8999),
        (("declared", "opencode", "/opt/opencode/1.18.33", "not the one that was installed"),),
    ),
    "OpenCode's link moved": Case(
        replace(HOST, opencode_link="/opt/opencode/1.0.0/run"),
        (("declared", "opencode", "/usr/local/bin/opencode", "-> /opt/opencode/1.0.0/run"),),
    ),
    "the system configuration edited": Case(
        replace(HOST, files={SYSTEM_CONFIG: ETC}),
        (("declared", "opencode", SYSTEM_CONFIG, "content differs"),),
    ),
    "a user's configuration edited in our keys": Case(
        replace(HOST, user_text=OURS.replace("8888", "9999")),
        (("declared", "opencode", USER_FILE, "content differs"),),
    ),
    "a user deleted": Case(
        replace(HOST, users=()), (("declared", "opencode", "OpenCode", "has no account dev"),)
    ),
    "a reboot pending": Case(
        replace(HOST, running=("@@llamaherd:reboot", "pending", "linux-image-amd64")),
        (("running", "preflight", "host", "a reboot is pending (linux-image-amd64)"),),
    ),
    "an upgraded driver": Case(
        gpu(
            running=(
                *COMPUTING,
                "@@llamaherd:module",
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul",
                "@@llamaherd:library",
                "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.95.05",
            )
        ),
        (("running", "preflight", "NVIDIA driver", "module 580.65.06, library 580.95.05"),),
    ),
    "a driver upgraded under its module": Case(
        gpu(gpus=MISMATCH),
        (("running", "preflight", "NVIDIA driver", "Driver/library version mismatch"),),
    ),
    "a driver's library upgraded under a process": Case(
        gpu(unit={"Replaced": "/usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06"}),
        (("running", "llama_server", UNIT, "libcuda.so.580.65.06 of before an upgrade"),),
    ),
    "a driver upgraded under its module and a process": Case(
        UPGRADED,
        (
            ("running", "preflight", "NVIDIA driver", "Driver/library version mismatch"),
            ("running", "llama_server", UNIT, "libcuda.so.580.65.06 of before an upgrade"),
        ),
    ),
    "a GPU missing": Case(
        gpu(settings=replace(CUDA, servers=(replace(SERVER, gpus=("0", "1")),))),
        (("running", "llama_server", UNIT, "GPU 1 is missing: nvidia-smi lists 1"),),
    ),
    "computing on the processor": Case(
        gpu(running=("@@llamaherd:reboot", "@@llamaherd:computing", "answered")),
        (("running", "llama_server", UNIT, "computes on the processor"),),
    ),
}

IN_ORDER: Mapping[str, FakeHost] = {
    "a CPU host": HOST,
    "a GPU host": GPU_HOST,
    "keys of the user's own": replace(HOST, user_text=OURS.replace("{", '{\n  "theme": "x",', 1)),
    "a drop-in in force": unit(DropInPaths=f"{UNIT_PATH}.d/mine.conf"),
    "a drop-in with other arguments": unit(
        DropInPaths="/x.conf", Arguments="L3gvbGxhbWEtc2VydmVyAC0tcG9ydAA5OTk5AA=="
    ),
    "long since restarted": unit(NRestarts="2", Age="86400"),
    "a GPU process that nvidia-smi does not see": gpu(
        running=("@@llamaherd:reboot", "@@llamaherd:computing", "answered"), on_gpu=True
    ),
    "OpenCode not asked since its files changed": replace(HOST, opencode_asked=False),
    "nothing declared": FakeHost(HostSettings("bare", SETTINGS.ssh), listeners=()),
}

UNJUDGED: Mapping[str, tuple[FakeHost, str]] = {
    "no root": (replace(HOST, root=False), "no root rights as root: allow that user sudo"),
    "a fact that fails": (replace(HOST, gone=(".verified",)), "ModelFiles: sudo: a terminal"),
    "a secret that is not there": (
        replace(
            HOST,
            settings=replace(
                SETTINGS,
                servers=(replace(SERVER, api_key=SecretReference(env="LLAMAHERD_NO_SUCH")),),
            ),
        ),
        "LLAMAHERD_NO_SUCH",
    ),
}


@pytest.fixture(scope="module")
def reports() -> dict[str, HostReport]:
    """Every host above, checked at once by two processes."""
    hosts = {name: case.host for name, case in DAMAGE.items()} | dict(IN_ORDER)
    hosts |= {name: host for name, (host, _) in UNJUDGED.items()}
    targets = [
        Target(replace(host.settings, name=name), host.data, f"@fake/host-{number}")
        for number, (name, host) in enumerate(hosts.items())
    ]
    found = check_in_processes(targets, Options(), Path(__file__).parent, processes=2)
    return {report.name: report for report in found}


def told(finding: Finding, wanted: tuple[str, str, str, str]) -> bool:
    plane, component, subject, words = wanted
    return (
        (finding.plane, finding.component) == (plane, component)
        and finding.subject.endswith(subject)
        and words in finding.summary
    )


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told_once_on_its_plane_and_nothing_else_is(
    reports: dict[str, HostReport], name: str
) -> None:
    report, wanted = reports[name], DAMAGE[name].findings
    assert (report.state, report.error) == ("drift", "")
    assert len(report.findings) == len(wanted), report.findings
    for each in wanted:
        assert any(told(finding, each) for finding in report.findings), report.findings


@pytest.mark.parametrize("name", IN_ORDER)
def test_a_host_in_order_is_ok(reports: dict[str, HostReport], name: str) -> None:
    report = reports[name]
    assert (report.state, report.error, report.findings) == ("ok", "", ())


@pytest.mark.parametrize("name", UNJUDGED)
def test_a_host_that_cannot_be_judged_is_an_error(
    reports: dict[str, HostReport], name: str
) -> None:
    report = reports[name]
    assert report.state == "error"
    assert UNJUDGED[name][1] in report.error


def test_what_was_found_before_an_error_is_kept_and_the_other_components_too() -> None:
    host = replace(HOST, gone=(".verified",), missing_packages=frozenset({"git"}), others=("old",))
    (report,) = check_in_processes(
        [Target(host.settings, host.data, "@fake/x")], Options(), Path(), 1
    )
    assert report.state == "error"
    assert {finding.component for finding in report.findings} == {"packages", "llama_server"}


@pytest.mark.parametrize("name", ["a CPU host", "a GPU host"])
def test_a_host_in_order_stays_within_its_budget(reports: dict[str, HostReport], name: str) -> None:
    assert 0 < reports[name].commands <= 15
    assert 0 < reports[name].operations <= 12


def test_a_changed_file_comes_with_its_diff(reports: dict[str, HostReport]) -> None:
    (finding,) = reports["the system configuration edited"].findings
    assert '-{"share": "auto"}' in finding.diff
    assert '+  "share": "disabled",' in finding.diff


def test_what_no_converge_mends_has_a_remedy(reports: dict[str, HostReport]) -> None:
    for name in ("a user deleted", "started by hand", "a GPU missing", "crashing"):
        assert any(finding.remedy for finding in reports[name].findings), name
    for name in ("stopped", "a unit edited", "a package removed"):
        assert not any(finding.remedy for finding in reports[name].findings), name


def test_a_secret_never_shows_in_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAHERD_TEST_KEY", "sesame-3141")
    server = replace(SERVER, api_key=SecretReference(env="LLAMAHERD_TEST_KEY"))
    host = replace(HOST, settings=replace(SETTINGS, servers=(server,)))
    (report,) = check_in_processes(
        [Target(host.settings, host.data, "@fake/x")], Options(), Path(), 1
    )
    assert report.state == "drift"
    assert any(finding.subject.endswith("/api-key") for finding in report.findings)
    assert "sesame-3141" not in repr(report)


def test_a_flipped_bit_is_found_by_hashing_alone() -> None:
    host = replace(HOST, model_sha256="b" * 64)
    target = Target(host.settings, host.data, "@fake/x")
    (shallow,) = check_in_processes([target], Options(), Path(), 1)
    (deep,) = check_in_processes([target], Options(deep=True), Path(), 1)
    assert shallow.state == "ok"
    (finding,) = deep.findings
    assert (finding.plane, finding.component) == ("declared", "models")
    assert ".verified/m.gguf.json" in finding.remedy


def test_a_driver_upgraded_under_its_module_is_told_with_both_remedies(
    reports: dict[str, HostReport],
) -> None:
    for finding in reports["a driver upgraded under its module and a process"].findings:
        assert "reboot the host" in finding.remedy
        assert "modprobe -r nvidia_uvm" in finding.remedy
