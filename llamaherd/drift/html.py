"""A drift report as one self-contained web page.

The template and its style lie beside this module. The page has no script, loads nothing, and says
so to the browser: its Content-Security-Policy allows exactly the one style sheet it carries, by
hash, so that even a hole in the escaping could run nothing. Cells are ``<details>``, the filter is
radio buttons.

Everything from a host is made printable (:func:`llamaherd.drift.text.printable`), then escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from html import escape as _escape
from itertools import groupby
from pathlib import Path
from string import Template

from llamaherd.drift.report import COMPONENTS, DriftReport, Finding, HostReport, HostState, Plane
from llamaherd.drift.text import (
    PLANES,
    STATES,
    count_of,
    lines_of,
    printable,
    remedy_of,
    summary_of,
)

_FOLDER = Path(__file__).parent
_WORST_FIRST: tuple[HostState, ...] = ("error", "unreachable", "drift", "ok")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

OK = "ok"
UNJUDGED = "not judged"
ABSENT = "not in the fleet"
# Top and height of a mark in a strip of 14 units; a state that is not named fills it.
_MARKS = {OK: (9, 5), "unjudged": (1, 12), "absent": (1, 12)}


def render_html(report: DriftReport, history: Sequence[DriftReport] = ()) -> str:
    """The report as a page of HTML.

    + history: earlier reports of the same fleet, in any order; one that began when ``report`` did
      is taken for the report itself and passed by

    Troubled hosts come first, else the fleet's order stays. ``#host-NAME`` leads to a host.
    """
    checks = _in_time([*(past for past in history if past.started != report.started), report])
    past = _History(checks)
    style = _resource("report.css") + _column_rules(len(COMPONENTS))
    fields = {
        "policy": _policy(style),
        "style": style,
        "title": _text(f"Drift of {report.fleet}: {summary_of(report)}"),
        "fleet": _text(report.fleet),
        "verdict": _text(_verdict(report)),
        "started": _time(report.started),
        "seconds": _seconds(report.seconds),
        "exit_code": str(report.exit_code),
        "chart": _chart(checks),
        "about": _about(report, checks),
        "filters": _filters(report),
        "columns": "".join(_heading(component) for component in COMPONENTS),
        "hosts": "\n".join(_rows(report, past)),
    }
    return Template(_resource("report.html")).substitute(fields)


def _column_rules(count: int) -> str:
    """What the style sheet can't know: how many components there are, and where each's cell is.

    One line of cells; two where the window is as narrow as a phone's.
    """
    half = (count + 1) // 2
    wide = [_left(column, column) for column in range(count)]
    narrow = [_left(column, column % half) for column in range(half, count)]
    second = ", ".join(f".host .c{column} > summary" for column in range(half, count))
    return (
        f"\n:root {{ --columns: {count}; }}\n{''.join(wide)}"
        f"@media (max-width: 44rem) {{\n:root {{ --columns: {half}; }}\n{''.join(narrow)}"
        f"{second} {{ top: calc(2.5rem + var(--row)); }}\n}}\n"
    )


def _left(column: int, place: int) -> str:
    return f".c{column} {{ --left: calc(var(--name) + {place} * var(--cell)); }}\n"


@cache
def _resource(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _policy(style: str) -> str:
    """Nothing but this style sheet and the empty icon, which keeps browsers from asking for one."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


# The past


@dataclass(frozen=True)
class _Run:
    """Checks in a row that said the same of one thing."""

    said: str
    first: str
    last: str
    count: int


class _History:
    """What every check kept, this one included, said of each host and cell; oldest first."""

    def __init__(self, checks: Sequence[DriftReport]) -> None:
        self.times = [check.started for check in checks]
        self._hosts = [{host.name: host for host in check.hosts} for check in checks]

    def of_host(self, name: str) -> list[str]:
        found = (hosts.get(name) for hosts in self._hosts)
        return [host.state if host else ABSENT for host in found]

    def of_cells(self, name: str) -> dict[str, list[str]]:
        cells: dict[str, list[str]] = {component: [] for component in COMPONENTS}
        for hosts in self._hosts:
            host = hosts.get(name)
            planes = _planes(host.findings) if host else {}
            for component, said in cells.items():
                said.append(_cell_state(host, planes.get(component, Counter())))
        return cells

    def runs(self, said: Sequence[str]) -> list[_Run]:
        """Newest first."""
        runs = []
        for state, group in groupby(zip(said, self.times, strict=True), key=lambda pair: pair[0]):
            times = [time for _, time in group]
            runs.append(_Run(state, times[0], times[-1], len(times)))
        return runs[::-1]


def _planes(findings: Iterable[Finding]) -> dict[str, Counter[Plane]]:
    """How many findings each component has on each plane; components without any are absent."""
    found: dict[str, Counter[Plane]] = {}
    for finding in findings:
        found.setdefault(finding.component, Counter())[finding.plane] += 1
    return found


def _cell_state(host: HostReport | None, planes: Mapping[Plane, int]) -> str:
    if host is None:
        return ABSENT
    if planes:
        return ", ".join(plane for plane in PLANES if planes.get(plane))
    return OK if host.state in ("ok", "drift") else UNJUDGED


def _in_time(checks: list[DriftReport]) -> list[DriftReport]:
    return sorted(checks, key=lambda check: _moment(check.started))


def _moment(started: str) -> datetime:
    """A time that cannot be read sorts first; one without an offset is taken as UTC."""
    try:
        moment = datetime.fromisoformat(started)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# The top of the page


def _verdict(report: DriftReport) -> str:
    counted = Counter(host.state for host in report.hosts)
    total = len(report.hosts)
    if not total:
        return "No host was checked"
    if counted["ok"] == total:
        return "The one host is in order" if total == 1 else f"All {total:,} hosts are in order"
    parts = []
    if drifted := counted["drift"]:
        parts.append(f"{drifted:,} of {count_of(total, 'host')} drifted")
    if missing := counted["unreachable"]:
        parts.append(
            f"{missing:,} unreachable"
            if parts
            else f"{missing:,} of {count_of(total, 'host')} unreachable"
        )
    if broken := counted["error"]:
        parts.append(f"{count_of(broken, 'check')} broke off")
    return ", ".join(parts)


def _chart(checks: Sequence[DriftReport]) -> str:
    """The fleet's last checks as columns: the higher the bar, the more hosts were not in order."""
    if len(checks) < 2:
        return ""
    bars = []
    for index, check in enumerate(checks):
        counted = Counter(host.state for host in check.hosts)
        bars.append(_column(index * 10, counted, max(len(check.hosts), 1), check.started))
    width = len(checks) * 10 - 1
    label = f"State of the fleet in its last {len(checks)} checks, oldest first"
    view = f'viewBox="-1 -1 {width} 58" width="{width}" height="58"'
    return (
        f'<figure><svg role="img" aria-label="{label}" {view}>{"".join(bars)}</svg>'
        f"<figcaption>Last {len(checks)} checks, newest on the right</figcaption></figure>"
    )


def _column(x: int, counted: Mapping[HostState, int], total: int, started: str) -> str:
    """One check: drift from the ground up, what could not be judged on top of it, ok behind."""
    drift = _height(counted["drift"], total)
    lost = _height(counted["unreachable"] + counted["error"], total)
    parts = [f'<rect class="ok" x="{x}" width="7" height="56" rx="1"/>']
    if drift:
        parts.append(_bar("drift", x, 56 - drift, drift))
    if lost:
        parts.append(_bar("unreachable", x, 56 - drift - lost, lost))
    said = ", ".join(f"{counted[state]:,} {state}" for state in STATES if counted[state])
    title = _text(f"{_moment_text(started)}: {said or 'no hosts'}")
    return f"<g><title>{title}</title>{''.join(parts)}</g>"


def _height(part: int, total: int) -> int:
    """Of 56 units; what is there at all is seen."""
    return min(max(round(part / total * 56), 5), 51) if part else 0


def _bar(kind: str, x: int, y: int, height: int) -> str:
    return f'<rect class="{kind}" x="{x}" y="{max(y, 0)}" width="7" height="{height}" rx="1"/>'


def _about(report: DriftReport, checks: Sequence[DriftReport]) -> str:
    parts = []
    if report.upstream:
        number = count_of(len(report.upstream), "pin")
        verb = "is" if len(report.upstream) == 1 else "are"
        parts.append(
            f'<details class="about"><summary>{_badge("upstream", "upstream")} {number} of '
            f"the lock file {verb} behind what is published</summary>"
            f"<div>{_findings(report.upstream)}</div></details>"
        )
    if len(checks) > 1:
        said = [summary_of(check).partition(": ")[2] or "no hosts" for check in checks]
        runs = _History(checks).runs(said)
        parts.append(
            f'<details class="about"><summary>How the fleet\'s state moved: '
            f"{count_of(len(checks), 'check')} since {_time(checks[0].started)}</summary>"
            f"{_run_list(runs)}</details>"
        )
    return "\n".join(parts)


def _filters(report: DriftReport) -> str:
    counted = Counter(host.state for host in report.hosts)
    states = [state for state in _WORST_FIRST if counted[state]]
    if len(states) < 2:
        return ""
    labels = [_filter("all", "all", len(report.hosts), checked=True)]
    labels += [_filter(state, _badge(state, state), counted[state]) for state in states]
    return "\n".join(labels)


def _filter(name: str, label: str, number: int, *, checked: bool = False) -> str:
    mark = " checked" if checked else ""
    return (
        f'<input type="radio" name="show" id="show-{name}"{mark}>'
        f'<label for="show-{name}">{label} <span>{number:,}</span></label>'
    )


# The grid


def _heading(component: str) -> str:
    """A column's title, which may go on in a second line after an underscore."""
    return f"<span>{component.replace('_', '_<wbr>')}</span>"


def _rows(report: DriftReport, past: _History) -> Iterator[str]:
    numbered = sorted(enumerate(report.hosts), key=lambda pair: _WORST_FIRST.index(pair[1].state))
    for number, host in numbered:
        yield _row(number, host, past)


def _row(number: int, host: HostReport, past: _History) -> str:
    name = _text(host.name)
    plain = _PLAIN_NAME.fullmatch(host.name)
    anchor = f"host-{host.name}" if plain else f"host--{number}"
    history = past.of_cells(host.name)
    planes = _planes(host.findings)
    cells = [
        _cell(column, component, host, planes.get(component, Counter()), past, history[component])
        for column, component in enumerate(COMPONENTS)
    ]
    tall = " tall" if any(len(counted) == len(PLANES) for counted in planes.values()) else ""
    why = "".join(f'<p class="why">{_text(line)}</p>' for line in host.error.splitlines())
    return (
        f'<div class="host {host.state}{tall}" role="listitem" id="{anchor}">'
        f'<details class="n"><summary><h3>{name}</h3> '
        f"{_badge(host.state, host.state)}</summary>{_host_panel(host, past)}</details>"
        f"{''.join(cells)}{why}</div>"
    )


def _host_panel(host: HostReport, past: _History) -> str:
    cost = (
        f"Checked in {_seconds(host.seconds)} with {count_of(host.commands, 'remote command')} "
        f"and {count_of(host.operations, 'operation')}."
    )
    before = _past(past, past.of_host(host.name))
    return f"<div><h4>{_text(host.name)}</h4><p>{cost}</p>{before}</div>"


def _cell(
    column: int,
    component: str,
    host: HostReport,
    planes: Mapping[Plane, int],
    past: _History,
    said: Sequence[str],
) -> str:
    place = f"c{column}"
    if not planes:
        kind = OK if said[-1] == OK else UNJUDGED
        still = _unmoved(said)
        panel = f"<p>{component}: {still}</p>" if still else _open_cell(component, "", past, said)
        return (
            f'<details class="{place}"><summary aria-label="{component}: {kind}">'
            f"{_badge(_kind(kind), kind)}</summary>{panel}</details>"
        )
    counts = ", ".join(f"{planes[plane]} {plane}" for plane in PLANES if planes.get(plane))
    badges = "".join(
        f'<b class="{plane}">{planes[plane]}<span class="w"> {plane}</span></b>'
        for plane in PLANES
        if planes.get(plane)
    )
    found = _findings(finding for finding in host.findings if finding.component == component)
    return (
        f'<details class="{place} bad"><summary aria-label="{component}: {counts}">'
        f"{badges}</summary>"
        f"{_open_cell(component, found, past, said)}</details>"
    )


def _open_cell(component: str, found: str, past: _History, said: Sequence[str]) -> str:
    return f"<div><h4>{component}</h4>{found}{_past(past, said)}</div>"


def _findings(findings: Iterable[Finding]) -> str:
    ordered = sorted(findings, key=lambda finding: PLANES.index(finding.plane))
    return "".join(map(_finding, ordered))


def _finding(finding: Finding) -> str:
    remedy = remedy_of(finding)
    return (
        f'<div class="finding"><p>{_badge(finding.plane, finding.plane)}'
        f"<code>{_text(finding.subject)}</code> {_text(finding.summary)}</p>"
        f"{_diff(finding.diff)}"
        + (f'<p class="remedy">Remedy: {_escape(remedy)}</p>' if remedy else "")
        + "</div>"
    )


def _diff(diff: tuple[str, ...]) -> str:
    """Lines that were added and removed as such, so that screen readers can tell them apart."""
    lines = lines_of(diff)
    if not lines:
        return ""
    return f"<pre>{''.join(map(_diff_line, lines))}</pre>"


def _diff_line(line: str) -> str:
    tag = "span"
    if line.startswith(("+++", "---", "@@")):
        tag = "em"
    elif line.startswith("+"):
        tag = "ins"
    elif line.startswith("-"):
        tag = "del"
    return f"<{tag}>{_escape(line)}</{tag}>"


# History in a cell


def _past(past: _History, said: Sequence[str]) -> str:
    """What the checks kept said of one cell or host; one sentence where it was always the same."""
    if _unmoved(said):
        return f'<p class="past">{_unmoved(said).capitalize()}</p>'
    head = f'<p class="past">Last {len(said)} checks, newest on the right</p>'
    return f"{head}{_strip(said)}{_run_list(past.runs(said))}"


def _unmoved(said: Sequence[str]) -> str:
    """``in order in all 30 checks kept.``; empty where not all said the same."""
    if len(set(said)) > 1:
        return ""
    same = "in order" if said[0] == OK else said[0]
    kept = "no earlier check was kept" if len(said) == 1 else f"in all {len(said)} checks kept"
    return f"{same}; {kept}." if len(said) == 1 else f"{same} {kept}."


def _strip(said: Sequence[str]) -> str:
    """A mark a check, oldest first: low where all was well, high where not, hollow where unknown.

    The list of runs beside it says the same in words.
    """
    paths: dict[str, str] = {}
    for index, state in enumerate(said):
        kind = _kind(state)
        top, height = _MARKS.get(kind, (0, 14))
        mark = f"M{index * 8 + 1} {top}h5v{height}h-5z"
        paths[kind] = paths.get(kind, "") + mark
    drawn = "".join(f'<path class="{kind}" d="{path}"/>' for kind, path in paths.items())
    width = len(said) * 8
    return (
        f'<svg class="strip" aria-hidden="true" viewBox="0 0 {width} 14" width="{width}">'
        f"{drawn}</svg>"
    )


def _run_list(runs: Iterable[_Run]) -> str:
    return f'<ol class="runs">{"".join(map(_run, runs))}</ol>'


def _run(run: _Run) -> str:
    when = _time(run.first)
    if run.count > 1:
        when += f" to {_time(run.last)}"
    kind = _kind(run.said)
    label = _badge(kind, run.said) if kind else _text(run.said)
    return f"<li>{label} <span>{count_of(run.count, 'check')}, {when}</span></li>"


def _kind(said: str) -> str:
    """The shape that stands for a cell's or host's state; empty for one that has none."""
    if said == UNJUDGED:
        return "unjudged"
    if said == ABSENT:
        return "absent"
    for kind in ("running", "declared", "upstream"):
        if kind in said:
            return kind
    return said if said in STATES else ""


# Words


def _badge(kind: str, word: str) -> str:
    return f'<b class="{kind}">{word}</b>'


def _text(text: str) -> str:
    return _escape(printable(text))


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.0f} min"


def _time(started: str) -> str:
    return f'<time datetime="{_text(started)}">{_text(_moment_text(started))}</time>'


def _moment_text(started: str) -> str:
    """``2026-11-22 09:18 UTC``; as it is where it cannot be read."""
    try:
        moment = datetime.fromisoformat(started)
    except ValueError:
        return started
    offset = moment.strftime("%z")
    zone = "UTC" if offset in ("", "+0000") else f"{offset[:3]}:{offset[3:5]}"
    return f"{moment:%Y-%m-%d %H:%M} {zone}"
