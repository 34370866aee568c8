"""How much memory a model takes on GPUs and in host memory, and the largest context that fits.

Pure arithmetic over :class:`inventories.sizing.dimensions.Dimensions`. Weights and caches follow
llama.cpp's own allocation (src/llama-kv-cache.cpp, llama-kv-cache-iswa.cpp,
llama-memory-recurrent.cpp, llama-context.cpp, read at 0c1e570) and are checked against what
``llama-fit-params`` prints (docs/sizing.md). Compute buffers are an estimate, by the formula in
:func:`compute_bytes`; what nobody can know beforehand (the CUDA context, cuBLAS, fragmentation) is
the margin: 1 GiB a GPU, llama.cpp's own ``--fit-target``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from inventories.gguf import row_size
from inventories.sizing.dimensions import CacheLayers, Dimensions, SizingError

MIB = 1 << 20
GIB = 1 << 30
MARGIN = GIB
"""Bytes a GPU that are left alone, as ``--fit-target 1024`` of llama.cpp."""

STEP = 256
"""llama.cpp rounds contexts up to a multiple of this."""

UBATCH = 512
ALL_LAYERS = 1 << 16
KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""What ``--cache-type-k`` and ``--cache-type-v`` take."""


@dataclass(frozen=True)
class Load:
    """How a server runs a model.

    + context: tokens of one session
    + parallel: sessions at once; llama-server's ``-c`` is the product
    + unified: one cache for all sessions (``--kv-unified``)
    + cpu_moe: the experts of so many layers stay in host memory, from the first layer on, whether
      it has experts or not (``--n-cpu-moe``)
    + swa_full: sliding layers keep the whole context (``--swa-full``)
    """

    context: int
    parallel: int = 1
    type_k: str = "f16"
    type_v: str = "f16"
    unified: bool = False
    ubatch: int = UBATCH
    cpu_moe: int = 0
    swa_full: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes that a server takes; on the GPUs but for ``host``.

    + weights: with a projector, where there is one
    + cache: K and V; states of recurrent layers as well
    + compute: buffers of one GPU, an estimate
    + host: weights that stay in host memory
    + inner: of several GPUs, buffers of each but the last one
    + copies: of several GPUs, what each keeps besides for pipeline parallelism
    """

    weights: int
    cache: int
    compute: int
    host: int
    inner: int = 0
    copies: int = 0

    def buffers(self, gpus: int = 1) -> int:
        """Compute buffers on so many GPUs."""
        if gpus <= 1:
            return self.compute
        return self.compute + (gpus - 1) * self.inner + gpus * self.copies

    def total(self, gpus: int = 1) -> int:
        """All of it on so many GPUs, margin not counted."""
        return self.weights + self.cache + self.buffers(gpus)


def padded(tokens: int) -> int:
    """A context as llama.cpp rounds it."""
    return -(-tokens // STEP) * STEP


def draft_bytes(dimensions: Dimensions | None, load: Load) -> int:
    """What a draft model takes beside the model that it drafts for; 0 where nothing is known.

    + load: of the server; the draft model holds as many tokens, in a cache of its own type (f16)
    """
    if dimensions is None:
        return 0
    own = replace(load, type_k="f16", type_v="f16", cpu_moe=0)
    try:
        return estimate(dimensions, own).total()
    except SizingError:
        return 0


def estimate(dimensions: Dimensions, load: Load, extra: int = 0) -> Memory:
    """What a server of this model takes.

    + extra: bytes of further weights on the GPU, such as a projector's file

    Raises :class:`SizingError` where the weights aren't known, or a cache type doesn't exist.
    """
    weights = dimensions.weights
    if weights is None:
        raise SizingError(f"the weights of this {dimensions.architecture} model are not known")
    moved = weights.experts_of_first(load.cpu_moe, dimensions.layers)
    return Memory(
        weights=weights.device - moved + extra,
        cache=cache_bytes(dimensions, load) + state_bytes(dimensions, load),
        compute=compute_bytes(dimensions, load),
        host=weights.input + moved,
        inner=_middle(dimensions, load),
        copies=_copies(dimensions, load),
    )


def cells(load: Load) -> tuple[int, int]:
    """Cells of one stream of the cache, and the number of streams (llama-context.cpp)."""
    whole = padded(load.context * load.parallel)
    if load.unified:
        return whole, 1
    return padded(whole // load.parallel), load.parallel


def cache_bytes(dimensions: Dimensions, load: Load) -> int:
    """K and V of every attention layer."""
    return sum(_layers_bytes(group, load) for group in dimensions.cache)


def _layers_bytes(group: CacheLayers, load: Load) -> int:
    size, streams = cells(load)
    if group.window and not load.swa_full:
        sequences = load.parallel if load.unified else 1
        size = padded(min(size, group.window * sequences + load.ubatch))
    row = _row(load.type_k, group.k) + _row(load.type_v, group.v)
    return group.layers * row * size * streams


def _row(kind: str, elements: int) -> int:
    if kind not in KV_TYPES:
        raise SizingError(f"{kind} is no type of K/V cache; there are {', '.join(KV_TYPES)}")
    return row_size(kind, elements)


def state_bytes(dimensions: Dimensions, load: Load) -> int:
    """States of recurrent layers: f32, one of each sequence, whatever its length."""
    state = dimensions.state
    return state.layers * state.size * 4 * load.parallel if state is not None else 0


def compute_bytes(dimensions: Dimensions, load: Load) -> int:
    """Buffers of one graph of ``ubatch`` tokens, with flash attention; an estimate, 15 % added.

    The larger of two moments: the end, where the logits of every token lie beside its embedding;
    and the widest layer (gate, up and their product, for each expert in use, and four embeddings)
    beside the attention mask in f16. Of several GPUs only the last one has the end.
    """
    end = (dimensions.vocabulary + dimensions.embedding) * 4
    return max(end * load.ubatch * 115 // 100, _middle(dimensions, load))


def _middle(dimensions: Dimensions, load: Load) -> int:
    """Buffers of the widest layer."""
    width, inner = dimensions.embedding, dimensions.feed_forward
    experts = dimensions.experts_used * (3 * dimensions.expert_feed_forward + 2 * width)
    widest = max(3 * inner, experts) + 4 * width
    mask = cells(load)[0] * 2 if dimensions.cache else 0
    return (widest * 4 + mask) * load.ubatch * 115 // 100


def _copies(dimensions: Dimensions, load: Load) -> int:
    """What pipeline parallelism keeps on each of several GPUs: three more attention masks in f32.

    llama.cpp has it with layers on several GPUs, unless tensors were placed by hand, as experts in
    host memory are (llama-context.cpp; GGML_SCHED_MAX_COPIES is 4).
    """
    if load.cpu_moe or not dimensions.cache:
        return 0
    return 3 * cells(load)[0] * 4 * load.ubatch


# Fitting ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """Whether a load fits, with the numbers that say so.

    + needed: bytes on all GPUs, margins and what splitting wastes included
    + available: bytes that the GPUs have
    """

    load: Load
    memory: Memory
    needed: int
    available: int
    margin: int

    @property
    def fits(self) -> bool:
        """Whether it is enough."""
        return self.needed <= self.available


def fit(
    dimensions: Dimensions,
    load: Load,
    gpus: Sequence[int],
    *,
    margin: int = MARGIN,
    extra: int = 0,
) -> Fit:
    """Whether a load fits on GPUs of so many bytes each, layers split among them by size.

    Each GPU needs its own compute buffer and margin. Layers aren't cut, so each further GPU may
    waste as much as the heaviest layer with its share of the cache.
    """
    memory = estimate(dimensions, load, extra)
    count = max(len(gpus), 1)
    weights = dimensions.weights
    heaviest = weights.largest if weights is not None and not load.cpu_moe else 0
    waste = (count - 1) * (heaviest + memory.cache // max(dimensions.layers, 1))
    margins = margin * count
    return Fit(load, memory, memory.total(count) + waste + margins, sum(gpus), margins)


def largest_context(
    dimensions: Dimensions,
    load: Load,
    gpus: Sequence[int],
    *,
    margin: int = MARGIN,
    extra: int = 0,
    limit: int | None = None,
) -> Fit | None:
    """The most tokens a session that fit; None when not even ``STEP`` do.

    + load: as it would run; its context isn't looked at
    + limit: most tokens that make sense; default what the model was trained for
    """

    def at(steps: int) -> Fit:
        wanted = replace(load, context=steps * STEP)
        return fit(dimensions, wanted, gpus, margin=margin, extra=extra)

    most = max((limit or dimensions.context) // STEP, 1)
    steps = _last(most, lambda number: at(number).fits)
    return at(steps) if steps else None


def fewest_cpu_moe(
    dimensions: Dimensions, load: Load, gpus: Sequence[int], *, margin: int = MARGIN, extra: int = 0
) -> Fit | None:
    """The load with as few layers' experts in host memory as make it fit; None if none do.

    Layers are counted as ``--n-cpu-moe`` does, those without experts included.
    """
    weights = dimensions.weights
    if weights is None or not weights.expert_layers:
        return None
    for count in range(1, dimensions.layers + 1):
        if not weights.experts_of_first(count, dimensions.layers):
            continue
        found = fit(dimensions, replace(load, cpu_moe=count), gpus, margin=margin, extra=extra)
        if found.fits:
            return found
    return None


def _last(most: int, good: Callable[[int], bool]) -> int:
    """The largest number up to ``most`` that is good, 0 if none; good ones come first."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if good(middle):
            low = middle
        else:
            high = middle - 1
    return low
