"""The three kinds of findings. Pure."""

from __future__ import annotations

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
