"""What would be right instead of a value of the wrong kind: messages made from the schema alone.

A remedy that is itself refused sends people round in a circle: quotes are only proposed where the
quoted text is valid, and where it isn't the message names the values, or what the text must be.
Pure; nothing here repeats a value of a schema that has ``errorMessage``, which may be a secret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.document import OLD_BOOLEAN, Node, on_one_line, reads_plainly_as

Schema = Mapping[str, Any]

ARTICLES = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
_KINDS = {"mapping": "object", "sequence": "array"}
_YES, _NO = ("true", "yes", "on"), ("false", "no", "off")
# What people mean by yes and no where there are more answers than these.
_MEANT = {
    **dict.fromkeys(_YES, ("enabled", "allowed", "yes")),
    **dict.fromkeys(_NO, ("disabled", "never", "no", "none")),
}
_THOUSANDS = re.compile(r"([1-9][0-9]{0,4})[kK]\Z")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,30})\Z")
_DECIMAL = re.compile(r"-?[0-9]{1,30}\.[0-9]+\Z")


def types_of(schema: Schema) -> list[str]:
    """The types that a schema names, null among them; none where it takes everything."""
    wanted = schema.get("type", [])
    return [wanted] if isinstance(wanted, str) else list(wanted)


def wrong_kind(node: Node, schema: Schema, items: Schema) -> str:
    """What is said of a value whose kind the schema doesn't take.

    + items: the resolved schema of its items, where it takes a list
    """
    if "errorMessage" in schema:
        return str(schema["errorMessage"])
    names = types_of(schema)
    shown = " or ".join(ARTICLES[name] for name in names if name != "null" or len(names) == 1)
    base = f"must be {shown}, is {described(node)}"
    if node.kind in ("mapping", "sequence", "null"):
        return base
    remedy = _other_kind(node.text, schema, items)
    if remedy is None and node.kind != "string" and "string" in names:
        if not fits(node.text, schema):
            return _not_this_text(node.text, schema)
        remedy = f'quote it, "{short(node.text)}"'
    if remedy is None and node.kind == "string":
        remedy = _such_as(schema, names)
    return f"{base}: {remedy}" if remedy else base


def old_boolean(node: Node, schema: Schema, items: Schema) -> str:
    """What is said of a bare ``on`` or ``no``, where the schema knows what was meant."""
    start = f"{OLD_BOOLEAN} {node.text} as {reads_plainly_as(node.text)}"
    if "errorMessage" in schema:
        return f"{start}: {schema['errorMessage']}"
    names = types_of(schema)
    quoted = f'quote it, "{node.text}"'
    if "string" in names and fits(node.text, schema):
        also = ", or write true or false" if "boolean" in names else ""
        return f"{start}: {quoted}{also}"
    if "boolean" in names:
        return f"{start}: write {reads_plainly_as(node.text)}"
    words = choices(schema)
    if words:
        meant = _meant(node.text, words)
        return f"{start}: write {_as_yaml(meant) if meant else f'one of {listed(words)}'}"
    remedy = _other_kind(node.text, schema, items) or _such_as(schema, names)
    return f"{start}: {remedy}" if remedy else start


def not_one_of(text: str, words: Sequence[str]) -> str:
    """What is said of a word that none of those is which are allowed."""
    meant = _meant(text, words)
    if meant is None and text.lower() not in _MEANT:
        meant = next(iter(difflib.get_close_matches(text, words, n=1)), None)
    hint = f"; did you mean {_as_yaml(meant)}?" if meant else ""
    return f"{short(text)} is not one of {listed(words)}{hint}"


def wrong_text(text: str, schema: Schema, items: Schema) -> str:
    """What is said of a text that doesn't match the pattern."""
    if "errorMessage" in schema:
        return str(schema["errorMessage"])
    remedy = _other_kind(text, schema, items)
    return _not_this_text(text, schema) + (f"; {remedy}" if remedy else "")


def choices(schema: Schema) -> list[str]:
    """The words of an enum, as they are written."""
    values = schema.get("enum", [])
    return [
        str(value).lower() if isinstance(value, bool) else str(value)
        for value in values
        if value is not None
    ]


def listed(words: Sequence[str]) -> str:
    """``a, b or "no"``, each as it is written in YAML."""
    shown = [_as_yaml(word) for word in words]
    return f"{', '.join(shown[:-1])} or {shown[-1]}"


def described(node: Node) -> str:
    """A value as messages name it, such as ``the text dev``."""
    if node.kind == "null":
        return "empty"
    if node.kind in _KINDS:
        return ARTICLES[_KINDS[node.kind]]
    if node.kind == "boolean":
        return str(node.value).lower()
    article = "the text" if node.kind == "string" else "the number"
    return f"{article} {short(node.text)}"


def short(text: str) -> str:
    """A value as messages print it; an empty one as quotes."""
    return on_one_line(text) or '""'


def python_pattern(pattern: str) -> str:
    """JSON Schema's ``$`` is the end of the text; Python's also stands before a last newline."""
    return pattern[:-1] + r"\Z" if pattern.endswith("$") else pattern


def fits(text: str, schema: Schema) -> bool:
    """Whether a text is valid, as text."""
    if "enum" in schema:
        return text in schema["enum"]
    pattern = schema.get("pattern")
    return pattern is None or re.search(python_pattern(pattern), text) is not None


def _not_this_text(text: str, schema: Schema) -> str:
    words = choices(schema)
    if words:
        return not_one_of(text, words)
    return f"{short(text)} {schema.get('patternErrorMessage', 'is not what is expected here')}"


def _meant(text: str, words: Sequence[str]) -> str | None:
    return next((word for word in _MEANT.get(text.lower(), ()) if word in words), None)


def _other_kind(text: str, schema: Schema, items: Schema) -> str | None:
    """How the same is written as a value of another kind than text."""
    names = types_of(schema)
    if "boolean" in names and text.lower() in _MEANT:
        return f"write {'true' if text.lower() in _YES else 'false'}"
    if "integer" in names or "number" in names:
        whole, thousands = _WHOLE.match(text), _THOUSANDS.match(text)
        if (whole or ("number" in names and _DECIMAL.match(text))) and _within(text, schema):
            return f"take the quotes off, {text}"
        if thousands and _within(str(int(thousands[1]) * 1024), schema):
            return f"write {int(thousands[1]) * 1024}"
    return _as_list(text, items) if "array" in names else None


def _within(number: str, schema: Schema) -> bool:
    if "const" in schema:
        return float(number) == float(schema["const"])
    least, most = schema.get("minimum", float("-inf")), schema.get("maximum", float("inf"))
    return bool(least <= float(number) <= most)


def _as_list(text: str, items: Schema) -> str | None:
    """The list that was meant by one of its items, or by several in one text."""
    parts = re.split(r"\s+" if text.startswith("-") else r"\s*,\s*", text.strip())
    written = [_item(part, items) for part in parts]
    shown = [word for word in written if word is not None]
    return f"write [{', '.join(shown)}]" if len(shown) == len(parts) else None


def _item(text: str, items: Schema) -> str | None:
    names = types_of(items)
    if "integer" in names and _WHOLE.match(text):
        return text if _within(text, items) else None
    if "string" not in names or not text or not fits(text, items):
        return None
    return _as_yaml(short(text))


def _as_yaml(text: str) -> str:
    """A text, in quotes where YAML would take it for something else."""
    plain = reads_plainly_as(text) == "text" and not re.search(r"[\[\]{},#:&*!|>'\"%@`]", text)
    return text if plain else f'"{text}"'


def _such_as(schema: Schema, names: Sequence[str]) -> str | None:
    """An example, for numbers alone: one of a mapping or a list is no remedy for a text."""
    example = next(iter(schema.get("examples", ())), None)
    wanted = "integer" in names or "number" in names
    return f"write a number such as {example}" if wanted and example is not None else None
