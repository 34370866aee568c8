"""Files that other programs read at any moment, so never half written."""

from __future__ import annotations

from pathlib import Path

from inventories.atomic import replace_file

MODE = 0o644
"""The node exporter, a web server and a pipeline read these files as other users."""


def write_atomically(path: Path, text: str) -> None:
    """Put ``text`` under ``path`` in one step, with mode 644; see :func:`replace_file`."""
    replace_file(path, text.encode(), MODE)
