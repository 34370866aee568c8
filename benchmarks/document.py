"""Where benchmarks put what they measured: tables of docs/performance.md, between markers.

``make bench`` renews them all. Each program owns one table and nothing else of the page.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
END = "<!-- end -->"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    rule = ["---", *("---:" for _ in heads[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, rule, *rows))


def machine() -> str:
    """What it was measured on, as far as the machine tells, and how busy that was."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next(line for line in cpuinfo.splitlines() if line.startswith("model name"))
    cores = cpuinfo.count("\nprocessor") + cpuinfo.startswith("processor")
    load = Path("/proc/loadavg").read_text(encoding="utf-8").split()[0]
    return (
        f"{cores} cores of {model.partition(': ')[2]}, Python {platform.python_version()}, "
        f"load {load} when it ended, {datetime.now(UTC):%Y-%m-%d}"
    )


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Put a table where the page has ``<!-- made by make bench: NAME -->``.

    Raises ValueError where the page has no such place.
    """
    begin = f"<!-- made by make bench: {name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{page} has no place for {name}")
    body = f"{begin}\n{text}\n\nMeasured on {machine()}.\n{END}"
    page.write_text(f"{before}{body}{after}", encoding="utf-8")
