"""JSON text edited in place: values are set and removed, and every other byte stays. Pure.

For files that belong to somebody else, of which a few values are ours. Comments and trailing commas
(JSONC) are kept where the file's reader takes them, and refused where it doesn't. What can't be
edited raises :class:`JsonTextError`, which names file, line, column and remedy; there is no result
then, so nothing is lost.

How it works: beside the text a second one of the same length is kept, in which comments and
trailing commas are blanks. That one is plain JSON, and its positions are those of the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

_SPACE = re.compile(r"[ \t\r\n]*")
_INDENT = re.compile(r"[ \t]*")
_STRING = r'"(?:[^"\\\r\n]|\\.)*"'
_COMMENT = re.compile(rf"{_STRING}|//[^\r\n]*|/\*.*?\*/", re.DOTALL)
# A comma before a closing bracket, behind a value.
_TRAILING = re.compile(rf'{_STRING}|(?<=["\w\]}}])([ \t\r\n]*),(?=[ \t\r\n]*[\]}}])', re.DOTALL)
_BLANKED_COMMA = "\t"


class JsonTextError(Exception):
    """A text can't be edited. The message names file, place and remedy."""


@dataclass(frozen=True)
class _Member:
    """Where one member of an object lies in the text: key, then value, both end-exclusive."""

    key_start: int
    value_start: int
    value_end: int


class JsonText:
    """A JSON object as text. Of a key written twice the last one counts, as for every reader.

    + text: may be blank, for a file that is absent or empty
    + place: the file, for messages
    + comments: whether its reader takes comments and trailing commas

    Raises :class:`JsonTextError` for what is no JSON object.
    """

    def __init__(self, text: str, place: str, *, comments: bool = False) -> None:
        self.text = text if text.strip() else "{\n}\n"
        self.place = place
        self._plain = blank_comments(self.text) if comments else self.text
        self._refuse_other_than_objects()
        self._scanned: dict[int, dict[str, _Member]] = {}
        self._newline = "\r\n" if "\r\n" in self.text else "\n"
        self._unit = self._member_indent(_skip(self._plain, 0)) or "  "

    def members(self, path: Sequence[str]) -> list[str]:
        """Names of the members of the object at ``path``, in order."""
        return list(self._scan(self._object(path)))

    def has(self, path: Sequence[str]) -> bool:
        """Whether there is a value at ``path``; an error where what leads there is no object."""
        return self._find(path) is not None

    def value(self, path: Sequence[str]) -> Any:
        """The value at ``path``; None where there is none, or none that Python can hold."""
        member = self._find(path)
        if member is None:
            return None
        try:
            return json.loads(self._plain[member.value_start : member.value_end])
        except (ValueError, RecursionError):
            return None

    def set(self, path: Sequence[str], value: Any) -> None:
        """Make ``value`` stand at ``path``, with the objects that lead there."""
        for depth in range(1, len(path)):
            if not self.has(path[:depth]):
                for name in reversed(path[depth:]):
                    value = {name: value}
                path = path[:depth]
                break
        if not self.has(path):
            self.insert(path[:-1], path[-1], value)
        elif canonical(self.value(path)) != canonical(value):
            self._replace(path, value)

    def insert(self, path: Sequence[str], name: str, value: Any, *, first: bool = False) -> None:
        """Add a member to the object at ``path``, at its end or as its ``first``."""
        start = self._object(path)
        members = list(self._scan(start).values())
        indent = self._member_indent(start)
        if not members:
            self._insert_only(path, start, name, value)
        elif first:
            self._insert_first(start, members[0], indent, self._member(name, value, indent))
        else:
            self._insert_last(path, members[-1], indent, name, value)

    def remove(self, path: Sequence[str], name: str) -> None:
        """Take a member out of the object at ``path``, with the comma that it needs no more.

        Comments between its key and the end of its value go with it; those around it stay.
        """
        start = self._object(path)
        members = self._scan(start)
        names = list(members)
        member, index = members[name], names.index(name)
        comma = self._comma_behind(member.value_end)
        trailing = comma is not None and self._plain[comma] == _BLANKED_COMMA
        if comma is not None:
            self._splice(comma, comma + 1, "")
        self._cut(member.key_start, member.value_end)
        if index == 0 or (comma is not None and not trailing):
            return
        before = self._plain.index(",", members[names[index - 1]].value_end)
        if trailing:
            self._splice_plain(before, _BLANKED_COMMA)
        else:
            blank = _INDENT.match(self.text, before + 1)
            joined = blank is not None and blank.end() == member.key_start
            self._splice(before, member.key_start if joined else before + 1, "")

    # Inserting

    def _insert_only(self, path: Sequence[str], start: int, name: str, value: Any) -> None:
        inside = start + 1
        close = _skip(self._plain, inside)
        comments = self.text[inside:close].rstrip(" \t\r\n")
        many_lines = "\n" in self.text.strip() + self._newline * (not path)
        indent = self._unit * (len(path) + 1) if many_lines else None
        member = self._member(name, value, indent)
        if comments:
            inside += len(comments)
            if "\n" not in self._plain[inside:close]:
                self._splice(inside, inside, " " + self._member(name, value, None))
                return
            lead = self._newline + self._unit * (len(path) + 1)
            self._splice(inside, inside, lead + member)
        elif indent is None:
            self._splice(inside, close, member)
        else:
            end = self._newline + self._unit * len(path)
            self._splice(inside, close, self._newline + indent + member + end)

    def _insert_first(self, start: int, member: _Member, indent: str | None, text: str) -> None:
        lead = " " if indent is None else self._newline + indent
        key = member.key_start
        if not self.text[start + 1 : key].strip():
            self._splice(key, key, text + "," + lead)
        elif indent is None:  # what stands between belongs to the first member
            self._splice(start + 1, start + 1, text + ",")
        else:
            place = self._end_of_line(start + 1)
            self._splice(place, place, lead + text + ",")

    def _insert_last(
        self, path: Sequence[str], last: _Member, indent: str | None, name: str, value: Any
    ) -> None:
        end = last.value_end
        comma = self._comma_behind(end)
        place = self._end_of_line(end if comma is None else comma + 1)
        behind_comment = bool(self.text[end:place].strip(" \t\r\n,"))
        if indent is None and behind_comment:  # it may reach to the end of its line
            indent = self._unit * (len(path) + 1)
        lead = " " if indent is None else self._newline + indent
        self._splice(place, place, lead + self._member(name, value, indent))
        if comma is None:
            self._splice(end, end, ",")
        else:
            self._splice_plain(comma, ",")

    def _replace(self, path: Sequence[str], value: Any) -> None:
        start = self._object(path[:-1])
        member = self._scan(start)[path[-1]]
        indent = self._member_indent(start)
        self._splice(member.value_start, member.value_end, self._dump(value, indent))

    def _cut(self, start: int, end: int) -> None:
        """Take out what lies between, and the line when nothing else is on it."""
        line = max(self.text.rfind("\n", 0, start), self.text.rfind("\r", 0, start)) + 1
        rest = re.compile(r"[ \t]*(\r\n|\n|\r)").match(self.text, end)
        if rest and not self.text[line:start].strip(" \t") and line:
            self._splice(line, rest.end(), "")
            return
        blank = _INDENT.match(self.text, end)
        self._splice(start, blank.end() if blank and rest is None else end, "")

    def _splice(self, start: int, end: int, text: str) -> None:
        self._scanned.clear()
        self.text = self.text[:start] + text + self.text[end:]
        self._plain = self._plain[:start] + text + self._plain[end:]

    def _splice_plain(self, index: int, char: str) -> None:
        """A trailing comma that has become one between members."""
        self._plain = self._plain[:index] + char + self._plain[index + 1 :]

    # Looking

    def _refuse_other_than_objects(self) -> None:
        try:
            document = self._decoder().decode(self._plain)
        except json.JSONDecodeError as error:
            where = f"{self.place}:{error.lineno}:{error.colno}"
            if self._plain is self.text and _is_jsonc(self.text, error.pos):
                raise JsonTextError(
                    f"{where}: comments and trailing commas are not JSON, and the program that "
                    "reads this file takes none: take them out, then run again"
                ) from None
            where = f"{self.place}:{_position(self.text, error.pos)}"
            raise JsonTextError(
                f"{where}: not JSON: {error.msg}: mend the file or move it away, then run again"
            ) from None
        except RecursionError:
            raise JsonTextError(
                f"{self.place}:1:1: nested too deeply to be read: mend the file or move it away"
            ) from None
        if not isinstance(document, dict):
            index = _skip(self._plain, 0)
            raise JsonTextError(
                f"{self.place}:{_position(self.text, index)}: it must be an object "
                "({...}): mend the file or move it away, then run again"
            )

    def _decoder(self) -> json.JSONDecoder:
        def refuse(constant: str) -> None:
            where = _position(self.text, self._plain.find(constant))
            raise JsonTextError(
                f"{self.place}:{where}: {constant} is not JSON: take it out, then run again"
            )

        # Numbers stay text: a huge one must neither overflow nor stop the edit.
        return json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=refuse)

    def _find(self, path: Sequence[str]) -> _Member | None:
        for depth in range(1, len(path)):
            if path[depth - 1] not in self._scan(self._object(path[: depth - 1])):
                return None
        return self._scan(self._object(path[:-1])).get(path[-1])

    def _object(self, path: Sequence[str]) -> int:
        """Index of the brace that opens the object at ``path``, which must be there."""
        start = _skip(self._plain, 0)
        for depth, name in enumerate(path, 1):
            start = self._scan(start)[name].value_start
            if self._plain[start] != "{":
                raise JsonTextError(
                    f"{self.place}:{_position(self.text, start)}: {'.'.join(path[:depth])} must "
                    "be an object ({...}): mend it, then run again"
                )
        return start

    def _scan(self, start: int) -> dict[str, _Member]:
        """The members of the object whose brace is at ``start``; read once between edits."""
        if start not in self._scanned:
            self._scanned[start] = self._read(start)
        return self._scanned[start]

    def _read(self, start: int) -> dict[str, _Member]:
        decoder, plain = self._decoder(), self._plain
        members: dict[str, _Member] = {}
        index = _skip(plain, start + 1)
        while plain[index] != "}":
            key_start = index
            key, index = scanstring(plain, key_start + 1)
            value_start = _skip(plain, _skip(plain, index) + 1)
            _, value_end = decoder.raw_decode(plain, value_start)
            members.pop(key, None)  # a repeated key counts where it stands last
            members[key] = _Member(key_start, value_start, value_end)
            index = _skip(plain, value_end)
            if plain[index] == ",":
                index = _skip(plain, index + 1)
        return members

    def _comma_behind(self, index: int) -> int | None:
        """Where the comma behind a value is, a trailing one too; None where there is none."""
        while self._plain[index] in " \t\r\n":
            if self.text[index] == "," and self._plain[index] == _BLANKED_COMMA:
                return index
            index += 1
        return index if self._plain[index] == "," else None

    def _end_of_line(self, index: int) -> int:
        """Behind the comments that follow ``index`` on its line."""
        end = index
        while end < len(self._plain) and self._plain[end] in " \t":
            end += 1
        return index + len(self.text[index:end].rstrip(" \t"))

    def _member_indent(self, start: int) -> str | None:
        """The white space before an object's first member; None when it is on the brace's line."""
        first = _skip(self._plain, start + 1)
        newline = self._plain.rfind("\n", start + 1, first)
        if self._plain[first] == "}" or newline < 0:
            return None
        indent = _INDENT.match(self.text, newline + 1)
        return indent[0] if indent else ""

    def _member(self, name: str, value: Any, indent: str | None) -> str:
        return json.dumps(name, ensure_ascii=False) + ": " + self._dump(value, indent)

    def _dump(self, value: Any, indent: str | None) -> str:
        if indent is None:
            return json.dumps(value, ensure_ascii=False)
        text = json.dumps(value, indent=self._unit, ensure_ascii=False)
        return text.replace("\n", self._newline + indent)


def blank_comments(text: str) -> str:
    """``text`` with blanks for comments and trailing commas: the same length, plain JSON."""

    def comment(match: re.Match[str]) -> str:
        return match[0] if match[0].startswith('"') else " " * len(match[0])

    def comma(match: re.Match[str]) -> str:
        return match[0] if match[0].startswith('"') else match[1] + _BLANKED_COMMA

    return _TRAILING.sub(comma, _COMMENT.sub(comment, text))


def comments_of(text: str) -> list[str]:
    """Every comment in a JSONC text, as written."""
    return [match[0] for match in _COMMENT.finditer(text) if not match[0].startswith('"')]


def canonical(value: Any) -> str:
    """A text that two values share only when JSON readers can't tell them apart."""
    return json.dumps(value, sort_keys=True)


def _is_jsonc(text: str, position: int) -> bool:
    """Whether JSON stopped at a comment or at a comma before a closing bracket."""
    rest = text[position:].lstrip()
    if rest.startswith(("//", "/*")):
        return True
    if rest.startswith(","):
        return rest[1:].lstrip().startswith(("}", "]"))
    return rest.startswith(("}", "]")) and text[:position].rstrip().endswith(",")


def _position(text: str, index: int) -> str:
    line = text.count("\n", 0, index) + 1
    return f"{line}:{index - text.rfind(chr(10), 0, index)}"


def _skip(text: str, index: int) -> int:
    match = _SPACE.match(text, index)
    return match.end() if match else index
