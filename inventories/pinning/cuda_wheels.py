"""Pins a CUDA toolkit to the Python wheels that NVIDIA publishes.

pip resolves (``install --dry-run --report``: nothing is installed, and no wheel is downloaded where
the index serves metadata on its own); the report names each wheel's address and SHA-256. Which
index is asked is pip's configuration's business.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from inventories.lock import CudaPin
from inventories.pinning.names import check_file_name
from inventories.pinning.web import PinError, World, content_length, shown
from inventories.settings import Artifact

EXTRAS = "nvcc,cudart,cublas,cccl,crt,nvvm"
"""Parts of the toolkit that a build of llama.cpp needs."""

# Spelled out, newest first: pip takes a named platform literally and adds no older ones.
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(28, 16, -1)),
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
)
TIMEOUT = 600
"""Seconds that pip may take."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def pin_toolkit(body: Mapping[str, Any], world: World) -> CudaPin:
    """The wheels of a toolkit; ``13.0`` is the newest ``13.0.x``."""
    requirement = f"cuda-toolkit[{EXTRAS}]=={_specifier(str(body['version']))}"
    world.tick(f"pip resolves {requirement}")
    install = _report(requirement, world)
    wheels = tuple(sorted((_wheel(item, world) for item in install), key=lambda w: w.name))
    version = next(
        str(item["metadata"]["version"])
        for item in install
        if item["metadata"]["name"].replace("_", "-").lower() == "cuda-toolkit"
    )
    return CudaPin(request=body, version=version, wheels=wheels)


def _specifier(version: str) -> str:
    """A patch version is taken as written, with any fourth part; less than that is a prefix."""
    if not re.fullmatch(r"[0-9]+(\.[0-9]+){0,3}", version):
        raise PinError(f"cuda.version {version!r} must be a version such as 13.0 or 13.0.2")
    return f"{version}.*"


def _report(requirement: str, world: World) -> list[dict[str, Any]]:
    """pip's report: what it would install."""
    with tempfile.TemporaryDirectory(prefix="llamaherd-lock-") as folder:
        report = Path(folder) / "report.json"
        options = ["--dry-run", "--ignore-installed", "--quiet", "--no-input"]
        options += ["--only-binary=:all:", "--target", folder, "--report", str(report)]
        for platform in PLATFORMS:
            options += ["--platform", platform]
        done = _pip(["install", *options, requirement])
        if done.returncode != 0:
            raise PinError(_complaint(requirement, done.stderr))
        document = json.loads(report.read_text(encoding="utf-8"))
    install: list[dict[str, Any]] = document["install"]
    return install


def _pip(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *arguments]
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PinError(f"pip gave no answer ({type(error).__name__}); try again") from None


def _complaint(requirement: str, stderr: str) -> str:
    if "No module named pip" in stderr:
        return f"pip is missing from {sys.executable}'s environment; install pip there"
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if "ERROR" in line]
    versions = next((e.partition("from versions:")[2] for e in errors if "from versions" in e), "")
    known = versions.strip(" )")
    if known and known != "none":
        return f"no wheels for {requirement}; there are cuda-toolkit {known}: change cuda.version"
    return f"pip can't resolve {requirement}: {(errors or ['it says nothing'])[-1]}"


def _wheel(item: Mapping[str, Any], world: World) -> Artifact:
    url = str(item["download_info"]["url"])
    sha256 = _sha256(item["download_info"].get("archive_info") or {}, url)
    parts = urlsplit(url)
    name = check_file_name(unquote(parts.path).rpartition("/")[2])
    if parts.scheme == "file":
        path = unquote(parts.path)
        return Artifact(name, _file_size(path), sha256, path=path)
    world.tick(f"asking for {name}")
    address = parts._replace(fragment="").geturl()
    if "@" in parts.netloc:
        raise PinError(
            f"{shown(url)}: pip's index address carries a password; it would get into the lock "
            "file: give it by ~/.netrc or a keyring instead"
        )
    return Artifact(name, content_length(address), sha256, url=address)


def _sha256(archive_info: Mapping[str, Any], url: str) -> str:
    found = str((archive_info.get("hashes") or {}).get("sha256", ""))
    if not _SHA256.fullmatch(found):
        raise PinError(f"{shown(url)}: pip's index states no SHA-256 of it; use one that does")
    return found


def _file_size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise PinError(f"{path}: {error.strerror}") from None
