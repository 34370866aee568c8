"""docs/editor.md shows what the language server really answers, from our schema."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from language_server import BEGIN, END, PAGE, QUESTIONS, ROOT, VERSION, running, session, workplace

sys.path.insert(0, str(ROOT / "molecule" / "lab"))
from roots import cache_directory

TEXT = PAGE.read_text("utf-8")


def blocks(text: str) -> list[list[str]]:
    """The lines of each fenced block of a captured session."""
    return [body.splitlines() for body in re.findall(r"^```text\n(.*?)^```$", text, re.M | re.S)]


def test_the_page_names_the_version_that_was_asked() -> None:
    assert f"yaml-language-server {VERSION}" in TEXT
    assert f"npm install --global yaml-language-server@{VERSION}" in TEXT


def test_the_settings_of_vs_code_name_the_schema() -> None:
    (block,) = re.findall(r"^```json\n(.*?)^```$", TEXT, re.M | re.S)
    ((schema, files),) = json.loads(block)["yaml.schemas"].items()
    assert (ROOT / schema).is_file()
    assert list(ROOT.glob(files[0]))


@pytest.mark.lab  # it fetches the server from npm, once
def test_the_page_shows_what_the_server_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("language_server.SHOWN", 1000)
    folder = workplace(tmp_path)
    with running(cache_directory(), folder) as server:
        answered = blocks(session(server, folder))
    shown = blocks(TEXT.partition(BEGIN)[2].partition(END)[0])
    assert len(shown) == len(answered) == len(QUESTIONS)
    for page, now in zip(shown, answered, strict=True):
        # A key that came since isn't on the page yet; what is on it must be true.
        assert [line for line in page if line not in (*now, "  ...")] == [], "run `make editor`"
