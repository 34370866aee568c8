"""What the lock's tests share: real servers with real files, and fleets written as text."""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from inventories.lock import Request
from inventories.pinning import World
from llamaherd import lock as lock_command


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, says nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Not to the test's output."""


class FileServer(http.server.ThreadingHTTPServer):
    """A plain web server over a folder, as a context manager."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
        self.root = root
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> FileServer:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


def world(directory: Path, **environment: str) -> World:
    """What pinning modules know, with this environment and no other."""
    return World(directory=directory, environment={"PATH": os.environ["PATH"], **environment})


def request(kind: Any, body: Mapping[str, Any]) -> Request:
    """A request as a fleet would make it."""
    return Request(kind, "it", body, ())


def write_fleet(folder: Path, text: str, name: str = "fleet.yaml") -> Path:
    """A fleet file with this content."""
    path = folder / name
    path.write_text("version: 1\n" + text, encoding="utf-8")
    return path


def run_lock(*arguments: str | Path) -> int:
    """``llamaherd lock ARGUMENTS``; its exit status."""
    parser = argparse.ArgumentParser()
    lock_command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["lock", *map(str, arguments)])
    return int(args.func(args))


# A git repository -------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, as nobody in particular."""
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    done = subprocess.run(
        ["git", *identity, "-c", "commit.gpgsign=false", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def make_git_repository(folder: Path) -> Path:
    """Five commits: b3 (a plain tag) at the third, b4 (annotated) at the fourth, main at the
    fifth."""
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    # What big hosts allow, and a clone without trees asks for.
    git(folder, "config", "uploadpack.allowFilter", "true")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    for number in range(1, 6):
        (folder / "CMakeLists.txt").write_text(f"project(step{number})\n")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", f"step {number}")
        if number == 3:
            git(folder, "tag", "b3")
        if number == 4:
            git(folder, "tag", "-a", "b4", "-m", "release")
    return folder


# npm --------------------------------------------------------------------------------------------


def make_npm_package(
    registry: FileServer, name: str, version: str, *, integrity: str | None = None
) -> bytes:
    """Publish a package on a registry of plain files; its tarball's bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("package/bin/opencode")
        info.size = len(name)
        archive.addfile(info, io.BytesIO(name.encode()))
    tarball = buffer.getvalue()
    folder = registry.root / name
    (folder / "-").mkdir(parents=True, exist_ok=True)
    (folder / "-" / f"{name}-{version}.tgz").write_bytes(tarball)
    digest = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    document = {
        "name": name,
        "version": version,
        "dist": {
            "tarball": f"{registry.url}/{name}/-/{name}-{version}.tgz",
            "integrity": integrity or f"sha512-{digest}",
        },
    }
    (folder / version).write_text(json.dumps(document))
    return tarball


# apt --------------------------------------------------------------------------------------------


def stanza(name: str, version: str, depends: str = "") -> str:
    """One package of a ``Packages`` index."""
    sha256 = hashlib.sha256(f"{name}={version}".encode()).hexdigest()
    lines = [f"Package: {name}", f"Version: {version}", "Architecture: amd64"]
    lines += [f"Depends: {depends}"] if depends else []
    return "\n".join([*lines, f"SHA256: {sha256}", "Description: dummy", " more of it"])


CUDA_INDEX = "\n\n".join(
    [
        stanza("cuda-nvcc-13-0", "13.0.48-1", "cuda-crt-13-0, libc6 (>= 2.31)"),
        stanza("cuda-nvcc-13-0", "13.0.88-1", "cuda-crt-13-0, libc6 (>= 2.31)"),
        stanza("cuda-crt-13-0", "13.0.88-1"),
        stanza("cuda-cudart-dev-13-0", "13.0.96-1", "cuda-cudart-13-0 (>= 13.0.96)"),
        stanza("cuda-cudart-13-0", "13.0.96-1", "cuda-toolkit-13-0-config-common (>= 13.0.96)"),
        stanza("cuda-toolkit-13-0-config-common", "13.0.96-1"),
        stanza("libcublas-dev-13-0", "13.1.0.3-1", "libcublas-13-0 (>= 13.1.0.3)"),
        stanza("libcublas-13-0", "13.1.0.3-1"),
        stanza("cuda-cccl-13-0", "13.0.50-1"),
        stanza("cuda-cccl-13-0", "13.0.85-1"),
        stanza("cuda-driver-dev-13-0", "13.0.96-1"),
        stanza("cuda-unrelated-13-0", "1-1"),
        stanza("cuda-nvcc-12-9", "12.9.86-1"),
        stanza(
            "cuda-toolkit-13-0",
            "13.0.0-1",
            "cuda-nvcc-13-0 (>= 13.0.48), cuda-cccl-13-0 (>= 13.0.50)",
        ),
        stanza("cuda-toolkit-13-0", "13.0.2-1", "cuda-compiler-13-0 (>= 13.0.2)"),
        stanza("cuda-compiler-13-0", "13.0.2-1", "cuda-nvcc-13-0 (>= 13.0.88)"),
    ]
)
KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\ndummy\n-----END PGP PUBLIC KEY BLOCK-----\n"


def make_apt_repository(root: Path, distribution: str, index: str = CUDA_INDEX) -> None:
    """A vendor's repository for one distribution, as far as locking reads it."""
    folder = root / distribution / "x86_64"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Packages.gz").write_bytes(gzip.compress(index.encode()))
    (folder / "3bf863cc.pub").write_text(KEY)


# wheels -----------------------------------------------------------------------------------------


def make_wheel(folder: Path, name: str, version: str, metadata: str = "") -> Path:
    """A wheel that pip accepts and that holds nothing."""
    folder.mkdir(exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{stem}.dist-info/METADATA", head)
        wheel.writestr(
            f"{stem}.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
    return path
