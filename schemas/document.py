"""YAML read as a tree of nodes that know where they were written.

This owns the YAML layer: it works on PyYAML's events (libyaml's where available) and decides
itself what a plain scalar means. It takes the part of YAML on which every reader agrees and
refuses the rest with a position: duplicate keys, tabs for indentation, bytes that are not UTF-8,
tags, merge keys, several documents, plain scalars that YAML 1.1 and 1.2 read differently
(``no``, ``1:30``, ``013``, ``1_000``, dates), and aliases that refer to themselves or expand
without bound. Anchors and aliases are otherwise fine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from schemas.problems import Position, Problem, ProblemsError

Kind = Literal["mapping", "sequence", "string", "integer", "number", "boolean", "null", "invalid"]
Mark = tuple[int, int]
"""Line and column, both counted from 1."""


class FileMark(tuple[int, int]):
    """A mark that names its own file: for values that came from another file than the document."""

    file: str

    def __new__(cls, line: int, column: int, *, file: str) -> FileMark:
        """The place in ``file``."""
        mark = super().__new__(cls, (line, column))
        mark.file = file
        return mark


MAX_DEPTH = 64
"""Levels of nesting; a fleet file needs nine."""

MAX_EXPANDED = 1_000_000
"""Values that aliases may add to those written out."""


class Node:
    """A value and where it is written.

    + kind: what the value is; ``invalid`` stands for a value that was already complained about
    + value: ``dict[str, Node]``, ``list[Node]``, or the scalar itself
    + mark: where the value starts
    + text: a scalar as it stands in the file, for messages
    + keys: of a mapping, where each key is written
    + size: nodes from here down, aliases expanded
    + height: levels from here down
    + nulls: whether a null is found anywhere below
    """

    __slots__ = ("height", "keys", "kind", "mark", "nulls", "size", "text", "value")

    def __init__(self, kind: Kind, value: Any, mark: Mark, text: str = "") -> None:
        self.kind = kind
        self.value = value
        self.mark = mark
        self.text = text
        self.keys: dict[str, Mark] = {}
        self.size = 1
        self.height = 1
        self.nulls = kind == "null"

    def __repr__(self) -> str:
        return f"Node({self.kind}, {self.mark[0]}:{self.mark[1]}, {self.text!r})"

    def get(self, key: str) -> Node | None:
        """The value under ``key``; None when this is no mapping or lacks it."""
        if self.kind != "mapping":
            return None
        found: Node | None = self.value.get(key)
        return found

    def plain(self) -> Any:
        """The value as plain Python data, the way a YAML reader would return it."""
        if self.kind == "mapping":
            return {key: child.plain() for key, child in self.value.items()}
        if self.kind == "sequence":
            return [child.plain() for child in self.value]
        return self.value

    def usable(self) -> Any:
        """Plain data without what was already complained about: a key or item of it is left out.

        None for a node that is itself refused.
        """
        if self.kind == "invalid":
            return None
        if self.kind == "mapping":
            entries = self.value.items()
            return {key: child.usable() for key, child in entries if child.kind != "invalid"}
        if self.kind == "sequence":
            return [child.usable() for child in self.value if child.kind != "invalid"]
        return self.value

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mark]]:
        """Path and mark of everything below, parents first; list items count from ``"0"``.

        A mapping or list under a key is where its key is, a scalar where the scalar is.
        """
        if self.kind == "mapping":
            for key, child in self.value.items():
                below = (*path, key)
                nested = child.kind in ("mapping", "sequence")
                yield below, self.keys[key] if nested else child.mark
                yield from child.walk(below)
        elif self.kind == "sequence":
            for index, child in enumerate(self.value):
                below = (*path, str(index))
                yield below, child.mark
                yield from child.walk(below)


@dataclass(frozen=True)
class Document:
    """A file that was read: its name as the user gave it, the tree, and what is wrong so far.

    ``root`` is None when the file cannot be read as YAML at all (``problems`` says why).
    """

    file: str
    root: Node | None
    problems: tuple[Problem, ...]

    def position(self, mark: Mark) -> Position:
        """A mark of this document as a position that can be printed."""
        return Position(mark.file if isinstance(mark, FileMark) else self.file, *mark)


def read_document(path: Path) -> Document:
    """Read a YAML file.

    Raises :class:`ProblemsError` when the file cannot be opened; mistakes inside it are listed
    in the document's ``problems``.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise _unreadable(path, "there is no such file") from None
    except IsADirectoryError:
        raise _unreadable(path, "this is a directory; name the file in it") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise _unreadable(path, f"cannot be read: {reason or error}") from None
    return parse_document(content, str(path))


def parse_document(content: bytes, file: str) -> Document:
    """Read YAML from bytes; ``file`` is the name that positions carry."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _stop(file, _mark_at(content[: error.start].decode("utf-8", "replace")), _NOT_UTF8)
    unprintable = _UNPRINTABLE.search(text)
    if unprintable:
        message = f"holds the control character U+{ord(unprintable[0]):04X}; delete it"
        return _stop(file, _mark_at(text[: unprintable.start()]), message)
    tabs = [_mark_at(text[: found.end()]) for found in _TAB_INDENT.finditer(text)]
    builder = _Builder(file)
    for line, column in tabs:
        builder.report((line, column - 1), _TAB)
    root = builder.build(text)
    return Document(file, root, tuple(builder.problems))


def dotted(path: tuple[str | int, ...]) -> str:
    """A path the way messages print it: ``hosts.gpu-01.groups[0]``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{on_one_line(part)}" for part in path)
    return "".join(parts).removeprefix(".")


def on_one_line(text: str, longest: int = 60) -> str:
    """Text as messages print it: escaped where a terminal would act on it, and shortened.

    Who and with which password is left out of an address.
    """
    line = printable(_USERINFO.sub(r"\1***@", text))
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def printable(text: str) -> str:
    """Text in which whatever a terminal would act on is escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


_USERINFO = re.compile(r"(://).*@")
_NOT_UTF8 = "this is not UTF-8 text; save the file as UTF-8"
_TAB = "a tab: YAML is indented with spaces"
_MERGE_KEY = (
    "merge keys (<<) are not supported: put what is shared into a group, "
    "or alias whole values with *name"
)
# What PyYAML's own reader refuses (yaml.reader.Reader.NON_PRINTABLE), but for a BOM in the text.
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|\ufeff"
)
_TAB_INDENT = re.compile(r"^ *\t", re.MULTILINE)

_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False}
_BOOLEANS["FALSE"] = False
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
OLD_BOOLEANS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
OLD_BOOLEAN = "YAML 1.1 reads a bare"
"""How the message about such a word begins; a schema may know the better remedy."""
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?[0-9]+\.[0-9]+\Z")
_SURPRISES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"[-+]?0[0-9_]+\Z"), "a number with a leading zero is octal to some YAML readers"),
    (
        re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*(\.[0-9_]*)?\Z"),
        "YAML 1.1 drops the underscores of a number",
    ),
    (
        re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?\Z"),
        "YAML 1.1 reads this as a number in base 60",
    ),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?\Z"), "YAML 1.1 reads this as a date"),
    (
        re.compile(r"[-+]?0([xX][0-9a-fA-F_]+|[oO][0-7_]+|[bB][01_]+)\Z"),
        "only some YAML readers take this for a number",
    ),
    (
        re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.?[0-9]*)[eE][-+]?[0-9]+\Z|[-+]?(\.[0-9]+|[0-9]+\.)\Z"),
        "YAML readers disagree whether this is a number",
    ),
    (re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z"), "this is not a finite number"),
    (re.compile(r"[-+]?[0-9.]{31,}\Z"), "this number is too long"),
)
_QUOTE_OR_DECIMAL = "quote it if it is text, else write a plain decimal number"
_SYNTAX_HINTS = (
    ("could not find expected ':'", "a ':' is missing after the key, or a quote is not closed"),
    ("did not find expected key", "this does not fit the lines above: check the indentation"),
    ("mapping values are not allowed", "a second ':' on this line: check indentation, or quote"),
    ("did not find expected ',' or", "a ',' or a closing bracket is missing before this"),
    ("did not find expected '-' indicator", "this does not fit the list above: check indentation"),
    ("cannot start any token", "this character cannot start a value: quote the value"),
    ("found unexpected end of stream", "a quote that was opened is not closed"),
    ("did not find expected node content", "a value is missing before this"),
    ("block sequence entries are not allowed", "a list cannot start here: begin it on a new line"),
)


def _unreadable(path: Path, message: str) -> ProblemsError:
    return ProblemsError([Problem(Position(str(path), 1, 1), "", message)])


def _stop(file: str, mark: Mark, message: str) -> Document:
    return Document(file, None, (Problem(Position(file, *mark), "", message),))


def _mark_at(before: str) -> Mark:
    """The mark right behind ``before``, which is the text from the start of the file."""
    last = before.rfind("\n")
    return before.count("\n") + 1, len(before) - last


def _plain_scalar(text: str) -> tuple[Kind, Any, str]:
    """Kind, value and complaint (empty when there is none) of an unquoted scalar."""
    if text in _NULLS:
        return "null", None, ""
    if text in _BOOLEANS:
        return "boolean", _BOOLEANS[text], ""
    if text.lower() in OLD_BOOLEANS:
        meaning = OLD_BOOLEANS[text.lower()]
        words = f"{OLD_BOOLEAN} {text} as {meaning}: quote it, or write true or false"
        return "invalid", None, words
    if text[0] not in "0123456789+-.":
        return "string", text, ""
    for pattern, why in _SURPRISES:
        if pattern.match(text):
            # The text is not repeated: it may be a password that should not be here.
            return "invalid", None, f"{why}; {_QUOTE_OR_DECIMAL}"
    if _INTEGER.match(text):
        return "integer", int(text), ""
    if _FLOAT.match(text):
        return "number", float(text), ""
    return "string", text, ""


def reads_plainly_as(text: str) -> str:
    """What an unquoted scalar is: ``text``, ``true``, ``false``, or the name of another kind."""
    if text.lower() in OLD_BOOLEANS:
        return OLD_BOOLEANS[text.lower()]
    kind, value, _ = _plain_scalar(text)
    return "text" if kind == "string" else str(value).lower() if kind == "boolean" else kind


class _Discard:
    """Stands for a key that cannot be used, so that its value is read and dropped."""


@dataclass
class _Frame:
    """A collection under construction."""

    node: Node
    anchor: str | None
    key: str | _Discard | None = None
    key_mark: Mark = (1, 1)
    refused: bool = False


@dataclass
class _Builder:
    """Builds the tree from events, without recursion, and collects what is wrong on the way."""

    file: str
    problems: list[Problem] = field(default_factory=list)
    stack: list[_Frame] = field(default_factory=list)
    anchors: dict[str, Node | None] = field(default_factory=dict)
    scalars: dict[str, tuple[Kind, Any, str]] = field(default_factory=dict)
    root: Node | None = None
    documents: int = 0
    expanded: int = 0

    def report(self, mark: Mark, message: str) -> None:
        path = tuple(frame.key for frame in self.stack if isinstance(frame.key, str))
        self.problems.append(Problem(Position(self.file, *mark), dotted(path), printable(message)))

    def build(self, text: str) -> Node | None:
        """The root, or None when the text ends early; ``problems`` says why."""
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        handlers: dict[type[Any], Callable[[Any], bool]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._open_mapping,
            yaml.SequenceStartEvent: self._open_sequence,
            yaml.MappingEndEvent: self._close,
            yaml.SequenceEndEvent: self._close,
            yaml.AliasEvent: self._alias,
            yaml.DocumentStartEvent: self._document,
        }
        try:
            while True:
                event = loader.get_event()
                handler = handlers.get(type(event))
                if handler is not None:
                    if not handler(event):
                        return None
                elif type(event) is yaml.StreamEndEvent:
                    break
        except yaml.YAMLError as error:
            self._syntax(error)
            return None
        finally:
            loader.dispose()
        if self.root is None or self.root.kind == "null":
            self.report((1, 1), "the file is empty")
            return None
        return self.root

    def _syntax(self, error: yaml.YAMLError) -> None:
        """Say in plain words what the parser stumbled over; a tab was reported before."""
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        if any(p.message == _TAB and p.position.line == where[0] for p in self.problems):
            return
        reason = str(getattr(error, "problem", None) or "this is not YAML")
        hint = next((plain for known, plain in _SYNTAX_HINTS if known in reason), reason)
        context = getattr(error, "context_mark", None)
        if context is not None and context.line + 1 != where[0]:
            hint += f" (in what starts on line {context.line + 1})"
        self.stack.clear()
        self.report(where, hint)

    def _document(self, event: Any) -> bool:
        self.documents += 1
        if self.documents < 2:
            return True
        self.report(_start(event), "a second document starts here: one file holds one document")
        return False

    def _scalar(self, event: Any) -> bool:
        mark, text = _start(event), event.value
        if event.tag is not None:
            self.report(mark, _tag_message(event.tag))
            return self._add(Node("invalid", None, mark, text), event.anchor)
        if event.style:
            return self._add(Node("string", text, mark, text), event.anchor)
        known = self.scalars.get(text)
        if known is None:
            known = self.scalars[text] = _plain_scalar(text)
        kind, value, complaint = known
        if complaint:
            self.report(mark, complaint)
        return self._add(Node(kind, value, mark, text), event.anchor)

    def _open_mapping(self, event: Any) -> bool:
        return self._open(event, Node("mapping", {}, _start(event)))

    def _open_sequence(self, event: Any) -> bool:
        return self._open(event, Node("sequence", [], _start(event)))

    def _open(self, event: Any, node: Node) -> bool:
        frame = _Frame(node, event.anchor)
        if event.tag is not None:
            self.report(node.mark, _tag_message(event.tag))
            frame.refused = True
        if len(self.stack) >= MAX_DEPTH:
            self.report(node.mark, f"nested deeper than {MAX_DEPTH} levels")
            return False
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        top = self.stack[-1] if self.stack else None
        if top is not None and top.node.kind == "mapping" and top.key is None:
            self.report(node.mark, "a key must be text, not a list or mapping; quote it if it is")
        self.stack.append(frame)
        return True

    def _close(self, _event: Any) -> bool:
        frame = self.stack.pop()
        node = frame.node
        children = node.value.values() if node.kind == "mapping" else node.value
        for child in children:
            node.size += child.size
            node.nulls = node.nulls or child.nulls
            if child.height >= node.height:
                node.height = child.height + 1
        if frame.refused:
            node.kind = "invalid"
        return self._add(node, frame.anchor)

    def _alias(self, event: Any) -> bool:
        mark = _start(event)
        if event.anchor not in self.anchors:
            self.report(mark, f"*{event.anchor}: there is no anchor &{event.anchor} above this")
            return self._add(Node("invalid", None, mark), None)
        node = self.anchors[event.anchor]
        if node is None:
            self.report(mark, f"*{event.anchor} is inside &{event.anchor}: it would never end")
            return self._add(Node("invalid", None, mark), None)
        if node.height + len(self.stack) > MAX_DEPTH:
            self.report(mark, f"*{event.anchor} nests deeper than {MAX_DEPTH} levels")
            return False
        self.expanded += node.size
        if self.expanded > MAX_EXPANDED:
            self.report(mark, f"aliases blow this file up by more than {MAX_EXPANDED:,} values")
            return False
        return self._add(node, None)

    def _add(self, node: Node, anchor: str | None) -> bool:
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.stack:
            self.root = node
            return True
        top = self.stack[-1]
        if top.node.kind == "sequence":
            top.node.value.append(node)
        elif top.key is None:
            self._key(top, node)
        else:
            if isinstance(top.key, str):
                top.node.value[top.key] = node
                top.node.keys[top.key] = top.key_mark
            top.key = None
        return True

    def _key(self, top: _Frame, node: Node) -> None:
        top.key = _Discard()
        top.key_mark = node.mark
        if isinstance(node.value, (dict, list)):
            return
        if node.kind != "string" and node.kind != "invalid":
            shown = on_one_line(node.text) or "an empty key"
            self.report(node.mark, f"{shown}: a key must be text; quote it")
        if node.text == "<<":
            self.report(node.mark, _MERGE_KEY)
            return
        if node.text in top.node.keys:
            first = top.node.keys[node.text][0]
            name = on_one_line(node.text)
            where = f"on line {first} already" if first != node.mark[0] else "on this line before"
            self.report(node.mark, f"the key {name} is written {where}; keep one of them")
            return
        top.key = node.text


def _start(event: Any) -> Mark:
    mark = event.start_mark
    return mark.line + 1, mark.column + 1


def _tag_message(tag: str) -> str:
    short = tag.replace("tag:yaml.org,2002:", "!!")
    return f"the tag {short} is not supported: write the plain value, quoted if it is text"
