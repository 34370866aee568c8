"""Text of a report made fit to show.

Host names, paths, diffs and error messages come from hosts and are not to be trusted: a control
character could move a terminal's cursor, a bidirectional override could turn a path around, and a
lone surrogate (Python's stand-in for a byte of a file name that is not UTF-8) cannot be written
at all.
"""

from __future__ import annotations

from collections import Counter

from llamaherd.drift.report import DriftReport, Finding, HostState, Plane
from schemas import document

STATES: tuple[HostState, ...] = ("ok", "drift", "unreachable", "error")
PLANES: tuple[Plane, ...] = ("declared", "running", "upstream")


def printable(text: str) -> str:
    r"""``text`` on one line, with what a reader could not see written as Python would: ``\x1b``.

    Tabs become four spaces. Backslashes stay as they are, for people read this, not programs.
    """
    return document.printable(text.replace("\t", "    "))


def lines_of(diff: tuple[str, ...]) -> list[str]:
    """A diff's lines, each printable; an element that holds several lines is taken apart."""
    return [printable(line) for element in diff for line in element.rstrip("\n").split("\n")]


def remedy_of(finding: Finding) -> str:
    """What mends a finding, in words; empty for news from upstream that names nothing."""
    if finding.remedy:
        return printable(finding.remedy)
    return "" if finding.plane == "upstream" else "the next converge mends it"


def count_of(number: int, noun: str) -> str:
    """``1 host``, ``2 hosts``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def summary_of(report: DriftReport) -> str:
    """``3 hosts: 1 ok, 1 drift, 1 unreachable``."""
    counted = Counter(host.state for host in report.hosts)
    states = ", ".join(f"{counted[state]:,} {state}" for state in STATES if counted[state])
    hosts = count_of(len(report.hosts), "host")
    return f"{hosts}: {states}" if states else hosts
