"""The front of a GGUF file says what the model is; anything else costs a message, not memory."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import gguf_bytes, write_gguf

from inventories.gguf import (
    MAX_ARRAY,
    MAX_STRING,
    GgufError,
    Header,
    Read,
    SkippedArray,
    read_file_header,
    read_header,
    row_size,
)

ENTRIES = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.rope.freq_base": 10000.0,
    "llama.use_bias": True,
    "llama.attention.head_count_kv": [4, 0],
}
TENSORS = [("token_embd.weight", "q4_k", (256, 100)), ("blk.0.attn_norm.weight", "f32", (256,))]


def reader(data: bytes, asked: list[tuple[int, int]] | None = None) -> Read:
    """A source over bytes that notes what was asked of it."""

    def read(offset: int, size: int) -> bytes:
        if asked is not None:
            asked.append((offset, size))
        return data[offset : offset + size]

    return read


def header_of(data: bytes) -> Header:
    """The header of these bytes."""
    return read_header(reader(data), "model.gguf")


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_and_tensors_are_read(version: int) -> None:
    header = header_of(gguf_bytes(ENTRIES, TENSORS, version)[0])
    assert (header.version, header.architecture) == (version, "llama")
    assert header.metadata["llama.block_count"] == 2
    assert header.metadata["llama.use_bias"] is True
    assert header.metadata["llama.attention.head_count_kv"] == (4, 0)
    embedding, norm = header.tensors
    assert (embedding.type, embedding.shape, embedding.size) == ("q4_k", (256, 100), 14400)
    assert norm.size == 1024


def test_a_whole_file_says_it_is_one() -> None:
    assert header_of(gguf_bytes(ENTRIES)[0]).split_count == 1
    assert header_of(gguf_bytes({**ENTRIES, "split.count": 3})[0]).split_count == 3


def test_a_tokenizer_is_passed_over_and_scores_are_not_even_fetched() -> None:
    words = [f"token{number}" for number in range(50_000)]
    big = {**ENTRIES, "tokenizer.ggml.tokens": words}
    data, _ = gguf_bytes(big, TENSORS)
    scores = (
        struct.pack("<Q", 23)
        + b"tokenizer.ggml.scores__"[:23]
        + struct.pack("<IIQ", 9, 6, 2_000_000)
    )
    head = bytearray(data)
    # One more entry at the front: two million scores, eight megabytes.
    head[16:24] = struct.pack("<Q", len(big) + 1)
    whole = bytes(head[:24]) + scores + bytes(8_000_000) + bytes(head[24:])
    asked: list[tuple[int, int]] = []
    header = read_header(reader(whole, asked), "model.gguf")
    assert header.metadata["tokenizer.ggml.tokens"] == SkippedArray(50_000)
    assert len(header.tensors) == 2
    assert sum(len(whole[o : o + s]) for o, s in asked) < 2_500_000 < len(whole)


def test_only_the_front_of_a_big_file_is_fetched(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    write_gguf(path, ENTRIES, [("output.weight", "q8_0", (4096, 1_000_000))])
    assert path.stat().st_size > 4_000_000_000
    with path.open("rb") as file:

        def read(offset: int, size: int) -> bytes:
            assert offset + size <= 1 << 20
            file.seek(offset)
            return file.read(size)

        assert read_header(read, "big.gguf").tensors[0].elements == 4_096_000_000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends in the middle"),
        (b"<html>, not a model", "no GGUF file"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "of version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "tensors; at most"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "metadata entries; at most"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62), "bytes of text; at most"),
        (gguf_bytes(ENTRIES, TENSORS)[0][:-3], "ends in the middle"),
    ],
)
def test_what_is_no_header_is_refused_with_a_place(data: bytes, message: str) -> None:
    with pytest.raises(GgufError, match=message) as caught:
        header_of(data)
    assert str(caught.value).startswith("model.gguf: byte ")


def entry(kind: int, rest: bytes) -> bytes:
    """A file with one metadata entry ``k`` of this type."""
    return b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", kind) + rest


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (entry(77, b""), "unknown type 77"),
        (entry(8, struct.pack("<Q", MAX_STRING + 1)), "bytes of text; at most"),
        (entry(9, struct.pack("<IQ", 4, MAX_ARRAY + 1)), "elements of k; at most"),
        (entry(9, struct.pack("<IQ", 9, 1)), "a list of the unknown type 9"),
        (entry(9, struct.pack("<IQ", 12, MAX_ARRAY)), "beyond 128 MiB|ends in the middle"),
    ],
)
def test_hostile_lengths_are_refused_before_anything_is_fetched(data: bytes, message: str) -> None:
    asked: list[tuple[int, int]] = []
    with pytest.raises(GgufError, match=message):
        read_header(reader(data + bytes(64), asked), "x")
    assert all(size <= 1 << 23 for _, size in asked)


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((255, 4), 12, "impossible shape"),
        ((1 << 40, 1 << 40), 0, "impossible shape"),
        ((32,), 99, "has the type 99"),
        ((1, 1, 1, 1, 1), 0, "5 dimensions"),
    ],
)
def test_impossible_tensors_are_refused(shape: tuple[int, ...], kind: int, message: str) -> None:
    tensor = struct.pack("<Q", 1) + b"t" + struct.pack("<I", len(shape))
    tensor += struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", kind, 0)
    with pytest.raises(GgufError, match=message):
        header_of(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_header_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    whole = bytearray(gguf_bytes(ENTRIES, TENSORS)[0])
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(GgufError):
        assert len(header_of(bytes(whole)).tensors) <= 2


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="No such file"):
        read_file_header(tmp_path / "gone.gguf")


def test_rows_are_sized_as_ggml_does() -> None:
    assert row_size("f16", 576) == 1152
    assert row_size("q8_0", 576) == 612
    assert row_size("q4_0", 1024) == 576
