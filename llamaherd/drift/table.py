"""A drift report as a table for a person at a terminal."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from llamaherd.drift.report import COMPONENTS, DriftReport, Finding, HostReport
from llamaherd.drift.text import PLANES, lines_of, printable, remedy_of, summary_of

NAME_WIDTH = 24
STATE_WIDTH = len("unreachable")

_COLOURS = {
    "ok": "32",
    "drift": "33",
    "unreachable": "31",
    "error": "31",
    "declared": "33",
    "running": "35",
    "upstream": "36",
    "+": "32",
    "-": "31",
    "@": "36",
    "host": "1",
}


def render_table(report: DriftReport, *, colour: bool, width: int = 80) -> str:
    """The report as text of at most ``width`` columns, without a newline at the end.

    First a line a host: its state, and per component how many findings it has on which plane; a
    component that is not named is in order. Then the findings by host and component, each under
    the name of its plane, with diff and remedy. The last line sums up.

    + colour: whether to use ANSI colours; words tell everything without them
    + width: columns of the terminal, at least 40; longer lines wrap, nothing is cut
    """
    page = _Page(colour, max(width, 40))
    page.hosts(report.hosts)
    for host in report.hosts:
        page.findings(host.name, host.error, host.findings)
    page.findings("lock file", "", report.upstream)
    page.blank()
    page.lines.append(summary_of(report))
    return "\n".join(page.lines)


class _Page:
    def __init__(self, colour: bool, width: int) -> None:
        self.colour = colour
        self.width = width
        self.lines: list[str] = []

    def blank(self) -> None:
        if self.lines:
            self.lines.append("")

    def hosts(self, hosts: Sequence[HostReport]) -> None:
        names = [printable(host.name) for host in hosts]
        column = min(NAME_WIDTH, max(map(_columns, names), default=0))
        for name, host in zip(names, hosts, strict=True):
            self._host(name, column, host)

    def _host(self, name: str, column: int, host: HostReport) -> None:
        rest = column + 2 + STATE_WIDTH + 2
        pieces = wrap(_components(host), self.width - rest) or [""]
        head = name + " " * (column - _columns(name))
        if _columns(name) > column:
            self.lines += wrap(name, self.width)
            head = " " * column
        first = f"{head}  {self._paint(host.state, host.state.ljust(STATE_WIDTH))}  {pieces[0]}"
        self.lines.append(first if pieces[0] else f"{head}  {self._paint(host.state, host.state)}")
        self.lines += [" " * rest + piece for piece in pieces[1:]]

    def findings(self, name: str, error: str, findings: Sequence[Finding]) -> None:
        """What was found on one host, under its name; nothing where there is nothing to say."""
        if not error and not findings:
            return
        self.blank()
        self._put(name, 0, "host")
        for line in error.splitlines():
            self._put(f"error: {line}", 2, "error")
        for component, group in _grouped(findings):
            self._put(component, 2)
            for finding in group:
                self._finding(finding)

    def _finding(self, finding: Finding) -> None:
        plane = self._paint(finding.plane, finding.plane.ljust(8))
        said = printable(f"{finding.subject}: {finding.summary}")
        first, *more = wrap(said, self.width - 14) or [""]
        self.lines.append(f"    {plane}  {first}")
        self.lines += [" " * 14 + line for line in more]
        for line in lines_of(finding.diff):
            self._put(line, 16, "" if line.startswith(("+++", "---")) else line[:1], words=False)
        if remedy := remedy_of(finding):
            self._put(f"remedy: {remedy}", 14)

    def _put(self, text: str, indent: int, role: str = "", *, words: bool = True) -> None:
        for line in wrap(printable(text), self.width - indent, words=words) or [""]:
            self.lines.append((" " * indent + self._paint(role, line)).rstrip())

    def _paint(self, role: str, text: str) -> str:
        code = _COLOURS.get(role)
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code and text else text


def _components(host: HostReport) -> str:
    """``models 1 declared, 1 running; opencode 1 upstream``."""
    counted = Counter((finding.component, finding.plane) for finding in host.findings)
    said = []
    for component in COMPONENTS:
        planes = [f"{counted[component, p]} {p}" for p in PLANES if counted[component, p]]
        if planes:
            said.append(f"{component} {', '.join(planes)}")
    if host.state in ("unreachable", "error"):
        said.append("the rest not judged" if said else "not judged")
    return "; ".join(said)


def _grouped(findings: Iterable[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    """Findings by component, in the order of COMPONENTS, and by plane within one."""
    found = sorted(findings, key=lambda finding: PLANES.index(finding.plane))
    for component in COMPONENTS:
        group = [finding for finding in found if finding.component == component]
        if group:
            yield component, group


def wrap(text: str, width: int, *, words: bool = True) -> list[str]:
    """``text`` in lines of at most ``width`` columns, broken at spaces where there are any.

    + words: false breaks anywhere and keeps every space, as a diff needs

    Counts columns and not characters, so that wide ones (CJK) don't overflow. Nothing but the
    space at which a line was broken is lost.
    """
    lines = []
    while _columns(text) > width:
        end = _fit(text, width)
        space = text.rfind(" ", 0, end + 1) if words else -1
        if space > 0 and text[:space].strip():
            lines.append(text[:space])
            text = text[space + 1 :]
        else:
            lines.append(text[:end])
            text = text[end:]
    return [*lines, text] if text else lines


def _fit(text: str, width: int) -> int:
    """How many characters of ``text`` fit into ``width`` columns; at least one."""
    used = 0
    for index, character in enumerate(text):
        used += _columns(character)
        if used > width:
            return max(index, 1)
    return len(text)


def _columns(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(_column(character) for character in text)


def _column(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
