"""Whether the servers' models fit into the memory of the GPUs they name, and into the host's.

Pure. What fits on GPUs is :mod:`inventories.sizing.placement`'s; here it is asked of the cards that
a host really has. A model of unknown dimensions, a GPU without memory of its own, and a server
whose ``extra_args`` place things by hand are left to llama.cpp. Where the fleet file declares the
host's GPUs, cards that are missing or others are told, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, zip_longest
from typing import Any

from deploys.common.changes import Change
from facts.gpu import Gpu
from facts.system import SystemState
from inventories.settings import DeclaredGpu, HostSettings, ModelSettings, ServerSettings
from inventories.sizing.dimensions import Dimensions
from inventories.sizing.estimate import MIB, Load, cache_bytes, state_bytes
from inventories.sizing.placement import Card, gib, shortages
from inventories.sizing.wants import server_load, wants_of

TOLERANCE = 0.02
"""Share by which a card's memory may differ from what is declared: 24G is a 24,564 MiB card."""


def memory_findings(settings: HostSettings, facts: SystemState) -> list[Change]:
    """Servers whose models can't fit, with the numbers and the settings that would mend it."""
    return [*_gpu_memory(settings, facts.gpus), *_host_memory(settings, facts.memory_total)]


def declared_findings(settings: HostSettings, facts: SystemState) -> list[Change]:
    """Where the cards aren't those that the fleet file declares; nothing where it declares none.

    A card that is missing is what people want to be told: it may have fallen off the bus. One that
    nobody declared makes what ``llamaherd validate`` says wrong. A host whose driver shows no card
    at all has a finding of its own.
    """
    on_cpu = settings.cuda is None or settings.cuda.provider == "none"
    if settings.gpus is None or on_cpu or not facts.gpus:
        return []
    pairs = zip_longest(settings.gpus, facts.gpus)
    found = [_difference(index, *pair) for index, pair in enumerate(pairs)]
    differences = [text for text in found if text]
    if not differences:
        return []
    remedy = f"write what is there in its entry, gpus: {_flow(declared_as(facts.gpus))}"
    if len(settings.gpus) > len(facts.gpus):
        remedy = f"look at lspci, and for Xid errors in dmesg, or {remedy}"
    return [Change("declared", "GPUs", "; ".join(differences), remedy=remedy)]


def _difference(index: int, declared: DeclaredGpu | None, real: Gpu | None) -> str:
    """What is wrong with one card; empty when it is as declared."""
    if declared is None:
        return f"GPU {index} ({_real(real)}) isn't declared"
    wanted = ", ".join(filter(None, (declared.name, f"{declared.memory // MIB}M", declared.uuid)))
    if real is None:
        return f"GPU {index} is declared ({wanted}), and the driver doesn't list it"
    off = abs((real.memory_total or 0) * MIB - declared.memory)
    same = (
        off <= TOLERANCE * declared.memory
        and declared.name in ("", real.name)
        and declared.uuid in ("", real.uuid)
    )
    return "" if same else f"GPU {index} is declared as {wanted}, and is {_real(real)}"


def _real(gpu: Gpu | None) -> str:
    if gpu is None:
        return "none"
    return ", ".join(filter(None, (gpu.name, f"{gpu.memory_total or 0}M", gpu.uuid)))


def declared_as(gpus: Sequence[Gpu]) -> list[dict[str, Any]]:
    """The cards as a fleet file's ``gpus`` has them: like ones that follow each other together.

    A list that holds a card without memory of its own can't be written: it is empty then.
    """
    if not all(gpu.memory_total for gpu in gpus):
        return []
    return [
        {"name": name, "memory": f"{memory}M"} | ({"count": count} if count > 1 else {})
        for (name, memory), same in groupby(gpus, key=lambda gpu: (gpu.name, gpu.memory_total))
        if (count := len(list(same)))
    ]


def _flow(gpus: Sequence[Mapping[str, Any]]) -> str:
    """On one line, as the fleet file would have it."""
    entries = (", ".join(f"{key}: {value}" for key, value in gpu.items()) for gpu in gpus)
    return f"[{', '.join(f'{{{entry}}}' for entry in entries)}]"


def _on_cpu(settings: HostSettings, server: ServerSettings) -> bool:
    return server.gpus == () or settings.backends_of(server) == ("cpu",)


# GPUs -------------------------------------------------------------------------------------------


def _gpu_memory(settings: HostSettings, gpus: Sequence[Gpu]) -> list[Change]:
    cards = [Card(g.index, (g.memory_total or 0) * MIB, g.name, g.uuid) for g in gpus]

    def known(name: str) -> tuple[Dimensions, int] | None:
        model = next((model for model in settings.models if model.name == name), None)
        if model is None or model.dimensions is None:
            return None
        # Shards come first; a projector and adapters are files of their own.
        own = {model.mmproj, *(adapter.file for adapter in model.adapters)}
        extra = sum(file.size for file in model.files if file.name in own)
        return model.dimensions, extra

    servers = [server for server in settings.servers if not _on_cpu(settings, server)]
    wants = [want for server in servers for want in wants_of(server, known)]
    return [
        Change("declared", "GPU memory", found.summary, remedy=found.remedy)
        for found in shortages(wants, cards)
    ]


def _model(settings: HostSettings, server: ServerSettings) -> ModelSettings | None:
    return next((model for model in settings.models if model.name == server.model), None)


# Host memory ------------------------------------------------------------------------------------


@dataclass
class _InMemory:
    """Bytes that servers keep in the host's memory.

    + files: by model; several servers of one share it
    + experts: of models on GPUs that leave some layers' experts behind, by model
    + caches, prompts: by server; prompts only as far as ``cache_ram`` says
    """

    files: dict[str, int] = field(default_factory=dict)
    experts: dict[str, int] = field(default_factory=dict)
    caches: dict[str, int] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[tuple[str, dict[str, int]], ...]:
        """Each part that there is, as people call it."""
        named = (
            ("weights", self.files),
            ("experts", self.experts),
            ("K/V", self.caches),
            ("prompts", self.prompts),
        )
        return tuple((name, sizes) for name, sizes in named if sum(sizes.values()))


def _host_memory(settings: HostSettings, memory: int) -> list[Change]:
    """What all servers together keep in the host's memory, against all that there is."""
    found = _in_memory(settings)
    needed = sum(sum(sizes.values()) for _, sizes in found.parts)
    if not memory or needed <= memory:
        return []
    names = [
        server.name
        for server in settings.servers
        if found.caches.get(server.name)
        or found.prompts.get(server.name)
        or any(served.model in found.experts for served in server.served)
    ]
    told = ", ".join(f"{name} {gib(sum(sizes.values()))}" for name, sizes in found.parts)
    summary = (
        f"server{'s' if len(names) > 1 else ''} {', '.join(names)} would need {gib(needed)} "
        f"of memory, the host has {gib(memory)} ({told})"
    )
    return [Change("declared", "memory", summary, remedy=_host_remedy(found))]


# llama.cpp's own --cache-ram: a limit that prompts grow up to, nothing that a start takes.
CACHE_RAM = 8192 * MIB


def memory_notes(settings: HostSettings, facts: SystemState) -> list[str]:
    """What may fill the host's memory by and by and is no reason to refuse: prompts without a
    limit of the fleet file's, where the rest leaves no room for them."""
    memory = facts.memory_total
    needed = sum(sum(sizes.values()) for _, sizes in _in_memory(settings).parts)
    loose = [(server, each) for server in settings.servers for each in server.served]
    endless = [server.name for server, each in loose if (each.cache_ram or 0) < 0]
    unset = [server.name for server, each in loose if each.cache_ram is None]
    found = [
        f"server {name} keeps prompts in the host's memory without a limit: set "
        f"servers.{name}.cache_ram"
        for name in dict.fromkeys(endless)
    ]
    prompts = len(unset) * CACHE_RAM
    if memory and unset and needed <= memory < needed + prompts:
        names = list(dict.fromkeys(unset))
        found.append(
            f"server{'s' if len(names) > 1 else ''} {', '.join(names)} may keep up to "
            f"{gib(prompts)} of prompts in memory, {gib(memory - needed)} of the host's "
            f"{gib(memory)} are left for them: set servers.{names[0]}.cache_ram"
        )
    return found


def _host_remedy(found: _InMemory) -> str:
    """The settings that would mend it, those of the biggest parts first."""
    ways: list[tuple[int, str]] = []
    for sizes, way in (
        (found.prompts, "set servers.{}.cache_ram lower"),
        (found.caches, "set servers.{}.context or parallel lower"),
        (found.experts, "keep fewer layers' experts of models.{} in host memory"),
        (found.files, "take a smaller quantisation of models.{}"),
    ):
        if sizes:
            biggest = max(sizes, key=lambda name: sizes[name])
            ways.append((sizes[biggest], way.format(biggest)))
    return ", or ".join(way for size, way in sorted(ways, reverse=True) if size)


def _in_memory(settings: HostSettings) -> _InMemory:
    found = _InMemory()
    for server in settings.servers:
        for served in server.served:
            prompts = max(served.cache_ram or 0, 0) * MIB
            found.prompts[server.name] = found.prompts.get(server.name, 0) + prompts
            model, load = _model(settings, served), server_load(served)
            if model is None or model.dimensions is None or load is None:
                continue
            if _on_cpu(settings, server):
                found.files[model.name] = sum(file.size for file in model.files)
                size = cache_bytes(model.dimensions, load) + state_bytes(model.dimensions, load)
                found.caches[server.name] = found.caches.get(server.name, 0) + size
                found.caches[server.name] += _draft_in_memory(settings, served, load, found)
            elif load.cpu_moe and model.dimensions.weights is not None:
                weights, layers = model.dimensions.weights, model.dimensions.layers
                size = weights.experts_of_first(load.cpu_moe, layers)
                found.experts[model.name] = max(found.experts.get(model.name, 0), size)
    return found


def _draft_in_memory(
    settings: HostSettings, served: ServerSettings, load: Load, found: _InMemory
) -> int:
    """Notes a draft model's files; bytes of its cache, which is in f16."""
    if served.draft is None:
        return 0
    draft = settings.model(served.draft.model)
    found.files[draft.name] = sum(file.size for file in draft.files)
    if draft.dimensions is None:
        return 0
    return cache_bytes(draft.dimensions, replace(load, type_k="f16", type_v="f16"))
