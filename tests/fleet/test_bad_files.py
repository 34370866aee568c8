"""Every file in bad/ is refused with exactly the messages that its comments expect."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet_support import EXAMPLES, problems_of

from inventories.fleet import load_fleet
from schemas.problems import ProblemsError

BAD = sorted((Path(__file__).parent / "bad").glob("*.yaml"))
EXPECT = "# expect "


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_file_is_refused_with_these_messages(path: Path) -> None:
    lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    expected = [line.removeprefix(EXPECT) for line in lines if line.startswith(EXPECT)]
    assert expected, "a bad file says in comments what is expected"

    with pytest.raises(ProblemsError) as refused:
        load_fleet(path)

    found = [str(p).removeprefix(f"{path}:") for p in refused.value.problems]
    assert found == expected


def test_utf16_is_no_utf8() -> None:
    text = "version: 1\nhosts: {}\n".encode("utf-16")
    assert problems_of(text) == ["fleet.yaml:1:1: this is not UTF-8 text; save the file as UTF-8"]


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert problems_of(b"\xef\xbb\xbfversion: 1\nhosts: {gpu-01: {}}\n") == []


def test_windows_line_ends_are_no_mistake() -> None:
    assert problems_of(b"version: 1\r\nhosts:\r\n  gpu-01: {}\r\n") == []


def test_a_missing_file_is_a_problem_at_its_first_line(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match=r"nope\.yaml:1:1: there is no such file"):
        load_fleet(tmp_path / "nope.yaml")


def test_a_directory_is_a_problem_too(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match="this is a directory"):
        load_fleet(tmp_path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_valid(path: Path) -> None:
    assert load_fleet(path).hosts
