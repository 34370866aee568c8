"""Tables align, fit the terminal and lose nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamaherd.tables import table

cells = st.text("ab -/.", max_size=60).map(lambda text: " ".join(text.split()))


def test_columns_align() -> None:
    assert table([["a", "1"], ["long", "2"]], ["NAME", "N"]) == "NAME  N\na     1\nlong  2"


def test_no_rows_and_no_headers_are_nothing() -> None:
    assert table([]) == ""


@given(st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=5))
def test_any_table_fits_and_keeps_every_character(rows: list[list[str]]) -> None:
    printed = table(rows)
    assert all(len(line) <= 80 for line in printed.splitlines())
    kept = sorted("".join(printed.split()))
    assert kept == sorted("".join("".join(row) for row in rows).replace(" ", ""))
