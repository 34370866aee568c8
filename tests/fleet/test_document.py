"""What a plain scalar, an alias and a position mean."""

from __future__ import annotations

import pytest
from fleet_support import problems_of
from hypothesis import given
from hypothesis import strategies as st

from schemas.document import Document, dotted, parse_document


def read(text: str) -> Document:
    return parse_document(text.encode(), "x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8888", 8888),
        ("-1", -1),
        ("0.7", 0.7),
        ("true", True),
        ("null", None),
        ("~", None),
        ("b8146", "b8146"),
        ("1.18.33", "1.18.33"),
        ("10.0.0.11", "10.0.0.11"),
        ("10.0.0.11:8888", "10.0.0.11:8888"),
        ("120a", "120a"),
        ("0c1e570", "0c1e570"),
        ('"no"', "no"),
        ("'013'", "013"),
        ("UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("y", "y"),
    ],
)
def test_a_scalar_that_every_reader_agrees_on(text: str, value: object) -> None:
    document = read(f"a: {text}\n")
    assert not document.problems
    assert document.root is not None
    assert document.root.plain() == {"a": value}


def test_aliases_share_a_value() -> None:
    document = read("a: &shared {x: [1, 2]}\nb: *shared\n")
    assert not document.problems
    assert document.root is not None
    assert document.root.plain() == {"a": {"x": [1, 2]}, "b": {"x": [1, 2]}}


def test_positions_count_characters_not_bytes() -> None:
    assert problems_of("version: 1\nhosts: {'ü': 7, x: 7}\n") == [
        "fleet.yaml:2:9: hosts.ü: ü is not a name: use letters, digits, '.', '_' and '-', "
        "starting with a letter or digit",
        "fleet.yaml:2:14: hosts.ü: must be a mapping, is the number 7",
        "fleet.yaml:2:20: hosts.x: must be a mapping, is the number 7",
    ]


def test_all_tabs_are_named_at_once() -> None:
    problems = read("a:\n\tb: 1\n\tc: 2\n").problems
    assert [problem.position.line for problem in problems] == [2, 3]


def test_a_tab_within_a_line_is_no_mistake() -> None:
    assert not read('a: "x\ty"\nb: 1 \t# comment\n').problems


def test_a_path_is_dotted_with_indices_in_brackets() -> None:
    assert dotted(("hosts", "gpu-01", "groups", 0)) == "hosts.gpu-01.groups[0]"


@given(st.integers(1, 40), st.integers(1, 8))
def test_aliases_expand_up_to_the_limit_and_no_further(width: int, height: int) -> None:
    lines = ["l0: &l0 [x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * width)}]" for n in range(1, height + 1)]
    document = read("\n".join(lines))
    assert (document.root is None) == bool(document.problems)
    assert document.root is None or document.root.size < 2_000_000
