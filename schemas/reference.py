"""The pages that list every key of fleet file and catalogue, made from their schemas alone.

Owns the order of a page (the schema's own), its words for types and limits, and the headings,
which are the keys' paths: ``servers.NAME.port``. It adds no fact of its own: a description, a
default, an example or an effect that is missing here is missing in the schema. Tests hold
both pages to what this module makes; ``make reference`` writes them.

Settings of hosts may stand in ``defaults``, in a group and in a host, three mappings of the schema
with nearly the same keys: they are described once, with the places where each may be written. So
are shapes that several keys share, such as a secret.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from schemas.validate import load_schema, resolve

Schema = Mapping[str, Any]
Path_ = tuple[str, ...]

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "reference.md"
# Where the settings of hosts may be written, by the schema's own name of each mapping.
PLACES = {"defaults": "defaults", "group": "groups.NAME", "host": "hosts.NAME"}
_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "array": "list",
    "object": "mapping",
}
_HEAD = """\
# Every key of the fleet file

Made from the [schema](../schemas/fleet.schema.json) by `make reference`; a test fails where they
differ. [How settings combine, and what is refused](../inventories/README.md) is on a page of its
own; editors show the same words while you type ([how to set them up](editor.md)).

NAME stands for a name that you choose. Keys of hosts take `null` as well, which removes what
`defaults` or a group say, and so brings the default back. *Shows in* is where on the host a value
ends up.
"""
_HOSTS = (
    "What is said of hosts: in `defaults` of all, in a group of its hosts, in a host of it alone."
)

_CATALOGUE_HEAD = """\
# Every key of a catalogue entry

Made from the [schema](../schemas/catalogue.schema.json) by `make reference`; a test fails where
they differ. An entry is a file `inventories/catalogue/NAME.yaml`; a fleet's model takes it up with
`catalogue: NAME`, and `llamaherd models` lists them. What isn't known of a model is left out, and
each number has the page that says so as `source` beside it.
"""


@dataclass(frozen=True)
class Key:
    """One key: its path below the section's root, its whole schema, and what holds for it."""

    path: Path_
    schema: Schema
    places: tuple[str, ...] = ()
    shape: str | None = None
    required: bool = False

    @property
    def dotted(self) -> str:
        """The path as the fleet file's messages write it."""
        return ".".join(self.path)

    @property
    def opens_section(self) -> bool:
        """Whether its value is a mapping that has a section of its own, under the same path."""
        return "properties" in self.schema and not self.shape and self.path != ("defaults",)


@dataclass(frozen=True)
class Section:
    """A mapping and its keys; ``opened_by`` is the key whose value the mapping is, if one is."""

    path: Path_
    schema: Schema
    keys: tuple[Key, ...]
    title: str | None = None
    opened_by: Key | None = None

    @property
    def heading(self) -> str:
        """What stands over it."""
        return self.title or f"`{'.'.join(self.path)}`"


def sections(schema: Schema) -> list[Section]:
    """Every mapping of the fleet file's schema, in the schema's order, shared shapes last."""
    return list(_Reader(schema).sections())


def keys(schema: Schema) -> list[Key]:
    """Every key of the fleet file, each once; shared shapes under their own name."""
    return [key for section in sections(schema) for key in section.keys]


class _Reader:
    """Walks a schema from its root, and describes what several keys share once."""

    def __init__(self, root: Schema) -> None:
        self.root = root
        self.shared = _shared_shapes(root)
        self.hosted = _hosted(root)

    def sections(self) -> Iterator[Section]:
        top = tuple(self._key((name,), sub, self.root) for name, sub in _properties(self.root))
        yield Section((), self.root, top, title="At the top")
        for key, (_, sub) in zip(top, _properties(self.root), strict=True):
            if key.path[0] not in ("defaults", "groups", "hosts"):
                yield from self._below(key, sub)
        if "host" in self.root["$defs"]:
            yield from self._hosts()
        for name in self.shared:
            yield from self._section((_spoken(name),), self.root["$defs"][name])

    def _hosts(self) -> Iterator[Section]:
        """``defaults``, groups and hosts as one section, and what lies below it."""
        merged: dict[tuple[str, str], tuple[Schema, list[str]]] = {}
        for definition, place in PLACES.items():
            for name, sub in _properties(self.root["$defs"][definition]):
                same = (name, json.dumps(sub, sort_keys=True))
                merged.setdefault(same, (sub, []))[1].append(place)
        order = [name for name, _ in _properties(self.root["$defs"]["host"])]
        entries = sorted(merged.items(), key=lambda entry: order.index(entry[0][0]))
        names = [name for name, _ in merged]
        found = tuple(
            # What a group and a host say differently has the place in its path.
            self._key(
                (name,) if names.count(name) == 1 else (*places[0].split("."), name),
                sub,
                self.root["$defs"]["host"],
                tuple(places),
            )
            for (name, _), (sub, places) in entries
        )
        yield Section(
            (), {"description": _HOSTS}, found, title="`defaults`, `groups.NAME` and `hosts.NAME`"
        )
        for key, (_, (sub, _places)) in zip(found, entries, strict=True):
            yield from self._below(key, sub)

    def _below(self, key: Key, written: Schema) -> Iterator[Section]:
        """The sections that a key opens: its own mapping, or that of its entries."""
        if key.shape:
            return
        whole = resolve(written, self.root)
        if "properties" in whole:
            yield from self._section(key.path, written, key)
        for step, further in (("NAME", "additionalProperties"), ("N", "items")):
            entry = whole.get(further)
            if not isinstance(entry, Mapping) or _reference(entry) in self.shared:
                continue
            if "properties" in resolve(entry, self.root):
                yield from self._section((*key.path, step), entry)

    def _section(
        self, path: Path_, written: Schema, opened_by: Key | None = None
    ) -> Iterator[Section]:
        whole = resolve(written, self.root)
        found = tuple(
            self._key((*path, name), sub, whole) for name, sub in whole["properties"].items()
        )
        yield Section(path, whole, found, opened_by=opened_by)
        for key, sub in zip(found, whole["properties"].values(), strict=True):
            yield from self._below(key, sub)

    def _key(self, path: Path_, written: Schema, owner: Schema, places: Path_ = ()) -> Key:
        name = _reference(written)
        shape = _spoken(name) if name in self.shared else None
        if name in self.hosted and path[-1] == self.hosted[name] and not places:
            shape = self.hosted[name]  # a server's own build: described once, as the host's is
        return Key(
            path,
            resolve(written, self.root),
            places,
            shape,
            path[-1] in owner.get("required", ()),
        )


def _properties(schema: Schema) -> list[tuple[str, Schema]]:
    return list(schema.get("properties", {}).items())


def _reference(schema: Schema) -> str:
    return str(schema.get("$ref", "")).removeprefix("#/$defs/")


def _spoken(name: str) -> str:
    """The schema's name of a shape, as a word in capitals: where it stands for a value."""
    return name.upper()


def _shared_shapes(root: Schema) -> list[str]:
    """Mappings with keys that more than one key refers to, in the schema's order."""
    users: dict[str, set[str]] = {}
    hosted = _hosted(root)
    definitions = {"": root, **root["$defs"]}
    for owner, definition in definitions.items():
        home = "a host's" if owner in PLACES else owner
        for name, sub in _properties(definition):
            for place in (sub, sub.get("additionalProperties"), sub.get("items")):
                if isinstance(place, Mapping) and "$ref" in place:
                    if owner not in PLACES and hosted.get(_reference(place)) == name:
                        continue
                    users.setdefault(_reference(place), set()).add(f"{home}.{name}")
    return [
        name
        for name, definition in root["$defs"].items()
        if len(users.get(name, ())) > 1 and "properties" in definition
    ]


def _hosted(root: Schema) -> dict[str, str]:
    """Mappings that are sections of hosts, by definition: the key under which a host has them."""
    host = root["$defs"].get("host", {})
    return {_reference(sub): name for name, sub in _properties(host) if "$ref" in sub}


def page(schema: Schema, head: str = _HEAD) -> str:
    """The whole page, as Markdown."""
    found = sections(schema)
    contents = "\n".join(f"- [{each.heading}](#{anchor(each.heading)})" for each in found)
    parts = [head, contents + "\n"]
    for section in found:
        parts.append(_section_text(section))
        parts.extend(_key_text(key) for key in section.keys if not key.opens_section)
    return "\n".join(parts)


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading: lower case, spaces as '-', no other punctuation."""
    kept = "".join(letter for letter in heading.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _section_text(section: Section) -> str:
    lines = [f"## {section.heading}", "", section.schema.get("description", "")]
    names = [f"`{key.path[-1]}`" for key in section.keys]
    if section.schema.get("maxProperties") == 1 or "oneOf" in section.schema:
        lines += ["", f"Exactly one of {_listed(names)}."]
    lines += [
        f"`{name}` needs {_listed([f'`{other}`' for other in needed])} beside it."
        for name, needed in section.schema.get("dependentRequired", {}).items()
    ]
    if section.opened_by:
        lines += ["", *_facts(section.opened_by)]
    below = [key for key in section.keys if key.opens_section]
    if below:
        lines += ["", "Sections of their own:", ""]
        lines += [f"- [`{key.dotted}`](#{anchor(key.dotted)})" for key in below]
    return "\n".join(lines) + "\n"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _key_text(key: Key) -> str:
    return (
        "\n".join([f"### `{key.dotted}`", "", key.schema["description"], "", *_facts(key)]) + "\n"
    )


def _facts(key: Key) -> list[str]:
    """What is to be said of a key besides its description, a line each."""
    schema = key.schema
    lines = [f"- takes: {_takes(key)}"]
    if words := schema.get("patternErrorMessage"):
        lines.append(f"- refused where it {words}")
    if words := schema.get("items", {}).get("patternErrorMessage"):
        lines.append(f"- an item is refused where it {words}")
    if key.places:
        lines.append(f"- written in: {_listed([f'`{place}`' for place in key.places])}")
    if key.required:
        lines.append("- must be there")
    if "default" in schema:
        lines.append(f"- default: `{_value(schema['default'])}`")
    if "affects" in schema:
        lines.append(f"- shows in: {schema['affects']}")
    name = key.path[-1]
    return lines + [f"- example: `{_entry(name, each)}`" for each in schema.get("examples", ())]


def _takes(key: Key) -> str:
    """What a key's value may be, in words; a shape that is described elsewhere as a link."""
    if key.shape:
        return f"[{key.shape}](#{key.shape.lower()})"
    return _kinds(key.schema)


def _kinds(schema: Schema) -> str:
    choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if choices:
        return " or ".join(f"`{_value(choice)}`" for choice in choices if choice is not None)
    wanted = schema.get("type", "object")
    names = [wanted] if isinstance(wanted, str) else [name for name in wanted if name != "null"]
    return " or ".join(_kind(name, schema) for name in names)


def _kind(name: str, schema: Schema) -> str:
    words = _WORDS[name]
    if name in ("integer", "number"):
        return words + _limits(schema.get("minimum"), schema.get("maximum"))
    if name == "string" and "maxLength" in schema:
        return f"{words} of at most {schema['maxLength']} characters"
    if name == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"{words} by name"
    if name == "array":
        return words + _list_limits(schema)
    return words


def _limits(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f", {least} to {most}"
    if least is not None:
        return f", at least {least}"
    return f", at most {most}" if most is not None else ""


def _list_limits(schema: Schema) -> str:
    items = schema.get("items", {})
    # The items of a reference are described by their own section.
    inner = f" of {_kinds(items)}" if "type" in items and "properties" not in items else ""
    least = ", at least one" if schema.get("minItems") == 1 else ""
    return f"{inner}{least}{', no two alike' if schema.get('uniqueItems') else ''}"


def _value(value: Any) -> str:
    """A value as the fleet file writes it, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _entry(name: str, value: Any) -> str:
    return f"{name}: {_value(value)}"


def pages() -> dict[str, str]:
    """The text of each page by its name below ``docs/``."""
    return {
        "reference.md": page(load_schema("fleet.schema.json")),
        "reference-catalogue.md": page(load_schema("catalogue.schema.json"), _CATALOGUE_HEAD),
    }


def main(folder: Path = DOCS) -> int:
    """Write the pages; the exit status."""
    for name, text in pages().items():
        (folder / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
