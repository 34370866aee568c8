"""Unit files of systemd: the one place where values become words and lines of them. Pure.

Upstream behaviour relied on: systemd.syntax(7), and systemd.service(5), "Command lines": quoting,
specifiers (``%``), variables (``$``).
"""

from __future__ import annotations

import string
from pathlib import Path

from deploys.common.shell import WordError


class Template(string.Template):
    """A unit or script of ours with places such as ``@{name}`` to fill in.

    Not ``$``: systemd and the shell have their own use for that.
    """

    delimiter = "@"


def template(path: Path) -> Template:
    """The template that lies at a path, beside the code that ships it."""
    return Template(path.read_text(encoding="utf-8"))


def unit_text(value: str) -> str:
    """Text within one line of a unit, specifiers taken literally; WordError for more lines."""
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise WordError(f"{value!r} holds a control character")
    return value.replace("%", "%%")


def unit_word(value: str) -> str:
    """One word of an ``Exec`` line: quoted, specifiers and variables taken literally."""
    unit_text(value)
    text = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    plain = text == value and value and not any(character in value for character in " \t'\"")
    return value if plain else f'"{text}"'


def without_gaps(text: str) -> str:
    """A template's empty places leave empty lines: no two in a row, and none at the start."""
    lines: list[str] = []
    for line in text.splitlines():
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines) + "\n"
