"""What of a model fits on which GPUs, and what to run there: the answers behind ``llamaherd fit``.

Pure. The numbers are :mod:`inventories.sizing.estimate`'s; here models are asked for each box,
quantisation and K/V type, and one answer is recommended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from inventories.sizing.dimensions import Dimensions
from inventories.sizing.estimate import GIB, Fit, Load, fewest_cpu_moe, fit, largest_context

DEFAULT_TYPES = ("f16", "q8_0", "q4_0")
WANTED = 65_536
"""Tokens of a session that a coding agent is glad of; what a recommendation looks for."""


@dataclass(frozen=True)
class Question:
    """What is asked of every model.

    + context: tokens that one session needs; None for the most that fit
    + kv: one K/V type; None for each of DEFAULT_TYPES
    + cpu_moe: layers whose experts stay in host memory
    """

    context: int | None = None
    parallel: int = 1
    kv: str | None = None
    cpu_moe: int = 0


ANYTHING = Question()
"""The most context of one session, at each K/V type."""


@dataclass(frozen=True)
class Candidate:
    """One quantisation of a model, with dimensions; ``extra`` is a projector's bytes."""

    quant: str
    dimensions: Dimensions
    extra: int = 0


@dataclass(frozen=True)
class Sized:
    """A model that can be looked at.

    + source: where the numbers are from: ``catalogue``, ``lock``, ``file``, ``url`` or ``hub``
    + estimated: whether weights are split by shares of parameters, not read off a header
    """

    name: str
    source: str
    candidates: tuple[Candidate, ...]

    @property
    def estimated(self) -> bool:
        """Whether the split of the weights is an estimate."""
        return self.source == "catalogue"


@dataclass(frozen=True)
class Row:
    """One line of the answer; ``found`` is None when not even the smallest context fits."""

    gpus: tuple[int, ...]
    quant: str
    type_kv: str
    found: Fit | None


@dataclass(frozen=True)
class Recommendation:
    """What to run, and why."""

    row: Row
    reason: str


@dataclass(frozen=True)
class Answer:
    """All of it for one model.

    + rows: every box, quantisation and K/V type, experts where the question has them
    + outside: with as few layers' experts in host memory as leave room for the context that is
      wanted, where they don't as a whole
    + advice: what to run on each box; None where nothing can
    """

    model: Sized
    boxes: tuple[tuple[int, ...], ...]
    rows: tuple[Row, ...]
    outside: tuple[Row, ...]
    advice: tuple[Recommendation | None, ...]

    @property
    def ok(self) -> bool:
        """Whether anything fits as it was asked for."""
        return any(row.found is not None and row.found.fits for row in self.rows)


def answer_of(model: Sized, boxes: Sequence[tuple[int, ...]], question: Question) -> Answer:
    """The whole answer for one model."""
    rows = tuple(answer(model, boxes, question))
    return Answer(
        model,
        tuple(boxes),
        rows,
        tuple(experts_outside(model, rows, question)),
        tuple(recommend(model, box, rows, question) for box in boxes),
    )


def choices_of(gpus: Sequence[int]) -> list[tuple[int, ...]]:
    """What of a box's GPUs a server may lie on: each kind of card, each kind of pair, all."""
    cards = sorted(gpus)
    sets = [(card,) for card in cards] + list(combinations(cards, 2)) + [tuple(cards)]
    return list(dict.fromkeys(sets))


def answer(model: Sized, boxes: Sequence[tuple[int, ...]], question: Question) -> Iterable[Row]:
    """A row for every box, quantisation and K/V type, the best quality first."""
    for gpus in boxes:
        for candidate in sorted(model.candidates, key=_heaviness, reverse=True):
            for kind in (question.kv,) if question.kv else DEFAULT_TYPES:
                yield Row(gpus, candidate.quant, kind, _found(candidate, kind, gpus, question))


def experts_outside(model: Sized, rows: Sequence[Row], question: Question) -> Iterable[Row]:
    """The rows that don't leave room, with as few layers' experts in host memory as do.

    Nothing for dense models, and where the question says how many layers' experts lie there.
    """
    if question.cpu_moe:
        return
    candidates = {candidate.quant: candidate for candidate in model.candidates}
    for row in rows:
        candidate = candidates[row.quant]
        wanted = _wanted(candidate, question)
        if row.found is not None and row.found.fits and row.found.load.context >= wanted:
            continue
        load = replace(_load(row.type_kv, question), context=wanted)
        found = fewest_cpu_moe(candidate.dimensions, load, row.gpus, extra=candidate.extra)
        if found is not None:
            yield replace(row, found=found)


def _wanted(candidate: Candidate, question: Question) -> int:
    return min(question.context or WANTED, candidate.dimensions.context)


def _heaviness(candidate: Candidate) -> int:
    weights = candidate.dimensions.weights
    return weights.device if weights is not None else 0


def _load(kind: str, question: Question) -> Load:
    return Load(
        context=question.context or 0,
        parallel=question.parallel,
        type_k=kind,
        type_v=kind,
        cpu_moe=question.cpu_moe,
    )


def _found(
    candidate: Candidate, kind: str, gpus: tuple[int, ...], question: Question
) -> Fit | None:
    load = _load(kind, question)
    if question.context:
        return fit(candidate.dimensions, load, gpus, extra=candidate.extra)
    return largest_context(candidate.dimensions, load, gpus, extra=candidate.extra)


def recommend(
    model: Sized, gpus: tuple[int, ...], rows: Sequence[Row], question: Question
) -> Recommendation | None:
    """What to run on these GPUs: the best quality that still leaves room for a good context.

    Weights count for more than the cache's precision, and a cache in q4_0 comes last: coding
    models are known to lose more by it than by a smaller context.
    """
    good = [row for row in rows if row.gpus == gpus and row.found is not None and row.found.fits]
    wanted = _wanted(model.candidates[0], question)
    roomy = [row for row in good if row.found and row.found.load.context >= wanted]
    fine = [row for row in roomy if row.type_kv != "q4_0"] or roomy
    if fine:
        row = fine[0]
        return Recommendation(row, _roomy_reason(row, model, wanted))
    if good:
        best = max(good, key=lambda row: row.found.load.context if row.found else 0)
        tokens = best.found.load.context if best.found else 0
        return Recommendation(
            best, f"nothing leaves room for {wanted:,} tokens a session; {tokens:,} is the most"
        )
    return _with_experts_outside(model, gpus, rows, question)


def _roomy_reason(row: Row, model: Sized, wanted: int) -> str:
    choice = "the only quantisation known" if len(model.candidates) == 1 else "the best quality"
    return f"{choice}, and it leaves room for {wanted:,} tokens a session"


def _with_experts_outside(
    model: Sized, gpus: tuple[int, ...], rows: Sequence[Row], question: Question
) -> Recommendation | None:
    """The best quality with a good cache, and the rest of the experts in host memory."""
    here = [row for row in rows if row.gpus == gpus]
    found = list(experts_outside(model, here, question))
    best = next((row for row in found if row.type_kv != "q4_0"), found[0] if found else None)
    if best is None or best.found is None:
        return None
    layers, host = best.found.load.cpu_moe, best.found.memory.host
    reason = (
        f"it doesn't fit as a whole: keep the experts of the first {layers} layers in host memory "
        f"(--n-cpu-moe {layers}), {host / GIB:.2f} GiB there; slower"
    )
    return Recommendation(best, reason)
