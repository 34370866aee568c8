"""Every command that the documentation shows, found in its Markdown.

Pure. A command is a line of a block that a person would type: of a ``console`` block, after ``$ ``
in any other, of an indented block; or inline code of more than one word. What begins with what no
program is called (NO_PROGRAMS) is none. In the pages of troubleshooting/ the first cell of a row
is what a program said. Comments and what a pipeline's file runs are not among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "inventories/README.md", *ROOT.glob("docs/**/*.md")])
# First words of messages and of other prose in code's dress; a program of such a name must go.
NO_PROGRAMS = frozenset(
    (
        *("answered", "bad", "building", "cells", "could", "ctrl+x", "disabled_providers"),
        *("driver", "error", "exit", "has", "if", "installing", "is", "it", "its", "kind"),
        *("libcuda.so.1", "lost", "mend", "model", "not", "nothing", "nvidia-cuda-toolkit"),
        *("one", "perhaps", "provider", "reach", "reboot", "rocky", "the", "there", "these"),
        *("this", "took", "used"),
    )
)
_PROGRAM = re.compile(r"^[a-z][a-z0-9_.+-]*$")
_SAID = re.compile(r"^\| .*? \| ", re.M)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_SETTING = re.compile(r"^[A-Z][A-Z_]*=\S+$")


@dataclass(frozen=True)
class Command:
    """One command as a page shows it.

    + page: relative to the repository
    + text: on one line, without comment and prompt
    """

    page: str
    text: str


def shown(pages: list[Path] | None = None) -> list[Command]:
    """Every command of these pages, in order, each once a page."""
    found: dict[Command, None] = {}
    for page in PAGES if pages is None else pages:
        name = str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name
        messages = page.parent.name == "troubleshooting"
        for text in commands_of(page.read_text("utf-8"), messages=messages):
            found[Command(name, text)] = None
    return list(found)


def commands_of(markdown: str, *, messages: bool = False) -> Iterator[str]:
    """The commands of one page.

    + messages: the first cell of a table's row is what a program said
    """
    for language, body in _FENCE.findall(markdown):
        for line in _joined(body):
            if language in ("console", "sh", "bash") or line.startswith("$ "):
                yield from _command(line.removeprefix("$ "))
    prose = _FENCE.sub("", markdown)
    if messages:
        prose = _SAID.sub("| ", prose)
    for line in _joined(prose):
        if line.startswith("    ") and _begins_with_a_program(line.strip()):
            yield from _command(line)
    for inline in _INLINE.findall(prose):
        words = " ".join(inline.split())
        if _begins_with_a_program(words) and " " in words:
            yield from _command(words)


def _joined(text: str) -> list[str]:
    """Lines, those that end in a backslash with the next."""
    return re.sub(r"\\\n\s*", "", text).splitlines()


def _begins_with_a_program(line: str) -> bool:
    words = line.split()
    while words and _SETTING.match(words[0]):
        words = words[1:]
    return bool(words) and bool(_PROGRAM.match(words[0])) and words[0] not in NO_PROGRAMS


def _command(line: str) -> Iterator[str]:
    """A line without its comment; nothing for an empty one."""
    text = re.sub(r"(^|\s)#\s.*$", "", line).strip()
    if text:
        yield text
