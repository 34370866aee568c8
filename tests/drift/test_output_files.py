"""Reports written while others read them."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llamaherd.drift.files import write_atomically


def test_a_new_file_is_readable_by_all_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "drift.prom", "a 1\n")
    finally:
        os.umask(before)

    assert (tmp_path / "drift.prom").read_text() == "a 1\n"
    assert stat.S_IMODE((tmp_path / "drift.prom").stat().st_mode) == 0o644


def test_nothing_but_the_file_is_left(tmp_path: Path) -> None:
    write_atomically(tmp_path / "drift.prom", "a 1\n")
    write_atomically(tmp_path / "drift.prom", "a 2\n")

    assert [path.name for path in tmp_path.iterdir()] == ["drift.prom"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "drift.prom"
    texts = {"a" * 300_000, "b" * 200_000}
    write_atomically(path, "a" * 300_000)
    done = threading.Event()

    def write() -> None:
        for _ in range(10):
            for text in texts:
                write_atomically(path, text)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_text())
    writer.join()

    assert seen <= texts


def test_a_text_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "drift.prom"
    write_atomically(path, "old\n")

    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \udcff\n")
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        write_atomically(tmp_path / "missing" / "drift.prom", "")


def test_a_symbolic_link_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", "new\n")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new\n"


def test_what_is_no_regular_file_is_written_to() -> None:
    code = "from llamaherd.drift.files import *; write_atomically(Path('/dev/stdout'), 'here\\n')"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert said.stdout == b"here\n"
