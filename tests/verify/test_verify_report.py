"""What ``llamaherd verify`` prints and how it exits."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from inventories.lock import Lock, write_lock
from inventories.settings import (
    HostSettings,
    OpenCodeModel,
    OpenCodeProvider,
    OpenCodeSettings,
    ServerSettings,
    SshSettings,
)
from llamaherd.verification import Finding
from llamaherd.verify import HostReport, Report, host_seconds, render, verify

ROOT = Path(__file__).parents[2]
MAIN = "import sys; from llamaherd.cli import main; sys.exit(main())"
SCHEMA = json.loads((ROOT / "schemas/verify.report.schema.json").read_text())

GOOD = Finding(
    "gpu-01",
    "server coder",
    "completion",
    True,
    "first token after 0.21 s, 98.4 tokens/s",
    measured={"first_token_s": 0.21, "tokens_per_s": 98.4, "tokens": 32},
)
BAD = Finding(
    "gpu-02",
    "server a-server-with-a-long-name",
    "build",
    False,
    "b1-deadbee, expected b8146-0123456789abcdef0123456789abcdef01234567",
    "the running process is of another build: converge the host",
)
GONE = Finding("gpu-03", "host", "connect", False, "cannot connect: timed out", "is it on?")
REPORT = Report(
    Path("fleet.yaml"),
    (
        HostReport("gpu-01", True, (GOOD,)),
        HostReport("gpu-02", True, (BAD,)),
        HostReport("gpu-03", False, (GONE,)),
    ),
)


def test_what_nobody_can_tell_is_no_failure_and_not_called_well() -> None:
    parted = Finding("gpu-01", "server coder", "gpu", True, "unknown: MIG", unknown=True)
    report = Report(Path("fleet.yaml"), (HostReport("gpu-01", True, (parted,)),))
    jsonschema.Draft202012Validator(SCHEMA).validate(report.document())
    (row,) = [line for line in render(report).splitlines() if " gpu " in line]
    assert row.split()[4:6] == ["unknown", "unknown:"]
    assert report.ok
    assert render(report).endswith("1 host, 1 check: all well but 1 that nobody can tell")


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, "verify", *words],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=60,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment},
    )


def fleet(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text("version: 1\n" + text)
    return path


def test_a_report_fits_80_columns_and_says_everything() -> None:
    text = render(REPORT)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    flat = " ".join(text.split())
    for finding in (BAD, GONE):
        assert f"{finding.detail} -> {finding.remedy}" in flat
    assert "first token after 0.21 s, 98.4 tokens/s" in flat
    assert flat.endswith("3 hosts, 3 checks: 2 failed on 2 hosts")


def test_a_report_without_a_failure_says_so_in_its_last_line() -> None:
    report = Report(Path("f"), REPORT.hosts[:1])
    assert render(report).endswith("\n1 host, 1 check: all well")
    assert report.ok


@pytest.mark.parametrize("report", [REPORT, Report(Path("f"), problems=("f:1:1: broken",))])
def test_a_document_is_what_its_schema_says(report: Report) -> None:
    document = report.document()
    jsonschema.validate(json.loads(json.dumps(document)), SCHEMA)
    assert document["ok"] is False


def test_a_documents_failures_are_the_checks_that_are_not_well() -> None:
    document = REPORT.document()
    assert [failure["host"] for failure in document["failures"]] == ["gpu-02", "gpu-03"]
    assert [host["reached"] for host in document["hosts"]] == [True, True, False]


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_a_fleet_that_does_not_exist_is_an_error(json_flag: list[str], tmp_path: Path) -> None:
    done = command(str(tmp_path / "none.yaml"), *json_flag)
    assert done.returncode == 1
    assert "there is no fleet file" in (done.stdout if json_flag else done.stderr)
    if json_flag:
        document = json.loads(done.stdout)
        jsonschema.validate(document, SCHEMA)
        assert document["ok"] is False


@pytest.mark.parametrize("words", [["--timeout", "0"], ["--timeout", "x"], ["--nonsense"]])
def test_wrong_usage_exits_with_1(words: list[str]) -> None:
    assert command(*words).returncode == 1


def test_every_mistake_of_the_fleet_is_reported_and_no_host_asked(tmp_path: Path) -> None:
    path = fleet(tmp_path, "hosts:\n  gpu-01:\n    prot: 1\n    ssh: {port: 99999}\n")
    report = verify(path)
    assert len(report.problems) == 2
    assert all(str(path) in problem for problem in report.problems)
    assert report.hosts == ()


def test_a_missing_lock_stops_it_and_names_the_command(tmp_path: Path) -> None:
    path = fleet(tmp_path, "hosts: {gpu-01: {ssh: {hostname: 127.0.0.1}}}\n")
    report = verify(path)
    assert not report.ok
    assert any("llamaherd lock" in problem for problem in report.problems)


def test_a_limit_without_a_match_is_an_error(tmp_path: Path) -> None:
    path = fleet(tmp_path, "hosts: {gpu-01: {ssh: {hostname: 127.0.0.1}}}\n")
    write_lock(path, Lock())
    report = verify(path, ["gpu-1"])
    assert not report.ok
    assert "--limit gpu-1" in report.problems[0]
    assert "gpu-01" in report.problems[0]


def test_an_unreachable_host_is_a_row_with_the_reason(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = f"hosts: {{gone: {{ssh: {{hostname: 127.0.0.1, port: {port}}}}}, left-out: {{}}}}\n"
    path = fleet(tmp_path, hosts)
    write_lock(path, Lock())
    done = command(str(path), "--json", "--limit", "gone")
    assert (done.returncode, done.stderr) == (1, "")
    document: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(document, SCHEMA)
    assert [(host["name"], host["reached"]) for host in document["hosts"]] == [("gone", False)]
    assert document["failures"][0]["check"] == "connect"
    assert str(port) in document["failures"][0]["detail"]


def test_a_secret_that_is_missing_fails_its_host_alone(tmp_path: Path) -> None:
    hosts = (
        "hosts:\n  a: {ssh: {hostname: 127.0.0.1, port: 1, password: {env: NOT_SET_HERE}}}\n"
        "  b: {ssh: {hostname: 127.0.0.2, port: 1}}\n"
    )
    path = fleet(tmp_path, hosts)
    write_lock(path, Lock())
    done = command(str(path), "--json")
    checks = {
        check["host"]: (check["check"], check["detail"])
        for check in json.loads(done.stdout)["failures"]
    }
    assert checks["a"][0] == "secret"
    assert "NOT_SET_HERE" in checks["a"][1]
    assert checks["b"][0] == "connect"


def test_a_hosts_time_limit_covers_all_that_it_is_asked() -> None:
    model = OpenCodeModel("m", "M", 1, 1)
    provider = OpenCodeProvider("p", "P", "h/s", "http://h/v1", (model,))
    settings = HostSettings(
        "h",
        SshSettings("h"),
        servers=(ServerSettings("s", "m", 1, 1), ServerSettings("t", "m", 2, 1)),
        opencode=OpenCodeSettings("1", {}, ("dev", "ci"), (provider,), "p"),
    )
    # Two servers with three short questions and a completion; two users with OpenCode and a reach.
    assert host_seconds(settings, 120) >= 2 * (30 + 120) + 2 * (60 + 10) + 10


def test_every_check_that_can_be_made_is_one_of_the_schemas() -> None:
    source = (ROOT / "llamaherd/verification.py").read_text("utf-8")
    names = set(re.findall(r'(?:found\.(?:good|bad|compare)\(|check = )\s*"([a-z]+)"', source))
    assert {"health", "certificate", "models", "completion"} <= names
    pattern = SCHEMA["$defs"]["check"]["properties"]["check"]["pattern"]
    assert [name for name in names if not re.search(pattern, name)] == []
