"""A wrong value anywhere, under any key that the schema has, is refused with its position.

The example that the other damages start from has few keys; these fleets, made of the lines of the
table of effects, have all of them.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from effects_support import HOMES, where, written
from fleet_support import problems_of
from test_effects import EFFECTS

WRONG: tuple[Any, ...] = (
    *(None, True, -1, 7, 1.5, "", "x", "a b", [], {}, [None], [7], ["x"], [["x"]], {"x": "y"}),
    *([{"name": "x"}], {"x": None}, {"x": []}, {"x": {"y": {"z": 1}}}, {"x": {"model": 7}}),
)
"""Of every kind, empty and not, flat and nested, and what people write for a mapping by name."""


def fleets() -> list[tuple[tuple[str, ...], str]]:
    """Each place of a fleet file once, keys and what lies above them, with a fleet that has it."""
    found: dict[tuple[str, ...], str] = {}
    for path, effect in EFFECTS.items():
        steps = tuple(path.split("."))
        text = written(effect, steps, change=True)
        place = where(steps)
        for length in range(1, len(place) + 1):
            found.setdefault(place[:length], text)
    return list(found.items())


def replaced(fleet: Any, place: tuple[str, ...], value: Any) -> Any:
    """The fleet with another value at a place; ``N`` is the first item of a list."""
    step, *further = place
    key: Any = 0 if step == "N" else step
    result = copy.copy(fleet)
    result[key] = replaced(fleet[key], tuple(further), value) if further else value
    return result


@pytest.mark.parametrize(
    ("place", "text"), [pytest.param(*each, id=".".join(each[0])) for each in fleets()]
)
def test_a_wrong_value_is_accepted_or_refused_with_its_position(
    place: tuple[str, ...], text: str
) -> None:
    fleet = json.loads(text)
    for value in WRONG:
        for problem in problems_of(json.dumps(replaced(fleet, place, value))):
            assert problem.startswith("fleet.yaml:1:")
            assert problem.isprintable()


def test_the_places_are_those_of_the_whole_table() -> None:
    places = dict(fleets())
    assert {where(tuple(path.split("."))) for path in EFFECTS} <= set(places)
    assert set(HOMES.values()) <= set(places)
