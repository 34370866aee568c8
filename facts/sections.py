"""One remote command that answers several questions: its output in named sections.

A fact costs one SSH round trip, so facts here ask for much at once. The command prints a marker
line before each answer; :func:`split_sections` takes the output apart again.
"""

from __future__ import annotations

from collections.abc import Iterable

SECTION = "@@llamaherd:"


def split_sections(lines: Iterable[str]) -> dict[str, list[str]]:
    """Lines by the name of the section they stand in; lines before the first marker are dropped."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line.startswith(SECTION):
            current = sections.setdefault(line.removeprefix(SECTION).strip(), [])
            continue
        current.append(line)
    return sections
