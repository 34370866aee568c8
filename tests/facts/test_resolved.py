"""Where a user's links lead, by the very shell function that hosts run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from facts.files import WRITABLE


def resolved(path: Path) -> str:
    done = subprocess.run(
        ["sh", "-c", f'{WRITABLE}\nresolved "$1"', "sh", str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.removesuffix("\n")


def test_a_link_is_followed_whether_or_not_it_leads_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("folder/file")
    assert resolved(tmp_path / "link") == str(tmp_path / "folder/file")


@pytest.mark.parametrize("target", ["circle", "circle/"])
def test_a_link_to_itself_is_itself(tmp_path: Path, target: str) -> None:
    (tmp_path / "circle").symlink_to(target)
    assert resolved(tmp_path / "circle") == str(tmp_path / "circle")
