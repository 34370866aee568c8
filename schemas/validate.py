"""JSON Schema (2020-12) checked on a node tree, with errors for people and positions in the file.

The schemas in this directory are the one truth about shape: editors read them, the
``jsonschema`` package understands them, and this module turns them into nested functions once and
runs those over a :class:`schemas.document.Node`. Two reasons not to call ``jsonschema`` here: its
messages are for programmers, and 10,000 hosts would take it half a minute. A test holds both to
the same verdict. A keyword that is not known here is a ``ValueError`` when the schema is compiled,
so that no rule is skipped in silence.

Two annotations, which VS Code's JSON and YAML services understand as well, hold the words for
people: ``patternErrorMessage`` (after the value: "is not ...") and ``errorMessage`` (instead of
any message about type or pattern, and the value is not repeated: for secrets).
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from schemas.document import (
    OLD_BOOLEAN,
    OLD_BOOLEANS,
    Document,
    Mark,
    Node,
    dotted,
    printable,
)
from schemas.problems import Problem
from schemas.remedies import (
    choices,
    not_one_of,
    old_boolean,
    python_pattern,
    short,
    types_of,
    wrong_kind,
    wrong_text,
)

PathParts = tuple[str | int, ...]
Report = Callable[[Mark, PathParts, str], None]
Check = Callable[[Node, PathParts, Mark, Report], None]

_FOLDER = Path(__file__).parent
_ANNOTATIONS = frozenset(
    {
        *("$schema", "$id", "$defs", "$comment", "title", "description", "default", "examples"),
        *("deprecated", "format", "patternErrorMessage", "errorMessage", "affects"),
    }
)
_KEYWORDS = frozenset(
    {
        *("$ref", "type", "enum", "const", "minimum", "maximum", "pattern"),
        *("minLength", "maxLength", "items", "minItems", "maxItems", "uniqueItems"),
        *("properties", "additionalProperties", "propertyNames", "required"),
        *("minProperties", "maxProperties", "oneOf", "dependentRequired"),
    }
)
_TYPE_OF_KIND = {
    "mapping": "object",
    "sequence": "array",
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}


@functools.cache
def load_schema(name: str) -> Mapping[str, Any]:
    """A schema of this directory by its file name, such as ``fleet.schema.json``."""
    schema: Mapping[str, Any] = json.loads((_FOLDER / name).read_text("utf-8"))
    return schema


def resolve(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """``schema`` with its ``$ref`` (into ``$defs`` of ``root``) merged in; siblings win."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    target = resolve(root["$defs"][reference.removeprefix("#/$defs/")], root)
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def check_document(document: Document, schema_name: str) -> list[Problem]:
    """Every problem of a document: those found when it was read, and those of its shape.

    Values that are reported become nodes of the kind ``invalid``, so that later rules pass them
    over instead of complaining again. What was said of a bare ``on`` or ``no`` is said better
    where the schema knows what belongs there.
    """
    if document.root is None:
        return list(document.problems)
    problems: list[Problem] = []

    def report(mark: Mark, path: PathParts, message: str) -> None:
        problems.append(Problem(document.position(mark), dotted(path), printable(message)))

    _compiled(schema_name)(document.root, (), (1, 1), report)
    better = {
        problem.position: problem
        for problem in reversed(problems)
        if problem.message.startswith(OLD_BOOLEAN)
    }
    read = [
        better.get(problem.position, problem)
        if problem.message.startswith(OLD_BOOLEAN)
        else problem
        for problem in document.problems
    ]
    return [*read, *(problem for problem in problems if problem.position not in better)]


def did_you_mean(word: str, known: Iterable[str], *, known_as: str = "known") -> str:
    """The end of a message about an unknown word: the nearest known ones, or a list of them."""
    names = sorted(set(known))
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if not near:
        folded = {name.lower(): name for name in reversed(names)}
        near = [folded[word.lower()]] if word.lower() in folded else []
    if near:
        return f"; did you mean {near[0]}?"
    if not names:
        return "; there are none in this file"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; {known_as}: {shown}"


@functools.cache
def _compiled(schema_name: str) -> Check:
    schema = load_schema(schema_name)
    return _Compiler(schema).compile(schema)


class _Compiler:
    """Turns one schema into a function; each ``$ref`` is compiled once."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.compiled: dict[str, Check] = {}

    def compile(self, schema: Mapping[str, Any]) -> Check:
        reference = schema.get("$ref")
        if reference is not None:
            if set(schema) - _ANNOTATIONS - {"$ref"}:
                raise ValueError(f"only annotations may stand beside $ref: {sorted(schema)}")
            return self._reference(reference)
        unknown = set(schema) - _ANNOTATIONS - _KEYWORDS
        if unknown:
            raise ValueError(f"keywords that are not supported: {sorted(unknown)}")
        items = resolve(schema.get("items", {}), self.root)
        by_kind: dict[str, list[Check]] = {
            "mapping": self._mapping(schema),
            "sequence": self._sequence(schema),
            "string": _string(schema, items),
            "integer": _number(schema),
            "number": _number(schema),
        }
        allowed, complaint = _type(schema, items)
        value_check = _choice(schema)

        def check(node: Node, path: PathParts, key: Mark, report: Report) -> None:
            kind = node.kind
            if kind == "invalid":
                if node.text.lower() in OLD_BOOLEANS:
                    report(node.mark, path, old_boolean(node, schema, items))
                return
            if allowed is not None and kind not in allowed:
                report(node.mark, path, complaint(node))
                node.kind = "invalid"
                return
            if kind == "null":
                return
            if value_check is not None:
                value_check(node, path, key, report)
            for step in by_kind.get(kind, ()):
                step(node, path, key, report)

        return check

    def _reference(self, reference: str) -> Check:
        if not reference.startswith("#/$defs/"):
            raise ValueError(f"$ref must point into $defs: {reference}")
        if reference not in self.compiled:
            target = self.root["$defs"][reference.removeprefix("#/$defs/")]

            def late(node: Node, path: PathParts, key: Mark, report: Report) -> None:
                self.compiled[reference](node, path, key, report)

            self.compiled[reference] = late  # for a schema that refers to itself
            self.compiled[reference] = self.compile(target)
        return self.compiled[reference]

    def _mapping(self, schema: Mapping[str, Any]) -> list[Check]:
        checks: list[Check] = []
        if "properties" in schema or "additionalProperties" in schema:
            checks.append(self._properties(schema))
        if "propertyNames" in schema:
            checks.append(self._names(schema["propertyNames"]))
        for keyword, build in (
            ("required", _required),
            ("dependentRequired", _dependent_required),
            ("oneOf", _one_of_required),
        ):
            if keyword in schema:
                checks.append(build(schema[keyword]))
        if "minProperties" in schema or "maxProperties" in schema:
            checks.append(_count(schema))
        return checks

    def _properties(self, schema: Mapping[str, Any]) -> Check:
        known = {key: self.compile(sub) for key, sub in schema.get("properties", {}).items()}
        further = schema.get("additionalProperties", True)
        extra = self.compile(further) if isinstance(further, Mapping) else None
        closed = further is False
        homes = _homes(schema, self.root)

        def check(node: Node, path: PathParts, _key: Mark, report: Report) -> None:
            for name, child in node.value.items():
                rule = known.get(name, extra)
                if rule is not None:
                    rule(child, (*path, name), node.keys[name], report)
                elif closed:
                    report(node.keys[name], (*path, name), _unknown_key(name, known, homes))

        return check

    def _names(self, schema: Mapping[str, Any]) -> Check:
        rules = _string(resolve(schema, self.root), {})

        def check(node: Node, path: PathParts, _key: Mark, report: Report) -> None:
            for name in node.value:
                mark = node.keys[name]
                stand_in = Node("string", name, mark, name)
                for rule in rules:
                    rule(stand_in, (*path, name), mark, report)

        return check

    def _sequence(self, schema: Mapping[str, Any]) -> list[Check]:
        checks: list[Check] = []
        if "items" in schema:
            checks.append(_items(self.compile(schema["items"])))
        if schema.get("uniqueItems"):
            checks.append(_unique)
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if least or most is not None:
            checks.append(_length(least, most))
        return checks


def _type(
    schema: Mapping[str, Any], items: Mapping[str, Any]
) -> tuple[frozenset[str] | None, Callable[[Node], str]]:
    """The node kinds that are allowed (None: all), and what to say about any other."""
    names = types_of(schema)
    if not names:
        return None, str
    kinds = {kind for kind, name in _TYPE_OF_KIND.items() if name in names}
    if "number" in names:
        kinds.add("integer")
    return frozenset(kinds), lambda node: wrong_kind(node, schema, items)


def _choice(schema: Mapping[str, Any]) -> Check | None:
    if "enum" not in schema and "const" not in schema:
        return None
    allowed = schema["enum"] if "enum" in schema else [schema["const"]]
    shown = choices({"enum": allowed})

    def check(node: Node, path: PathParts, _key: Mark, report: Report) -> None:
        if node.value in allowed and isinstance(node.value, (str, int, float)):
            return
        if len(shown) == 1:
            report(node.mark, path, f"must be {shown[0]}, is {short(node.text)}")
        else:
            report(node.mark, path, not_one_of(node.text, shown))
        node.kind = "invalid"

    return check


def _number(schema: Mapping[str, Any]) -> list[Check]:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is None and most is None:
        return []

    def check(node: Node, path: PathParts, _key: Mark, report: Report) -> None:
        if least is not None and node.value < least:
            report(node.mark, path, f"{node.text} is less than {least}")
        elif most is not None and node.value > most:
            report(node.mark, path, f"{node.text} is greater than {most}")
        else:
            return
        node.kind = "invalid"

    return [check]


def _string(schema: Mapping[str, Any], items: Mapping[str, Any]) -> list[Check]:
    checks: list[Check] = []
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    pattern = schema.get("pattern")
    expression = re.compile(python_pattern(pattern)) if pattern is not None else None
    if not least and most is None and expression is None:
        return checks

    def check(node: Node, path: PathParts, _key: Mark, report: Report) -> None:
        text = node.value
        if len(text) < least:
            report(node.mark, path, "must not be empty")
        elif most is not None and len(text) > most:
            report(node.mark, path, f"is {len(text)} characters long; at most {most} are allowed")
        elif expression is not None and not expression.search(text):
            report(node.mark, path, wrong_text(text, schema, items))
        else:
            return
        node.kind = "invalid"

    return [check]


def _items(rule: Check) -> Check:
    def check(node: Node, path: PathParts, _key: Mark, report: Report) -> None:
        for index, child in enumerate(node.value):
            rule(child, (*path, index), child.mark, report)

    return check


def _unique(node: Node, path: PathParts, _key: Mark, report: Report) -> None:
    seen: set[str] = set()
    for index, child in enumerate(node.value):
        if child.kind == "invalid":
            continue
        fingerprint = json.dumps(child.plain(), sort_keys=True)
        if fingerprint in seen:
            report(child.mark, (*path, index), f"{short(child.text)} is listed twice")
        seen.add(fingerprint)


def _length(least: int, most: int | None) -> Check:
    def check(node: Node, path: PathParts, _key: Mark, report: Report) -> None:
        if len(node.value) < least:
            report(node.mark, path, "the list is empty" if least == 1 else f"needs {least} items")
        elif most is not None and len(node.value) > most:
            report(
                node.mark, path, f"at most {most} items are allowed, these are {len(node.value)}"
            )

    return check


def _required(names: list[str]) -> Check:
    def check(node: Node, path: PathParts, key: Mark, report: Report) -> None:
        for name in names:
            if name not in node.value:
                where = "" if path else ": add it at the top level of the file"
                report(key, path, f"{name} is missing{where}")

    return check


def _dependent_required(rules: Mapping[str, list[str]]) -> Check:
    def check(node: Node, path: PathParts, _key: Mark, report: Report) -> None:
        for name, needed in rules.items():
            if name not in node.value:
                continue
            for other in needed:
                if other not in node.value:
                    report(node.keys[name], path, f"{name} needs {other} beside it")

    return check


def _one_of_required(branches: list[Mapping[str, Any]]) -> Check:
    """``oneOf`` in its one supported form: exactly one of some keys is there."""
    if any(set(branch) != {"required"} or len(branch["required"]) != 1 for branch in branches):
        raise ValueError("oneOf is supported with branches of one required key each")
    names = [branch["required"][0] for branch in branches]
    shown = f"{', '.join(names[:-1])} and {names[-1]}"

    def check(node: Node, path: PathParts, key: Mark, report: Report) -> None:
        present = [name for name in names if name in node.value]
        if not present:
            report(key, path, f"needs exactly one of {shown}")
        for name in present[1:]:
            report(node.keys[name], path, f"{present[0]} and {name} exclude each other; keep one")

    return check


def _count(schema: Mapping[str, Any]) -> Check:
    least, most = schema.get("minProperties", 0), schema.get("maxProperties")
    names = list(schema.get("properties", {}))
    shown = f"{', '.join(names[:-1])} and {names[-1]}" if names else ""

    def check(node: Node, path: PathParts, key: Mark, report: Report) -> None:
        found = len(node.value)
        if least <= found and (most is None or found <= most):
            return
        if least == most == 1:
            report(key, path, f"needs exactly one of {shown}")
        elif found < least:
            report(key, path, "is empty; at least one entry is needed")
        else:
            report(key, path, f"at most {most} entries are allowed")

    return check


def _homes(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, list[str]]:
    """Where keys that people misplace belong: key of a section below, to its places there."""
    homes: dict[str, list[str]] = {}
    for name, sub in schema.get("properties", {}).items():
        section = resolve(sub, root)
        further = section.get("additionalProperties")
        if isinstance(further, Mapping):
            section, name = resolve(further, root), f"{name}.NAME"
        for key in section.get("properties", {}):
            homes.setdefault(key, []).append(f"{name}.{key}")
    return homes


def _unknown_key(name: str, known: Iterable[str], homes: Mapping[str, list[str]]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    if not near and name in homes:
        return f"{short(name)} does not belong here; did you mean {' or '.join(homes[name])}?"
    return f"unknown key {short(name)}" + did_you_mean(name, names, known_as="known here")
