"""What a converge would do to a fleet: pure data, and its JSON form.

``schemas/plan.report.schema.json`` describes the document, version 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from llamaherd.drift.report import DriftReport, Finding, HostReport, PreflightRow, finding_document

PlanState = Literal["in order", "changes", "blocked", "unreachable", "error"]
STATES: tuple[PlanState, ...] = ("in order", "changes", "blocked", "unreachable", "error")
VERSION = 1


@dataclass(frozen=True)
class HostPlan:
    """One host.

    + preflight: an answer an area; empty where the host wasn't reached
    + changes: what a converge would change
    + blockers: what stops it, each with its remedy; it may stop only after some of the changes
    + error: why the host can't be judged; empty where it can
    """

    name: str
    preflight: tuple[PreflightRow, ...] = ()
    changes: tuple[Finding, ...] = ()
    blockers: tuple[Finding, ...] = ()
    error: str = ""
    reached: bool = True

    @property
    def state(self) -> PlanState:
        """The worst that is known of it."""
        if self.error:
            return "error" if self.reached else "unreachable"
        if self.blockers or not all(row.ok for row in self.preflight):
            return "blocked"
        return "changes" if self.changes else "in order"

    @property
    def fetch(self) -> int:
        """Bytes that a converge brings to the host; the distribution's packages not counted."""
        return sum(change.fetch for change in self.changes)

    @property
    def compile_seconds(self) -> int:
        """About how long it compiles."""
        return sum(change.compile_seconds for change in self.changes)


@dataclass(frozen=True)
class Plan:
    """A fleet's hosts in their order."""

    fleet: str
    hosts: tuple[HostPlan, ...]

    @property
    def ok(self) -> bool:
        """Whether a converge could go through on every host."""
        return all(host.state in ("in order", "changes") for host in self.hosts)


def plan_of(report: DriftReport) -> Plan:
    """The plan in what a check found that was asked for one."""
    return Plan(report.fleet, tuple(map(_host_plan, report.hosts)))


def _host_plan(host: HostReport) -> HostPlan:
    return HostPlan(
        name=host.name,
        preflight=host.preflight,
        changes=tuple(found for found in host.findings if not found.stops),
        blockers=tuple(found for found in host.findings if found.stops),
        error=host.error,
        reached=host.state != "unreachable",
    )


def plan_document(plan: Plan) -> dict[str, Any]:
    """The JSON form of a plan."""
    return {
        "version": VERSION,
        "fleet": plan.fleet,
        "ok": plan.ok,
        "hosts": [_host_document(host) for host in plan.hosts],
        "failures": [
            {"host": host.name, "message": message}
            for host in plan.hosts
            for message in failures(host)
        ],
    }


def failures(host: HostPlan) -> list[str]:
    """Why a converge can't go through on a host, each once; empty where it can."""
    found = [host.error] if host.error else []
    found += [f"{blocker.summary}: {blocker.remedy}" for blocker in host.blockers]
    told = " ".join(found)
    found += [row.detail for row in host.preflight if not row.ok and row.detail not in told]
    return list(dict.fromkeys(found))


def _host_document(host: HostPlan) -> dict[str, Any]:
    return {
        "name": host.name,
        "state": host.state,
        "error": host.error,
        "preflight": [
            {"area": row.area, "ok": row.ok, "detail": row.detail} for row in host.preflight
        ],
        "changes": [_change_document(change) for change in host.changes],
        "blockers": [finding_document(blocker) for blocker in host.blockers],
        "fetch": host.fetch,
        "compile_seconds": host.compile_seconds,
    }


def _change_document(change: Finding) -> dict[str, Any]:
    return finding_document(change) | {
        "fetch": change.fetch,
        "compile_seconds": change.compile_seconds,
    }
