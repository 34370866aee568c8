"""A package repository as NVIDIA's is: flat, signed, with its package names and dummy content."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NVCC = """#!/bin/sh
echo "nvcc: NVIDIA (R) Cuda compiler driver"
echo "Cuda compilation tools, release 13.0, V{version}"
"""


@dataclass(frozen=True)
class Dummy:
    """A package to be built. ``files`` are contents by absolute path, executable all of them."""

    name: str
    version: str
    depends: str = ""
    conflicts: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


def toolkit(version: str = "13.0.88", depends: str = "", conflicts: str = "") -> tuple[Dummy, ...]:
    """What a build needs of a toolkit, with the dependencies that matter here.

    + depends, conflicts: more of them, for the compiler's package
    """
    major, minor, _ = version.split(".")
    series, revision = f"{major}-{minor}", f"{version}-1"
    nvcc = {f"/usr/local/cuda-{major}.{minor}/bin/nvcc": NVCC.format(version=version)}
    needs = f"cuda-crt-{series} (>= {revision}), libnvvm-{series}{depends and f', {depends}'}"
    return (
        Dummy(f"cuda-nvcc-{series}", revision, depends=needs, conflicts=conflicts, files=nvcc),
        Dummy(f"cuda-crt-{series}", revision),
        Dummy(f"libnvvm-{series}", revision),
        Dummy(f"cuda-cudart-dev-{series}", revision, depends=f"cuda-driver-dev-{series}"),
        Dummy(f"cuda-cccl-{series}", revision),
        Dummy(f"cuda-driver-dev-{series}", revision),
        Dummy(f"libcublas-dev-{series}", f"{series.replace('-', '.')}.1.3-1"),
    )


class Repository:
    """A folder ``<distribution>/x86_64/`` with packages, indexes, signature and public key."""

    def __init__(self, folder: Path, distribution: str = "debian12") -> None:
        self.folder = folder
        self.flat = folder / distribution / "x86_64"
        self.flat.mkdir(parents=True)
        self._home = folder / "gnupg"
        self._home.mkdir(mode=0o700)
        self._gpg("--quick-generate-key", "Lab repository", "ed25519", "sign", "never")
        (self.flat / "3bf863cc.pub").write_bytes(self._gpg("--armor", "--export"))

    def _gpg(self, *arguments: str) -> bytes:
        command = ["gpg", "--homedir", str(self._home), "--batch", "--passphrase", ""]
        return subprocess.run([*command, *arguments], check=True, capture_output=True).stdout

    def add(self, packages: Sequence[Dummy]) -> None:
        """Build packages, and index and sign anew all that there are."""
        for package in packages:
            self._build(package)
        self.index()

    def _build(self, package: Dummy) -> None:
        root = self.folder / "build" / f"{package.name}_{package.version}"
        if root.exists():
            return
        (root / "DEBIAN").mkdir(parents=True)
        control = (
            f"Package: {package.name}\nVersion: {package.version}\nArchitecture: amd64\n"
            "Maintainer: Lab <lab@example.invalid>\nDescription: dummy\n"
        )
        if package.depends:
            control += f"Depends: {package.depends}\n"
        if package.conflicts:
            control += f"Conflicts: {package.conflicts}\n"
        (root / "DEBIAN" / "control").write_text(control, encoding="utf-8")
        for path, content in package.files.items():
            file = root / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
            file.chmod(0o755)
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(root), str(self.flat)],
            check=True,
            capture_output=True,
        )

    def index(self) -> None:
        """Write ``Packages``, ``Packages.gz`` and the signed ``InRelease``."""
        text = "\n".join(_stanza(deb) for deb in sorted(self.flat.glob("*.deb")))
        (self.flat / "Packages").write_text(text, encoding="utf-8")
        (self.flat / "Packages.gz").write_bytes(gzip.compress(text.encode()))
        names = ("Packages", "Packages.gz")
        sums = "".join(
            f" {_sha256(self.flat / name)} {(self.flat / name).stat().st_size} {name}\n"
            for name in names
        )
        release = f"Origin: NVIDIA\nLabel: NVIDIA CUDA\nSuite: \nArchitectures: amd64\n{_date()}"
        (self.flat / "Release").write_text(f"{release}SHA256:\n{sums}", encoding="utf-8")
        (self.flat / "InRelease").unlink(missing_ok=True)
        self._gpg("--clearsign", "-o", str(self.flat / "InRelease"), str(self.flat / "Release"))

    @contextmanager
    def serve(self, address: str) -> Iterator[str]:
        """Serve the folder on a free port of ``address``; gives its base address."""
        handler = partial(_Quiet, directory=str(self.folder))
        server = ThreadingHTTPServer((address, 0), handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{address}:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


def _stanza(deb: Path) -> str:
    control = subprocess.run(
        ["dpkg-deb", "--field", str(deb)], check=True, capture_output=True, text=True
    ).stdout
    size = deb.stat().st_size
    return f"{control}Filename: ./{deb.name}\nSize: {size}\nSHA256: {_sha256(deb)}\n"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _date() -> str:
    done = subprocess.run(["date", "-Ru"], check=True, capture_output=True, text=True)
    return f"Date: {done.stdout.strip().replace('+0000', 'UTC')}\n"
