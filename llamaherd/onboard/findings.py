"""The three kinds of findings, and what their words are made with. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from packaging.version import InvalidVersion, Version

from llamaherd.onboard.report import Finding


def blocker(name: str, message: str, remedy: str) -> Finding:
    """It keeps the box from serving."""
    return Finding(name, "blocker", message, remedy)


def warning(name: str, message: str, remedy: str = "") -> Finding:
    """It spoils the box, or will."""
    return Finding(name, "warning", message, remedy)


def info(name: str, message: str, remedy: str = "") -> Finding:
    """Good to know."""
    return Finding(name, "info", message, remedy)


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def version_of(text: str) -> Version | None:
    """The text as a version; None where it is none."""
    try:
        return Version(text)
    except InvalidVersion:
        return None
