"""Preflight's answers for one host as rows of a table: what is there, or what stands in the way.

Pure. The verdicts are those of :mod:`deploys.preflight`, by which a converge stops.
"""

from __future__ import annotations

from deploys.common.progress import human_bytes
from deploys.preflight import by_area
from deploys.preflight.disk import needs
from deploys.preflight.memory import memory_notes
from facts.system import SystemState
from inventories.settings import HostSettings
from llamaherd.drift.report import PreflightRow


def preflight_rows(settings: HostSettings, facts: SystemState) -> tuple[PreflightRow, ...]:
    """A row an area, in the order of a converge's own preflight."""
    found = by_area(settings, facts)
    ports = [str(server.port) for server in settings.servers if server.port]
    details = {
        "rights": "as root" if settings.ssh.user == "root" else f"by sudo as {settings.ssh.user}",
        "system": _system(facts),
        "disk": _disk(settings, facts),
        "GPU": _gpus(settings, facts),
        "build": _build(settings),
        "memory": "; ".join([human_bytes(facts.memory_total), *memory_notes(settings, facts)]),
        "ports": ", ".join(ports) or "none needed",
        "settings": "as they must be",
    }
    rows = []
    for area, changes in found.items():
        if changes:
            summary = "; ".join(f"{change.summary}: {change.remedy}" for change in changes)
            rows.append(PreflightRow(area, False, summary))
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


def _disk(settings: HostSettings, facts: SystemState) -> str:
    free = human_bytes(min(facts.disk_free.values(), default=0))
    total = sum(need.size for need in needs(settings, facts))
    return f"{free} free" + (f", up to {human_bytes(total)} to come" if total else "")
