"""The report of one drift check: the one document that every output is made from.

Pure data. ``schemas/drift.report.schema.json`` describes its JSON form, version 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Plane = Literal["declared", "running", "upstream"]
HostState = Literal["ok", "drift", "unreachable", "error"]
State = Literal["ok", "drift", "error"]

VERSION = 1

# In the order of deploy.py; a finding's component is one of these.
COMPONENTS = (
    "preflight",
    "packages",
    "driver",
    "cuda",
    "llama_cpp",
    "models",
    "llama_server",
    "opencode",
    "claude_code",
    "drift_timer",
)


@dataclass(frozen=True)
class Finding:
    """One difference.

    + plane: ``declared`` (converge would change it), ``running`` (a process disagrees with its
      unit, its configuration or its build, whatever lies on disk), ``upstream`` (something newer
      is published; information only)
    + component: one of COMPONENTS
    + subject: what differs: a path, a unit, a package, a model
    + summary: how, in a few words for people, such as ``mode 600 -> 644``
    + diff: unified diff, line by line, never a secret; empty where there is none
    + remedy: what mends it; empty where the next converge does
    + stops: whether a converge stops there, so that a person must mend it first
    + fetch, compile_seconds: bytes and time that mending it costs a converge; of a plan
    """

    plane: Plane
    component: str
    subject: str
    summary: str
    diff: tuple[str, ...] = ()
    remedy: str = ""
    stops: bool = False
    fetch: int = 0
    compile_seconds: int = 0


@dataclass(frozen=True)
class PreflightRow:
    """What preflight says of one area of a host: ``rights``, ``system``, ``disk``, ...

    + ok: False where a converge would stop
    + detail: what is there, or what is wrong, in a few words
    """

    area: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class HostReport:
    """One host. ``unreachable`` and ``error`` say why in ``error``; findings made before are kept.

    + seconds: how long its check took
    + commands, operations: what the check cost there
    + preflight: of a plan alone
    """

    name: str
    state: HostState
    findings: tuple[Finding, ...] = ()
    error: str = ""
    seconds: float = 0.0
    commands: int = 0
    operations: int = 0
    preflight: tuple[PreflightRow, ...] = ()


@dataclass(frozen=True)
class DriftReport:
    """One check of a fleet.

    + fleet: path of the fleet file as the user gave it
    + started: ISO 8601 with offset, such as ``2026-11-22T09:18:14+00:00``
    + seconds: of the whole check
    + hosts: in the fleet's order
    + upstream: findings that concern the lock file, not one host
    """

    fleet: str
    started: str
    seconds: float
    hosts: tuple[HostReport, ...]
    upstream: tuple[Finding, ...] = ()

    @property
    def state(self) -> State:
        """``error`` when any host could not be judged, else ``drift`` when any drifted."""
        states = {host.state for host in self.hosts}
        if states & {"unreachable", "error"}:
            return "error"
        return "drift" if "drift" in states else "ok"

    @property
    def exit_code(self) -> int:
        """0 clean, 2 drift and nothing but drift, 1 anything else."""
        return {"ok": 0, "drift": 2, "error": 1}[self.state]


def host_state(findings: tuple[Finding, ...]) -> HostState:
    """A judged host's state: upstream findings never make it drift."""
    return "drift" if any(finding.plane != "upstream" for finding in findings) else "ok"


def to_document(report: DriftReport) -> dict[str, Any]:
    """The JSON form of a report."""
    return {
        "version": VERSION,
        "fleet": report.fleet,
        "started": report.started,
        "seconds": round(report.seconds, 3),
        "state": report.state,
        "exit_code": report.exit_code,
        "hosts": [host_document(host) for host in report.hosts],
        "upstream": [finding_document(finding) for finding in report.upstream],
        "failures": failures(report),
    }


def failures(report: DriftReport) -> list[dict[str, str]]:
    """What is wrong, flat: for programs that only want a list."""
    found = []
    for host in report.hosts:
        if host.error:
            found.append({"host": host.name, "state": host.state, "message": host.error})
        for finding in host.findings:
            if finding.plane != "upstream":
                message = f"{finding.component}: {finding.subject}: {finding.summary}"
                found.append({"host": host.name, "state": "drift", "message": message})
    return found


def host_document(host: HostReport) -> dict[str, Any]:
    """The JSON form of one host."""
    return {
        "name": host.name,
        "state": host.state,
        "error": host.error,
        "seconds": round(host.seconds, 3),
        "commands": host.commands,
        "operations": host.operations,
        "findings": [finding_document(finding) for finding in host.findings],
    }


def finding_document(finding: Finding) -> dict[str, Any]:
    """The JSON form of a finding of a drift report."""
    return {
        "plane": finding.plane,
        "component": finding.component,
        "subject": finding.subject,
        "summary": finding.summary,
        "diff": list(finding.diff),
        "remedy": finding.remedy,
    }


def from_document(document: dict[str, Any]) -> DriftReport:
    """The inverse of :func:`to_document`, for a document that its schema has accepted."""
    return DriftReport(
        fleet=document["fleet"],
        started=document["started"],
        seconds=document["seconds"],
        hosts=tuple(map(host_from_document, document["hosts"])),
        upstream=tuple(map(_read_finding, document["upstream"])),
    )


def host_from_document(host: dict[str, Any]) -> HostReport:
    """The inverse of :func:`host_document`, and of :func:`dataclasses.asdict` through JSON."""
    return HostReport(
        name=host["name"],
        state=host["state"],
        findings=tuple(map(_read_finding, host["findings"])),
        error=host["error"],
        seconds=host["seconds"],
        commands=host["commands"],
        operations=host["operations"],
        preflight=tuple(PreflightRow(**row) for row in host.get("preflight", ())),
    )


def _read_finding(finding: dict[str, Any]) -> Finding:
    return Finding(**(finding | {"diff": tuple(finding["diff"])}))
