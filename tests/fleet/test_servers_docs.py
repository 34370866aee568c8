"""The fleet files that docs/servers.md shows are whole and valid."""

from __future__ import annotations

import re

import pytest
from fleet_support import ROOT, problems_of

SHOWN = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/servers.md").read_text("utf-8"), re.S)


def test_the_page_shows_fleet_files() -> None:
    assert len(SHOWN) >= 3


@pytest.mark.parametrize("text", SHOWN, ids=range(len(SHOWN)))
def test_what_the_page_shows_is_valid(text: str) -> None:
    assert problems_of(text) == []
