"""The fleet file as a typed, frozen model: merged, with the place where each value was written.

``load_fleet`` is the only way in. What it returns has passed both layers of validation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from inventories.effective import Filler, host_values
from inventories.merge import empty_mapping, without_nulls
from inventories.references import resolve_default, resolve_providers
from inventories.semantics import Draft, check_draft, draft_of
from schemas.document import Document, Node, read_document
from schemas.problems import Position, ProblemsError
from schemas.validate import check_document

SCHEMA = "fleet.schema.json"
DEFAULT_HUB = "https://huggingface.co"

K = TypeVar("K")
V = TypeVar("V")


class LazyMapping(Mapping[K, V]):
    """A mapping that is built when it is first looked into: ten thousand hosts seldom are."""

    __slots__ = ("_build", "_built")

    def __init__(self, build: Callable[[], dict[K, V]]) -> None:
        self._build = build
        self._built: dict[K, V] | None = None

    def _mapping(self) -> dict[K, V]:
        if self._built is None:
            self._built = self._build()
        return self._built

    def __getitem__(self, key: K) -> V:
        return self._mapping()[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._mapping())

    def __len__(self) -> int:
        return len(self._mapping())


@dataclass(frozen=True)
class FleetHost:
    """One host: its effective values (defaults < groups < host, schema defaults filled in).

    + groups: every group of the host in the order of merging, included groups before the group
      that includes them
    + values: sections ``ssh`` and ``servers`` always, ``cuda``, ``llama_cpp``, ``opencode`` and
      ``controller`` where the fleet file has them. Hosts with the same settings share these values:
      never change them
    + origins: the path of each leaf and of each list, such as ``("servers", "coder", "port")``,
      to where it was written; a value that comes from the schema's default has no entry
    """

    name: str
    groups: tuple[str, ...]
    values: Mapping[str, Any]
    origins: Mapping[tuple[str, ...], Position]


@dataclass(frozen=True)
class Fleet:
    """A valid fleet.

    + models: as written, on top of the catalogue's, with schema defaults
    + model_origins: by model, the path of each value to where it was written, in whichever file
    + groups: the names of each group's hosts; a host of a group is a host of every group that this
      one includes
    + positions: every path of the file (from its root) to where it is written
    + hub: as written; :func:`hub_endpoint` answers with the default as well
    + drift: the scheduled check, with schema defaults
    """

    path: Path
    models: Mapping[str, Mapping[str, Any]]
    hosts: Mapping[str, FleetHost]
    groups: Mapping[str, tuple[str, ...]]
    positions: Mapping[tuple[str, ...], Position]
    hub: Mapping[str, Any] = field(default_factory=dict)
    drift: Mapping[str, Any] = field(default_factory=dict)
    model_origins: Mapping[str, Mapping[tuple[str, ...], Position]] = field(default_factory=dict)


def load_fleet(path: Path) -> Fleet:
    """Read, validate and merge a fleet file.

    Raises :class:`schemas.problems.ProblemsError` with every problem found, and never anything
    else for bad content; a file that cannot be read is a problem at line 1 as well.
    """
    return fleet_of(read_document(path), path)


def fleet_of(document: Document, path: Path) -> Fleet:
    """The fleet that a document describes; raises :class:`ProblemsError` as ``load_fleet`` does."""
    problems = check_document(document, SCHEMA)
    root = document.root
    if root is None or root.kind != "mapping":
        raise ProblemsError(problems)
    draft = draft_of(root)
    problems += check_draft(draft, document)
    if problems:
        raise ProblemsError(problems)
    return _build(document, root, draft, path)


def opencode_providers(fleet: Fleet, host_name: str) -> dict[str, tuple[str, str]]:
    """The providers of OpenCode on a host: id to (host, server). Empty without OpenCode.

    Those written under ``opencode.providers``; and ``llama.cpp`` for the default server (or the
    host's only one) when no written provider has it.
    """
    values = fleet.hosts[host_name].values
    if "opencode" not in values:
        return {}
    return resolve_providers(host_name, values["opencode"], tuple(values["servers"]))


def default_provider(fleet: Fleet, host_name: str) -> str | None:
    """The id of the provider that OpenCode starts with; None without OpenCode on the host."""
    values = fleet.hosts[host_name].values
    if "opencode" not in values:
        return None
    providers = opencode_providers(fleet, host_name)
    return resolve_default(host_name, values["opencode"], providers)


def hub_endpoint(fleet: Fleet, model: str, environ: Mapping[str, str] = os.environ) -> str:
    """The hub that a model comes from, without a slash at the end.

    The model's own ``hub.endpoint``, else the fleet's, else ``$HF_ENDPOINT``, else the public hub.
    """
    own = fleet.models[model].get("hub", {}).get("endpoint")
    endpoint: str = own or fleet.hub.get("endpoint") or environ.get("HF_ENDPOINT") or DEFAULT_HUB
    return endpoint.rstrip("/")


def _build(document: Document, root: Node, draft: Draft, path: Path) -> Fleet:
    filler = Filler()
    hosts = {
        name: FleetHost(
            name=name,
            groups=draft.host_groups[name],
            values=host_values(merged, name, filler),
            origins=LazyMapping(lambda node=merged: _origins(document, node)),  # type: ignore[misc]
        )
        for name, merged in draft.hosts.items()
    }
    members: dict[str, list[str]] = {group: [] for group in draft.groups}
    for host in hosts.values():
        for group in host.groups:
            members[group].append(host.name)
    hub, drift = root.get("hub"), root.get("drift")
    return Fleet(
        path=path,
        models={
            name: filler.fill(without_nulls(node), "model") for name, node in draft.models.items()
        },
        hosts=hosts,
        groups={group: tuple(names) for group, names in members.items()},
        positions=LazyMapping(
            lambda: {where: document.position(mark) for where, mark in root.walk()}
        ),
        hub=hub.plain() if hub is not None else {},
        drift=filler.fill(without_nulls(drift or empty_mapping((1, 1))), "drift"),
        model_origins=LazyMapping(
            lambda: {name: _origins(document, node) for name, node in draft.models.items()}
        ),
    )


def _origins(document: Document, merged: Node) -> dict[tuple[str, ...], Position]:
    found: dict[tuple[str, ...], Position] = {}
    stack: list[tuple[tuple[str, ...], Node]] = [((), merged)]
    while stack:
        path, node = stack.pop()
        if node.kind == "mapping" and node.value:
            stack.extend(((*path, key), child) for key, child in reversed(node.value.items()))
        else:
            found[path] = document.position(node.mark)
    return found
