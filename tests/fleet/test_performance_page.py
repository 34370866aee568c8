"""The tables of docs/performance.md are where benchmarks put them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from fleet_support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import document

PROGRAMS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


def test_every_table_of_the_page_is_made_by_a_program_that_make_bench_runs() -> None:
    text = document.PAGE.read_text("utf-8")
    made = re.findall(r"<!-- made by make bench: (\w+) -->\n(?=\|)", text)
    (run,) = re.findall(r"^BENCHMARKS := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert sorted(made) == sorted(run.split())
    assert set(made) <= set(PROGRAMS)
    outside = re.sub(r"<!-- made by.*?<!-- end -->", "", text, flags=re.S)
    assert "| ---" not in outside, "a table that nobody renews"


def test_a_table_is_put_in_its_place_and_nothing_else_is_touched(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# a\n<!-- made by make bench: x -->\nold\n<!-- end -->\nb\n")
    document.write("x", document.table(("what", "s"), [["this", "1"]]), page)
    text = page.read_text()
    assert text.startswith("# a\n<!-- made by make bench: x -->\n| what | s |\n| --- | ---: |\n")
    assert "old" not in text
    assert text.endswith("<!-- end -->\nb\n")
    with pytest.raises(ValueError, match="no place for y"):
        document.write("y", "", page)
