"""One check of a fleet at a time: two schedules must not pile up.

The lock is the kernel's (flock), so it goes with its process, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from llamaherd.arguments import CommandError


@contextlib.contextmanager
def only_one(path: Path, fleet: Path) -> Iterator[None]:
    """Hold the lock file; :class:`CommandError` saying who has it and since when, where one has.

    + path: the lock file; made, with its folders, where it isn't there; stays
    + fleet: for the message
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"can't lock {path}: {error.strerror}; set XDG_STATE_HOME to a folder of yours"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CommandError(
                f"another drift check of {fleet} runs {_holder(file.read())}: "
                "wait for it to end, or end it"
            ) from None
        file.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(json.dumps({"process": os.getpid(), "since": now}))
        file.flush()
        yield


def _holder(text: str) -> str:
    try:
        note = json.loads(text)
        return f"since {note['since']} (process {note['process']})"
    except (ValueError, KeyError, TypeError):
        return "already"
