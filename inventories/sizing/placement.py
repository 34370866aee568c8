"""Whether servers fit on the GPUs they name, together; with the numbers and what would mend it.

Pure. Preflight asks it of a host's real cards, :mod:`inventories.sizing.declared` of those that the
fleet file declares. Only refuses what can't be: weights, caches and compute buffers (an estimate,
see docs/sizing.md) without any margin, against all the memory there is. A server whose GPUs aren't
all known, or have no memory of their own, is left to llama.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from inventories.settings import ModelSettings, ServerSettings
from inventories.sizing.dimensions import Dimensions, SizingError
from inventories.sizing.estimate import (
    GIB,
    Load,
    Memory,
    estimate,
    fewest_cpu_moe,
    largest_context,
)

LEAST_WORTH_NAMING = 4096
"""Tokens: a smaller context isn't proposed."""


@dataclass(frozen=True)
class Card:
    """A GPU.

    + name: the driver's; empty where the fleet file doesn't say it
    + memory: bytes; 0 where it has none of its own
    """

    index: int
    memory: int
    name: str = ""
    uuid: str = ""

    @property
    def label(self) -> str:
        """For people, such as ``GPU 0 (NVIDIA GeForce RTX 4090)``."""
        return f"GPU {self.index}" + (f" ({self.name})" if self.name else "")


@dataclass(frozen=True)
class Want:
    """A server that wants memory.

    + gpus: None for all, else indices or UUIDs
    + extra: bytes of a projector's file, of adapters, and of a draft model with its cache
    """

    server: str
    model: str
    dimensions: Dimensions
    load: Load
    gpus: tuple[str, ...] | None = None
    extra: int = 0


@dataclass(frozen=True)
class Shortage:
    """Servers that can't be on their GPUs together.

    + server: the one that takes most; ``remedy`` names its settings
    """

    server: str
    servers: tuple[str, ...]
    summary: str
    remedy: str


@dataclass(frozen=True)
class _Need:
    want: Want
    memory: Memory
    gpus: frozenset[int]

    @property
    def total(self) -> int:
        return self.memory.total(len(self.gpus))


def shortages(wants: Sequence[Want], cards: Sequence[Card]) -> list[Shortage]:
    """Every set of GPUs that can't hold what must lie on it, the smallest sets first."""
    needs = [need for want in wants if (need := _need(want, cards)) is not None]
    sizes = {card.index: card.memory for card in cards}
    found = []
    # Servers that have nothing but these GPUs must fit on them together.
    for group in sorted({need.gpus for need in needs}, key=lambda group: (len(group), min(group))):
        inside = [need for need in needs if need.gpus <= group]
        if sum(need.total for need in inside) > sum(sizes[index] for index in group):
            found.append(_shortage(inside, group, cards))
    return found


def cards_of(want: Want, cards: Sequence[Card]) -> tuple[Card, ...]:
    """The cards that a server may use; none when one is unknown, or has no memory of its own."""
    if want.gpus is None:
        found = list(cards)
    else:
        named = [_named(name, cards) for name in want.gpus]
        found = [card for card in named if card is not None]
        if len(found) < len(named):
            return ()
    return tuple(found) if all(card.memory for card in found) else ()


def _named(name: str, cards: Sequence[Card]) -> Card | None:
    return next((card for card in cards if name in (str(card.index), card.uuid)), None)


def _need(want: Want, cards: Sequence[Card]) -> _Need | None:
    used = frozenset(card.index for card in cards_of(want, cards))
    if not used:
        return None
    try:
        return _Need(want, estimate(want.dimensions, want.load, want.extra), used)
    except SizingError:
        return None


def _shortage(needs: Sequence[_Need], group: frozenset[int], cards: Sequence[Card]) -> Shortage:
    devices = [card for card in cards if card.index in group]
    needed = sum(need.total for need in needs)
    parts = "; ".join(_parts(need, len(devices)) for need in needs)
    names = tuple(dict.fromkeys(need.want.server for need in needs))
    summary = (
        f"server{'s' if len(names) > 1 else ''} {', '.join(names)} would need {gib(needed)} on "
        f"{' and '.join(card.label for card in devices)}, "
        f"which {'have' if len(devices) > 1 else 'has'} "
        f"{gib(sum(card.memory for card in devices))} ({parts})"
    )
    biggest = max(needs, key=lambda need: need.total)
    rest = needed - biggest.total
    remedy = _remedy(biggest.want, _reduced(devices, rest), more_gpus=len(cards) > len(group))
    return Shortage(biggest.want.server, names, summary, remedy)


def _reduced(devices: Sequence[Card], taken: int) -> list[int]:
    """The devices' sizes, with what other servers take gone from each alike."""
    each = taken // len(devices)
    return [max(card.memory - each, 0) for card in devices]


def _parts(need: _Need, count: int) -> str:
    memory, load = need.memory, need.want.load
    kinds = load.type_k if load.type_k == load.type_v else f"{load.type_k}/{load.type_v}"
    return (
        f"{need.want.model}: weights {gib(memory.weights)}, K/V of "
        f"{load.context:,} tokens x {load.parallel} in {kinds} "
        f"{gib(memory.cache)}, compute about {gib(memory.buffers(count))}"
    )


def _remedy(want: Want, sizes: Sequence[int], *, more_gpus: bool) -> str:
    """The settings that would mend it, those that keep the model first."""
    name, ways = f"servers.{want.server}", []
    for kind, words in (
        (None, ""),
        ("q8_0", " with cache_type_k and cache_type_v q8_0"),
    ):
        load = want.load if kind is None else replace(want.load, type_k=kind, type_v=kind)
        if kind is not None and want.load.type_k != "f16":
            continue
        found = largest_context(
            want.dimensions, load, sizes, extra=want.extra, limit=want.load.context
        )
        if found is not None and found.load.context >= LEAST_WORTH_NAMING:
            ways.append(f"set {name}.context to {found.load.context} at most{words}")
    if not want.load.cpu_moe:
        outside = fewest_cpu_moe(want.dimensions, want.load, sizes, extra=want.extra)
        if outside is not None:
            ways.append(
                f"keep the experts of the first {outside.load.cpu_moe} layers in host memory "
                f"({gib(outside.memory.host)} there) with {name}.n_cpu_moe {outside.load.cpu_moe}"
            )
    ways.append(f"take a smaller quantisation of models.{want.model}")
    if more_gpus:
        ways.append(f"give it more of the GPUs with {name}.gpus")
    return ", or ".join(ways)


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB"


def least_gpu_bytes(server: ServerSettings, model: ModelSettings) -> int:
    """Bytes of GPU memory below which a server's layers aren't there; 0 where nobody can tell.

    Half of the weights of a model that goes there whole: what is over covers embeddings, which
    llama.cpp keeps in host memory, and rounding.
    """
    partly = server.gpu_layers not in (None, "all") or server.cpu_moe or server.n_cpu_moe
    if server.models or partly or server.extra_args or len(model.files) != 1:
        return 0
    return model.files[0].size // 2
