"""The one place where values become shell words."""

from __future__ import annotations

import hashlib
import json
import shlex


class WordError(ValueError):
    """A value that no shell word of ours may hold; the message shows it and says why."""


def word(value: object) -> str:
    """``value`` as one POSIX shell word.

    Refuses (WordError) what no name, path or setting of ours holds and what could end a line or
    a string in another program: control characters, newlines and NUL among them.
    """
    text = str(value)
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise WordError(f"{text!r} holds a control character")
    return shlex.quote(text)


def words(values: object) -> str:
    """Each of an iterable as a shell word, joined by spaces."""
    return " ".join(word(value) for value in values)  # type: ignore[attr-defined]


def operand(value: object) -> str:
    """Like :func:`word`, for places where a leading dash would make an option of a name."""
    text = str(value)
    if text.startswith("-"):
        raise WordError(f"{text!r} would be taken for an option")
    return word(text)


def script_word(script: str) -> str:
    """A script of ours as one shell word; unlike :func:`word` it may hold newlines, but no NUL."""
    if "\0" in script:
        raise WordError("a script holds a NUL, where it would end")
    return "'" + script.replace("'", "'\"'\"'") + "'"


def digest(value: object, length: int = 12) -> str:
    """A short, stable name for a JSON-friendly value: the first hex digits of its SHA-256."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]
