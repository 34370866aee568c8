"""A user's file that the user may not read is theirs to sort out, and is never taken for empty."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from facts.files import LOOK, FileState, parse_file


def look_as_nobody(path: Path) -> FileState:
    done = subprocess.run(
        ["runuser", "-u", "nobody", "--", "sh", "-c", f'{LOOK}\nlook "$1" 0', "sh", str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    return parse_file(done.stdout.rstrip("\n"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with another's rights")
def test_an_unreadable_file_is_not_an_empty_one() -> None:
    folder = Path(subprocess.check_output(["mktemp", "-d", "-p", "/var/tmp"], text=True).strip())
    try:
        folder.chmod(0o755)
        path = folder / "opencode.json"
        path.write_text('{"theme": "mine"}\n')
        path.chmod(0o600)
        state = look_as_nobody(path)
        assert (state.kind, state.sha256, state.content) == ("file", "", None)
        path.write_text("")
        path.chmod(0o644)
        assert look_as_nobody(path).content == b""
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)
