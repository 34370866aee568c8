"""What llama-server's own options say about memory, and sizes as people write them. Pure.

Options as common/arg.cpp of llama.cpp spells them (read at 0c1e570).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from inventories.sizing.dimensions import SizingError
from inventories.sizing.estimate import ALL_LAYERS, GIB, KV_TYPES, MIB, Load

_TYPE_K = ("-ctk", "--cache-type-k")
_TYPE_V = ("-ctv", "--cache-type-v")
_UBATCH = ("-ub", "--ubatch-size")
_N_CPU_MOE = ("-ncmoe", "--n-cpu-moe")
_FLAGS: Mapping[str, Mapping[str, Any]] = {
    **{flag: {"cpu_moe": ALL_LAYERS} for flag in ("-cmoe", "--cpu-moe")},
    **{flag: {"unified": True} for flag in ("-kvu", "--kv-unified")},
    "--swa-full": {"swa_full": True},
}
# With these, someone has decided by hand what lies where: no estimate of ours is right then.
_BY_HAND = frozenset(
    {
        *("-ot", "--override-tensor", "-dev", "--device", "-nkvo", "--no-kv-offload"),
        *("-sm", "--split-mode", "-ts", "--tensor-split", "-mg", "--main-gpu", "--rpc"),
        *("-fitt", "--fit-target", "-md", "--model-draft", "--spec-draft-model", "-hfd", "--lora"),
    }
)
# Unless the value is one that leaves things as they are counted here.
_AS_COUNTED: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("-ngl", "--gpu-layers", "--n-gpu-layers"), ("all", "auto")),
    **dict.fromkeys(("-fa", "--flash-attn"), ("on", "auto")),
    **dict.fromkeys(("-fit", "--fit"), ("on", "off")),
}

_SIZE = re.compile(
    r"(?:(?P<count>[1-9]\d?)x)?(?P<number>\d{1,7}(?:\.\d{1,3})?)(?P<unit>[GM])(?:i?B)?",
    re.IGNORECASE,
)


def load_of(context: int, parallel: int, arguments: Sequence[str]) -> Load | None:
    """How a server with these extra arguments runs its model.

    None where an argument places weights or caches by hand, or isn't understood: then nothing
    can be said.
    """
    load = Load(context, parallel)
    words = [part for argument in arguments for part in _split(argument)]
    position = 0
    while position < len(words):
        word = words[position]
        if word in _BY_HAND:
            return None
        if word in _AS_COUNTED:
            position += 1
            if position >= len(words) or words[position] not in _AS_COUNTED[word]:
                return None
        elif word in _FLAGS:
            load = replace(load, **_FLAGS[word])
        elif word in (*_TYPE_K, *_TYPE_V, *_UBATCH, *_N_CPU_MOE):
            position += 1
            changed = _valued(load, word, words[position] if position < len(words) else "")
            if changed is None:
                return None
            load = changed
        position += 1
    return load


def _split(argument: str) -> tuple[str, ...]:
    name, equals, value = argument.partition("=")
    return (name, value) if equals and name.startswith("--") else (argument,)


def _valued(load: Load, word: str, value: str) -> Load | None:
    if word in (*_TYPE_K, *_TYPE_V):
        if value not in KV_TYPES:
            return None
        return replace(load, type_k=value) if word in _TYPE_K else replace(load, type_v=value)
    if not value.isdigit():
        return None
    if word in _UBATCH:
        return replace(load, ubatch=int(value))
    return replace(load, cpu_moe=int(value))


def gpu_sizes(text: str) -> tuple[int, ...]:
    """GPUs as people write them, in bytes: ``24G``, ``24564M``, ``2x24G``; binary units.

    Raises :class:`SizingError` with an example for anything else.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or not float(found["number"]):
        raise SizingError(
            f"{text!r} is no size of GPUs: write 24G, 24564M or 2x24G, and unlike ones apart"
        )
    unit = GIB if found["unit"].upper() == "G" else MIB
    return (int(float(found["number"]) * unit),) * int(found["count"] or 1)
