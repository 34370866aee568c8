"""Around the check: time limits, processes that die, one check at a time, shares, exit codes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fake_host import SETTINGS, FakeHost
from hypothesis import given
from hypothesis import strategies as st

from inventories.settings import SecretReference
from llamaherd.arguments import CommandError
from llamaherd.drift import pool
from llamaherd.drift.history import reports_directory
from llamaherd.drift.pool import check_in_processes, process_count
from llamaherd.drift.single import only_one
from llamaherd.drift.targets import Options, Share, Target, from_job, parse_share, to_job

HOST = FakeHost()
ROOT = Path(__file__).parent.parent.parent
REPORT_SCHEMA = json.loads((ROOT / "schemas" / "drift.report.schema.json").read_text())
MAIN = "import sys; from llamaherd.cli import main; sys.exit(main())"
FLEET = """\
version: 1
hosts:
  gone: {{ssh: {{hostname: 127.0.0.1, port: {port}}}}}
  lost: {{ssh: {{hostname: 127.0.0.2, port: {port}, password: {{env: LLAMAHERD_NO_SUCH}}}}}}
"""


def targets(*names: str, **data: Any) -> list[Target]:
    return [
        Target(replace(SETTINGS, name=name), HOST.data | data, f"@fake/{name}") for name in names
    ]


def told(reports: Sequence[Any]) -> dict[str, tuple[str, str]]:
    return {report.name: (report.state, report.error) for report in reports}


# Time limits and processes ----------------------------------------------------------------------


def test_a_host_that_is_too_slow_is_an_error_and_holds_up_nobody() -> None:
    hosts = [*targets("slow", fake_delay=30), *targets("quick")]
    found = told(check_in_processes(hosts, Options(timeout=5), ROOT, 1))
    assert found == {"slow": ("error", "no answer within 5 s"), "quick": ("ok", "")}


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("kill -9 $$", "the process that checked it was killed by signal 9"),
        ("echo out of luck >&2; exit 3", "the process that checked it exited 3: out of luck"),
        ("cat > /dev/null", "the process that checked it exited 0"),
    ],
)
def test_a_process_that_dies_is_an_error_of_its_hosts(script: str, why: str) -> None:
    found = check_in_processes(targets("a", "b"), Options(), ROOT, 2, worker=("sh", "-c", script))
    assert told(found) == {"a": ("error", why), "b": ("error", why)}


def test_what_a_process_told_before_it_died_counts() -> None:
    report = {"name": "a", "state": "ok", "findings": [], "error": ""}
    line = json.dumps({"host": report | {"seconds": 1.0, "commands": 8, "operations": 6}})
    worker = ("sh", "-c", f"cat > /dev/null; echo noise; echo '{line}'; exit 1")
    found = check_in_processes(targets("a", "b"), Options(), ROOT, 1, worker=worker)
    assert [report.state for report in found] == ["ok", "error"]


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "STARTING", 0.5)
    worker = ("sh", "-c", "exec sleep 600")
    (report,) = check_in_processes(targets("a"), Options(timeout=0.5), ROOT, 1, worker=worker)
    assert report.state == "error"
    assert "was not done after 1 s" in report.error


def test_large_fleets_are_checked_by_several_processes() -> None:
    assert [process_count(hosts, 8) for hosts in (1, 24, 25, 60, 1000)] == [1, 1, 2, 3, 8]
    assert process_count(1000, 2) == 2


def test_a_job_tells_a_worker_everything_and_no_secret() -> None:
    ssh = replace(SETTINGS.ssh, sudo_password=SecretReference(env="PW"))
    given_ = [Target(replace(SETTINGS, ssh=ssh), {"x": [1]}, "@fake/a")]
    options = Options(timeout=7, deep=True, share=Share(1, 7), day=3)
    job = json.loads(json.dumps(to_job(given_, options, "/fleet")))
    assert from_job(job) == (given_, options, "/fleet")


def test_nobody_is_asked_for_a_password() -> None:
    script = (
        "from llamaherd.runner import RemoteError, _quiet\n"
        "from pyinfra.connectors import util\n"
        "from pyinfra.connectors.util import CommandOutput, OutputLine\n"
        "said = CommandOutput([OutputLine('stderr', 'sudo: a password is required')])\n"
        "class Host: print_prefix, connector_data = '', {}\n"
        "with _quiet():\n"
        "    try: util.execute_command_with_sudo_retry(Host, {}, lambda: (1, said))\n"
        "    except RemoteError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("sudo wants a password: set ssh.sudo_password")


def test_every_deploy_of_the_table_of_contents_has_a_component() -> None:
    script = (
        "from llamaherd.drift.check import component_of, deploy_file\n"
        "import ast, importlib\n"
        "tree = ast.parse(deploy_file().read_text())\n"
        "calls = [n.value.func.id for n in tree.body if isinstance(n, ast.Expr)"
        " and isinstance(n.value, ast.Call)]\n"
        "for name in calls[1:]:\n"
        "    function = getattr(importlib.import_module(f'deploys.{name}'), name)\n"
        "    print(name, component_of(function._inner.deploy_name))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) >= 7
    assert [name for name, _ in rows] == [component for _, component in rows]


# Shares -----------------------------------------------------------------------------------------


@given(
    host=st.text(max_size=20),
    path=st.text(max_size=40),
    day=st.integers(0, 10**6),
    share=st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))),
)
def test_each_file_has_its_turn_in_every_round(
    host: str, path: str, day: int, share: tuple[int, int]
) -> None:
    days = [Share(*share).holds(host, path, day + offset) for offset in range(share[1])]
    assert sum(days) == share[0]


@pytest.mark.parametrize("text", ["0/7", "8/7", "1/0", "-1/7", "1", "1/7/2", "a/b", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no share such as 1/7"):
        parse_share(text)


def test_hashing_gets_time_by_its_bytes() -> None:
    big = replace(SETTINGS.models[0].files[0], size=20_000_000_000)
    settings = replace(SETTINGS, models=(replace(SETTINGS.models[0], files=(big,)),))
    assert Options().seconds(settings) == 120
    assert Options(deep=True).seconds(settings) > 120 + 400
    someday = [Options(deep=True, share=Share(1, 7), day=day).seconds(settings) for day in range(7)]
    assert len(set(someday)) == 2


# One at a time ----------------------------------------------------------------------------------


def test_a_second_check_is_told_who_holds_the_lock_and_since_when(tmp_path: Path) -> None:
    lock = tmp_path / "state" / "x.lock"
    with (
        only_one(lock, Path("fleet.yaml")),
        pytest.raises(CommandError, match=rf"of fleet.yaml runs since 2.* \(process {os.getpid()}"),
        only_one(lock, Path("fleet.yaml")),
    ):
        pass
    with only_one(lock, Path("fleet.yaml")):
        assert json.loads(lock.read_text())["process"] == os.getpid()


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    script = (
        "import sys, os, pathlib\nfrom llamaherd.drift.single import only_one\n"
        "with only_one(pathlib.Path(sys.argv[1]), pathlib.Path('f')): os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "lock")], check=False)
    assert done.returncode == 9
    with only_one(tmp_path / "lock", Path("f")):
        pass


# The command ------------------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """A fleet of two hosts that nobody reaches, locked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET.format(port=port))
    assert llamaherd("lock", str(path), home=tmp_path).returncode == 0
    return path


def llamaherd(
    *words: str, home: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=home,
        env={**os.environ, "XDG_STATE_HOME": str(home / "state"), **(environment or {})},
    )


def test_a_fleet_that_is_out_of_reach_exits_1_with_a_report(fleet: Path, tmp_path: Path) -> None:
    done = llamaherd("drift", str(fleet), "--json", "--timeout", "20", home=tmp_path)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, REPORT_SCHEMA)
    gone, lost = report["hosts"]
    assert gone["state"] == "unreachable"
    assert gone["error"].startswith("cannot connect: ")
    assert lost["state"] == "error"
    assert "LLAMAHERD_NO_SUCH" in lost["error"]
    assert report["exit_code"] == 1


def test_the_files_that_were_asked_for_are_written(fleet: Path, tmp_path: Path) -> None:
    words = [f"--{kind}={tmp_path / f'drift.{kind}'}" for kind in ("html", "prometheus", "junit")]
    done = llamaherd("drift", str(fleet), *words, home=tmp_path)
    assert "gone" in done.stdout
    for kind, start in (("html", "<!doctype html"), ("prometheus", "# HELP"), ("junit", "<?xml")):
        assert (tmp_path / f"drift.{kind}").read_text().casefold().startswith(start.casefold())


def test_a_file_that_cannot_be_written_is_named(fleet: Path, tmp_path: Path) -> None:
    place = tmp_path / "no" / "such.html"
    done = llamaherd("drift", str(fleet), "--html", str(place), home=tmp_path)
    assert done.returncode == 1
    assert f"{place}: can't be written: No such file or directory" in done.stderr
    assert "gone" in done.stdout


def test_checks_are_kept_and_told_as_a_history(fleet: Path, tmp_path: Path) -> None:
    llamaherd("drift", str(fleet), home=tmp_path)
    llamaherd("drift", str(fleet), "--limit", "gone", home=tmp_path)
    done = llamaherd("drift", str(fleet), "--history", "--json", home=tmp_path)
    assert done.returncode == 0
    assert [check["hosts"]["unreachable"] for check in json.loads(done.stdout)["checks"]] == [1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--limit", "gune"), "has no such host"),
        (("--deep-share", "8/7"), "is no share such as 1/7"),
        (("--timeout", "0"), "is no number of seconds"),
        (("--processes", "x"), "is no number from 1 to 256"),
    ],
)
def test_wrong_usage_exits_1_and_checks_nothing(
    fleet: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    done = llamaherd("drift", str(fleet), *words, home=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stdout == ""


def test_a_fleet_that_is_not_there_or_has_no_host_exits_1(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("version: 1\nhosts: {}\n")
    for name in ("absent.yaml", "empty.yaml"):
        done = llamaherd("drift", name, home=tmp_path)
        assert done.returncode == 1
        assert name in done.stderr
        assert "Traceback" not in done.stderr


def test_a_check_that_runs_already_keeps_the_second_out(fleet: Path, tmp_path: Path) -> None:
    reports = reports_directory(fleet, {"XDG_STATE_HOME": str(tmp_path / "state")})
    with only_one(reports.parents[1] / f"{reports.name}.lock", fleet):
        done = llamaherd("drift", str(fleet), home=tmp_path)
    assert done.returncode == 1
    assert "another drift check of" in done.stderr
