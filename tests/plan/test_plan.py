"""What a plan says of hosts in many states: real workers, real deploys, simulated answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from fake_host import CUDA, GIB, SETTINGS, FakeHost

from inventories.settings import ArchiveSource, Artifact, HostSettings, SecretReference, SshSettings
from llamaherd.drift.pool import check_in_processes
from llamaherd.drift.report import DriftReport
from llamaherd.drift.targets import Options, Target
from llamaherd.plan.report import HostPlan, Plan, plan_document, plan_of
from llamaherd.plan.table import render_plan

HOST = FakeHost()
SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "plan.report.schema.json").read_text())


def plan_for(tmp_path: Path, *hosts: FakeHost) -> Plan:
    targets = [
        Target(replace(host.settings, name=f"gpu-{number:02}"), host.data, f"@fake/gpu-{number:02}")
        for number, host in enumerate(hosts, 1)
    ]
    reports = check_in_processes(targets, Options(plan=True), tmp_path, processes=1)
    return plan_of(DriftReport("fleet.yaml", "", 0, tuple(reports)))


def planned(tmp_path: Path, host: FakeHost) -> HostPlan:
    plan = plan_for(tmp_path, host)
    jsonschema.validate(plan_document(plan), SCHEMA)
    return plan.hosts[0]


def test_a_host_in_order_has_nothing_to_do_and_every_area_answers(tmp_path: Path) -> None:
    host = planned(tmp_path, HOST)

    assert host.state == "in order"
    assert host.changes == host.blockers == ()
    assert [row.area for row in host.preflight] == [
        "rights",
        "system",
        "disk",
        "GPU",
        "build",
        "memory",
        "ports",
        "settings",
    ]
    assert all(row.ok for row in host.preflight)


def test_what_is_missing_is_told_with_its_bytes(tmp_path: Path) -> None:
    host = planned(tmp_path, replace(HOST, model_stat="1000 100 7", opencode_size=0))

    assert host.state == "changes"
    assert host.fetch == (4096 - 1000) + 9


def test_a_build_is_told_with_about_its_time_and_the_bytes_of_its_archive(tmp_path: Path) -> None:
    assert SETTINGS.llama_cpp is not None
    source = ArchiveSource(Artifact("source.tar", 77_000_000, "f" * 64, url="https://e.org/s"))
    settings = replace(SETTINGS, llama_cpp=replace(SETTINGS.llama_cpp, source=source))

    cached = planned(tmp_path, replace(HOST, built=False))
    archive = planned(tmp_path, replace(HOST, settings=settings, built=False))

    assert 0 < cached.compile_seconds == archive.compile_seconds
    assert cached.fetch == 0
    assert archive.fetch == 77_000_000


def test_kernels_of_more_gpus_take_longer(tmp_path: Path) -> None:
    assert CUDA.llama_cpp is not None
    two = replace(CUDA, llama_cpp=replace(CUDA.llama_cpp, architectures=("89", "120")))
    one = replace(CUDA, llama_cpp=replace(CUDA.llama_cpp, architectures=("89",)))
    card = "0, NVIDIA GeForce RTX 4090, GPU-1, 24564, 24000, 580.65.06, 8.9"

    seconds = [
        planned(tmp_path, FakeHost(each, gpus=(card,), built=False)).compile_seconds
        for each in (SETTINGS, one, two)
    ]
    assert seconds == sorted(set(seconds))


BLOCKED = {
    "a port taken": (
        replace(HOST, listeners=("8888 nginx[99] nginx.service",), unit={"ActiveState": "failed"}),
        "ports",
        "taken by nginx",
    ),
    "an account that isn't there": (replace(HOST, users=()), "", "no account dev"),
    "a driver upgraded under its module": (
        FakeHost(CUDA, gpus=("Failed to initialize NVML: Driver/library version mismatch",)),
        "GPU",
        "Driver/library version mismatch",
    ),
    "no GPU": (FakeHost(CUDA, gpus=()), "GPU", "no GPU answers"),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_what_stops_a_converge_blocks_with_its_remedy(name: str, tmp_path: Path) -> None:
    host, area, words = BLOCKED[name]

    found = planned(tmp_path, host)

    assert found.state == "blocked"
    assert [row.area for row in found.preflight if not row.ok] == ([area] if area else [])
    assert any(words in blocker.summary and blocker.remedy for blocker in found.blockers)


def test_a_disk_that_would_run_full_blocks_before_anything_is_fetched(tmp_path: Path) -> None:
    (model,) = SETTINGS.models
    big = replace(model, files=(replace(model.files[0], size=200 * GIB),))
    settings: HostSettings = replace(SETTINGS, models=(big,))

    found = planned(tmp_path, replace(HOST, settings=settings, model_record=None))

    assert found.state == "blocked"
    (disk,) = [row for row in found.preflight if row.area == "disk"]
    assert not disk.ok
    assert "200.0 GiB are to come to / (models 200.0 GiB)" in disk.detail
    assert "it has 50.0 GiB: make room there" in disk.detail


def test_a_secret_that_this_machine_lacks_is_preflights_and_no_difference_of_the_host(
    tmp_path: Path,
) -> None:
    server = replace(SETTINGS.servers[0], api_key=SecretReference(env="NO_SUCH_KEY"))
    settings = replace(SETTINGS, servers=(server,))

    found = planned(tmp_path, replace(HOST, settings=settings))

    assert [row.area for row in found.preflight if not row.ok] == ["settings"]
    assert "environment variable NO_SUCH_KEY" in found.error
    assert found.state == "error"
    assert not found.blockers


def test_a_host_that_cant_be_judged_blocks_the_plan(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, HOST, replace(HOST, gone=("dpkg-query",)))

    assert [host.state for host in plan.hosts] == ["in order", "error"]
    assert not plan.ok
    (failure,) = plan_document(plan)["failures"]
    assert failure["host"] == "gpu-02"


def test_a_person_sees_preflight_first_then_each_host_within_80_columns(tmp_path: Path) -> None:
    away = HostPlan("gpu-99", error="cannot connect: no route", reached=False)
    plan = plan_for(
        tmp_path,
        HOST,
        replace(HOST, model_stat="0 1 1", built=False),
        FakeHost(CUDA, gpus=()),
    )
    text = render_plan(replace(plan, hosts=(*plan.hosts, away)), colour=False)

    assert max(map(len, text.splitlines())) <= 80
    first, second, third, fourth, fifth = text.splitlines()[:5]
    areas = ["RIGHTS", "SYSTEM", "DISK", "GPU", "BUILD", "MEMORY", "PORTS", "SETTINGS"]
    assert first.split() == ["HOST", "REACHED", *areas]
    assert second.split() == ["gpu-01", *["ok"] * 9]
    assert third.split() == ["gpu-02", *["ok"] * 9]
    assert fourth.split()[5] == "NO"
    assert fifth.split() == ["gpu-99", "NO", *["-"] * 8]
    assert "BLOCKED  no GPU answers (nvidia-smi): install or mend the NVIDIA driver" in text
    assert "BLOCKED  cannot connect: no route" in text
    last = " ".join(text.split("\n\n")[-1].split())
    assert last == (
        "4 hosts: 1 in order, 1 with changes, 1 blocked, 1 unreachable; 4.0 KiB to fetch in all"
    )


def test_colours_are_only_for_terminals(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, HOST)

    assert "\x1b[32min order\x1b[0m" in render_plan(plan, colour=True)
    assert "\x1b" not in render_plan(plan, colour=False)


def test_ssh_as_another_user_is_told(tmp_path: Path) -> None:
    settings = replace(SETTINGS, ssh=SshSettings("gpu-01", user="ops"))

    rights = planned(tmp_path, replace(HOST, settings=settings)).preflight[0]

    assert rights.detail == "by sudo as ops"
