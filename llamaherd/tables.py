"""Plain aligned tables for people: no colours, no lines, at most 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 80
GAP = "  "
NARROWEST = 8


def table(rows: Sequence[Sequence[str]], headers: Sequence[str] = (), width: int = WIDTH) -> str:
    """Rows as aligned columns, without a newline at the end.

    + headers: column titles; none by default
    + width: columns of the terminal; the widest cells wrap until the table fits

    No value is ever cut off: a cell that does not fit goes on in the next line.
    """
    lines = [list(headers), *map(list, rows)] if headers else [list(row) for row in rows]
    if not lines:
        return ""
    count = max(len(line) for line in lines)
    padded = [line + [""] * (count - len(line)) for line in lines]
    widths = _widths(padded, width - len(GAP) * (count - 1))
    return "\n".join(text for line in padded for text in _print(line, widths))


def _widths(lines: Sequence[Sequence[str]], room: int) -> list[int]:
    """Column widths: what the cells need, the widest narrowed until they fit into ``room``."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    while sum(widths) > room and max(widths) > NARROWEST:
        widest = widths.index(max(widths))
        excess = sum(widths) - room
        others = [width for index, width in enumerate(widths) if index != widest]
        floor = max([NARROWEST, *(width for width in others if width < widths[widest])])
        widths[widest] -= max(1, min(excess, widths[widest] - floor))
    return widths


def _print(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = [_wrap(cell, width) for cell, width in zip(line, widths, strict=True)]
    height = max(len(cell) for cell in cells)
    printed = []
    for row in range(height):
        parts = [
            (cell[row] if row < len(cell) else "").ljust(width)
            for cell, width in zip(cells, widths, strict=True)
        ]
        printed.append(GAP.join(parts).rstrip())
    return printed


def _wrap(cell: str, width: int) -> list[str]:
    if len(cell) <= width:
        return [cell]
    return textwrap.wrap(cell, width, break_on_hyphens=False) or [""]
