"""The catalogue: what is known of models that fleets like to serve, each fact with its source.

One file a model in ``inventories/catalogue/``, validated by ``schemas/catalogue.schema.json``. A
fleet's model takes one up with ``catalogue: NAME``: the entry's repository, quantisation, sampling
for agents, reasoning, lowest llama.cpp build and what OpenCode must know lie under the model's own
values, and keep their place in the catalogue's file, so that origins show it.

Owns no opinion about memory: :mod:`inventories.sizing` does. For a quantisation of which only the
file's size is known, :meth:`Entry.dimensions_of` splits that size by the shares of parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from inventories.merge import merge, without_nulls
from inventories.sizing.dimensions import CacheLayers, Dimensions, StateLayers, Weights
from schemas.document import Document, FileMark, Mark, Node, read_document
from schemas.problems import ProblemsError
from schemas.validate import check_document, did_you_mean

SCHEMA = "catalogue.schema.json"
FOLDER = Path(__file__).parent / "catalogue"

_SOURCES = ("hub", "url", "path")


@dataclass(frozen=True)
class Quantization:
    """One quantisation: bytes of its files.

    + approximate: whether its source rounds the size
    + embedding_bits: of each number of the token embedding; None for the file's average
    """

    name: str
    size: int
    source: str
    approximate: bool = False
    embedding_bits: float | None = None


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue.

    + model: what a fleet's model gets, as nodes that know their place
    + sampling: values by use, ``agent`` and ``chat``
    + build: lowest llama.cpp build that runs it right
    + opencode: ``tool_call``, and ``interleaved`` where it thinks
    + shape: dimensions without weights
    + sources: where each part is said, by the part's name
    + left_out: what the entry doesn't say, by the part's name, with the reason
    """

    name: str
    title: str
    description: str
    repo: str
    quant: str
    reasoning: bool
    model: Node
    licence: str
    build: int
    opencode: Mapping[str, Any]
    shape: Dimensions
    details: Mapping[str, Any]
    quantizations: tuple[Quantization, ...] = ()
    sampling: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def quantization(self, name: str) -> Quantization | None:
        """A quantisation by its name, in any case; None when the entry has none of that name."""
        found = (item for item in self.quantizations if item.name.lower() == name.lower())
        return next(found, None)

    def dimensions_of(self, quantization: Quantization) -> Dimensions:
        """Dimensions with weights estimated from the file's size."""
        weights = _weights(self.details, quantization)
        return replace(self.shape, weights=weights)


def names() -> tuple[str, ...]:
    """The names of all entries, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def entries() -> tuple[Entry, ...]:
    """All entries by name."""
    return tuple(entry(name) for name in names())


@cache
def entry(name: str) -> Entry:
    """One entry. KeyError when there is none of that name, ProblemsError when its file is bad."""
    if name not in names():
        raise KeyError(name)
    return load_entry(FOLDER / f"{name}.yaml")


def unknown(name: str, among: Iterable[str] | None = None) -> str:
    """What to say about a name that isn't in the catalogue."""
    known = tuple(among) if among is not None else names()
    return f"the catalogue has no model {name}{did_you_mean(name, known, known_as='its models')}"


def load_entry(path: Path) -> Entry:
    """Read and check one file; :class:`ProblemsError` with every problem in it."""
    document = read_document(path)
    problems = check_document(document, SCHEMA)
    if problems or document.root is None:
        raise ProblemsError(problems)
    values = document.root.plain()
    return Entry(
        name=path.stem,
        title=values["title"],
        description=values["description"],
        repo=values["hub"]["repo"],
        quant=values["hub"]["quant"],
        reasoning=values["reasoning"],
        model=_model_node(document, document.root),
        licence=values["licence"]["name"],
        build=values["llama_cpp"]["build"],
        quantizations=tuple(
            Quantization(name, **known) for name, known in values.get("quantizations", {}).items()
        ),
        sampling={use: known["values"] for use, known in values.get("sampling", {}).items()},
        opencode=values["opencode"],
        shape=_shape(values["dimensions"]),
        details=values["dimensions"],
        sources=dict(_sources(values)),
        left_out=values.get("left_out", {}),
    )


def _sources(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for part in ("licence", "llama_cpp", "dimensions"):
        yield part, values[part]["source"]
    for part in ("quantizations", "sampling"):
        for name, known in values.get(part, {}).items():
            yield f"{part}.{name}", known["source"]


def with_catalogue(model: Node) -> Node:
    """A fleet's model on top of the catalogue's, if it names one that there is; else unchanged.

    Where the model names a source of its own, the catalogue's gives way: a URL or path replaces
    the hub, a file replaces the quantisation.
    """
    named = model.get("catalogue")
    if named is None or named.kind != "string" or named.value not in names():
        return model
    base = entry(named.value).model
    if any(key in model.value for key in _SOURCES[1:]):
        base = _without(base, "hub")
    own, hub = model.get("hub"), base.get("hub")
    if own is not None and own.kind == "mapping" and hub is not None:
        model = _with(model, "hub", _joined(hub, own), model.keys["hub"])
        base = _without(base, "hub")
    return merge(base, model)


def _joined(hub: Node, own: Node) -> Node:
    """The model's own hub over the catalogue's; ``merge`` would take {file: ..} for a secret.

    A null stays, for ``merge`` to take away.
    """
    if own.get("file") is not None:
        hub = _without(hub, "quant")
    joined = Node("mapping", {**hub.value, **own.value}, own.mark)
    joined.keys = {**hub.keys, **own.keys}
    joined.nulls = own.nulls
    return joined


def _model_node(document: Document, root: Node) -> Node:
    """The part of an entry that a fleet's model takes up."""
    parts = {key: root.get(key) for key in ("hub", "reasoning")}
    agent = (root.get("sampling") or root).get("agent")
    parts["sampling"] = agent.get("values") if agent is not None else None
    opencode, build = root.value["opencode"], root.value["llama_cpp"]
    parts |= {key: opencode.get(key) for key in ("interleaved", "tool_call")}
    parts["llama_cpp_build"] = build.get("build")
    node = Node("mapping", {}, _placed(document, root.mark))
    for key, part in parts.items():
        if part is not None:
            node = _with(node, key, _relocated(document, part))
    return node


def _relocated(document: Document, node: Node) -> Node:
    """The node with marks that name the catalogue's file."""
    mark = _placed(document, node.mark)
    if node.kind != "mapping":
        return Node(node.kind, node.value, mark, node.text)
    copy = Node("mapping", {}, mark)
    for key, child in node.value.items():
        copy = _with(copy, key, _relocated(document, child), _placed(document, node.keys[key]))
    return copy


def _placed(document: Document, mark: Mark) -> FileMark:
    return FileMark(*mark, file=document.file)


def _with(node: Node, key: str, child: Node, mark: Mark | None = None) -> Node:
    copy = Node("mapping", {**node.value, key: child}, node.mark)
    copy.keys = {**node.keys, key: mark or child.mark}
    copy.nulls = node.nulls or child.nulls
    return copy


def _without(node: Node, key: str) -> Node:
    copy = Node("mapping", {k: v for k, v in node.value.items() if k != key}, node.mark)
    copy.keys = {k: v for k, v in node.keys.items() if k != key}
    return without_nulls(copy)


# Dimensions -------------------------------------------------------------------------------------


def _shape(values: Mapping[str, Any]) -> Dimensions:
    state = values.get("state")
    return Dimensions(
        architecture=values["architecture"],
        layers=values["layers"],
        context=values["context"],
        embedding=values["embedding"],
        vocabulary=values["vocabulary"],
        feed_forward=values.get("feed_forward", 0),
        expert_feed_forward=values.get("expert_feed_forward", 0),
        experts_used=values.get("experts_used", 0),
        cache=tuple(CacheLayers(**group) for group in values.get("cache", ())),
        state=StateLayers(**state) if state else None,
    )


def _weights(values: Mapping[str, Any], quantization: Quantization) -> Weights:
    """A file's bytes by where they go, as the parameters are shared out; an estimate.

    Three matrices an expert (gate, up, down), as all entries with experts have them.
    """
    size, parameters = quantization.size, values["parameters"]
    embedding = values["vocabulary"] * values["embedding"]
    if quantization.embedding_bits is not None:
        embedded = int(embedding * quantization.embedding_bits / 8)
    else:
        embedded = size * embedding // parameters
    expert_layers = values.get("expert_layers", 0)
    each = 3 * values["embedding"] * values.get("expert_feed_forward", 0)
    experts = size * expert_layers * values.get("experts", 0) * each // parameters
    output = embedded
    # A tied embedding is in the file once; the output is a copy of it on the GPU.
    untied = 0 if values.get("tied") else output
    blocks = max(size - embedded - untied - experts, 0)
    return Weights(
        input=embedded,
        output=output,
        blocks=blocks,
        experts=experts,
        expert_layers=expert_layers,
        largest=(blocks + experts) // values["layers"],
    )
