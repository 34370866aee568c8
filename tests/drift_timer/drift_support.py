"""Reports and fleets that the tests of history, notification and timer share."""

from __future__ import annotations

from pathlib import Path

from inventories.fleet import Fleet, fleet_of
from llamaherd.drift.report import DriftReport, Finding, HostReport, HostState
from schemas.document import parse_document

FINDING = Finding(
    "declared",
    "llama_server",
    "/etc/systemd/system/llama-server@coder.service",
    "content differs",
    ("--- a", "+++ b", "-ExecStart=the-line-of-a-diff"),
)


def report(minute: int = 0, **states: HostState) -> DriftReport:
    """A report of hosts ``gpu_01="drift"``, checked that many minutes after nine."""
    hosts = tuple(
        HostReport(
            name.replace("_", "-"),
            state,
            findings=(FINDING,) if state == "drift" else (),
            error="cannot connect" if state in ("unreachable", "error") else "",
        )
        for name, state in states.items()
    )
    started = f"2026-11-22T{9 + minute // 60:02}:{minute % 60:02}:00+00:00"
    return DriftReport("fleet.yaml", started, 1.5, hosts)


def fleet_at(directory: Path, drift: str = "{}") -> Fleet:
    """A fleet of one host whose file lies in a directory."""
    path = directory / "fleet.yaml"
    text = f"version: 1\ndrift: {drift}\nhosts: {{gpu-01: {{}}}}\n"
    path.write_text(text)
    return fleet_of(parse_document(text.encode(), str(path)), path)
