"""What can't fit by the fleet's files alone: servers against the GPUs that their hosts declare.

Pure. Only hosts with ``gpus`` are looked at, and servers whose model the lock or the catalogue
knows. Hosts that declare and serve the same are worked out once, and told once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inventories.fleet import Fleet, FleetHost
from inventories.lock import Lock, position_of
from inventories.resolve import declared_gpus, server_settings
from inventories.settings import DeclaredGpu
from inventories.sizing.dimensions import Dimensions
from inventories.sizing.known import KnownModel, known_model
from inventories.sizing.placement import Card, Want, shortages
from inventories.sizing.wants import wants_of
from schemas.document import dotted
from schemas.problems import Position, Problem

# Settings that say nothing of memory, and may differ from host to host.
_OTHER = ("port", "host", "address", "api_key", "tls")


@dataclass(frozen=True)
class _Finding:
    path: tuple[str, ...]
    message: str


def check_memory(fleet: Fleet, lock: Lock | None) -> list[Problem]:
    """Every server that can't be, with the numbers and the settings that would mend it.

    + lock: None when there is none yet; then only the catalogue's models are known
    """
    models: dict[str, KnownModel | None] = {}
    seen: dict[str, tuple[_Finding, ...]] = {}
    told: dict[tuple[Position, str], list[str]] = {}
    paths: dict[tuple[Position, str], tuple[str, ...]] = {}
    for host in fleet.hosts.values():
        if not host.values.get("gpus") or _on_cpu(host):
            continue
        key = repr((host.values["gpus"], [_asked(s) for s in host.values["servers"].items()]))
        if key not in seen:
            seen[key] = tuple(_findings(host, fleet, lock, models))
        for finding in seen[key]:
            where = (_position(fleet, host, finding.path), finding.message)
            told.setdefault(where, []).append(host.name)
            paths.setdefault(where, ("hosts", host.name, *finding.path))
    return sorted(
        Problem(position, dotted(paths[position, message]), message + _others(len(hosts) - 1))
        for (position, message), hosts in told.items()
    )


def _on_cpu(host: FleetHost) -> bool:
    cuda = host.values.get("cuda") or {}
    return bool(cuda.get("provider", "none") == "none")


def _others(count: int) -> str:
    return f" (and on {count:,} more host{'s' if count > 1 else ''})" if count else ""


def _asked(item: tuple[str, Mapping[str, Any]]) -> tuple[Any, ...]:
    name, server = item
    return (name, *((key, server[key]) for key in server if key not in _OTHER))


def _findings(
    host: FleetHost, fleet: Fleet, lock: Lock | None, models: dict[str, KnownModel | None]
) -> Iterator[_Finding]:
    declared = declared_gpus(host.values["gpus"]) or ()
    if any(gpu.get("uuid") and gpu.get("count", 1) > 1 for gpu in host.values["gpus"]):
        yield _Finding(("gpus",), "a UUID is one GPU's: write each of them on its own, or no uuid")
        return

    def known(name: str) -> tuple[Dimensions, int] | None:
        if name not in models:
            models[name] = known_model(fleet, lock, name)
        model = models[name]
        return None if model is None else (model.dimensions, model.extra)

    wants: list[Want] = []
    for name, server in host.values["servers"].items():
        unknown = _unknown(server, declared)
        if unknown:
            yield _Finding(("servers", name, "gpus"), unknown)
            continue
        if server["gpus"] != []:
            wants += wants_of(server_settings(fleet, host, name), known)
    cards = [Card(i, gpu.memory, gpu.name, gpu.uuid) for i, gpu in enumerate(declared)]
    for found in shortages(wants, cards):
        server = host.values["servers"][found.server]
        part = "models" if server.get("models") else "context"
        yield _Finding(("servers", found.server, part), f"{found.summary}: {found.remedy}")


def _unknown(server: Mapping[str, Any], declared: Sequence[DeclaredGpu]) -> str:
    """What to say of a GPU that a server names and the host doesn't declare; empty for none."""
    named = () if server["gpus"] == "all" else server["gpus"]
    for gpu in named:
        if str(gpu).isdecimal() and int(gpu) >= len(declared):
            count = len(declared)
            return f"there is no GPU {gpu}: the host's gpus are {count}, numbered from 0"
    return ""


def _position(fleet: Fleet, host: FleetHost, path: tuple[str, ...]) -> Position:
    """Where it is written, or what stands for it: the server's model, the host."""
    for where in (path, (*path[:-1], "model"), (*path[:-1], "models")):
        if where in host.origins:
            return host.origins[where]
    return position_of(fleet, ("hosts", host.name))
