"""The reports of earlier checks: kept, pruned, and told as a history of the fleet.

Owns one directory a fleet, below ``$STATE_DIRECTORY`` (systemd's, for the scheduled check), else
``$XDG_STATE_HOME/llamaherd``. A report gets its name only when it is whole. What is damaged or of
another version is passed over with a warning, never removed before its turn, never an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from llamaherd.drift.report import VERSION, DriftReport, from_document, to_document
from llamaherd.tables import table

KEEP = 30
HOST_STATES = ("ok", "drift", "unreachable", "error")
SHOWN_CHANGES = 3
_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-\d{3}\.json")

Warn = Callable[[str], None]


def warn_on_stderr(message: str) -> None:
    """One line for people, out of the way of ``--json``."""
    print(f"warning: {message}", file=sys.stderr)


def reports_directory(fleet: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the reports of a fleet are kept; need not exist yet.

    + fleet: the fleet file; its name and the hash of its absolute path name the directory
    """
    place = fleet.resolve()
    identity = hashlib.sha256(str(place).encode()).hexdigest()[:8]
    return _state(environ) / "reports" / f"{place.stem}-{identity}"


def _state(environ: Mapping[str, str]) -> Path:
    # systemd lists several directories with colons between them; the service has one.
    own = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if own:
        return Path(own)
    home = environ.get("XDG_STATE_HOME", "")
    # The XDG base directory specification: a relative path counts as not set.
    base = Path(home) if home.startswith("/") else Path.home() / ".local/state"
    return base / "llamaherd"


def save_report(report: DriftReport, directory: Path, keep: int = KEEP) -> Path:
    """Keep a report, readable by its owner alone, and remove those beyond the newest ``keep``.

    Raises OSError when the directory can't be written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = _free_name(directory, _moment(report.started))
    write_atomically(path, json.dumps(to_document(report), separators=(",", ":")) + "\n")
    for old in _files(directory)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def write_atomically(path: Path, text: str) -> None:
    """Write a file of mode 600 under a temporary name beside it, then rename."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _free_name(directory: Path, moment: datetime) -> Path:
    stamp = moment.strftime("%Y%m%dT%H%M%S.%fZ")
    taken = {path.name for path in _files(directory)}
    names = (f"{stamp}-{number:03}.json" for number in range(1000))
    return directory / next(name for name in names if name not in taken)


def _moment(started: str) -> datetime:
    """A report's time in UTC; without an offset it is taken for UTC."""
    moment = datetime.fromisoformat(started)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def _files(directory: Path) -> list[Path]:
    """Reports, the oldest first: their names sort by time."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def load_history(directory: Path, warn: Warn = warn_on_stderr) -> list[DriftReport]:
    """Every report that can be read, the oldest first; empty when there is none.

    + warn: told of each file that is damaged or of another version, which is left out
    """
    reports = []
    for path in _files(directory):
        try:
            reports.append(_read(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            warn(f"{path}: not a report that this version reads ({why}): left out")
    return reports


def _read(path: Path) -> DriftReport:
    document = json.loads(path.read_text(encoding="utf-8"))
    version = document["version"]
    if version != VERSION:
        raise ValueError(f"version {version}")
    report = from_document(cast(dict[str, Any], document))
    _moment(report.started)
    strange = {host.state for host in report.hosts} - set(HOST_STATES)
    if strange:
        raise ValueError(f"unknown state {', '.join(sorted(map(str, strange)))}")
    return report


@dataclass(frozen=True)
class HostChange:
    """A host whose state isn't what it was; None where it was (or is) no host of the fleet."""

    host: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class HistoryEntry:
    """One check among others.

    + counts: hosts by state
    + changes: against the check before; of the first one, the hosts that were not in order
    """

    started: str
    seconds: float
    state: str
    counts: Mapping[str, int]
    changes: tuple[HostChange, ...]


def host_states(report: DriftReport) -> dict[str, str]:
    """State by host."""
    return {host.name: host.state for host in report.hosts}


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[HostChange, ...]:
    """Hosts that have another state, in the order of ``after``, those that are gone last."""
    names = [*after, *(name for name in before if name not in after)]
    return tuple(
        HostChange(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    )


def entries(reports: Sequence[DriftReport]) -> list[HistoryEntry]:
    """The history that reports tell, the oldest first.

    The first one's changes are those from a fleet in order.
    """
    if not reports:
        return []
    first = host_states(reports[0])
    found = [_entry(reports[0], dict.fromkeys(first, "ok"))]
    found += [_entry(report, host_states(before)) for before, report in pairwise(reports)]
    return found


def _entry(report: DriftReport, before: Mapping[str, str]) -> HistoryEntry:
    after = host_states(report)
    counts = {state: list(after.values()).count(state) for state in HOST_STATES}
    return HistoryEntry(
        report.started, report.seconds, report.state, counts, changes(before, after)
    )


def history_document(fleet: str, reports: Sequence[DriftReport]) -> dict[str, Any]:
    """The JSON form, the oldest check first; ``schemas/drift.history.schema.json`` describes it."""
    return {
        "version": VERSION,
        "fleet": fleet,
        "checks": [
            {
                "started": entry.started,
                "seconds": round(entry.seconds, 3),
                "state": entry.state,
                "hosts": dict(entry.counts),
                "changes": [
                    {"host": change.host, "before": change.before, "after": change.after}
                    for change in entry.changes
                ],
            }
            for entry in entries(reports)
        ],
    }


def render_history(reports: Sequence[DriftReport]) -> str:
    """The history as a table, the newest check first; times are this machine's local ones."""
    if not reports:
        return "no check has been kept yet: run llamaherd drift"
    rows = [
        (
            _moment(entry.started).astimezone().strftime("%Y-%m-%d %H:%M"),
            entry.state,
            *(str(entry.counts[state]) for state in HOST_STATES),
            _changes_text(entry.changes),
        )
        for entry in reversed(entries(reports))
    ]
    return table(rows, ("CHECKED", "STATE", "OK", "DRIFT", "UNREACHABLE", "ERROR", "CHANGED"))


def _changes_text(found: Sequence[HostChange]) -> str:
    parts = [change_text(change) for change in found[:SHOWN_CHANGES]]
    if len(found) > SHOWN_CHANGES:
        parts.append(f"{len(found) - SHOWN_CHANGES:,} more")
    return ", ".join(parts)


def change_text(change: HostChange) -> str:
    """A change in two or three words."""
    if change.after is None:
        return f"{change.host} gone"
    if change.after == "ok":
        return f"{change.host} {'new' if change.before is None else 'healed'}"
    return f"{change.host} {change.after}"
