"""GGUF files of real models' dimensions without the weights: a header and a hole of the right size.

llama.cpp reads them like any other (its loader checks that the file is long enough), so its own
figures for a family can be had without the model. Tensor lists follow ``src/models/*.cpp`` of
llama.cpp (read at 0c1e570); what a quantisation does to each tensor is simplified: matrices get
one type, norms and small vectors are f32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inventories.gguf import TENSOR_TYPES, TYPE_NUMBERS

ALIGNMENT = 32


@dataclass
class Synthetic:
    """A model to be written: metadata without the architecture's prefix, and tensors."""

    architecture: str
    metadata: dict[str, Any]
    vocabulary: int
    matrix: str = "q4_k"
    tensors: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)

    def weight(self, name: str, *shape: int, kind: str | None = None) -> None:
        """A matrix in the model's type (another where its rows are no whole blocks), else f32."""
        if kind is None:
            kind = self.matrix if len(shape) > 1 and shape[0] >= 256 else "f32"
            if shape[0] % TENSOR_TYPES[TYPE_NUMBERS[kind]][1]:
                kind = "q8_0" if shape[0] % 32 == 0 else "f16"
        self.tensors.append((name, kind, shape))

    def write(self, path: Path) -> None:
        """Write the file; its data part is a hole."""
        entries: dict[str, Any] = {
            "general.architecture": self.architecture,
            "tokenizer.ggml.model": "none",
            f"{self.architecture}.vocab_size": self.vocabulary,
        }
        entries |= {f"{self.architecture}.{key}": value for key, value in self.metadata.items()}
        write_gguf(path, entries, self.tensors)


def write_gguf(
    path: Path,
    entries: Mapping[str, Any],
    tensors: Sequence[tuple[str, str, tuple[int, ...]]],
    version: int = 3,
) -> None:
    """Write a GGUF file of these entries and tensors, its data a hole."""
    header, size = gguf_bytes(entries, tensors, version)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(_aligned(len(header)) + size)


def gguf_bytes(
    entries: Mapping[str, Any],
    tensors: Sequence[tuple[str, str, tuple[int, ...]]] = (),
    version: int = 3,
) -> tuple[bytes, int]:
    """The header of a GGUF file, and how many bytes of data follow it."""
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(entries))]
    parts += [_text(key) + _value(value) for key, value in entries.items()]
    offset = 0
    for name, kind, shape in tensors:
        number = TYPE_NUMBERS[kind]
        _, block, size = TENSOR_TYPES[number]
        parts.append(_text(name) + struct.pack("<I", len(shape)))
        parts.append(struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", number, offset))
        offset = _aligned(offset + math.prod(shape) // block * size)
    return b"".join(parts), offset


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    if value and isinstance(value[0], bool):
        return struct.pack("<IIQ", 9, 7, len(value)) + struct.pack(f"<{len(value)}?", *value)
    if value and isinstance(value[0], float):
        return struct.pack("<IIQ", 9, 6, len(value)) + struct.pack(f"<{len(value)}f", *value)
    return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def _attention(model: Synthetic, layer: int, width: int, q: int, k: int, v: int) -> None:
    blk = f"blk.{layer}"
    model.weight(f"{blk}.attn_q.weight", width, q)
    model.weight(f"{blk}.attn_k.weight", width, k)
    model.weight(f"{blk}.attn_v.weight", width, v)
    model.weight(f"{blk}.attn_output.weight", q, width)


def _dense(model: Synthetic, layer: int, width: int, inner: int) -> None:
    model.weight(f"blk.{layer}.ffn_gate.weight", width, inner)
    model.weight(f"blk.{layer}.ffn_up.weight", width, inner)
    model.weight(f"blk.{layer}.ffn_down.weight", inner, width)


def _experts(
    model: Synthetic, layer: int, width: int, inner: int, count: int, kind: str | None = None
) -> None:
    blk = f"blk.{layer}"
    model.weight(f"{blk}.ffn_gate_inp.weight", width, count, kind="f32")
    model.weight(f"{blk}.ffn_gate_exps.weight", width, inner, count, kind=kind)
    model.weight(f"{blk}.ffn_up_exps.weight", width, inner, count, kind=kind)
    model.weight(f"{blk}.ffn_down_exps.weight", inner, width, count, kind=kind)


def _shared(model: Synthetic, layer: int, width: int, inner: int) -> None:
    model.weight(f"blk.{layer}.ffn_gate_shexp.weight", width, inner)
    model.weight(f"blk.{layer}.ffn_up_shexp.weight", width, inner)
    model.weight(f"blk.{layer}.ffn_down_shexp.weight", inner, width)


def _ends(model: Synthetic, width: int, *, tied: bool = False) -> None:
    model.weight("token_embd.weight", width, model.vocabulary)
    model.weight("output_norm.weight", width)
    if not tied:
        model.weight(
            "output.weight", width, model.vocabulary, kind="q6_k" if width % 256 == 0 else "q8_0"
        )


def _mamba2(model: Synthetic, layer: int, width: int, ssm: Mapping[str, int]) -> None:
    """The SSM tensors of Mamba-2, as granitehybrid, nemotron_h, falcon-h1 and mamba2 have them."""
    blk, inner, state = f"blk.{layer}", ssm["ssm.inner_size"], ssm["ssm.state_size"]
    groups, heads, conv = ssm["ssm.group_count"], ssm["ssm.time_step_rank"], ssm["ssm.conv_kernel"]
    channels = inner + 2 * groups * state
    model.weight(f"{blk}.ssm_in.weight", width, inner + channels + heads)
    model.weight(f"{blk}.ssm_conv1d.weight", conv, channels, kind="f32")
    model.weight(f"{blk}.ssm_conv1d.bias", channels)
    model.weight(f"{blk}.ssm_dt.bias", heads)
    model.weight(f"{blk}.ssm_a", 1, heads, kind="f32")
    model.weight(f"{blk}.ssm_d", 1, heads, kind="f32")
    model.weight(f"{blk}.ssm_norm.weight", inner // groups, groups, kind="f32")
    model.weight(f"{blk}.ssm_out.weight", inner, width)


def _common(
    layers: int, width: int, context: int, heads: Any = None, kv: Any = None, inner: Any = None
) -> dict[str, Any]:
    found = {
        "context_length": context,
        "embedding_length": width,
        "block_count": layers,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.head_count": heads,
        "attention.head_count_kv": kv,
        "feed_forward_length": inner,
    }
    return {key: value for key, value in found.items() if value is not None}


def llama(
    *,
    layers: int,
    width: int,
    heads: int,
    kv: int,
    head: int,
    inner: int,
    vocabulary: int,
    context: int,
    experts: int = 0,
    used: int = 0,
) -> Synthetic:
    """Llama, Mistral, Devstral; with ``experts`` Mixtral."""
    metadata = _common(layers, width, context, heads, kv, inner)
    metadata |= {"attention.key_length": head, "attention.value_length": head}
    metadata["rope.dimension_count"] = head
    if experts:
        metadata |= {"expert_count": experts, "expert_used_count": used}
    model = Synthetic("llama", metadata, vocabulary)
    _ends(model, width)
    for layer in range(layers):
        model.weight(f"blk.{layer}.attn_norm.weight", width)
        model.weight(f"blk.{layer}.ffn_norm.weight", width)
        _attention(model, layer, width, heads * head, kv * head, kv * head)
        if experts:
            _experts(model, layer, width, inner, experts)
        else:
            _dense(model, layer, width, inner)
    return model


def glm_4_7_flash() -> Synthetic:
    """GLM-4.7-Flash: deepseek2, MLA, MoE; the first layer dense."""
    layers, width, heads, q_rank, kv_rank, rope, nope, v = 47, 2048, 20, 768, 512, 64, 192, 256
    metadata = _common(layers, width, 202752, heads, 1, 10240) | {
        "attention.q_lora_rank": q_rank,
        "attention.kv_lora_rank": kv_rank,
        "attention.key_length": kv_rank + rope,
        "attention.value_length": kv_rank,
        "attention.key_length_mla": nope + rope,
        "attention.value_length_mla": v,
        "rope.dimension_count": rope,
        "leading_dense_block_count": 1,
        "expert_count": 64,
        "expert_used_count": 4,
        "expert_shared_count": 1,
        "expert_feed_forward_length": 1536,
        "expert_weights_scale": 1.8,
        "expert_weights_norm": True,
        "expert_gating_func": 2,
    }
    model = Synthetic("deepseek2", metadata, 154880)
    _ends(model, width)
    for layer in range(layers):
        blk = f"blk.{layer}"
        for name, size in (("attn_norm", width), ("ffn_norm", width), ("attn_q_a_norm", q_rank)):
            model.weight(f"{blk}.{name}.weight", size)
        model.weight(f"{blk}.attn_kv_a_norm.weight", kv_rank)
        model.weight(f"{blk}.attn_q_a.weight", width, q_rank)
        model.weight(f"{blk}.attn_q_b.weight", q_rank, heads * (nope + rope))
        model.weight(f"{blk}.attn_kv_a_mqa.weight", width, kv_rank + rope)
        model.weight(f"{blk}.attn_k_b.weight", nope, kv_rank, heads, kind="q8_0")
        model.weight(f"{blk}.attn_v_b.weight", kv_rank, v, heads, kind="q8_0")
        model.weight(f"{blk}.attn_output.weight", heads * v, width)
        if layer == 0:
            _dense(model, layer, width, 10240)
            continue
        _experts(model, layer, width, 1536, 64)
        model.weight(f"{blk}.exp_probs_b.bias", 64)
        _shared(model, layer, width, 1536)
    return model


def qwen3_coder_30b_a3b() -> Synthetic:
    """Qwen3-Coder-30B-A3B: qwen3moe, GQA."""
    layers, width, heads, kv, head = 48, 2048, 32, 4, 128
    metadata = _common(layers, width, 262144, heads, kv, 6144) | {
        "attention.key_length": head,
        "attention.value_length": head,
        "expert_count": 128,
        "expert_used_count": 8,
        "expert_feed_forward_length": 768,
    }
    model = Synthetic("qwen3moe", metadata, 151936)
    _ends(model, width)
    for layer in range(layers):
        blk = f"blk.{layer}"
        model.weight(f"{blk}.attn_norm.weight", width)
        model.weight(f"{blk}.ffn_norm.weight", width)
        model.weight(f"{blk}.attn_q_norm.weight", head)
        model.weight(f"{blk}.attn_k_norm.weight", head)
        _attention(model, layer, width, heads * head, kv * head, kv * head)
        _experts(model, layer, width, 768, 128)
    return model


def gpt_oss_20b() -> Synthetic:
    """gpt-oss-20b: every other layer slides over 128 tokens; experts in MXFP4."""
    layers, width, heads, kv, head, experts = 24, 2880, 64, 8, 64, 32
    metadata = _common(layers, width, 131072, heads, kv, 2880) | {
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.sliding_window": 128,
        "expert_count": experts,
        "expert_used_count": 4,
        "expert_feed_forward_length": 2880,
    }
    model = Synthetic("gpt-oss", metadata, 201088, matrix="q8_0")
    _ends(model, width)
    for layer in range(layers):
        blk = f"blk.{layer}"
        model.weight(f"{blk}.attn_norm.weight", width)
        model.weight(f"{blk}.post_attention_norm.weight", width)
        model.weight(f"{blk}.attn_sinks.weight", heads)
        _attention(model, layer, width, heads * head, kv * head, kv * head)
        for name, size in (("q", heads * head), ("k", kv * head), ("v", kv * head)):
            model.weight(f"{blk}.attn_{name}.bias", size)
        model.weight(f"{blk}.attn_output.bias", width)
        _experts(model, layer, width, 2880, experts, kind="mxfp4")
        model.weight(f"{blk}.ffn_gate_inp.bias", experts)
        for name in ("gate", "up", "down"):
            model.weight(f"{blk}.ffn_{name}_exps.bias", 2880, experts, kind="f32")
    return model


def gemma_3_27b() -> Synthetic:
    """Gemma 3 27B: five of six layers slide over 1024 tokens; embeddings tied."""
    layers, width, heads, kv, head, inner = 62, 5376, 32, 16, 128, 21504
    metadata = _common(layers, width, 131072, heads, kv, inner) | {
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.sliding_window": 1024,
    }
    model = Synthetic("gemma3", metadata, 262208)
    _ends(model, width, tied=True)
    for layer in range(layers):
        blk = f"blk.{layer}"
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            model.weight(f"{blk}.{name}.weight", width)
        model.weight(f"{blk}.attn_q_norm.weight", head)
        model.weight(f"{blk}.attn_k_norm.weight", head)
        _attention(model, layer, width, heads * head, kv * head, kv * head)
        _dense(model, layer, width, inner)
    return model


def gemma_4_like() -> Synthetic:
    """Gemma 4's shape: other head sizes in sliding layers, the last layers share K/V, MoE."""
    layers, width, heads, head, window_head, inner, experts = 30, 2816, 16, 512, 256, 2112, 128
    pattern = [(layer + 1) % 6 != 0 for layer in range(layers)]
    kv = [8 if slides else 2 for slides in pattern]
    metadata = _common(layers, width, 262144, heads, kv, inner) | {
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.key_length_swa": window_head,
        "attention.value_length_swa": window_head,
        "attention.sliding_window": 1024,
        "attention.sliding_window_pattern": pattern,
        "attention.shared_kv_layers": 0,
        "embedding_length_per_layer_input": 0,
        "expert_count": experts,
        "expert_used_count": 8,
        "expert_feed_forward_length": 704,
        "rope.dimension_count": head,
        "rope.dimension_count_swa": window_head,
    }
    model = Synthetic("gemma4", metadata, 262144)
    _ends(model, width, tied=True)
    model.weight("rope_freqs.weight", head // 2)
    for layer in range(layers):
        blk, size = f"blk.{layer}", window_head if pattern[layer] else head
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            model.weight(f"{blk}.{name}.weight", width)
        for name in ("pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2"):
            model.weight(f"{blk}.{name}.weight", width)
        model.weight(f"{blk}.attn_q_norm.weight", size)
        model.weight(f"{blk}.attn_k_norm.weight", size)
        _attention(model, layer, width, heads * size, kv[layer] * size, kv[layer] * size)
        _dense(model, layer, width, inner)
        _experts(model, layer, width, 704, experts)
        model.weight(f"{blk}.ffn_gate_inp.scale", width)
    return model


def granite_4_h_small() -> Synthetic:
    """Granite 4.0 H Small: Mamba-2 with four attention layers of forty, MoE."""
    layers, width, heads, head, kv = 40, 4096, 32, 128, 8
    attention = {5, 15, 25, 35}
    ssm = {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 8192,
        "ssm.state_size": 128,
        "ssm.time_step_rank": 128,
        "ssm.group_count": 1,
    }
    kvs = [kv if layer in attention else 0 for layer in range(layers)]
    metadata = (
        _common(layers, width, 131072, heads, kvs, 768)
        | ssm
        | {
            "rope.dimension_count": head,
            "expert_count": 72,
            "expert_used_count": 10,
            "expert_shared_feed_forward_length": 1536,
        }
    )
    model = Synthetic("granitehybrid", metadata, 100352)
    _ends(model, width, tied=True)
    for layer in range(layers):
        model.weight(f"blk.{layer}.attn_norm.weight", width)
        model.weight(f"blk.{layer}.ffn_norm.weight", width)
        if layer in attention:
            _attention(model, layer, width, heads * head, kv * head, kv * head)
        else:
            _mamba2(model, layer, width, ssm)
        _experts(model, layer, width, 768, 72)
        _shared(model, layer, width, 1536)
    return model


def qwen3_coder_next() -> Synthetic:
    """Qwen3-Coder-Next (80B-A3B): three of four layers linear attention, MoE of 512 experts."""
    layers, width, heads, kv, head, inner = 48, 2048, 16, 2, 256, 512
    groups, rank, state = 16, 32, 128
    keys, values = state * groups, state * rank
    metadata = _common(layers, width, 262144, heads, kv, 5120) | {
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": 64,
        "expert_count": 512,
        "expert_used_count": 10,
        "expert_feed_forward_length": inner,
        "expert_shared_feed_forward_length": inner,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": values,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
        "ssm.group_count": groups,
    }
    model = Synthetic("qwen3next", metadata, 151936)
    _ends(model, width)
    for layer in range(layers):
        blk = f"blk.{layer}"
        model.weight(f"{blk}.attn_norm.weight", width)
        model.weight(f"{blk}.post_attention_norm.weight", width)
        if (layer + 1) % 4 == 0:
            model.weight(f"{blk}.attn_q.weight", width, heads * head * 2)
            model.weight(f"{blk}.attn_k.weight", width, kv * head)
            model.weight(f"{blk}.attn_v.weight", width, kv * head)
            model.weight(f"{blk}.attn_output.weight", heads * head, width)
            model.weight(f"{blk}.attn_q_norm.weight", head)
            model.weight(f"{blk}.attn_k_norm.weight", head)
        else:
            model.weight(f"{blk}.attn_qkv.weight", width, keys * 2 + values)
            model.weight(f"{blk}.attn_gate.weight", width, values)
            model.weight(f"{blk}.ssm_conv1d.weight", 4, keys * 2 + values, kind="f32")
            model.weight(f"{blk}.ssm_dt.bias", rank)
            model.weight(f"{blk}.ssm_a", rank)
            model.weight(f"{blk}.ssm_ba.weight", width, rank * 2)
            model.weight(f"{blk}.ssm_norm.weight", state)
            model.weight(f"{blk}.ssm_out.weight", values, width)
        _experts(model, layer, width, inner, 512)
        model.weight(f"{blk}.ffn_gate_inp_shexp.weight", width)
        _shared(model, layer, width, inner)
    return model


NEMOTRON_PATTERN = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"


def nemotron_3_nano() -> Synthetic:
    """Nemotron 3 Nano 30B-A3B: Mamba-2 (M), attention (*) and expert (E) layers, one thing each."""
    width, heads, kv, head, inner, experts, shared = 2688, 32, 2, 128, 1856, 128, 3712
    pattern = NEMOTRON_PATTERN
    ssm = {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 4096,
        "ssm.state_size": 128,
        "ssm.time_step_rank": 64,
        "ssm.group_count": 8,
    }
    kvs = [kv if kind == "*" else 0 for kind in pattern]
    inners = [inner if kind == "E" else 0 for kind in pattern]
    metadata = (
        _common(len(pattern), width, 1048576, heads, kvs, inners)
        | ssm
        | {
            "attention.layer_norm_epsilon": 1e-5,
            "attention.key_length": head,
            "attention.value_length": head,
            "rope.dimension_count": 84,
            "expert_count": experts,
            "expert_used_count": 6,
            "expert_shared_count": 1,
            "expert_feed_forward_length": inner,
            "expert_shared_feed_forward_length": shared,
        }
    )
    model = Synthetic("nemotron_h_moe", metadata, 131072)
    _ends(model, width)
    for layer, kind in enumerate(pattern):
        blk = f"blk.{layer}"
        model.weight(f"{blk}.attn_norm.weight", width)
        if kind == "M":
            _mamba2(model, layer, width, ssm)
        elif kind == "*":
            _attention(model, layer, width, heads * head, kv * head, kv * head)
        else:
            model.weight(f"{blk}.ffn_gate_inp.weight", width, experts, kind="f32")
            model.weight(f"{blk}.exp_probs_b.bias", experts)
            model.weight(f"{blk}.ffn_up_exps.weight", width, inner, experts)
            model.weight(f"{blk}.ffn_down_exps.weight", inner, width, experts)
            model.weight(f"{blk}.ffn_up_shexp.weight", width, shared)
            model.weight(f"{blk}.ffn_down_shexp.weight", shared, width)
    return model


def falcon_h1_7b() -> Synthetic:
    """Falcon-H1 7B: attention and Mamba-2 side by side in every layer."""
    layers, width, heads, kv, head, inner = 44, 3072, 12, 2, 128, 12288
    ssm = {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 3072,
        "ssm.state_size": 256,
        "ssm.time_step_rank": 24,
        "ssm.group_count": 1,
    }
    metadata = _common(layers, width, 262144, heads, kv, inner) | ssm
    metadata |= {"attention.key_length": head, "attention.value_length": head}
    model = Synthetic("falcon-h1", metadata, 130048)
    _ends(model, width)
    for layer in range(layers):
        model.weight(f"blk.{layer}.attn_norm.weight", width)
        model.weight(f"blk.{layer}.ffn_norm", width)
        _mamba2(model, layer, width, ssm)
        _attention(model, layer, width, heads * head, kv * head, kv * head)
        _dense(model, layer, width, inner)
    return model


def mamba2_2_7b() -> Synthetic:
    """Mamba-2 2.7B: no attention at all, so no K/V cache."""
    layers, width = 64, 2560
    ssm = {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 5120,
        "ssm.state_size": 128,
        "ssm.time_step_rank": 80,
        "ssm.group_count": 1,
    }
    metadata = _common(layers, width, 1048576, 0, None, 0) | ssm
    model = Synthetic("mamba2", metadata, 50288)
    _ends(model, width, tied=True)
    for layer in range(layers):
        model.weight(f"blk.{layer}.attn_norm.weight", width)
        _mamba2(model, layer, width, ssm)
    return model


def families() -> Iterator[tuple[str, Synthetic]]:
    """One model of each family, by name."""
    yield (
        "llama-3.1-8b",
        llama(
            layers=32,
            width=4096,
            heads=32,
            kv=8,
            head=128,
            inner=14336,
            vocabulary=128256,
            context=131072,
        ),
    )
    yield (
        "devstral-small",
        llama(
            layers=40,
            width=5120,
            heads=32,
            kv=8,
            head=128,
            inner=32768,
            vocabulary=131072,
            context=131072,
        ),
    )
    yield (
        "mixtral-8x7b",
        llama(
            layers=32,
            width=4096,
            heads=32,
            kv=8,
            head=128,
            inner=14336,
            vocabulary=32000,
            context=32768,
            experts=8,
            used=2,
        ),
    )
    yield "glm-4.7-flash", glm_4_7_flash()
    yield "qwen3-coder-30b-a3b", qwen3_coder_30b_a3b()
    yield "qwen3-coder-next", qwen3_coder_next()
    yield "gpt-oss-20b", gpt_oss_20b()
    yield "gemma-3-27b", gemma_3_27b()
    yield "gemma-4-like", gemma_4_like()
    yield "granite-4.0-h-small", granite_4_h_small()
    yield "nemotron-3-nano", nemotron_3_nano()
    yield "falcon-h1-7b", falcon_h1_7b()
    yield "mamba2-2.7b", mamba2_2_7b()
