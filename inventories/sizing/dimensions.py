"""What of a model decides how much memory it takes: small enough for a lock file.

Pure. Made from GGUF headers (:func:`dimensions_of`) or written down in the catalogue. What each
architecture keeps of a token follows llama.cpp (read at 0c1e570): ``create_memory`` in
src/llama-model.cpp for which layers cache what, ``load_arch_hparams`` in src/models/ for windows
and recurrent layers, ``n_embd_r``/``n_embd_s`` in src/llama-hparams.cpp for recurrent states, and
``create_tensor`` for where weights go.

Refuses (:class:`SizingError`) architectures whose caches it doesn't know, rather than guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from inventories.gguf import Header, Tensor, Value

MAX_LAYERS = 512
"""As many as llama.cpp takes (``LLAMA_MAX_LAYERS``)."""

# Sparse-attention indexers, compressed caches and RWKV: their caches follow other rules.
NOT_SIZED = frozenset(
    {
        *(
            "deepseek32",
            "deepseek4",
            "glm-dsa",
            "glm5-next",
            "minimax-m3",
            "minimax-01",
            "dots3note",
        ),
        *("qwen4exp", "hy_v4", "kimi-k3", "bailingmoe3", "dflash", "clip", "t5", "t5encoder"),
        *("rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"),
    }
)
RECURRENT = frozenset({"mamba", "mamba2"})
RECURRENT_WITHOUT_HEADS = frozenset(
    {"granitehybrid", "jamba", "plamo2", "lfm2", "lfm2moe", "kimi-linear"}
)
"""A layer without K/V heads is recurrent."""
RECURRENT_BY_INTERVAL = frozenset({"qwen3next", "qwen35", "qwen35moe"})
ONE_THING_A_LAYER = frozenset({"nemotron_h", "nemotron_h_moe"})
"""A layer is attention, recurrent or feed-forward, one of them."""

_BLOCK = re.compile(r"blk\.(\d+)\.")
_EXPERTS = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch)?exps\.")
_INPUT = frozenset(
    {
        "token_embd.weight",
        "per_layer_token_embd.weight",
        "position_embd.weight",
        "token_types.weight",
    }
)


class SizingError(Exception):
    """The model's memory can't be worked out; one line says why."""


@dataclass(frozen=True)
class CacheLayers:
    """Attention layers that are alike.

    + layers: how many
    + k, v: numbers kept of each token in each layer; v is 0 where the values are part of the
      keys (MLA)
    + window: tokens that a sliding layer looks back on; 0 for the whole context
    """

    layers: int
    k: int
    v: int
    window: int = 0


@dataclass(frozen=True)
class StateLayers:
    """Recurrent layers: numbers (f32) kept of each sequence in each layer, however long it is."""

    layers: int
    size: int


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights by where they go.

    + input: the token embedding, which always stays in host memory
    + output: what goes with the last layer; holds a copy of the token embedding where that
      serves as output as well (tied)
    + blocks: all layers, without the experts
    + experts: all experts, which ``--cpu-moe`` keeps in host memory
    + expert_layers: how many layers have experts
    + largest: the heaviest layer, experts included
    + expert_pattern: a digit for each layer, 1 where it has experts; None where those are simply
      the last ones
    """

    input: int
    output: int
    blocks: int
    experts: int = 0
    expert_layers: int = 0
    largest: int = 0
    expert_pattern: str | None = None

    def experts_of_first(self, count: int, layers: int) -> int:
        """Bytes of experts in the first ``count`` of so many layers, each counted as the average.

        That is what ``--n-cpu-moe`` counts: layers, whether they have experts or not.
        """
        if not self.expert_layers:
            return 0
        pattern = self.expert_pattern or _last_ones(self.expert_layers, layers)
        return self.experts * pattern[:count].count("1") // self.expert_layers

    @property
    def device(self) -> int:
        """Bytes on the GPUs when everything that can go there does."""
        return self.output + self.blocks + self.experts


@dataclass(frozen=True)
class Dimensions:
    """What decides a model's memory.

    + context: tokens it was trained for
    + feed_forward: numbers of the widest dense feed-forward layer
    + expert_feed_forward, experts_used: of the experts; 0 for a dense model
    + weights: of one file; None where only the shape is known
    """

    architecture: str
    layers: int
    context: int
    embedding: int
    vocabulary: int
    feed_forward: int = 0
    expert_feed_forward: int = 0
    experts_used: int = 0
    cache: tuple[CacheLayers, ...] = ()
    state: StateLayers | None = None
    weights: Weights | None = None


def dimensions_of(headers: Sequence[Header], place: str) -> Dimensions:
    """The dimensions of a model by the headers of all its files, the first one first.

    + place: names the model in messages

    Raises :class:`SizingError` for an unknown architecture, or a header that lacks what is needed.
    """
    keys = _Keys(headers[0], place)
    if keys.architecture in NOT_SIZED:
        raise SizingError(
            f"{place}: how much the architecture {keys.architecture} keeps is not known here; "
            "ask llama-fit-params on the host"
        )
    tensors = [tensor for header in headers for tensor in header.tensors]
    layers = keys.layers()
    experts_used = keys.per_layer("expert_used_count", 0)
    inner = keys.per_layer("feed_forward_length", 0)
    expert_inner = keys.per_layer("expert_feed_forward_length", 0)
    used = max(experts_used)
    recurrent = _recurrent_layers(keys, layers)
    return Dimensions(
        architecture=keys.architecture,
        layers=layers,
        context=keys.number("context_length"),
        embedding=keys.number("embedding_length"),
        vocabulary=_vocabulary(headers[0], tensors, keys),
        feed_forward=max(inner) if not used or max(expert_inner) else 0,
        expert_feed_forward=(max(expert_inner) or max(inner)) if used else 0,
        experts_used=used,
        cache=_cache(keys, layers, recurrent),
        state=_state(keys, sum(recurrent[:layers])),
        weights=weights_of(tensors, layers),
    )


def weights_of(tensors: Iterable[Tensor], layers: int) -> Weights:
    """Bytes by where they go. Blocks beyond ``layers`` (multi-token prediction) aren't loaded."""
    embedding = output = experts = 0
    tied, embedded = True, 0
    blocks: dict[int, int] = {}
    with_experts: set[int] = set()
    for tensor in tensors:
        block = _BLOCK.match(tensor.name)
        if block is not None:
            number = int(block[1])
            if number >= layers:
                continue
            blocks[number] = blocks.get(number, 0) + tensor.size
            if _EXPERTS.search(tensor.name):
                experts += tensor.size
                with_experts.add(number)
            continue
        if tensor.name in _INPUT:
            embedding += tensor.size
            embedded = tensor.size if tensor.name == "token_embd.weight" else embedded
            continue
        tied = tied and tensor.name != "output.weight"
        output += tensor.size
    pattern = "".join("1" if layer in with_experts else "0" for layer in range(layers))
    return Weights(
        input=embedding,
        output=output + (embedded if tied else 0),
        blocks=sum(blocks.values()) - experts,
        experts=experts,
        expert_layers=len(with_experts),
        largest=max(blocks.values(), default=0),
        expert_pattern=None if pattern == _last_ones(len(with_experts), layers) else pattern,
    )


def _last_ones(count: int, layers: int) -> str:
    """A pattern of layers, the last so many of which have experts: leading ones may be dense."""
    return "0" * (layers - count) + "1" * count


class _Keys:
    """A header's metadata under the architecture's prefix, checked as it is read."""

    def __init__(self, header: Header, place: str) -> None:
        self._metadata: Mapping[str, Value] = header.metadata
        self._place = place
        self.architecture = header.architecture
        if not self.architecture:
            raise SizingError(f"{place}: the header names no general.architecture")
        self._all = self.number("block_count")
        if not 0 < self._all <= MAX_LAYERS:
            raise SizingError(f"{place}: {self._all} layers; 1 to {MAX_LAYERS} can be")

    def layers(self) -> int:
        """Layers that answer: without those for multi-token prediction."""
        extra = self.number("nextn_predict_layers", 0)
        if extra >= self._all:
            raise SizingError(f"{self._place}: all its layers are for multi-token prediction")
        return self._all - extra

    def get(self, key: str) -> Value | None:
        """A raw value under the architecture's prefix."""
        return self._metadata.get(f"{self.architecture}.{key}")

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number that can't be negative."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or not 0 <= value < 1 << 40:
            raise SizingError(
                f"{self._place}: the header says {self.architecture}.{key} = {value!r}; "
                "is the file whole, and a language model?"
            )
        return int(value)

    def per_layer(self, key: str, default: int) -> tuple[int, ...]:
        """A number for every layer: written once, or as a list."""
        value = self.get(key)
        if not isinstance(value, tuple):
            return (self.number(key, default),) * self._all
        numbers = tuple(int(item) for item in value)
        if len(numbers) < self._all or min(numbers) < 0:
            raise SizingError(
                f"{self._place}: {self.architecture}.{key} has {len(numbers)} entries "
                f"for {self._all} layers"
            )
        return numbers[: self._all]


def _vocabulary(header: Header, tensors: Iterable[Tensor], keys: _Keys) -> int:
    for tensor in tensors:
        if tensor.name == "token_embd.weight" and len(tensor.shape) == 2:
            return tensor.shape[1]
    return keys.number("vocab_size", 0)


# Attention --------------------------------------------------------------------------------------


def _cache(keys: _Keys, layers: int, recurrent: Sequence[bool]) -> tuple[CacheLayers, ...]:
    """What attention layers keep, those that are alike together."""
    heads = keys.per_layer("attention.head_count", 0)
    if keys.architecture in RECURRENT or not max(heads):
        return ()
    kv_heads = keys.per_layer("attention.head_count_kv", 0) if _has_kv_heads(keys) else heads
    inner = keys.per_layer("feed_forward_length", 0)
    # llama.cpp takes the first layer's number of heads for the default head size.
    usual = keys.number("embedding_length") // heads[0] if heads[0] else 0
    sizes = (
        keys.number("attention.key_length", usual),
        keys.number("attention.value_length", usual),
    )
    sliding_sizes = (
        keys.number("attention.key_length_swa", sizes[0]),
        keys.number("attention.value_length_swa", sizes[1]),
    )
    absorbed = keys.number("attention.key_length_mla", 0) > 0
    window, slides = _windows(keys, layers)
    found: dict[tuple[int, int, int], int] = {}
    for layer in range(_cached_layers(keys, layers)):
        if recurrent[layer] and keys.architecture != "falcon-h1":
            continue
        if keys.architecture in ONE_THING_A_LAYER and inner[layer]:
            continue
        k, v = sliding_sizes if slides[layer] else sizes
        count = kv_heads[layer]
        kind = (k * count, 0 if absorbed else v * count, window if slides[layer] else 0)
        found[kind] = found.get(kind, 0) + 1
    return tuple(
        CacheLayers(layers=count, k=k, v=v, window=size)
        for (k, v, size), count in found.items()
        if k or v
    )


def _has_kv_heads(keys: _Keys) -> bool:
    return keys.get("attention.head_count_kv") is not None


def _cached_layers(keys: _Keys, layers: int) -> int:
    """Layers that have a cache of their own; later ones look into an earlier layer's."""
    if keys.architecture == "gemma3n":
        return min(20, layers)
    if keys.architecture == "gemma4":
        return layers - min(layers, keys.number("attention.shared_kv_layers", 0))
    return layers


# Every how many layers one looks at the whole context, whether that is the first of them, and
# the window where the header doesn't say (None: no window then).
_PATTERNS: Mapping[str, tuple[int, bool, int | None]] = {
    "gemma2": (2, False, 4096),
    "gemma3": (6, False, None),
    "gemma3n": (5, False, None),
    "gpt-oss": (2, False, None),
    "cohere2": (4, False, None),
    "llama4": (4, False, 8192),
    "smallthinker": (4, True, None),
    "olmo2": (4, False, None),
}
_WITH_LISTS = frozenset({"gemma4", "mimo2", "step35"})


def _windows(keys: _Keys, layers: int) -> tuple[int, tuple[bool, ...]]:
    """The sliding window, and which layers slide. Unknown patterns count as the whole context."""
    none = (0, (False,) * layers)
    architecture = keys.architecture
    every, first, default = _PATTERNS.get(architecture, (0, False, None))
    if architecture == "exaone4" and layers == 64:
        every, default = 4, 4096
    if not every and architecture not in _WITH_LISTS:
        return none
    window = keys.number("attention.sliding_window", default or 0)
    if not window:
        return none
    if architecture in ("llama4", "smallthinker"):
        window = {"llama4": 8192, "smallthinker": 4096}[architecture]
    listed = keys.get("attention.sliding_window_pattern")
    if isinstance(listed, tuple) and len(listed) >= layers:
        return window, tuple(bool(item) for item in listed[:layers])
    if not every:
        return none
    every = keys.number("attention.sliding_window_pattern", every)
    if not every:
        return window, (True,) * layers
    if first:
        return window, tuple(layer % every != 0 for layer in range(layers))
    return window, tuple(layer % every < every - 1 for layer in range(layers))


# Recurrent layers -------------------------------------------------------------------------------


def _recurrent_layers(keys: _Keys, layers: int) -> tuple[bool, ...]:
    """Which layers keep a state of each sequence."""
    architecture = keys.architecture
    if architecture in RECURRENT or architecture == "falcon-h1":
        return (True,) * layers
    if architecture in RECURRENT_BY_INTERVAL:
        listed = keys.get("attention.recurrent_layers")
        if isinstance(listed, tuple) and len(listed) >= layers:
            return tuple(bool(item) for item in listed[:layers])
        interval = keys.number("full_attention_interval", 4)
        return tuple(bool(interval) and (layer + 1) % interval != 0 for layer in range(layers))
    kv_heads = keys.per_layer("attention.head_count_kv", 0)
    if architecture in RECURRENT_WITHOUT_HEADS:
        return tuple(count == 0 for count in kv_heads[:layers])
    if architecture in ONE_THING_A_LAYER:
        inner = keys.per_layer("feed_forward_length", 0)
        pairs = zip(kv_heads[:layers], inner[:layers], strict=True)
        return tuple(not count and not size for count, size in pairs)
    return (False,) * layers


def _state(keys: _Keys, layers: int) -> StateLayers | None:
    if not layers:
        return None
    conv = max(keys.number("ssm.conv_kernel", 0) - 1, 0)
    if keys.architecture in ("lfm2", "lfm2moe"):
        kept = max(keys.number("shortconv.l_cache") - 1, 0)
        return StateLayers(layers, keys.number("embedding_length") * kept)
    if keys.architecture == "kimi-linear":
        head, heads = keys.number("kda.head_dim"), max(keys.per_layer("attention.head_count", 0))
        return StateLayers(layers, 3 * (conv or 3) * heads * head + head * head * heads)
    inner, size = keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    channels = inner + 2 * keys.number("ssm.group_count", 0) * size
    return StateLayers(layers, conv * channels + size * inner)
