"""Whether what a converge brings to a host fits on the file systems that it goes to. Pure.

What is to come is told from the settings, the lock's sizes and one look at what lies there
(:class:`facts.system.SystemState`), so a host in order costs no command more. What nobody says
beforehand is an estimate, named here: a build's work folder, and packages, whose sizes no lock
holds.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from deploys.common.changes import Change
from deploys.common.downloads import upload_path
from deploys.common.progress import human_bytes
from deploys.cuda.wheels import DISK_FACTOR, staging
from deploys.llama_cpp.build import Build, BuildError, machine, plan_build
from facts.opencode import ROOT as OPENCODE_ROOT
from facts.system import DISKS, PATHS, SystemState
from inventories.settings import ArchiveSource, Artifact, HostSettings, LlamaCppSettings

MARGIN = 1024**3
"""What is left free on every file system that something goes to; always on PATHS."""

WORK_BYTES = 3 * 1024**3
"""Room for a llama.cpp build while it is made, its source included (an estimate: static CUDA
binaries are 80 MB and more each, and their object files stay until the build is done)."""

OPENCODE_FACTOR = 5
"""The archive, what is unpacked of it (three times its size), and the archive's own parts."""

BUILD_TOOLS = {"/usr": 512 * 1024**2, "/var/cache": 160 * 1024**2}
"""Compiler, CMake, Ninja, headers: installed, and as archives (an estimate)."""

TOOLKIT = {
    "distribution": {"/usr": 5_600_000_000, "/var/cache": 1_600_000_000},
    "nvidia-repo": {"/usr": 4 * 1024**3, "/var/cache": 3 * 1024**3 // 2},
}
"""A toolkit's packages: the distribution's as seen on Debian 12, the vendor's as an estimate."""

ROOM = "make room there (llamaherd prune shows what nothing needs any more)"


@dataclass(frozen=True)
class Need:
    """Bytes that a converge brings to a place.

    + what: for people, such as ``models``; equal ones are summed up
    + path: where they go
    """

    what: str
    path: str
    size: int


def disk_findings(settings: HostSettings, facts: SystemState) -> list[Change]:
    """File systems that are too full for what is to come, each with the numbers and a remedy."""
    return [
        _short(mount, free, needs)
        for mount, free, needs in _by_mount(settings, facts)
        if sum(need.size for need in needs) + MARGIN > free
    ]


def needs(settings: HostSettings, facts: SystemState) -> tuple[Need, ...]:
    """Everything that a converge still brings; empty for a host that has it all."""
    found = [
        *_models(settings, facts),
        *_builds(settings, facts),
        *_toolkits(settings, facts),
        *_opencode(settings, facts),
        *_build_tools(settings, facts),
    ]
    return tuple(need for need in found if need.size > 0)


def _by_mount(
    settings: HostSettings, facts: SystemState
) -> Iterator[tuple[str, int, tuple[Need, ...]]]:
    """Each file system that counts, the bytes free there, and what goes to it."""
    to_come: dict[str, list[Need]] = {}
    free: dict[str, int] = {}
    for path in PATHS:
        if path in facts.disk_free:
            mount = facts.mounts.get(path, path)
            to_come.setdefault(mount, [])
            free[mount] = facts.disk_free[path]
    for need in needs(settings, facts):
        mount = _mount(need.path, facts)
        if mount:
            to_come.setdefault(mount, []).append(need)
            free[mount] = facts.disk_free[_place(need.path, facts)]
    for mount, there in to_come.items():
        yield mount, free[mount], tuple(there)


def _place(path: str, facts: SystemState) -> str:
    """The nearest of the paths whose file system was asked for; empty where none is."""
    above = [at for at in DISKS if at in facts.disk_free and f"{path}/".startswith(f"{at}/")]
    return max(above, key=len, default="")


def _mount(path: str, facts: SystemState) -> str:
    """The file system that a path lies on; the host may not have told of it."""
    place = _place(path, facts)
    return facts.mounts.get(place, place)


def _short(mount: str, free: int, needs: tuple[Need, ...]) -> Change:
    if not needs:
        summary = f"{mount} has {human_bytes(free)} left, at least {human_bytes(MARGIN)} are needed"
        return Change("declared", mount, summary, remedy=ROOM)
    sizes: dict[str, int] = {}
    for need in needs:
        sizes[need.what] = sizes.get(need.what, 0) + need.size
    total = sum(sizes.values())
    parts = ", ".join(f"{what} {human_bytes(size)}" for what, size in sizes.items())
    summary = (
        f"{human_bytes(total)} are to come to {mount} ({parts}) and {human_bytes(MARGIN)} must "
        f"stay free, it has {human_bytes(free)}"
    )
    smaller = ", or choose a smaller quant" if sizes.get("models", 0) * 2 > total else ""
    return Change("declared", mount, summary, remedy=f"{ROOM}{smaller}")


def _models(settings: HostSettings, facts: SystemState) -> Iterator[Need]:
    files = {
        posixpath.join(model.directory, file.name): file
        for model in settings.models
        for file in model.files
    }
    for path, file in files.items():
        arrived = max(facts.there.get(path, 0), facts.there.get(f"{path}.part", 0))
        if arrived < file.size:
            yield from _file("models", path, file, facts, file.size - arrived)


def _file(what: str, path: str, file: Artifact, facts: SystemState, size: int) -> Iterator[Need]:
    """What a file takes where it will lie, and among the uploads where it comes from the
    controller: from there it is renamed, which on one file system costs nothing.

    + size: bytes that it takes at ``path``, uploaded ones included
    """
    if file.path is None:
        yield Need(what, path, size)
        return
    upload = upload_path(file)
    uploaded = facts.there.get(upload, 0)
    if _mount(upload, facts) == _mount(path, facts):
        yield Need(what, path, size - uploaded)
        return
    yield Need(what, path, size)
    yield Need("uploads", upload, file.size - uploaded)


def _builds(settings: HostSettings, facts: SystemState) -> Iterator[Need]:
    for build, planned in planned_builds(settings, facts):
        if f"{planned.path}/manifest.json" in facts.there:
            continue
        size = WORK_BYTES - facts.there.get(planned.work, 0)
        if isinstance(build.source, ArchiveSource):
            file = build.source.artifact
            yield from _file("building llama.cpp", planned.work, file, facts, size + file.size)
        else:
            yield Need("building llama.cpp", planned.work, size)


def planned_builds(
    settings: HostSettings, facts: SystemState
) -> Iterator[tuple[LlamaCppSettings, Build]]:
    """The builds that these settings make there; what makes none is refused elsewhere."""
    for build, toolkit in settings.builds:
        with contextlib.suppress(BuildError):
            yield build, plan_build(build, toolkit, machine(facts))


def _toolkits(settings: HostSettings, facts: SystemState) -> Iterator[Need]:
    for toolkit in settings.toolkits:
        if toolkit.provider == "wheels" and f"{toolkit.root}/manifest.json" not in facts.there:
            for wheel in toolkit.wheels:
                size = DISK_FACTOR * wheel.size
                yield from _file("CUDA toolkit", staging(toolkit), wheel, facts, size)
        if f"{toolkit.root}/bin/nvcc" not in facts.there:
            for path, size in TOOLKIT.get(toolkit.provider, {}).items():
                yield Need("CUDA toolkit", path, size)


def _opencode(settings: HostSettings, facts: SystemState) -> Iterator[Need]:
    opencode = settings.opencode
    if opencode is None or facts.architecture not in opencode.artifacts:
        return
    artifact = opencode.artifacts[facts.architecture]
    final = f"{OPENCODE_ROOT}/{opencode.version}"
    if f"{final}/manifest.json" not in facts.there:
        yield from _file("OpenCode", final, artifact, facts, OPENCODE_FACTOR * artifact.size)


def _build_tools(settings: HostSettings, facts: SystemState) -> Iterator[Need]:
    if settings.builds and not facts.compiler:
        for path, size in BUILD_TOOLS.items():
            yield Need("compiler and CMake", path, size)
