"""Real servers for the lock's tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "molecule" / "lab"))

from hub import Hub
from lock_support import FileServer, make_git_repository

REPO = "acme/Tiny-GGUF"
FILES = {
    "README.md": b"Tiny\n",
    "Tiny-Q4_0.gguf": b"GGUF" + bytes(2000),
    "Tiny-IQ4_0.gguf": b"GGUF" + bytes(2001),
    "Tiny-Q8_0.gguf": b"GGUF" + bytes(2002),
    "Tiny-UD-Q8_0.gguf": b"GGUF" + bytes(2003),
    "BF16/Tiny-BF16-00001-of-00002.gguf": b"GGUF" + bytes(2004),
    "BF16/Tiny-BF16-00002-of-00002.gguf": b"GGUF" + bytes(2005),
    "mmproj-F16.gguf": b"GGUF" + bytes(2006),
    "mmproj-F32.gguf": b"GGUF" + bytes(2007),
    "small-TQ1_0.gguf": b"GGUF",
}


@pytest.fixture
def hub_root(tmp_path: Path) -> Path:
    """A hub's folder with one repository of many quants."""
    for name, content in FILES.items():
        path = tmp_path / "hub" / REPO / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "hub"


@pytest.fixture
def hub(hub_root: Path) -> Iterator[Hub]:
    """That hub, serving: pages of three, large from 1000 bytes."""
    with Hub(hub_root, page=3, large=1000) as hub:
        yield hub


@pytest.fixture
def files(tmp_path: Path) -> Iterator[FileServer]:
    """A plain web server over an empty folder."""
    folder = tmp_path / "www"
    folder.mkdir()
    with FileServer(folder) as server:
        yield server


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository of five commits."""
    return make_git_repository(tmp_path / "llama.cpp")
