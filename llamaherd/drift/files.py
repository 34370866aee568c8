"""Files that other programs read at any moment, so never half written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

MODE = 0o644
"""The node exporter, a web server and a pipeline read these files as other users."""


def write_atomically(path: Path, text: str) -> None:
    """Put ``text`` under ``path`` in one step, with mode 644: readers see the old file or the new.

    The text is written to a temporary file in the same folder (whose name begins with a dot and
    ends in ``.tmp``, so that the node exporter, which reads ``*.prom``, passes it by), synced and
    renamed. A symbolic link stays, and the file it points to is replaced. What exists and is not
    a regular file, such as ``/dev/stdout`` or a pipe, is written to as it is.

    Raises :class:`OSError` where the folder is missing or may not be written; no temporary file
    is left then.
    """
    target = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    number, name = tempfile.mkstemp(
        prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent
    )
    temporary = Path(name)
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), MODE)
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
