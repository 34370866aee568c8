"""Preflight's answers for one host as rows of a table: what is there, or what stands in the way.

Pure. The verdicts are those of :mod:`deploys.preflight`, by which a converge stops; the disk's row
also counts what the converge is going to bring, so that it is told beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence

from deploys.common.progress import human_bytes
from deploys.preflight import DISK_MARGIN, by_area
from facts.system import SystemState
from inventories.settings import HostSettings
from llamaherd.drift.report import PreflightRow

COMPILE_BYTES = 3 * 1024**3
"""Room for a llama.cpp build while it is made, its source included."""

Cost = tuple[str, int, bool]
"""Where something will lie (a path or a name), the bytes it brings, whether it is compiled."""


def preflight_rows(
    settings: HostSettings, facts: SystemState, costs: Sequence[Cost]
) -> tuple[PreflightRow, ...]:
    """A row an area, in the order of a converge's own preflight.

    + costs: what a converge would bring to the host
    """
    found = by_area(settings, facts)
    ports = [str(server.port) for server in settings.servers if server.port]
    details = {
        "rights": "as root" if settings.ssh.user == "root" else f"by sudo as {settings.ssh.user}",
        "system": _system(facts),
        "GPU": _gpus(settings, facts),
        "build": _build(settings),
        "memory": human_bytes(facts.memory_total),
        "ports": ", ".join(ports) or "none needed",
    }
    rows = []
    for area, changes in found.items():
        if changes:
            summary = "; ".join(f"{change.summary}: {change.remedy}" for change in changes)
            rows.append(PreflightRow(area, False, summary))
        elif area == "disk":
            rows.append(_disk(facts, costs))
        else:
            rows.append(PreflightRow(area, True, details[area]))
    return tuple(rows)


def _system(facts: SystemState) -> str:
    words = [f"{facts.distribution} {facts.version_id}", f"systemd {facts.systemd}"]
    return ", ".join([*words, f"glibc {facts.glibc}"] if facts.glibc else words)


def _build(settings: HostSettings) -> str:
    if settings.llama_cpp is None:
        return "none needed"
    return f"b{settings.llama_cpp.build_number}-{settings.llama_cpp.commit[:7]}"


def _gpus(settings: HostSettings, facts: SystemState) -> str:
    if settings.cuda is None or settings.cuda.provider == "none":
        return "none needed"
    names = [gpu.name.removeprefix("NVIDIA ") for gpu in facts.gpus]
    driver = next((gpu.driver for gpu in facts.gpus), "")
    return ", ".join([*names, *([f"driver {driver}"] if driver else [])]) or "none needed"


def _disk(facts: SystemState, costs: Sequence[Cost]) -> PreflightRow:
    """Free space against what is to come; one file system counts once."""
    needs: dict[str, int] = dict.fromkeys(facts.disk_free, 0)
    for subject, fetch, compiled in costs:
        path = next((path for path in needs if subject.startswith(f"{path}/")), None)
        if path is not None:
            needs[path] += fetch + (COMPILE_BYTES if compiled else 0)
    systems: dict[int, int] = {}
    for path, free in facts.disk_free.items():
        systems[free] = systems.get(free, 0) + needs[path]
    short = [(free, need) for free, need in systems.items() if need and need + DISK_MARGIN > free]
    if short:
        free, need = short[0]
        detail = f"{human_bytes(need)} to come and {human_bytes(DISK_MARGIN)} to spare, "
        return PreflightRow("disk", False, f"{detail}{human_bytes(free)} free: make room")
    free = min(facts.disk_free.values(), default=0)
    return PreflightRow("disk", True, f"{human_bytes(free)} free")
