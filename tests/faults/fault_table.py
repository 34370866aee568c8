"""The table of cases: on a terminal of 80 columns, and in docs/reliability.md.

    python tests/faults/fault_table.py            show what is declared
    python tests/faults/fault_table.py --write    write it into the page; what was measured stays

``make faults`` writes the page too, with the seconds and outcomes of that run.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fault import Fault, identifier

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- made by make faults -->"
END = "<!-- end -->"
HEADS = ("case", "what is broken", "what comes of it", "s", "ok")
WIDTHS = (16, 23, 24, 4, 3)
"""Columns of the terminal's table; with two spaces between them 78."""


@dataclass(frozen=True)
class Result:
    """How a case went: seconds, and whether everything that it asserts was true."""

    seconds: float
    ok: bool


def terminal(faults: Iterable[Fault], results: Mapping[str, Result]) -> list[str]:
    """The table for a terminal of 80 columns; those cases that have a result."""
    lines = [*_row(HEADS), "  ".join("-" * width for width in WIDTHS)]
    group = ""
    for fault in faults:
        result = results.get(fault.identifier)
        if result is None:
            continue
        if fault.group != group:
            group = fault.group
            lines.append(group.upper())
        ok = "yes" if result.ok else "NO"
        cells = (fault.name, fault.breaks, fault.heals, f"{result.seconds:.0f}", ok)
        lines += _row(cells)
    return lines


def _row(cells: Sequence[str]) -> Iterator[str]:
    columns = [
        textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, WIDTHS, strict=True)
    ]
    for number in range(max(map(len, columns))):
        parts = [column[number] if number < len(column) else "" for column in columns]
        padded = [part.ljust(width) for part, width in zip(parts, WIDTHS, strict=True)]
        yield "  ".join(padded).rstrip()


def markdown(faults: Iterable[Fault], measured: Mapping[str, str]) -> str:
    """The page's table; ``measured`` is the last column by case, such as ``12 s``."""
    rows = ["| group | case | what is broken | what comes of it | quick | last run |"]
    rows.append("| --- | --- | --- | --- | --- | ---: |")
    for fault in faults:
        quick = "yes" if fault.quick else ""
        last = measured.get(fault.identifier, "not yet")
        rows.append(
            f"| {fault.group} | {fault.name} | {fault.breaks} | {fault.heals} | {quick} | {last} |"
        )
    return "\n".join(rows)


def measured_of(page: str) -> dict[str, str]:
    """The last column of a page's table, by the case's identifier."""
    found = {}
    for line in _table_of(page).splitlines()[2:]:
        group, name, _, _, _, last = (cell.strip() for cell in line.strip("|").split("|"))
        found[identifier(group, name)] = last
    return found


def declared_of(page: str) -> list[tuple[str, str, str, str, bool]]:
    """Group, name, breaks, heals and quick of each row of a page's table."""
    rows = []
    for line in _table_of(page).splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows.append((cells[0], cells[1], cells[2], cells[3], cells[4] == "yes"))
    return rows


def _table_of(page: str) -> str:
    match = re.search(rf"{re.escape(BEGIN)}\n(.*?)\n*{re.escape(END)}", page, re.S)
    if match is None:
        raise ValueError("the page has no place for the table of faults")
    return "\n".join(line for line in match[1].splitlines() if line.startswith("|"))


def write(faults: Iterable[Fault], results: Mapping[str, Result], page: Path = PAGE) -> None:
    """Renew the page's table; a case that has no result keeps what was measured before."""
    text = page.read_text(encoding="utf-8")
    measured = measured_of(text)
    measured |= {
        name: f"{result.seconds:.0f} s" if result.ok else "FAILED"
        for name, result in results.items()
    }
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    table = markdown(faults, measured)
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Show what is declared, or write it."""
    sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "molecule" / "lab")]
    from fault_list import FAULTS

    if "--write" in sys.argv[1:]:
        write(FAULTS, {})
        return 0
    print(markdown(FAULTS, measured_of(PAGE.read_text(encoding="utf-8"))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
