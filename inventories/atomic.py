"""Files replaced in one step: a reader sees the old one or the new one, never a half."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

DEFAULT_MODE = 0o644


def replace_file(path: Path, content: bytes, mode: int | None = None) -> None:
    """Put ``content`` under ``path``: temporary file in the same folder, synced, renamed.

    + mode: of the new file; None keeps that of the old one, 644 where there is none

    The temporary name begins with a dot and ends in ``.tmp``, so that programs that read a folder
    pass it by. A symbolic link stays, and the file it points to is replaced. What exists and is
    no regular file, such as ``/dev/stdout`` or a pipe, is written to as it is.

    Raises :class:`OSError` where the folder is missing or may not be written; no temporary file
    is left then.
    """
    target = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    if mode is None:
        mode = target.stat().st_mode & 0o777 if target.exists() else DEFAULT_MODE
    number, name = tempfile.mkstemp(
        prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent
    )
    temporary = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
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
