"""docs/reference.md, the schema, the examples and what the pages say of keys agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fleet_support import EXAMPLES, ROOT, problems_of

from schemas import reference
from schemas.document import parse_document
from schemas.validate import load_schema

FLEET = load_schema("fleet.schema.json")
TEXT = reference.PAGE.read_text("utf-8")
KEYS = reference.keys(FLEET)
PAGES = sorted([ROOT / "README.md", ROOT / "inventories/README.md", *ROOT.glob("docs/**/*.md")])
FENCED = re.compile(r"^```yaml\n(.*?)^```$", re.M | re.S)
# Files whose names begin like a key; and what `llamaherd onboard` calls its findings.
FILES = re.compile(r"\.(env|html|xml|jsonc?)$")
FINDINGS = {
    name
    for file in (ROOT / "llamaherd/onboard").glob("*.py")
    for name in re.findall(r'"([a-z]+\.[a-z-]+)"', file.read_text("utf-8"))
}
# Pipelines that run a check: tests/drift_timer/test_drift_docs.py carries them out.
PIPELINE = re.compile(r"^(jobs|script|drift:\n  (image|script)):?", re.M)


def yaml_blocks() -> list[Any]:
    """Every fenced YAML block that is a fleet file or a part of one, as a test's parameter."""
    return [
        pytest.param(body, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, body in enumerate(FENCED.findall(page.read_text("utf-8")), 1)
        if not PIPELINE.search(body)
    ]


@pytest.mark.parametrize("name", reference.pages())
def test_the_page_is_what_the_schema_says(name: str) -> None:
    written = (reference.DOCS / name).read_text("utf-8")
    assert written == reference.pages()[name], "run `make reference`"


def test_every_key_has_one_heading_of_its_own() -> None:
    headings = re.findall(r"^##+ (.*)$", TEXT, re.M)
    assert len(headings) == len({reference.anchor(heading) for heading in headings})
    for key in KEYS:
        assert headings.count(f"`{key.dotted}`") == 1, key.dotted


def every_property(schema: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """(definition or key above, name) of every property, however deep, by plain recursion."""
    if not isinstance(schema, dict):
        return
    for name, sub in schema.get("properties", {}).items():
        yield place, name
        yield from every_property(sub, f"{place}.{name}")
    for name, sub in schema.get("$defs", {}).items():
        yield from every_property(sub, name)
    for further in ("additionalProperties", "items"):
        yield from every_property(schema.get(further), f"{place}.*")


def test_no_property_of_the_schema_is_left_out() -> None:
    # Counted without the reference's own walk: by name, so that a lost section shows.
    shown = {key.path[-1] for key in KEYS}
    assert {name for _, name in every_property(FLEET)} == shown
    once = set(every_property(FLEET)) - {
        (place, name)
        for place in ("defaults", "group")
        for name in FLEET["$defs"]["host"]["properties"]
    }
    # A group's `groups` has words of its own.
    assert len(KEYS) == len(once) + 1


def test_every_link_in_the_page_leads_to_a_heading() -> None:
    anchors = {reference.anchor(heading) for heading in re.findall(r"^##+ (.*)$", TEXT, re.M)}
    links = set(re.findall(r"\]\(#([^)]*)\)", TEXT))
    assert links
    assert links <= anchors


def test_every_example_reads_back_as_what_the_schema_holds() -> None:
    for key in KEYS:
        shown = re.findall(rf"^- example: `({re.escape(key.path[-1])}: .*)`$", TEXT, re.M)
        for example in key.schema["examples"]:
            wanted = {key.path[-1]: example}
            (line, *_) = [each for each in shown if yaml.safe_load(each) == wanted]
            document = parse_document(line.encode(), "example")
            assert not document.problems, line
            assert document.root is not None
            assert document.root.plain() == wanted


def test_keys_of_hosts_take_null() -> None:
    """As the page says at its top."""
    for section in reference.sections(FLEET):
        head = section.path[0] if section.path else section.title
        if head in ("ssh", "cuda", "llama_cpp", "servers", "opencode") or section.title == (
            "`defaults`, `groups.NAME` and `hosts.NAME`"
        ):
            for key in section.keys:
                assert "null" in key.schema["type"], key.dotted


@pytest.mark.parametrize("name", [str(path.relative_to(ROOT)) for path in EXAMPLES])
def test_the_examples_are_valid(name: str) -> None:
    assert problems_of((ROOT / name).read_bytes()) == []


@pytest.mark.parametrize("text", yaml_blocks())
def test_every_yaml_block_of_the_pages_is_a_fleet_file_or_a_part_of_one(text: str) -> None:
    assert problems_of(whole_file(text)) == []


def whole_file(text: str) -> str:
    """A whole fleet file of a page's block: what it leaves out is filled in."""
    shown = yaml.safe_load(text)
    if "version" not in shown:
        text = f"version: 1\n{text}"
    return text if "hosts" in shown else f"{text}\nhosts: {{gpu-01: }}\n"


def known_paths() -> set[str]:
    """Every path of a key as prose may write it: without NAME, and with a shape's keys below."""
    shapes: dict[str, list[str]] = {}
    for key in KEYS:
        shapes.setdefault(key.path[0], []).append(key.path[-1])
    known = set()
    for key in KEYS:
        path = ".".join(step for step in key.path if step not in ("NAME", "N"))
        known |= {path, *(f"{path}.{name}" for name in shapes.get(key.shape or "", ()))}
    return known


def test_every_key_that_a_page_names_exists() -> None:
    known = known_paths()
    first = {path.split(".")[0] for path in known if "." in path}
    named = re.compile(rf"`((?:{'|'.join(sorted(first))})\.[a-z_-]+(?:\.[a-z_]+)*)[`:]")
    wrong = [
        f"{page.relative_to(ROOT)}: {path}"
        for page in PAGES
        if page.name not in reference.pages()
        for path in named.findall(page.read_text("utf-8"))
        if path not in known | FINDINGS and not FILES.search(path)
    ]
    assert wrong == []


def test_the_editor_page_explains_keys_in_the_schema_s_words() -> None:
    text = (ROOT / "docs/editor.md").read_text("utf-8")
    server = FLEET["$defs"]["server"]["properties"]
    lines = re.findall(r"^  ([a-z_]+) {2,}([A-Z].*)$", text, re.M)
    assert len(lines) > 10
    for key, words in lines:
        assert words == server[key]["description"], "run `make editor`"


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    assert reference.main(tmp_path) == 0
    assert (tmp_path / "reference.md").read_text("utf-8") == TEXT
