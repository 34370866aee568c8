"""Whether the servers' models fit into the memory of the GPUs they name, or into the host's.

Pure. Only refuses what can't be: weights, caches and compute buffers (an estimate, see
docs/sizing.md) without any margin, against all the memory there is. A model of unknown dimensions,
a GPU without memory of its own, and a server whose ``extra_args`` place things by hand are left
to llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from deploys.common.changes import Change
from facts.gpu import Gpu
from facts.system import SystemState
from inventories.settings import HostSettings, ModelSettings, ServerSettings
from inventories.sizing.dimensions import Dimensions, SizingError
from inventories.sizing.estimate import (
    GIB,
    MIB,
    Load,
    Memory,
    cache_bytes,
    estimate,
    largest_context,
    state_bytes,
)
from inventories.sizing.options import load_of

LEAST_WORTH_NAMING = 4096
"""Tokens: a smaller context isn't proposed."""


@dataclass(frozen=True)
class _Need:
    """What one server takes of which GPUs (by index)."""

    server: ServerSettings
    model: ModelSettings
    dimensions: Dimensions
    load: Load
    memory: Memory
    gpus: frozenset[int]
    extra: int

    @property
    def total(self) -> int:
        return self.memory.total(len(self.gpus))


def memory_findings(settings: HostSettings, facts: SystemState) -> list[Change]:
    """Servers whose models can't fit, with the numbers and the settings that would mend it."""
    if settings.cuda is None or settings.cuda.provider == "none":
        return _host_memory(settings, settings.servers, facts.memory_total)
    on_cpu = tuple(server for server in settings.servers if server.gpus == ())
    return [
        *_gpu_memory(settings, facts.gpus),
        *_host_memory(settings, on_cpu, facts.memory_total),
    ]


# GPUs -------------------------------------------------------------------------------------------


def _gpu_memory(settings: HostSettings, gpus: Sequence[Gpu]) -> list[Change]:
    needs = [need for server in settings.servers if (need := _need(settings, server, gpus))]
    sizes = {gpu.index: (gpu.memory_total or 0) * MIB for gpu in gpus}
    found = []
    # Servers that have nothing but these GPUs must fit on them together.
    for group in sorted({need.gpus for need in needs}, key=lambda group: (len(group), min(group))):
        inside = [need for need in needs if need.gpus <= group]
        if sum(need.total for need in inside) > sum(sizes[index] for index in group):
            found.append(_too_big(inside, group, gpus))
    return found


def _need(settings: HostSettings, server: ServerSettings, gpus: Sequence[Gpu]) -> _Need | None:
    model = _model(settings, server)
    used = _used(server, gpus)
    load = load_of(server.context, server.parallel, server.extra_args)
    if model is None or model.dimensions is None or load is None or not used:
        return None
    extra = sum(file.size for file in model.files if file.name == model.mmproj)
    try:
        memory = estimate(model.dimensions, load, extra)
    except SizingError:
        return None
    return _Need(server, model, model.dimensions, load, memory, used, extra)


def _model(settings: HostSettings, server: ServerSettings) -> ModelSettings | None:
    return next((model for model in settings.models if model.name == server.model), None)


def _used(server: ServerSettings, gpus: Sequence[Gpu]) -> frozenset[int]:
    """The GPUs that a server may use; none when one is unknown, or has no memory of its own."""
    if server.gpus is None:
        found = list(gpus)
    else:
        named = [_named(name, gpus) for name in server.gpus]
        found = [gpu for gpu in named if gpu is not None]
        if len(found) < len(named):
            return frozenset()
    if any(not gpu.memory_total for gpu in found):
        return frozenset()
    return frozenset(gpu.index for gpu in found)


def _named(name: str, gpus: Sequence[Gpu]) -> Gpu | None:
    return next((gpu for gpu in gpus if name in (str(gpu.index), gpu.uuid)), None)


def _too_big(needs: Sequence[_Need], group: frozenset[int], gpus: Sequence[Gpu]) -> Change:
    devices = [gpu for gpu in gpus if gpu.index in group]
    available = sum((gpu.memory_total or 0) * MIB for gpu in devices)
    needed = sum(need.total for need in needs)
    where = " and ".join(f"GPU {gpu.index} ({gpu.name})" for gpu in devices)
    parts = "; ".join(_parts(need, len(devices)) for need in needs)
    plural = "s" if len(needs) > 1 else ""
    names = ", ".join(need.server.name for need in needs)
    summary = (
        f"server{plural} {names} would need {_gib(needed)} on {where}, "
        f"which {'have' if len(devices) > 1 else 'has'} {_gib(available)} ({parts})"
    )
    biggest = max(needs, key=lambda need: need.total)
    rest = needed - biggest.total
    remedy = _remedy(biggest, _reduced(devices, rest), more_gpus=len(gpus) > len(group))
    return Change("declared", "GPU memory", summary, remedy=remedy)


def _reduced(devices: Sequence[Gpu], taken: int) -> list[int]:
    """The devices' sizes, with what other servers take gone from each alike."""
    each = taken // len(devices)
    return [max((gpu.memory_total or 0) * MIB - each, 0) for gpu in devices]


def _parts(need: _Need, count: int) -> str:
    memory = need.memory
    return (
        f"{need.model.name}: weights {_gib(memory.weights)}, K/V of "
        f"{need.load.context:,} tokens x {need.load.parallel} in {_types(need.load)} "
        f"{_gib(memory.cache)}, compute about {_gib(memory.compute * count)}"
    )


def _types(load: Load) -> str:
    return load.type_k if load.type_k == load.type_v else f"{load.type_k}/{load.type_v}"


def _remedy(need: _Need, sizes: Sequence[int], *, more_gpus: bool) -> str:
    """The settings that would mend it, those that keep the model first."""
    name, ways = f"servers.{need.server.name}", []
    for kind, words in (
        (None, ""),
        ("q8_0", " with extra_args: [--cache-type-k, q8_0, --cache-type-v, q8_0]"),
    ):
        load = need.load if kind is None else replace(need.load, type_k=kind, type_v=kind)
        if kind is not None and need.load.type_k != "f16":
            continue
        found = largest_context(
            need.dimensions, load, sizes, extra=need.extra, limit=need.load.context
        )
        if found is not None and found.load.context >= LEAST_WORTH_NAMING:
            ways.append(f"set {name}.context to {found.load.context} at most{words}")
    weights = need.dimensions.weights
    if weights is not None and weights.experts and not need.load.cpu_moe:
        ways.append(f"keep experts in host memory with extra_args: [--n-cpu-moe, N] of {name}")
    ways.append(f"take a smaller quantisation of models.{need.model.name}")
    if more_gpus:
        ways.append(f"give it more of the GPUs with {name}.gpus")
    return ", or ".join(ways)


# Host memory ------------------------------------------------------------------------------------


def _host_memory(
    settings: HostSettings, servers: Iterable[ServerSettings], memory: int
) -> list[Change]:
    """Models and caches of servers on the CPU against the host's memory; a file counts once."""
    files: dict[str, int] = {}
    caches: dict[str, int] = {}
    for server in servers:
        model = _model(settings, server)
        load = load_of(server.context, server.parallel, server.extra_args)
        if model is None or model.dimensions is None or load is None:
            continue
        files[model.name] = sum(file.size for file in model.files)
        caches[server.name] = cache_bytes(model.dimensions, load) + state_bytes(
            model.dimensions, load
        )
    needed = sum(files.values()) + sum(caches.values())
    if not memory or needed <= memory:
        return []
    summary = (
        f"server{'s' if len(caches) > 1 else ''} {', '.join(caches)} would need {_gib(needed)} "
        f"of memory, the host has {_gib(memory)} (weights {_gib(sum(files.values()))}, "
        f"K/V {_gib(sum(caches.values()))})"
    )
    biggest = max(caches, key=lambda name: caches[name])
    remedy = (
        f"set servers.{biggest}.context or parallel lower, or take a smaller quantisation of "
        f"models.{max(files, key=lambda name: files[name])}"
    )
    return [Change("declared", "memory", summary, remedy=remedy)]


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
