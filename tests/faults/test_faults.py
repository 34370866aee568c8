"""What is declared of the faults, and the page that tells of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fault import GROUPS, SAYS, Fault, Serving
from fault_list import FAULTS
from fault_table import BEGIN, END, PAGE, ROOT, Result, declared_of, measured_of, terminal, write

EXAMPLE = Fault("in a move", "clock", "a clock is wrong", "nothing", lambda _: None, quick=True)


def test_there_are_forty_cases_and_a_third_is_quick() -> None:
    assert len(FAULTS) >= 40
    assert 3 * sum(fault.quick for fault in FAULTS) >= len(FAULTS)


def test_every_case_says_what_it_breaks_and_what_comes_of_it() -> None:
    assert len({fault.identifier for fault in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        assert fault.group in GROUPS
        for text in (fault.name, fault.breaks, fault.heals):
            assert text
            assert not re.search(r"[|\n]", text), f"{text!r} doesn't fit in a table"
        assert fault.heals.startswith(SAYS) == bool(fault.says) == (fault.mend is not None)
        assert isinstance(fault.serving, Serving)


@pytest.mark.parametrize(("options", "left_out"), [((), False), (("--faults=all",), True)])
def test_what_a_plain_run_leaves_out_is_counted(options: tuple[str, ...], left_out: bool) -> None:
    lab = Path(__file__).with_name("test_faults_lab.py")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *options, str(lab)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    ids = {line.partition("[")[2].removesuffix("]") for line in done.stdout.splitlines()} - {""}
    assert ids == {fault.identifier for fault in FAULTS if left_out or fault.quick}
    slow = sum(not fault.quick for fault in FAULTS)
    assert (f"({slow} deselected)" in done.stdout) != left_out


def test_make_faults_runs_them_all() -> None:
    assert "--faults=all --write-faults tests/faults" in (ROOT / "Makefile").read_text()


def test_the_page_tells_of_every_case() -> None:
    declared = [(f.group, f.name, f.breaks, f.heals, f.quick) for f in FAULTS]
    assert declared_of(PAGE.read_text(encoding="utf-8")) == declared, (
        "run python tests/faults/fault_table.py --write"
    )


def test_a_written_page_keeps_what_was_measured_before(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# a\n{BEGIN}\n{END}\nb\n")
    write([EXAMPLE], {EXAMPLE.identifier: Result(12.4, True)}, page)
    write([EXAMPLE], {}, page)
    assert measured_of(page.read_text()) == {"clock-in-a-move": "12 s"}
    write([EXAMPLE], {EXAMPLE.identifier: Result(1, False)}, page)
    assert measured_of(page.read_text()) == {"clock-in-a-move": "FAILED"}
    assert page.read_text().startswith("# a\n")
    assert page.read_text().endswith("\nb\n")


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    results = {fault.identifier: Result(1234, False) for fault in FAULTS}
    lines = terminal(FAULTS, results)
    assert max(map(len, lines)) <= 80
    assert sum(line.endswith("NO") for line in lines) == len(FAULTS)
