"""What a box's GPUs can hold: each model of the fleet and of the catalogue, as ``fit`` sizes it.

The numbers and the choice of quantisation and K/V type are :mod:`llamaherd.fit`'s; here they are
asked for the box's own cards: the smallest single one that does, else all together.
"""

from __future__ import annotations

from collections.abc import Sequence

from facts.gpu import Gpu
from facts.onboarding_values import Probe
from inventories.fleet import Fleet
from llamaherd.fit import all_models
from llamaherd.fit_answers import (
    ANYTHING,
    WANTED,
    Answer,
    Recommendation,
    Sized,
    answer,
    answer_of,
    choices_of,
    recommend,
)
from llamaherd.onboard.report import Serves

RECIPE = "glm-4.7-flash"
"""Recommended before others of the catalogue: what the reference recipe serves."""

MIB = 1024**2


def serves_of(probe: Probe | None, fleet: Fleet | None) -> tuple[tuple[Serves, ...], str]:
    """The models that fit, the recommended one first; and why there is none, or what is left out.

    A model counts as fitting when it lies on the GPUs as a whole. Memory that other programs hold
    is counted as free: the report warns of them, and they will have to go.
    """
    if probe is None:
        return (), ""
    gpus = [gpu for gpu in probe.gpus if gpu.memory_total]
    if not gpus:
        return (), "not sized: the driver shows no GPU with memory of its own"
    fitting = []
    unknown: list[str] = []
    for sized in all_models(fleet, unknown):
        found = _best(sized, gpus)
        if found is not None:
            fitting.append(found)
    note = f"not sized, for their dimensions aren't known yet: {', '.join(unknown)}"
    names = frozenset(fleet.models) if fleet is not None else frozenset()
    ordered = sorted(fitting, key=lambda serves: _rank(serves, names))
    return tuple(ordered), note if unknown else ("" if ordered else "no model that is known fits")


def fits_of(probe: Probe | None, fleet: Fleet | None) -> tuple[Answer, ...]:
    """Every model on each of the box's cards, each pair of them, and all: the whole table."""
    sizes = [gpu.memory_total * MIB for gpu in probe.gpus if gpu.memory_total] if probe else []
    if not sizes:
        return ()
    boxes = choices_of(sizes)
    return tuple(answer_of(model, boxes, ANYTHING) for model in all_models(fleet, []))


def _rank(serves: Serves, own: frozenset[str]) -> tuple[bool, bool, bool, int]:
    """Room for an agent's context first, then what the fleet has, the recipe, the largest."""
    return (
        serves.context < WANTED,
        serves.model not in own,
        serves.model != RECIPE,
        -serves.weights,
    )


def _best(sized: Sized, gpus: Sequence[Gpu]) -> Serves | None:
    """On the smallest single card that leaves room for an agent's context, else on all of them."""
    singles = sorted(gpus, key=lambda gpu: gpu.memory_total or 0)
    choices = [[gpu] for gpu in singles] + ([list(gpus)] if len(gpus) > 1 else [])
    best = None
    for choice in choices:
        sizes = tuple((gpu.memory_total or 0) * MIB for gpu in choice)
        found = recommend(sized, sizes, list(answer(sized, [sizes], ANYTHING)), ANYTHING)
        if found is None or found.row.found is None or found.row.found.load.cpu_moe:
            continue
        best = _serves(sized, choice, found)
        if best.context >= WANTED:
            return best
    return best


def _serves(sized: Sized, gpus: Sequence[Gpu], found: Recommendation) -> Serves:
    fit = found.row.found
    if fit is None:
        raise ValueError(f"{sized.name}: a recommendation without numbers")
    return Serves(
        model=sized.name,
        quant=found.row.quant,
        context=fit.load.context,
        kv=found.row.type_kv,
        weights=fit.memory.weights,
        cache=fit.memory.cache,
        compute=fit.memory.buffers(len(gpus)),
        margin=fit.margin,
        gpus=tuple(sorted(gpu.index for gpu in gpus)),
        reason=found.reason,
    )
