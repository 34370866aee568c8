"""What is said of a job that failed, from the very shell that hosts run."""

from __future__ import annotations

import os
import re
import secrets
import stat
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from deploys.common.jobs import (
    KEPT_JOBS,
    KEPT_SECRETS,
    LOG_LINES,
    REASON,
    Job,
    Look,
    Words,
    failure,
    last_words_command,
    look_command,
    parse_words,
    start_command,
)

JOB = Job("model-x", "fetching tiny", "exit 1\n", remedy="check the line")
LOG = "/var/lib/llamaherd/jobs/model-x/log on the host"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The job's folder, after a failure with status 1."""
    monkeypatch.setattr("deploys.common.jobs.JOBS", str(tmp_path))
    found = tmp_path / "model-x"
    found.mkdir()
    (found / "status").write_text("1\n")
    return found


def words() -> Words:
    command = last_words_command(JOB).get_raw_value()
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    return parse_words(done.stdout.splitlines())


def test_the_last_reason_counts_and_the_log_s_end_is_shown(folder: Path) -> None:
    lines = [f"line {number}" for number in range(50)]
    (folder / "log").write_text("\n".join([f"{REASON}first", *lines, f"{REASON}second"]) + "\n")
    said = words()
    assert said.reason == "second"
    assert len(said.log) == LOG_LINES
    assert said.full == ()


def test_a_job_that_left_nothing_has_nothing_to_say(folder: Path) -> None:
    folder.joinpath("status").unlink()
    folder.rmdir()
    assert words() == Words()


def test_a_full_disk_is_looked_for_whatever_the_log_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "log").write_text("ar: unable to copy file 'a.a'; reason: Success\n")
    monkeypatch.setattr("deploys.common.jobs._NEARLY_FULL", 0)
    assert words().full == ()
    # Every file system is nearly full when so much is asked for.
    monkeypatch.setattr("deploys.common.jobs._NEARLY_FULL", 1 << 80)
    full = words().full
    assert full
    assert all(re.fullmatch(r"/\S* \([\d.]+ \w+ free\)", place) for place in full)


def test_a_file_system_without_inodes_is_full_too() -> None:
    lines = ["@@llamaherd:full", "1000000000 0 /opt/my models", "1000000000 5 /var"]
    assert parse_words(lines).full == ("/opt/my models (no inode free)",)


@pytest.mark.parametrize(
    ("status", "said", "line"),
    [
        (
            1,
            Words(reason="URL answers 403: look"),
            f"fetching tiny failed: URL answers 403: look (see {LOG})",
        ),
        (
            1,
            Words(full=("/opt (0 B free)",)),
            "fetching tiny failed: no space left on /opt (0 B free): make room, then run again",
        ),
        (2, Words(), f"fetching tiny failed with status 2: see {LOG}; check the line"),
        (None, Words(), f"fetching tiny was killed: see {LOG}; check the line"),
    ],
)
def test_a_failure_is_one_line(status: int | None, said: Words, line: str) -> None:
    assert failure(JOB, Look(False, status, []), said) == line


def started(
    job: Job,
    tmp_path: Path,
    stdin: list[str] | str | None = None,
    systemctl: str = "echo inactive",
) -> subprocess.CompletedProcess[str]:
    """A job's start with a systemd that only notes what it is asked."""
    bin_ = tmp_path / "bin"
    bin_.mkdir(exist_ok=True)
    for name in ("systemctl", "systemd-run"):
        answer = systemctl if name == "systemctl" else ":"
        (bin_ / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/called\n{answer}\n')
        (bin_ / name).chmod(0o755)
    command = start_command(job)
    lines = command.connector_arguments["_stdin"] if stdin is None else stdin
    script = command.get_raw_value().replace("/var/lib/llamaherd", str(tmp_path))
    return subprocess.run(
        ["sh", "-c", script.replace("/run/llamaherd", f"{tmp_path}/run")],
        input=lines if isinstance(lines, str) else "\n".join([*lines, ""]),
        env={"PATH": f"{bin_}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_script_of_which_only_a_part_came_is_never_run(
    folder: Path, tmp_path: Path, cut: int
) -> None:
    lines = start_command(JOB).connector_arguments["_stdin"]
    text = "\n".join(lines)[: -cut * 2] if cut < 3 else "\n".join([*lines, ""])
    done = started(JOB, tmp_path, text)
    ran = "systemd-run" in (tmp_path / "called").read_text()
    assert (done.returncode == 0, ran) == (cut == 3, cut == 3), done.stderr


def test_secrets_lie_in_memory_and_go_with_the_job(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "run" / "secrets"
    monkeypatch.setattr("deploys.common.jobs.SECRETS", str(memory))
    word = secrets.token_hex(16)
    job = replace(JOB, script="cat ./secret.curl > got\nexit 3\n", secrets={"curl": word})
    assert started(job, tmp_path).returncode == 0

    (kept,) = (memory / "model-x").iterdir()
    assert (kept.read_text(), stat.S_IMODE(kept.stat().st_mode)) == (word, 0o600)
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert (folder / "secret.curl").readlink() == kept
    on_disk = [path for path in folder.iterdir() if not path.is_symlink()]
    assert word not in "".join(path.read_text() for path in on_disk)

    done = subprocess.run(["sh", "./run"], cwd=folder, check=False)
    assert (done.returncode, (folder / "got").read_text()) == (3, word)
    assert not kept.parent.exists()
    assert {path.name for path in folder.iterdir()} == {"got", "run", "status"}


@pytest.mark.parametrize("answer", ["exit 1", ":", "echo inactive; exit 1"])
def test_a_job_of_which_systemd_says_nothing_is_left_as_it_is(
    folder: Path, tmp_path: Path, answer: str
) -> None:
    (folder / "sum").write_text("half of it")
    done = started(JOB, tmp_path, systemctl=answer)
    assert done.returncode != 0
    assert "systemd doesn't say whether llamaherd-model-x runs" in done.stderr
    assert (folder / "sum").exists()
    assert "systemd-run" not in (tmp_path / "called").read_text()


def test_a_job_that_runs_is_attached_to(folder: Path, tmp_path: Path) -> None:
    (folder / "sum").write_text("half of it")
    assert started(JOB, tmp_path, systemctl="echo active").stdout == "attached\n"
    assert (folder / "sum").exists()


@pytest.mark.parametrize(("systemctl", "code"), [("echo inactive", 0), ("exit 1", 1)])
def test_a_look_that_systemd_doesnt_answer_is_none(
    folder: Path, tmp_path: Path, systemctl: str, code: int
) -> None:
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\n{systemctl}\n")
    (tmp_path / "systemctl").chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", look_command(JOB).get_raw_value()],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == code


def test_its_unit_goes_when_it_fails_too(folder: Path, tmp_path: Path) -> None:
    assert started(JOB, tmp_path).returncode == 0
    (line,) = [x for x in (tmp_path / "called").read_text().splitlines() if "systemd-run" in x]
    assert "--collect" in line.split()


def test_programs_speak_english_to_a_job(folder: Path, tmp_path: Path) -> None:
    started(replace(JOB, script='echo "$LC_ALL" > said\n'), tmp_path)
    environment = {"PATH": "/usr/bin:/bin", "LANG": "de_DE.UTF-8", "LC_ALL": "de_DE.UTF-8"}
    subprocess.run(["sh", "./run"], cwd=folder, env=environment, check=True)
    assert (folder / "said").read_text() == "C\n"


def test_what_ended_jobs_left_goes_after_a_while_and_that_of_running_ones_stays(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "run" / "secrets"
    monkeypatch.setattr("deploys.common.jobs.SECRETS", str(memory))
    for place, minutes in ((memory, KEPT_SECRETS), (tmp_path, KEPT_JOBS)):
        for name in ("old", "runs", "new"):
            (place / f"job-{name}").mkdir(parents=True)
            (place / f"job-{name}" / "log").touch()
            since = time.time() - (minutes * 60 + 120 if name != "new" else 0)
            os.utime(place / f"job-{name}", (since, since))
    answer = "case $* in *job-runs*) echo active;; *) echo inactive;; esac"
    assert started(JOB, tmp_path, systemctl=answer).returncode == 0
    for place in (memory, tmp_path):
        assert {x.name for x in place.glob("job-*")} == {"job-runs", "job-new"}
