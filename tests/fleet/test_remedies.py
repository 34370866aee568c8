"""A remedy that a message proposes is taken: nobody is sent from one refusal to the next."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from test_wrong_values import fleets, replaced

from schemas.document import Node, dotted, parse_document
from schemas.remedies import wrong_kind, wrong_text
from schemas.validate import check_document

BARE = ("yes", "no", "on", "off")
WRONG = (
    True,
    False,
    0,
    7,
    13,
    24,
    2.5,
    "8888",
    "580",
    "0",
    "0,1",
    "64k",
    "true",
    "off",
    "dev",
    "x",
)
# How a message names what to write instead.
_QUOTED = re.compile(r': quote it, "(?P<text>[^"]*)"')
_OTHERS = re.compile(
    r"(?:take the quotes off, |such as (?=\d+$)|write (?=[\[a-z0-9\"])(?!a number |one of )|"
    r"did you mean )(?P<yaml>.+?)"
    r"\??(?: \(and on.*)?$"
)
_ITEM = re.compile(r"\[\d+\]$")


def value_of(message: str) -> tuple[bool, Any]:
    """Whether a message proposes a value, and which."""
    quoted = _QUOTED.search(message)
    if quoted:
        return True, quoted["text"]
    other = _OTHERS.search(message)
    return (True, yaml.safe_load(other["yaml"])) if other else (False, None)


def said(text: str, place: tuple[str, ...]) -> list[str]:
    """What the schema says of a place, or of an item there."""
    path = dotted(tuple(0 if step == "N" else step for step in place))
    problems = check_document(parse_document(text.encode(), "fleet.yaml"), "fleet.schema.json")
    return [problem.message for problem in problems if _ITEM.sub("", problem.path) == path]


def written(fleet: Any, place: tuple[str, ...], value: Any) -> str:
    """A fleet file with a value at a place; a bare word of YAML 1.1 for one that begins with @."""
    text = json.dumps(replaced(fleet, place, value))
    return re.sub(r'"@(\w+)"', r"\1", text)


@pytest.mark.parametrize(
    ("place", "text"), [pytest.param(*each, id=".".join(each[0])) for each in fleets()]
)
def test_what_a_message_proposes_is_not_refused_for_its_shape(
    place: tuple[str, ...], text: str
) -> None:
    fleet = json.loads(text)
    for value in (*WRONG, *(f"@{word}" for word in BARE)):
        for message in said(written(fleet, place, value), place):
            proposed, better = value_of(message)
            if proposed:
                again = said(written(fleet, place, better), place)
                assert again == [], f"{message} -> {better!r}"


def test_most_wrong_values_have_a_remedy() -> None:
    messages = [
        message
        for place, text in fleets()
        for value in WRONG
        for message in said(written(json.loads(text), place, value), place)
    ]
    assert sum(value_of(message)[0] for message in messages) > 300


def test_a_list_is_proposed_in_the_form_that_its_items_have() -> None:
    texts = {"type": ["array", "null"]}, {"type": "string", "pattern": "^[a-z0-9-]+$"}
    assert wrong_kind(Node("string", "dev", (1, 1), "dev"), *texts).endswith(": write [dev]")
    assert wrong_kind(Node("integer", 89, (1, 1), "89"), *texts).endswith(': write ["89"]')
    assert wrong_kind(Node("string", "no", (1, 1), "no"), *texts).endswith(': write ["no"]')
    assert wrong_kind(Node("string", "A", (1, 1), "A"), *texts).endswith("is the text A")


def test_a_value_that_may_be_a_secret_is_not_repeated() -> None:
    schema = {"type": ["string", "integer"], "pattern": "^x$", "errorMessage": "no secret here"}
    assert wrong_kind(Node("boolean", True, (1, 1), "true"), schema, {}) == "no secret here"
    assert wrong_text("hunter2", schema, {}) == "no secret here"
