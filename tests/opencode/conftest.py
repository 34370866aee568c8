"""The real OpenCode, for tests that ask it what it takes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from opencode_support import ARTIFACT

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llamaherd" / "lab"


@pytest.fixture(scope="session")
def opencode_binary() -> Path:
    """The program of the pinned package, by the registry's ordinary client; kept in the cache."""
    folder = CACHE / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    binary = folder / f"opencode-{ARTIFACT.sha256[:16]}"
    with (folder / "opencode.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            _fetch(binary)
    return binary


def _fetch(binary: Path) -> None:
    with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        name = ARTIFACT.name.removesuffix(".tgz").replace("-1.18", "@1.18")
        subprocess.run(
            ["npm", "pack", "--silent", name], cwd=scratch, check=True, stdout=subprocess.DEVNULL
        )
        archive = Path(scratch) / ARTIFACT.name
        assert hashlib.sha256(archive.read_bytes()).hexdigest() == ARTIFACT.sha256
        with tarfile.open(archive) as tar:
            tar.extract("package/bin/opencode", scratch, filter="data")
        (Path(scratch) / "package/bin/opencode").rename(binary)
