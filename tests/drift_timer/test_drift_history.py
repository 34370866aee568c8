"""Reports are kept, pruned and read back, and tell how the fleet's state moved."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
from drift_support import fleet_at, report

from llamaherd.drift.history import (
    HOST_STATES,
    HostChange,
    entries,
    history_document,
    load_history,
    render_history,
    reports_directory,
    save_report,
)
from llamaherd.drift.notify import conclude
from llamaherd.drift.report import HostState
from schemas.validate import load_schema


def test_the_states_are_those_of_the_report() -> None:
    assert get_args(HostState) == HOST_STATES


def test_a_report_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    first = report(gpu_01="drift", gpu_02="unreachable")
    save_report(first, tmp_path)
    assert load_history(tmp_path) == [first]


def test_reports_come_back_in_the_order_of_time(tmp_path: Path) -> None:
    for minute in (5, 1, 3):
        save_report(report(minute, gpu_01="ok"), tmp_path)
    minutes = [kept.started[14:16] for kept in load_history(tmp_path)]
    assert minutes == ["01", "03", "05"]


def test_two_reports_of_the_same_moment_are_both_kept(tmp_path: Path) -> None:
    save_report(report(gpu_01="ok"), tmp_path)
    save_report(report(gpu_01="drift"), tmp_path)
    assert [kept.state for kept in load_history(tmp_path)] == ["ok", "drift"]


def test_other_offsets_sort_by_the_moment_they_mean(tmp_path: Path) -> None:
    later = report(gpu_01="drift")
    earlier = type(later)("f", "2026-11-22T10:30:00+02:00", 1.0, report(gpu_01="ok").hosts)
    save_report(later, tmp_path)
    save_report(earlier, tmp_path)
    assert [kept.state for kept in load_history(tmp_path)] == ["ok", "drift"]


def test_only_the_newest_reports_are_kept(tmp_path: Path) -> None:
    stranger = tmp_path / "notes.json"
    stranger.write_text("{}")
    for minute in range(7):
        save_report(report(minute, gpu_01="ok"), tmp_path, keep=3)
    assert [kept.started[14:16] for kept in load_history(tmp_path)] == ["04", "05", "06"]
    assert stranger.exists()


def test_reports_are_their_owners_alone(tmp_path: Path) -> None:
    path = save_report(report(gpu_01="ok"), tmp_path / "a" / "b")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_nothing_half_written_is_left_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_report(report(gpu_01="ok"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"version": 2}',
        b'{"version": 1}',
        b'{"version": 1, "fleet": "f", "started": "yesterday", "seconds": 1, "hosts": [], '
        b'"upstream": []}',
        b'{"version": 1, "fleet": "f", "started": 7, "seconds": 1, "hosts": 3, "upstream": []}',
        b'{"version": 1, "fleet": "f", "started": "2026-11-22T09:00:00+00:00", "seconds": 1, '
        b'"upstream": [], "hosts": [{"name": "a", "state": "odd", "findings": [], "error": "", '
        b'"seconds": 1, "commands": 1, "operations": 1}]}',
    ],
)
def test_a_damaged_report_is_left_out_with_a_warning(tmp_path: Path, content: bytes) -> None:
    save_report(report(1, gpu_01="ok"), tmp_path)
    (tmp_path / "20261122T090000.000000Z-000.json").write_bytes(content)
    warnings: list[str] = []
    assert len(load_history(tmp_path, warnings.append)) == 1
    assert len(warnings) == 1
    assert "20261122T090000.000000Z-000.json: not a report" in warnings[0]


def test_no_directory_is_no_history(tmp_path: Path) -> None:
    assert load_history(tmp_path / "none") == []
    assert "run llamaherd drift" in render_history([])
    assert entries([]) == []


def test_the_service_keeps_reports_in_its_state_directory(tmp_path: Path) -> None:
    place = reports_directory(
        tmp_path / "office.yaml", {"STATE_DIRECTORY": "/var/lib/x", "XDG_STATE_HOME": "/other"}
    )
    assert str(place.parent) == "/var/lib/x/reports"
    assert place.name.startswith("office-")


def test_a_person_keeps_reports_where_xdg_says(tmp_path: Path) -> None:
    fleet = tmp_path / "office.yaml"
    named = reports_directory(fleet, {"XDG_STATE_HOME": "/state"})
    assert str(named.parent) == "/state/llamaherd/reports"
    default = Path.home() / ".local/state/llamaherd/reports"
    assert reports_directory(fleet, {}).parent == default
    assert reports_directory(fleet, {"XDG_STATE_HOME": "relative"}).parent == default


def test_fleets_of_one_name_in_two_places_have_two_histories(tmp_path: Path) -> None:
    one, other = (reports_directory(tmp_path / d / "fleet.yaml", {}) for d in ("a", "b"))
    assert one != other


MOVES = [
    report(0, gpu_01="ok", gpu_02="drift"),
    report(1, gpu_01="drift", gpu_02="ok"),
    report(2, gpu_01="drift", gpu_03="ok"),
    report(3, gpu_01="unreachable", gpu_03="ok"),
]


def test_each_check_says_what_changed_since_the_one_before() -> None:
    assert [entry.changes for entry in entries(MOVES)] == [
        (HostChange("gpu-02", "ok", "drift"),),
        (HostChange("gpu-01", "ok", "drift"), HostChange("gpu-02", "drift", "ok")),
        (HostChange("gpu-03", None, "ok"), HostChange("gpu-02", "ok", None)),
        (HostChange("gpu-01", "drift", "unreachable"),),
    ]


def test_the_table_reads_newest_first_and_fits_a_terminal() -> None:
    text = render_history(MOVES)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["CHECKED", "STATE", *map(str.upper, HOST_STATES), "CHANGED"]
    assert "unreachable" in lines[1]
    joined = " ".join(text.split())
    for words in ("error 1 0 1 0", "drift 1 1 0 0", "healed", "gone", "new"):
        assert words in joined


def test_many_changes_are_counted_rather_than_listed() -> None:
    many = report(0, **dict.fromkeys((f"gpu_{n:02}" for n in range(40)), "drift"))
    text = " ".join(render_history([many]).split())
    assert "37 more" in text
    assert "gpu-39" not in text


def test_the_document_is_what_its_schema_says() -> None:
    schema = load_schema("drift.history.schema.json")
    document = json.loads(json.dumps(history_document("fleet.yaml", MOVES)))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    assert [check["state"] for check in document["checks"]] == ["drift", "drift", "drift", "error"]
    jsonschema.validate(history_document("fleet.yaml", []), schema)
    for example in schema["examples"]:
        jsonschema.validate(example, schema)


def test_a_check_keeps_as_many_reports_as_its_fleet_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    fleet = fleet_at(tmp_path, "{keep: 2}")
    for minute in range(4):
        conclude(fleet, report(minute, gpu_01="ok"))
    assert len(load_history(reports_directory(fleet.path))) == 2


def test_a_report_that_cannot_be_kept_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").write_text("a file where a directory should be")
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    warnings: list[str] = []
    conclude(fleet_at(tmp_path), report(gpu_01="ok"), warn=warnings.append)
    assert len(warnings) == 1
    assert "not kept" in warnings[0]
