"""The schemas are complete, and our reading of them is jsonschema's."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from fleet_support import EXAMPLES, ROOT

from schemas.document import parse_document
from schemas.validate import check_document, load_schema, resolve

FLEET = load_schema("fleet.schema.json")
OURS = ("fleet", "validate.report", "show.report", "error.report")


Schema = Mapping[str, Any]


def properties(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every property and list item of a schema and its ``$defs``, by a path for messages."""
    for name, sub in schema.get("properties", {}).items():
        yield f"{path}.{name}", sub
        yield from properties(sub, f"{path}.{name}")
    if isinstance(schema.get("items"), Mapping):
        yield f"{path}[]", schema["items"]
        yield from properties(schema["items"], f"{path}[]")
    for name, sub in schema.get("$defs", {}).items():
        yield name, sub
        yield from properties(sub, name)


@pytest.mark.parametrize("name", OURS)
def test_every_key_has_a_description_a_type_and_examples_that_are_valid(name: str) -> None:
    schema = load_schema(f"{name}.schema.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    for path, written in properties(schema):
        whole = resolve(written, schema)
        assert whole.get("description", "").endswith("."), path
        assert "type" in whole or path.endswith(".value"), path
        assert whole.get("examples"), path
        validator = jsonschema.Draft202012Validator({**written, "$defs": schema.get("$defs", {})})
        for example in [*whole["examples"], *([whole["default"]] if "default" in whole else [])]:
            assert not list(validator.iter_errors(example)), path


def test_every_mapping_is_closed() -> None:
    for path, schema in [("", FLEET), *properties(FLEET)]:
        if "properties" in schema:
            assert schema["additionalProperties"] is False, path


def test_every_pattern_has_words_for_people() -> None:
    for path, schema in properties(FLEET):
        assert ("pattern" in schema) <= ("patternErrorMessage" in schema), path


def test_the_readme_names_every_key_and_no_other() -> None:
    text = (ROOT / "inventories/README.md").read_text("utf-8")
    first_cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    listed = {key for cell in first_cells for key in re.findall(r"`([a-z_0-9]+)`", cell)}
    paths = [path for path, _ in properties(FLEET) if "." in path and not path.endswith("]")]
    keys = {path.rsplit(".", 1)[1] for path in paths}
    assert listed == keys


def test_the_example_passes_both_validators() -> None:
    for path in EXAMPLES:
        jsonschema.validate(yaml.safe_load(path.read_text("utf-8")), FLEET)


REPLACEMENTS: tuple[Any, ...] = (
    *(None, True, 0, -1, 7, 70000, 1.5, "", "x", "a b", "yes", "89", "no\n", "b8146"),
    *([], ["x"], ["x", "x"], [1], {}, {"env": "A"}, {"env": "A", "file": "b"}, {"x": 1}),
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key below."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    if isinstance(value, (dict, list)):
        for key, child in items:
            yield value, key
            if isinstance(child, (dict, list)):
                yield from places(child)


def mutated(original: Any, chance: random.Random) -> Any:
    value = copy.deepcopy(original)
    for _ in range(chance.choice((1, 1, 2))):
        container, key = chance.choice(list(places(value)))
        match chance.randrange(3):
            case 0:
                container[key] = copy.deepcopy(chance.choice(REPLACEMENTS))
            case 1:
                del container[key]
            case _ if isinstance(container, dict):
                new = chance.choice(("x", "port", "env", "ref", "sha256", "a b", "archive", "url"))
                container[new] = copy.deepcopy(chance.choice(REPLACEMENTS))
        if not value:
            break
    return value


@pytest.mark.parametrize("seed", range(4))
def test_our_reading_of_the_schema_agrees_with_jsonschema(seed: int) -> None:
    chance = random.Random(seed)
    validator = jsonschema.Draft202012Validator(FLEET)
    originals = [yaml.safe_load(path.read_text("utf-8")) for path in EXAMPLES]
    verdicts = set()
    for _ in range(250):
        value = mutated(chance.choice(originals), chance)
        text = json.dumps(value)
        document = parse_document(text.encode(), "fleet.yaml")
        ours = not document.problems and not check_document(document, "fleet.schema.json")
        # "no\n": Python's `$` also matches before a last newline; the schema's does not.
        theirs = validator.is_valid(value) and '\\n"' not in text
        assert ours == theirs, text
        verdicts.add(ours)
    assert verdicts == {True, False}


def test_an_unknown_keyword_is_refused_when_a_schema_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd.schema.json").write_text('{"type": "object", "if": {}}')
    monkeypatch.setattr("schemas.validate._FOLDER", tmp_path)
    with pytest.raises(ValueError, match="if"):
        check_document(parse_document(b"a: 1\n", "x"), "odd.schema.json")
