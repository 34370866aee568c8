"""The thorough part: files hashed again, at the lowest priority that the host knows."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from deploys.common.changes import Change
from facts.drift import FileHashes
from facts.llama_cpp import BUILDS, LlamaCppBuilds, LlamaCppState
from facts.opencode import ROOT, OpenCode, OpenCodeState
from inventories.settings import HostSettings
from llamaherd.drift.targets import Options, hash_seconds

Progress = Callable[[int, int], None]
"""Told of files and bytes that were hashed just now."""

Ask = Callable[..., Any]


def deep_findings(
    settings: HostSettings,
    options: Options,
    ask: Ask,
    facts: Mapping[type, Any],
    progress: Progress,
) -> Iterator[Change]:
    """Files whose bytes aren't those that the lock, or a build's own record, names.

    + ask: reads a fact off the host
    + facts: what was read of it already, by fact
    """
    for path, file in options.chosen(settings):
        seconds = hash_seconds(file.size)
        seen = ask(FileHashes, paths=[path], seconds=seconds).get(path)
        progress(1, file.size)
        if seen is not None and seen != file.sha256:
            yield _other_bytes("models", path, seen, file.sha256, _model_remedy(path))
    wanted = _binaries(settings, options, facts)
    if not wanted:
        return
    hashes = ask(FileHashes, paths=sorted(wanted), seconds=60)
    for path, (component, sha256) in sorted(wanted.items()):
        if hashes.get(path, sha256) != sha256:
            remedy = f"remove {posixpath.dirname(path).removesuffix('/bin')}, then converge"
            yield _other_bytes(component, path, hashes[path], sha256, remedy)


def _other_bytes(component: str, path: str, seen: str, wanted: str, remedy: str) -> Change:
    summary = f"its SHA-256 is {seen[:16]}..., not {wanted[:16]}..."
    return Change("declared", path, summary, remedy=remedy, component=component)


def _model_remedy(path: str) -> str:
    """Size, time and inode are right, so a converge trusts the record: it has to go."""
    folder, name = posixpath.split(path)
    return f"remove {folder}/.verified/{name}.json on the host, then converge; and check its disk"


def _binaries(
    settings: HostSettings, options: Options, facts: Mapping[type, Any]
) -> dict[str, tuple[str, str]]:
    """Component and recorded SHA-256 of the programs that are there, by path."""
    found = {}
    builds: LlamaCppState = facts.get(LlamaCppBuilds, LlamaCppState())
    for name, manifest in builds.builds.items():
        if name in builds.damaged or not isinstance(manifest.get("binaries"), dict):
            continue
        for binary, record in manifest["binaries"].items():
            path = f"{BUILDS}/{name}/bin/{binary}"
            found[path] = ("llama_cpp", str(record).rpartition(" ")[2])
    opencode: OpenCodeState = facts.get(OpenCode, OpenCodeState())
    sha256 = opencode.manifest.get("sha256")
    if settings.opencode is not None and sha256 and opencode.binary_size:
        found[f"{ROOT}/{settings.opencode.version}/opencode"] = ("opencode", str(sha256))
    share = options.share
    return {
        path: value
        for path, value in found.items()
        if share is None or share.holds(settings.name, path, options.day)
    }
