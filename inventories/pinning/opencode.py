"""Pins an OpenCode release: npm's platform packages, their tarballs read once and hashed.

The packages are ``opencode-linux-x64`` and ``opencode-linux-arm64``. The registry's own SHA-512
(``dist.integrity``) must match what is read. No registry is written down here: the fleet file, the
environment or npm's own configuration name it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from inventories.lock import OpenCodePin
from inventories.opencode_version import refusal
from inventories.pinning.web import (
    PinError,
    World,
    ask,
    ask_json,
    decode_json,
    hash_url,
    require_ok,
    shown,
    without_userinfo,
)
from inventories.settings import Artifact

PACKAGES = {"x86_64": "opencode-linux-x64", "aarch64": "opencode-linux-arm64"}
"""npm package by machine architecture."""


def pin_release(body: Mapping[str, Any], world: World) -> OpenCodePin:
    """The release's tarball for each architecture that has one."""
    version = str(body["version"])
    if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?", version):
        raise PinError(f"opencode.version {version!r} must be a whole version, such as 1.18.33")
    if refused := refusal(version):
        raise PinError(f"opencode.version: {refused}")
    registry = find_registry(body.get("registry"), world)
    artifacts = {
        architecture: artifact
        for architecture, package in PACKAGES.items()
        if (artifact := _artifact(registry, package, version, world)) is not None
    }
    if not artifacts:
        raise PinError(f"{shown(registry)}: has no OpenCode {version}; check opencode.version")
    return OpenCodePin(request=body, version=version, artifacts=artifacts)


def find_registry(named: str | None, world: World) -> str:
    """Where npm packages come from: the fleet file, the environment, then npm's configuration."""
    environment = world.environment
    found = (
        named
        or environment.get("NPM_CONFIG_REGISTRY")
        or environment.get("npm_config_registry")
        or _npm_says(world)
    )
    if not found or urlsplit(found).scheme not in ("http", "https"):
        raise PinError(
            "no npm registry is known: set opencode.registry in the fleet file, or "
            "NPM_CONFIG_REGISTRY, or install npm"
        )
    return without_userinfo(found.rstrip("/"), "the npm registry")


def _npm_says(world: World) -> str | None:
    npm = shutil.which("npm", path=world.environment.get("PATH"))
    if npm is None:
        return None
    try:
        done = subprocess.run(
            [npm, "config", "get", "registry"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[-1].strip() if done.returncode == 0 and lines else None


def _artifact(registry: str, package: str, version: str, world: World) -> Artifact | None:
    """The package's tarball; None when the registry doesn't have this package or version."""
    url = f"{registry}/{quote(package)}/{quote(version)}"
    world.tick(f"asking for {package} {version}")
    response = ask(url)
    if response.status_code == 404:
        return None
    require_ok(response, url)
    document = decode_json(response, url)
    dist = document.get("dist") if isinstance(document, dict) else None
    tarball = dist.get("tarball") if isinstance(dist, dict) else None
    if not isinstance(dist, dict) or not isinstance(tarball, str):
        raise PinError(f"{shown(url)}: names no tarball; is opencode.registry an npm registry?")
    expected = _sha512(dist.get("integrity"), url)
    sha512 = hashlib.sha512()
    size, sha256 = hash_url(tarball, tick=world.tick, also=(sha512,))
    if sha512.digest() != expected:
        raise PinError(
            f"{shown(tarball)}: its SHA-512 isn't the one that the registry states; "
            "the registry or something on the way is broken: don't use it"
        )
    return Artifact(f"{package}-{version}.tgz", size, sha256, url=tarball)


def _sha512(integrity: Any, url: str) -> bytes:
    """The SHA-512 of a subresource-integrity string."""
    for word in str(integrity or "").split():
        algorithm, _, value = word.partition("-")
        if algorithm == "sha512":
            try:
                return base64.b64decode(value.partition("?")[0], validate=True)
            except binascii.Error:
                break
    raise PinError(f"{shown(url)}: states no SHA-512 of the tarball; use a registry that does")


def published(body: Mapping[str, Any], world: World) -> str:
    """The version that the registry calls the latest."""
    registry = find_registry(body.get("registry"), world)
    url = f"{registry}/{quote(next(iter(PACKAGES.values())))}/latest"
    document = ask_json(url)
    version = document.get("version") if isinstance(document, dict) else None
    if not isinstance(version, str):
        raise PinError(f"{shown(url)}: names no version; is opencode.registry an npm registry?")
    return version
