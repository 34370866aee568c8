"""What nothing needs on a fleet's hosts, and what became of it: pure data, and its JSON form.

``schemas/prune.report.schema.json`` describes the document, version 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deploys.prune.unused import Item, Kept

PruneState = Literal["in order", "unused", "pruned", "partly", "refused", "unreachable", "error"]
VERSION = 1


@dataclass(frozen=True)
class HostPrune:
    """One host.

    + unused: what nothing needs there
    + kept: what stays, and why
    + removed: whether removal was asked for, and the host took it up
    + left: by path, why something unused is still there though removal was asked for
    + refusal: why nothing was removed though it was asked for
    + error: why the host can't be judged
    """

    name: str
    unused: tuple[Item, ...] = ()
    kept: tuple[Kept, ...] = ()
    removed: bool = False
    left: Mapping[str, str] = field(default_factory=dict)
    refusal: str = ""
    error: str = ""
    reached: bool = True

    @property
    def state(self) -> PruneState:
        """What became of it."""
        if self.error:
            return "error" if self.reached else "unreachable"
        if self.refusal:
            return "refused"
        if not self.unused:
            return "in order"
        if not self.removed:
            return "unused"
        return "partly" if self.left else "pruned"

    @property
    def size(self) -> int:
        """Bytes that are, or would be, free again; none where the host refused."""
        if self.refusal:
            return 0
        return sum(item.size for item in self.unused if item.path not in self.left)

    @property
    def kept_size(self) -> int:
        """Bytes of what stays."""
        return sum(item.size for item in self.kept)


@dataclass(frozen=True)
class Prune:
    """A fleet's hosts in their order."""

    fleet: str
    hosts: tuple[HostPrune, ...]

    @property
    def ok(self) -> bool:
        """Whether every host could be judged, and did what was asked."""
        return all(host.state in ("in order", "unused", "pruned") for host in self.hosts)


def failures(host: HostPrune) -> list[str]:
    """What went wrong with a host; empty for nothing."""
    found = [text for text in (host.error, host.refusal) if text]
    return found + [f"{path}: {why}" for path, why in host.left.items()]


def prune_document(prune: Prune) -> dict[str, Any]:
    """The JSON form."""
    return {
        "version": VERSION,
        "fleet": prune.fleet,
        "ok": prune.ok,
        "hosts": [_host(host) for host in prune.hosts],
        "failures": [
            {"host": host.name, "message": message}
            for host in prune.hosts
            for message in failures(host)
        ],
    }


def _host(host: HostPrune) -> dict[str, Any]:
    return {
        "name": host.name,
        "state": host.state,
        "error": host.error or host.refusal,
        "unused": [
            {
                "kind": item.kind,
                "path": item.path,
                "bytes": item.size,
                "why": item.why,
                "removed": host.removed and item.path not in host.left,
                "left": host.left.get(item.path, ""),
            }
            for item in host.unused
        ],
        "kept": [
            {
                "kind": item.kind,
                "path": item.path,
                "bytes": item.size,
                "why": item.why,
                "ours": item.ours,
            }
            for item in host.kept
        ],
        "bytes": host.size,
        "kept_bytes": host.kept_size,
    }
