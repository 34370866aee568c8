"""Whether the servers' models fit into the memory of the GPUs they name, and into the host's.

Pure. What fits on GPUs is :mod:`inventories.sizing.placement`'s; here it is asked of the cards that
a host really has. A model of unknown dimensions, a GPU without memory of its own, and a server
whose ``extra_args`` place things by hand are left to llama.cpp. Where the fleet file declares the
host's GPUs, cards that are missing or others are told, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, zip_longest
from typing import Any

from deploys.common.changes import Change
from facts.gpu import Gpu
from facts.system import SystemState
from inventories.settings import DeclaredGpu, HostSettings, ModelSettings, ServerSettings
from inventories.sizing.dimensions import Dimensions
from inventories.sizing.estimate import MIB, cache_bytes, state_bytes
from inventories.sizing.placement import Card, gib, shortages
from inventories.sizing.wants import server_load, wants_of

TOLERANCE = 0.02
"""Share by which a card's memory may differ from what is declared: 24G is a 24,564 MiB card."""


def memory_findings(settings: HostSettings, facts: SystemState) -> list[Change]:
    """Servers whose models can't fit, with the numbers and the settings that would mend it."""
    on_cpu = tuple(server for server in settings.servers if _on_cpu(settings, server))
    prompts = _prompt_cache(settings.servers, facts.memory_total)
    return [
        *_gpu_memory(settings, facts.gpus),
        *_host_memory(settings, on_cpu, facts.memory_total),
        *prompts,
    ]


def _prompt_cache(servers: Iterable[ServerSettings], memory: int) -> list[Change]:
    """Prompts that servers are told to keep (``cache_ram``), against all the host's memory."""
    told = {
        server.name: sum(max(served.cache_ram or 0, 0) for served in server.served) * MIB
        for server in servers
    }
    needed = sum(told.values())
    if not memory or needed <= memory:
        return []
    names = [name for name, size in told.items() if size]
    summary = (
        f"server{'s' if len(names) > 1 else ''} {', '.join(names)} would keep up to "
        f"{gib(needed)} of prompts in the host's memory, which has {gib(memory)}"
    )
    biggest = max(told, key=lambda name: told[name])
    remedy = f"set servers.{biggest}.cache_ram lower"
    return [Change("declared", "memory", summary, remedy=remedy)]


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


def _host_memory(
    settings: HostSettings, servers: Iterable[ServerSettings], memory: int
) -> list[Change]:
    """Models and caches of servers on the CPU against the host's memory; a file counts once."""
    files: dict[str, int] = {}
    caches: dict[str, int] = {}
    for server in (served for each in servers for served in each.served):
        model = _model(settings, server)
        load = server_load(server)
        if model is None or model.dimensions is None or load is None:
            continue
        files[model.name] = sum(file.size for file in model.files)
        size = cache_bytes(model.dimensions, load) + state_bytes(model.dimensions, load)
        caches[server.name] = caches.get(server.name, 0) + size
        draft = None if server.draft is None else settings.model(server.draft.model)
        if draft is not None:
            files[draft.name] = sum(file.size for file in draft.files)
        if draft is not None and draft.dimensions is not None:
            plain = replace(load, type_k="f16", type_v="f16")
            caches[server.name] += cache_bytes(draft.dimensions, plain)
    needed = sum(files.values()) + sum(caches.values())
    if not memory or needed <= memory:
        return []
    summary = (
        f"server{'s' if len(caches) > 1 else ''} {', '.join(caches)} would need {gib(needed)} "
        f"of memory, the host has {gib(memory)} (weights {gib(sum(files.values()))}, "
        f"K/V {gib(sum(caches.values()))})"
    )
    biggest = max(caches, key=lambda name: caches[name])
    remedy = (
        f"set servers.{biggest}.context or parallel lower, or take a smaller quantisation of "
        f"models.{max(files, key=lambda name: files[name])}"
    )
    return [Change("declared", "memory", summary, remedy=remedy)]
