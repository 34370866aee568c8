"""A plan as text for a person at a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from deploys.common.progress import human_bytes, human_seconds
from llamaherd.drift.report import COMPONENTS, Finding
from llamaherd.drift.table import wrap
from llamaherd.drift.text import count_of, printable
from llamaherd.plan.report import STATES, HostPlan, Plan, failures
from llamaherd.tables import table

SHOWN = 12
"""Changes of one component that are listed one by one; more are summed up."""

_COLOURS = {"blocked": "31", "unreachable": "31", "error": "31", "changes": "33", "in order": "32"}


def render_plan(plan: Plan, *, colour: bool, width: int = 80) -> str:
    """The plan as text of at most ``width`` columns, without a newline at the end.

    First preflight's answers, a line a host; then each host's changes by component, with what
    they cost, and what blocks it; the last line sums up.
    """
    width = max(width, 60)
    sections = [_preflight(plan.hosts, width)]
    sections += [_host(host, colour, width) for host in plan.hosts]
    sections.append("\n".join(wrap(_summary(plan), width)))
    return "\n\n".join(sections)


def _preflight(hosts: Sequence[HostPlan], width: int) -> str:
    areas = next(([row.area for row in host.preflight] for host in hosts if host.preflight), [])
    rows = []
    for host in hosts:
        answers = {row.area: "ok" if row.ok else "NO" for row in host.preflight}
        reached = "ok" if host.reached else "NO"
        rows.append([printable(host.name), reached, *(answers.get(area, "-") for area in areas)])
    return table(rows, ["HOST", "REACHED", *(area.upper() for area in areas)], width)


def _host(host: HostPlan, colour: bool, width: int) -> str:
    state = f"\x1b[{_COLOURS[host.state]}m{host.state}\x1b[0m" if colour else host.state
    costs = _costs(host.fetch, host.compile_seconds)
    lines = [f"{printable(host.name)}: {state}" + (f" ({costs})" if costs else "")]
    answers = [f"{row.area} {row.detail}" for row in host.preflight if row.ok]
    lines += _put("  ", "; ".join(answers), width)
    for component, group in groupby(_sorted(host.changes), lambda change: change.component):
        lines += _component(component, list(group), width)
    for message in failures(host):
        lines += _put("  BLOCKED  ", message, width)
    return "\n".join(lines)


def _component(component: str, changes: Sequence[Finding], width: int) -> list[str]:
    lines = [f"  {component}"]
    for change in changes[:SHOWN]:
        costs = _costs(change.fetch, change.compile_seconds)
        text = f"{change.subject}: {change.summary}" + (f" ({costs})" if costs else "")
        lines += _put("    ", text, width)
    if len(changes) > SHOWN:
        lines.append(f"    and {count_of(len(changes) - SHOWN, 'more change')}")
    return lines


def _sorted(changes: Sequence[Finding]) -> list[Finding]:
    return sorted(changes, key=lambda change: COMPONENTS.index(change.component))


def _costs(fetch: int, seconds: int) -> str:
    said = [f"{human_bytes(fetch)} to fetch"] if fetch else []
    said += [f"about {human_seconds(seconds)} of compiling"] if seconds else []
    return ", ".join(said)


def _put(head: str, text: str, width: int) -> list[str]:
    pieces = wrap(printable(text), width - len(head))
    return [(head if not index else " " * len(head)) + piece for index, piece in enumerate(pieces)]


def _summary(plan: Plan) -> str:
    counted = Counter(host.state for host in plan.hosts)
    states = ", ".join(f"{counted[state]:,} {_words(state)}" for state in STATES if counted[state])
    fetch = sum(host.fetch for host in plan.hosts)
    total = f"; {human_bytes(fetch)} to fetch in all" if fetch else ""
    return f"{count_of(len(plan.hosts), 'host')}: {states}{total}"


def _words(state: str) -> str:
    return {"changes": "with changes", "error": "not judged"}.get(state, state)
