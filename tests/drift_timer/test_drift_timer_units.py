"""The files of the scheduled check: systemd takes them, and nothing gets in through a setting."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from deploys.drift_timer.units import (
    OWN_CONTENT,
    UnitError,
    account_file,
    arguments,
    fleet_files,
    publish_file,
    render_service,
    render_timer,
    unit_files,
)
from inventories.settings import DriftTimerSettings

PLAIN = DriftTimerSettings("/fleets/fleet.yaml")
FULL = DriftTimerSettings(
    "/fleets/fleet.yaml",
    schedule="Mon..Fri *-*-* 06:00",
    randomized_delay=60,
    timeout=90,
    deep_share="1/7",
    prometheus="/var/lib/metrics/llamaherd.prom",
    html="/var/www/drift/index.html",
    notify=True,
)
VARIANTS = [PLAIN, FULL, replace(FULL, html=None), replace(PLAIN, notify=True)]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("settings", VARIANTS)
def test_systemd_takes_the_units_without_a_word(
    tmp_path: Path, settings: DriftTimerSettings
) -> None:
    # The program isn't installed here; systemd-analyze wants every executable to exist.
    service, timer = unit_files(settings, "0123")
    installed = "/opt/llamaherd/0123/bin/llamaherd"
    for file in (service, timer):
        assert installed in file.content or file is timer
        text = file.content.replace(installed, "/bin/true").replace("man:systemd.timer(5)", "")
        (tmp_path / Path(file.path).name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *(str(path) for path in sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:/lib/systemd/system"},
    )
    about_ours = [line for line in done.stderr.splitlines() if "llamaherd-drift" in line]
    assert about_ours == []
    assert done.returncode == 0, done.stderr


def test_drift_is_no_failure_of_the_unit_and_an_error_is() -> None:
    lines = render_service(PLAIN, "0123").splitlines()
    assert "SuccessExitStatus=2" in lines


def test_the_command_line_says_what_the_fleet_file_says() -> None:
    assert arguments(PLAIN) == ["drift", "/etc/llamaherd/fleet.yaml"]
    state = "/var/lib/llamaherd-drift"
    options = ["--timeout", "90", "--deep-share", "1/7", "--html", f"{state}/drift.html"]
    options += ["--prometheus", f"{state}/drift.prom", "--notify"]
    assert arguments(FULL)[2:] == options


def test_files_are_brought_to_their_place_even_when_the_check_failed() -> None:
    lines = render_service(FULL, "0123").splitlines()
    place = "/var/lib/llamaherd-drift/drift.prom /var/lib/metrics/llamaherd.prom"
    assert f"ExecStopPost=+/bin/sh /etc/llamaherd/publish {place}" in lines


def test_a_check_that_writes_nothing_publishes_nothing() -> None:
    text = render_service(PLAIN, "0123")
    assert "ExecStopPost" not in text
    assert "ExecStartPre" not in text
    assert "\n\n\n" not in text


def test_the_timer_catches_up_and_spreads() -> None:
    lines = render_timer(FULL).splitlines()
    assert "OnCalendar=Mon..Fri *-*-* 06:00" in lines
    assert "RandomizedDelaySec=60" in lines
    assert "Persistent=true" in lines


@pytest.mark.parametrize("schedule", ["", "daily\nUnit=evil.service", "%i", "06:00; rm", "-x"])
def test_a_schedule_with_anything_else_in_it_is_refused(schedule: str) -> None:
    with pytest.raises(UnitError, match=r"drift\.schedule"):
        render_timer(replace(PLAIN, schedule=schedule))


def test_a_path_cannot_end_a_line_of_the_unit() -> None:
    with pytest.raises(UnitError, match="control character"):
        render_service(replace(PLAIN, html="/a\nExecStart=/bin/evil"), "0123")


def test_a_specifier_in_a_path_is_taken_literally() -> None:
    assert "/srv/100%%.html" in render_service(replace(PLAIN, html="/srv/100%.html"), "0123")


def test_fleet_and_lock_are_for_root_and_the_check_alone() -> None:
    assert {(f.mode, f.user, f.group) for f in fleet_files("a", "b")} == {
        ("640", "root", "llamaherd-drift")
    }


def test_every_file_of_ours_says_so() -> None:
    for file in (*unit_files(FULL, "0123"), account_file(), publish_file()):
        assert file.content.startswith("# Managed by llamaherd"), file.path
    assert not OWN_CONTENT.startswith("# Managed")
    assert all(line.startswith("#") for line in OWN_CONTENT.splitlines())


def test_publishing_replaces_the_file_as_a_whole(tmp_path: Path) -> None:
    # runuser needs root and the account: here it is a stand-in that drops its own options.
    (tmp_path / "runuser").write_text('#!/bin/sh\nshift 3\nexec "$@"\n')
    (tmp_path / "runuser").chmod(0o755)
    (tmp_path / "publish").write_text(publish_file().content)
    source, target = tmp_path / "own.prom", tmp_path / "out" / "llamaherd.prom"
    target.parent.mkdir()
    target.write_text("old")

    def publish() -> int:
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        command = ["sh", str(tmp_path / "publish"), str(source), str(target)]
        return subprocess.run(command, env=environment, check=False).returncode

    assert publish() == 0
    assert target.read_text() == "old", "a check that wrote nothing leaves the old file"
    source.write_text("new")
    assert publish() == 0
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in target.parent.iterdir()] == ["llamaherd.prom"]
    target.parent.chmod(0o755)
    (tmp_path / "runuser").write_text("#!/bin/sh\nexit 1\n")
    assert publish() != 0
    assert target.read_text() == "new"
