"""Edits a fleet file's text: a host or a group goes in, and every other byte stays.

Pure. Works on the text by the marks of PyYAML's events (libyaml's where available), which count
characters from the start; nothing is ever printed anew but what is added. Comments, order, blank
lines, anchors, line ends, indentation, quotes, a missing newline at the end and a document's end
marker survive. The one thing ever taken out is a written ``null`` or ``~`` that stood for "no
hosts". What goes in follows the file's own style: its indentation, flow or block, blank lines
between entries, padded braces, JSON.

The result is read again and compared: it must mean the old document and exactly the new entry,
else :class:`EditError` says so and there is no result. An alias of the mapping that was edited, for
one, would have changed what stands elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from schemas.document import parse_document

WIDTH = 88
"""Columns that a line of ours may take where there is a choice."""

INDENT = 2
"""Columns a level, where the file shows none of its own."""


class EditError(Exception):
    """The text can't be edited. ``str()`` says why, and what to do by hand."""


def add_host(text: str, name: str, entry: Mapping[str, Any], *, after: str | None = None) -> str:
    """The text with the host ``name`` below ``hosts:``, which is made where there is none.

    + text: a whole fleet file, line ends as they are in the file
    + entry: plain data: mappings by text, lists, text, numbers, booleans, None
    + after: the host that it goes behind; None: behind the last one

    Raises :class:`EditError` when the text is not one YAML mapping, has the host already, lacks
    ``after``, or would mean anything else than it did plus the new host.
    """
    return _add(text, "hosts", name, entry, after)


def add_group(text: str, name: str, entry: Mapping[str, Any], *, after: str | None = None) -> str:
    """The same for a group below ``groups:``; where there is none, it is made above ``hosts:``."""
    return _add(text, "groups", name, entry, after)


def add_model(text: str, name: str, entry: Mapping[str, Any], *, after: str | None = None) -> str:
    """The same for a model below ``models:``."""
    return _add(text, "models", name, entry, after)


def _add(text: str, section: str, name: str, entry: Mapping[str, Any], after: str | None) -> str:
    bom, body = ("\ufeff", text[1:]) if text.startswith("\ufeff") else ("", text)
    before = _meaning(body)
    known = before.get(section)
    if known is not None and not isinstance(known, dict):
        raise EditError(f"{section} is no mapping; write {section}: with names below it")
    if name in (known or {}):
        raise EditError(f"{section}.{name} is there already; nothing was changed")
    if after is not None and after not in (known or {}):
        raise EditError(f"{section} has no {after} to put {name} behind")
    edited = _Editor(body).add(section, name, entry, after)
    expected = before | {section: dict(known or {}) | {name: dict(entry)}}
    if not _same(_meaning(edited, "the edited file"), expected):
        raise EditError(
            f"adding {section}.{name} would change what stands elsewhere in the file "
            f"(is {section} aliased, or does the file end within a text?); add it by hand"
        )
    return bom + edited


def _meaning(text: str, what: str = "the file") -> dict[str, Any]:
    document = parse_document(text.encode("utf-8", "surrogatepass"), "fleet")
    if document.problems:
        problem = document.problems[0]
        where = f"{problem.position.line}:{problem.position.column}"
        raise EditError(f"{what} can't be read at {where}: {problem.message}")
    if document.root is None or document.root.kind != "mapping":
        raise EditError(f"{what} is no mapping; see inventories/example.yaml for one")
    meaning: dict[str, Any] = document.root.plain()
    return meaning


def _same(one: Any, other: Any) -> bool:
    """Equal, with 1, 1.0 and true told apart; the order of keys says nothing."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


# Where everything stands ------------------------------------------------------------------------

Kind = Literal["mapping", "sequence", "scalar", "alias"]


@dataclass
class _Span:
    """A node of the text.

    + start, end: of what is written, comments behind it not counted
    + flow: written in brackets
    + style: of a scalar: ``"``, ``'``, ``|``, ``>`` or nothing
    + pairs: of a mapping, keys with their values in order
    """

    kind: Kind
    start: int
    end: int
    flow: bool = False
    style: str = ""
    text: str = ""
    pairs: list[tuple[_Span, _Span]] = field(default_factory=list)
    items: int = 0
    key: _Span | None = None

    def take(self, child: _Span) -> None:
        """Add what comes next: an item, a key, or the value of the last key."""
        self.end = max(self.end, child.end)
        self.items += 1
        if self.kind != "mapping":
            return
        if self.key is None:
            self.key = child
        else:
            self.pairs.append((self.key, child))
            self.key = None

    def find(self, name: str) -> _Span | None:
        """The value of a key."""
        return next((value for key, value in self.pairs if key.text == name), None)


def _spans(text: str) -> list[_Span]:
    """Every node, the root last."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: list[_Span] = []
    stack: list[_Span] = []
    for event in yaml.parse(text, Loader=loader):
        if event.start_mark is None or event.end_mark is None:
            continue
        start, end = event.start_mark.index, event.end_mark.index
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            kind: Kind = "mapping" if isinstance(event, yaml.MappingStartEvent) else "sequence"
            # libyaml says true, false; the slower reader may say None.
            stack.append(_Span(kind, start, end, flow=bool(event.flow_style)))
            continue
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            span = stack.pop()
            # The end of a block is only seen where the next thing starts, comments passed.
            span.end = end if span.flow else span.end
        elif isinstance(event, yaml.ScalarEvent):
            span = _Span("scalar", start, end, style=event.style or "", text=event.value)
        elif isinstance(event, yaml.AliasEvent):
            span = _Span("alias", start, end)
        else:
            continue
        found.append(span)
        if stack:
            stack[-1].take(span)
    return found


# The file's style -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Style:
    """How the file is written, as far as something new has to follow it.

    + newline: what ends a line
    + indent: columns a level
    + flow_maps, flow_lists: whether short ones go into brackets
    + padded: ``{ a: 1 }``
    + as_json: every key is quoted
    """

    newline: str
    indent: int
    flow_maps: bool
    flow_lists: bool
    padded: bool
    as_json: bool


_NEWLINE = re.compile("\r\n|\r|\n")
_BLANK_LINE = re.compile("(?:\r\n|\r(?!\n)|\n)[ \t]*[\r\n]")


def _style(text: str, spans: Sequence[_Span]) -> _Style:
    root = spans[-1]
    newline = _NEWLINE.search(text)
    keys = [key for span in spans for key, _ in span.pairs]
    # The root's own mappings are blocks in nearly every file, and say little about small ones.
    deep = [s for s in spans if s is not root and all(s is not value for _, value in root.pairs)]
    maps = [span.flow for span in deep if span.kind == "mapping" and span.pairs]
    lists = [span.flow for span in spans if span.kind == "sequence" and span.items]
    braces = [s for s in spans if s.kind == "mapping" and s.flow and s.pairs]
    padded = sum(s.pairs[0][0].start - text.index("{", s.start) == 2 for s in braces)
    return _Style(
        newline=newline[0] if newline else "\n",
        indent=_indent(text, root),
        flow_maps=root.flow or not maps or any(maps),
        flow_lists=root.flow or not lists or any(lists),
        padded=padded * 2 > len(braces),
        as_json=bool(root.flow and keys and all(key.style == '"' for key in keys)),
    )


def _indent(text: str, root: _Span) -> int:
    """How far the first block below a key of the root is indented."""
    for key, value in root.pairs:
        if value.kind == "mapping" and not value.flow and value.pairs:
            return _column(text, value.pairs[0][0].start) - _column(text, key.start)
    return INDENT


def _line_start(text: str, index: int) -> int:
    return max(text.rfind("\n", 0, index), text.rfind("\r", 0, index)) + 1


def _column(text: str, index: int) -> int:
    """Indentation of the line that ``index`` is on."""
    return _spaces(text, _line_start(text, index))


def _spaces(text: str, start: int) -> int:
    end = start
    while end < len(text) and text[end] == " ":
        end += 1
    return end - start


# Printing what is new ---------------------------------------------------------------------------


def _scalar(value: Any, *, as_json: bool = False) -> str:
    """A scalar as YAML, quoted only where a reader of YAML 1.1 or ours would take it for else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    text = str(value)
    return text if not as_json and _is_plain(text) else _quoted(text)


_PLAIN = re.compile(r"[\w./~@%+\\$^()=;*&!?<>|:'\" -]+", re.ASCII)
# YAML 1.1's booleans, which PyYAML itself reads as text.
_LETTERS = frozenset("yYnN")


def _is_plain(text: str) -> bool:
    """Whether both readers take the bare text for this very text, in braces and out of them."""
    if text in _LETTERS or not _PLAIN.fullmatch(text):
        return False
    line = f"{{k: [{text}, {text}]}}"
    document = parse_document(line.encode(), "")
    if document.problems or document.root is None:
        return False
    try:
        return bool(document.root.plain() == yaml.safe_load(line) == {"k": [text, text]})
    except yaml.YAMLError:
        return False


def _quoted(text: str) -> str:
    return '"' + "".join(_escape(char) for char in text) + '"'


def _escape(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else char


def _flow(value: Any, style: _Style) -> str:
    """A value on one line."""
    if isinstance(value, Mapping):
        inside = ", ".join(
            f"{_scalar(k, as_json=style.as_json)}: {_flow(v, style)}" for k, v in value.items()
        )
        return f"{{ {inside} }}" if style.padded and inside else f"{{{inside}}}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_flow(item, style) for item in value) + "]"
    return _scalar(value, as_json=style.as_json)


def _block(key: str, value: Any, column: int, style: _Style) -> Iterator[str]:
    """A key (printed already) and its value as lines."""
    head = " " * column + key + ":"
    if _on_one_line(value, style) and len(line := f"{head} {_flow(value, style)}") <= WIDTH:
        yield line
        return
    if isinstance(value, Mapping) and value:
        yield head
        for name, child in value.items():
            yield from _block(_scalar(name), child, column + style.indent, style)
    elif isinstance(value, (list, tuple)) and value and not any(map(_nested, value)):
        yield head
        for item in value:
            yield f"{' ' * (column + style.indent)}- {_scalar(item)}"
    else:
        yield f"{head} {_flow(value, style)}"


def _nested(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def _on_one_line(value: Any, style: _Style) -> bool:
    """Whether a value may go behind its key: what holds a mapping of several keys may not."""
    if isinstance(value, Mapping):
        return not value or (
            style.flow_maps
            and all(
                not isinstance(v, Mapping) or (len(v) < 2 and not any(map(_nested, v.values())))
                for v in value.values()
            )
            # `servers: {coder: {context: 1}}`: a name and what it names take a line each
            and not (len(value) == 1 and isinstance(next(iter(value.values())), Mapping))
        )
    if isinstance(value, (list, tuple)):
        return not value or style.flow_lists
    return True


# Editing ----------------------------------------------------------------------------------------

_Edit = tuple[int, int, str]
"""What is between two places gives way to a text; most often there is nothing between them."""


class _Editor:
    """One text, and where its parts are."""

    def __init__(self, text: str) -> None:
        self.text = text
        spans = _spans(text)
        self.root = spans[-1]
        self.style = _style(text, spans)

    def add(self, section: str, name: str, entry: Mapping[str, Any], after: str | None) -> str:
        """The text with the entry."""
        value = self.root.find(section)
        if value is None:
            edits = self._into(self.root, section, {name: entry}, self._place_of(section))
        elif value.kind == "alias":
            raise EditError(f"{section} is an alias; write {section}: out, or add {name} by hand")
        elif value.kind == "scalar":
            edits = self._into_null(section, value, name, entry)
        else:
            edits = self._into(value, name, entry, after)
        return self._apply(edits)

    def _place_of(self, section: str) -> str | None:
        """What a new section goes behind: models, groups, hosts, in this order."""
        names = [key.text for key, _ in self.root.pairs]
        for below in {"groups": ("hosts",), "models": ("defaults", "groups", "hosts")}.get(
            section, ()
        ):
            if below in names[1:]:
                return names[names.index(below) - 1]
        return None

    def _into(
        self, span: _Span, name: str, entry: Mapping[str, Any], after: str | None
    ) -> list[_Edit]:
        if not span.flow:
            return self._into_block(span, name, entry, after)
        key = self._key(span, name)
        if not span.pairs:
            return [self._insertion(span.end - 1, f"{key}: {_flow(entry, self.style)}")]
        return self._into_flow(span, f"{key}: {_flow(entry, self.style)}", after)

    def _key(self, span: _Span, name: str) -> str:
        """The name as a key, quoted as every other key of the mapping is."""
        quotes = {key.style for key, _ in span.pairs}
        if quotes == {'"'}:
            return _quoted(name)
        if quotes == {"'"} and "'" not in name:
            return f"'{name}'"
        return _scalar(name, as_json=self.style.as_json)

    # Blocks

    def _into_block(
        self, span: _Span, name: str, entry: Mapping[str, Any], after: str | None
    ) -> list[_Edit]:
        position = self._position(span, after)
        last = position == len(span.pairs) - 1
        column = _column(self.text, span.pairs[0][0].start)
        sibling = span.pairs[position][1]
        named = span is not self.root
        lines = self._lines(self._key(span, name), entry, column, named, sibling)
        if self._blank_between(span):
            lines = ["", *lines]
        # A comment in line with the names is the next one's; behind the last, it is the section's.
        own = column if last and span is not self.root else column + 1
        return [self._whole_lines(self._behind(span.pairs[position], own), lines)]

    def _lines(
        self, key: str, entry: Mapping[str, Any], column: int, named: bool, sibling: _Span
    ) -> list[str]:
        """An entry on one line where its neighbour is, else as a block.

        + named: whether ``key`` is the entry's name; else it is a section's, with names below
        """
        line = f"{' ' * column}{key}: {_flow(entry, self.style)}"
        if named and sibling.flow and sibling.pairs and len(line) <= WIDTH:
            return [line]
        if not entry:
            return [line]
        lines = [f"{' ' * column}{key}:"]
        for name, value in entry.items():
            below = column + self.style.indent
            if named:
                lines += _block(_scalar(name), value, below, self.style)
            else:
                lines += self._lines(_scalar(name), value, below, True, sibling)
        return lines

    def _position(self, span: _Span, after: str | None) -> int:
        if after is None:
            return len(span.pairs) - 1
        return next(i for i, (key, _) in enumerate(span.pairs) if key.text == after)

    def _blank_between(self, span: _Span) -> bool:
        """Whether most entries of a block have a blank line above them."""
        gaps = [
            bool(_BLANK_LINE.search(self.text, max(key.end, value.end), following.start))
            for (key, value), (following, _) in zip(span.pairs, span.pairs[1:], strict=False)
        ]
        return bool(gaps) and sum(gaps) * 2 >= len(gaps)

    def _behind(self, pair: tuple[_Span, _Span], own: int) -> int:
        """Where the line behind an entry starts, comments indented by ``own`` or more passed."""
        end = max(span.end for span in pair)
        ends_line = end > 0 and self.text[end - 1] in "\r\n"  # a block of text was read to its end
        place = end if ends_line else self._next_line(end)
        return self._past_comments(place, own)

    def _past_comments(self, place: int, own: int) -> int:
        kept, line = place, place
        while line < len(self.text):
            following = self._next_line(line)
            words = self.text[line:following].strip()
            if words and not (words.startswith("#") and _spaces(self.text, line) >= own):
                break
            line = following
            kept = line if words else kept
        return kept

    def _next_line(self, index: int) -> int:
        found = _NEWLINE.search(self.text, index)
        return found.end() if found else len(self.text)

    def _whole_lines(self, place: int, lines: Iterable[str]) -> _Edit:
        """Lines that go in at the start of a line, or behind a last line that nothing ends."""
        newline = self.style.newline
        ended = self._line_end_before(place)
        if ended is None:
            return self._insertion(place, "".join(newline + line for line in lines))
        return self._insertion(place, "".join(line + ended for line in lines))

    def _line_end_before(self, place: int) -> str | None:
        """What ends the line before ``place``; None where that line isn't ended."""
        for newline in ("\r\n", "\n", "\r"):
            if self.text.endswith(newline, 0, place):
                return newline
        return None

    # Nothing yet

    def _into_null(
        self, section: str, value: _Span, name: str, entry: Mapping[str, Any]
    ) -> list[_Edit]:
        """Put the first name into a section that is written, but empty."""
        key = next(key for key, found in self.root.pairs if found is value)
        written = value.end - len(value.text)
        if self.root.flow:
            text = _flow({name: entry}, self.style)
            return [(written, value.end, text if self._spaced(written) else f" {text}")]
        edits: list[_Edit] = []
        if value.text:
            # `hosts: ~` becomes `hosts:`; the spaces go along, a comment behind it stays.
            while self.text[written - 1] == " ":
                written -= 1
            edits.append((written, value.end, ""))
        column = _column(self.text, key.start)
        lines = self._lines(_scalar(name), entry, column + self.style.indent, True, value)
        place = self._behind((key, value), column + 1)
        return [*edits, self._whole_lines(place, lines)]

    def _spaced(self, index: int) -> bool:
        return self.text[index - 1] in " \t\r\n"

    # Brackets

    def _into_flow(self, span: _Span, entry: str, after: str | None) -> list[_Edit]:
        position = self._position(span, after)
        key, value = span.pairs[position]
        end = max(key.end, value.end)
        start = _line_start(self.text, key.start)
        # Whether entries stand on lines of their own, below the opening brace.
        alone = start > span.start and not self.text[start : key.start].strip()
        comma = self._comma(end, span.end - 1)
        if not alone:
            if comma is None or position < len(span.pairs) - 1:
                return [self._insertion(end, f", {entry}")]
            return [self._insertion(comma + 1, f" {entry},")]
        newline = self.style.newline + self.text[start : key.start]
        if comma is None:
            # The comma goes behind the value, the entry behind the comment on that line.
            rest = self._rest_of_line(end, span.end - 1)
            if rest == end:
                return [self._insertion(end, f",{newline}{entry}")]
            return [self._insertion(end, ","), self._insertion(rest, f"{newline}{entry}")]
        rest = self._rest_of_line(comma + 1, span.end - 1)
        return [self._insertion(rest, f"{newline}{entry},")]

    def _comma(self, start: int, stop: int) -> int | None:
        """The comma behind an entry; comments between them passed."""
        index = start
        while index < stop:
            if self.text[index] == "#":
                index = self._next_line(index)
                continue
            if self.text[index] == ",":
                return index
            index += 1
        return None

    def _rest_of_line(self, start: int, stop: int) -> int:
        """The end of a comment behind ``start`` on its line, else ``start``."""
        index = start
        while index < stop and self.text[index] in " \t":
            index += 1
        if index >= stop or self.text[index] != "#":
            return start
        found = _NEWLINE.search(self.text, index)
        return found.start() if found else len(self.text)

    # Both

    def _insertion(self, place: int, text: str) -> _Edit:
        return place, place, text

    def _apply(self, edits: list[_Edit]) -> str:
        """The edits carried out, the last first, so that places stay true."""
        text = self.text
        for start, end, new in sorted(edits, key=lambda edit: edit[0], reverse=True):
            text = text[:start] + new + text[end:]
        return text
