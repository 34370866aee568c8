"""Reads the header of a GGUF file: what the model is, and what each tensor weighs; not the tensors.

Pure: it reads through ``read(offset, size)``, which may be a local file, an HTTP range request or
a test's bytes. What lies in the way is passed over by arithmetic where its size follows from its
count (token scores, token types); lists of strings (a tokenizer's tokens and merges) have to be
read, since each string states its own length, so a header costs what its tokenizer costs: a few
hundred kilobytes to some megabytes, of a file of many gigabytes.

Format: ggml/include/gguf.h and ggml/src/gguf.cpp of llama.cpp (read at 0c1e570), versions 2 and 3,
little-endian; types and block sizes: ggml.h and ggml-common.h. Stricter than llama.cpp: every
count, length and product has a bound, so a hostile file costs a message, not memory.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Read = Callable[[int, int], bytes]
"""``read(offset, size)`` gives the bytes there: fewer at the end of the file, never more."""

Value: TypeAlias = "str | int | float | bool | tuple[int | float | bool, ...] | SkippedArray"

FIRST_PIECE = 256 << 10
LARGEST_PIECE = 4 << 20
MAX_HEADER = 128 << 20
"""Bytes; the largest tokenizers make headers of about 20 MB."""

MAX_TENSORS = 65_536
MAX_ENTRIES = 4_096
MAX_KEY = 65_535
MAX_STRING = 8 << 20
MAX_ARRAY = 16_000_000
MAX_KEPT_ARRAY = 1_024
MAX_NAME = 128
MAX_ELEMENTS = 1 << 48

_SCALARS: Mapping[int, struct.Struct] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_STRING, _ARRAY = 8, 9

# Type number: name, elements a block, bytes a block.
TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("f32", 1, 4),
    1: ("f16", 1, 2),
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    9: ("q8_1", 32, 36),
    10: ("q2_k", 256, 84),
    11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144),
    13: ("q5_k", 256, 176),
    14: ("q6_k", 256, 210),
    15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1),
    25: ("i16", 1, 2),
    26: ("i32", 1, 4),
    27: ("i64", 1, 8),
    28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
    40: ("nvfp4", 64, 36),
    41: ("q1_0", 128, 18),
    42: ("q2_0", 64, 18),
}
TYPE_NUMBERS: Mapping[str, int] = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}


class GgufError(Exception):
    """The file is no GGUF file that can be read; one line says what is wrong at which byte."""


@dataclass(frozen=True)
class SkippedArray:
    """A list whose elements were not kept: too many, or strings. ``count`` is how many."""

    count: int


@dataclass(frozen=True)
class Tensor:
    """One tensor: ``size`` is in bytes, ``shape`` innermost first, as ggml counts."""

    name: str
    type: str
    shape: tuple[int, ...]
    size: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What the front of one GGUF file says.

    + metadata: scalars and strings by key; short lists of numbers as tuples; other lists by count
    + length: bytes of the header itself
    """

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    length: int

    @property
    def architecture(self) -> str:
        """``general.architecture``; empty when the file states none."""
        found = self.metadata.get("general.architecture")
        return found if isinstance(found, str) else ""

    @property
    def split_count(self) -> int:
        """How many files the model is split into; 1 for a whole one."""
        found = self.metadata.get("split.count")
        return found if isinstance(found, int) and found > 0 else 1


def row_size(type_name: str, elements: int) -> int:
    """Bytes of one row of so many elements, as ``ggml_row_size`` counts; KeyError for no type."""
    _, block, size = TENSOR_TYPES[TYPE_NUMBERS[type_name]]
    return elements * size // block


def read_header(read: Read, place: str) -> Header:
    """The header of the file behind ``read``; ``place`` names it in messages.

    Raises :class:`GgufError` for what is no GGUF file, cut off, or beyond every reasonable bound.
    What ``read`` raises passes through.
    """
    return _Parser(_Window(read, place)).header()


def read_file_header(path: Path) -> Header:
    """The header of a local file; :class:`GgufError` also where the file can't be read."""
    try:
        with path.open("rb") as file:

            def read(offset: int, size: int) -> bytes:
                file.seek(offset)
                return file.read(size)

            return read_header(read, str(path))
    except OSError as error:
        raise GgufError(f"{path}: {error.strerror}") from None


class _Window:
    """A forward reader over ``read`` that asks for ever larger pieces and may jump ahead."""

    def __init__(self, read: Read, place: str) -> None:
        self._read = read
        self._place = place
        self._start = 0
        self._data = b""
        self._piece = FIRST_PIECE
        self.position = 0

    def fail(self, message: str) -> GgufError:
        return GgufError(f"{self._place}: byte {self.position}: {message}")

    def skip(self, size: int) -> None:
        self._bound(size)
        if size:
            # Its last byte is read: what is passed over must be there.
            self.position += size - 1
            self.take(1)

    def take(self, size: int) -> bytes:
        self._bound(size)
        begin = self.position - self._start
        if begin + size > len(self._data):
            self._fetch(size)
            begin = self.position - self._start
        self.position += size
        return self._data[begin : begin + size]

    def _bound(self, size: int) -> None:
        if self.position + size > MAX_HEADER:
            raise self.fail(f"the header goes on beyond {MAX_HEADER >> 20} MiB; refused")

    def _fetch(self, size: int) -> None:
        rest = self._data[self.position - self._start :] if self._covers() else b""
        wanted = max(size - len(rest), self._piece)
        self._piece = min(self._piece * 2, LARGEST_PIECE)
        fresh = self._read(self.position + len(rest), wanted)
        self._data, self._start = rest + fresh, self.position
        if len(self._data) < size:
            raise self.fail("the file ends in the middle of its header; fetch it again")

    def _covers(self) -> bool:
        return self._start <= self.position <= self._start + len(self._data)


class _Parser:
    """Follows the format from front to back."""

    def __init__(self, window: _Window) -> None:
        self._window = window

    def header(self) -> Header:
        magic = self._window.take(4)
        if magic != b"GGUF":
            raise self._window.fail("no GGUF file (its first bytes are not GGUF)")
        version = self._number("<I")
        if version not in (2, 3):
            swapped = version in (2 << 24, 3 << 24)
            what = "big-endian" if swapped else f"of version {version}"
            raise self._window.fail(
                f"a GGUF file {what}; versions 2 and 3, little-endian, are read"
            )
        tensors = self._count("tensors", MAX_TENSORS)
        entries = self._count("metadata entries", MAX_ENTRIES)
        metadata = dict(self._entry() for _ in range(entries))
        found = tuple(self._tensor() for _ in range(tensors))
        return Header(version, metadata, found, self._window.position)

    def _number(self, code: str) -> int:
        return int(struct.unpack(code, self._window.take(struct.calcsize(code)))[0])

    def _count(self, what: str, most: int) -> int:
        count = self._number("<Q")
        if count > most:
            raise self._window.fail(f"{count} {what}; at most {most} are read")
        return count

    def _text(self, most: int) -> str:
        data = self._window.take(self._count("bytes of text", most))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._window.fail("a name that is no UTF-8") from None

    def _entry(self) -> tuple[str, Value]:
        key = self._text(MAX_KEY)
        return key, self._value(key, self._number("<I"))

    def _value(self, key: str, kind: int) -> Value:
        if kind in _SCALARS:
            return self._scalar(kind)
        if kind == _STRING:
            length = self._count("bytes of text", MAX_STRING)
            return self._window.take(length).decode("utf-8", "replace")
        if kind == _ARRAY:
            return self._array(key)
        raise self._window.fail(f"{key} has the unknown type {kind}")

    def _scalar(self, kind: int) -> int | float | bool:
        code = _SCALARS[kind]
        value: int | float | bool = code.unpack(self._window.take(code.size))[0]
        return value

    def _array(self, key: str) -> Value:
        kind, count = self._number("<I"), self._count(f"elements of {key}", MAX_ARRAY)
        if kind == _STRING:
            for _ in range(count):
                self._window.skip(self._count("bytes of text", MAX_STRING))
            return SkippedArray(count)
        if kind not in _SCALARS:
            raise self._window.fail(f"{key} is a list of the unknown type {kind}")
        if count > MAX_KEPT_ARRAY:
            self._window.skip(count * _SCALARS[kind].size)
            return SkippedArray(count)
        return tuple(self._scalar(kind) for _ in range(count))

    def _tensor(self) -> Tensor:
        name = self._text(MAX_NAME)
        dimensions = self._number("<I")
        if not 1 <= dimensions <= 4:
            raise self._window.fail(f"the tensor {name!r} has {dimensions} dimensions, not 1 to 4")
        shape = tuple(self._number("<Q") for _ in range(dimensions))
        number, _offset = self._number("<I"), self._number("<Q")
        if number not in TENSOR_TYPES:
            raise self._window.fail(
                f"the tensor {name!r} has the type {number}, which this version doesn't know"
            )
        kind, block, size = TENSOR_TYPES[number]
        elements = math.prod(shape)
        if elements > MAX_ELEMENTS or shape[0] % block:
            raise self._window.fail(f"the tensor {name!r} has an impossible shape {list(shape)}")
        return Tensor(name, kind, shape, elements // block * size)
