"""However a fleet file is damaged: it is accepted, or refused with a position inside the file."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest
from fleet_support import EXAMPLES, fleet_from
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inventories.fleet import default_provider, opencode_providers
from schemas.problems import ProblemsError

EXAMPLE = EXAMPLES[0].read_bytes()
LINES = EXAMPLE.decode().splitlines(keepends=True)
TOKENS = (
    *("no", "on", "1:30", "013", "1_000", "2026-01-21", "0x1F", "1e9", ".nan", "-1", "99999"),
    *("null", "true", "1.5", '"', "'", "{", "}", "[", "]", "[]", "{}", "&a", "*a", "&a *a", "<<"),
    *("!!python/name:os.system", "!x", "\t", "\n", ": ", "- ", "# ", "---", "...", "|", ">", "%"),
    *("?", "@", "`", ",", "\x00", "\x07", "\u2028", "\ufeff", "\ud7ff", "gpu-01", "a/b", "x" * 300),
    *("[" * 200, "{a: " * 200, "*coding", "&coding ", "9" * 5000, "all", "env: X"),
)


def judge(content: bytes) -> bool:
    """Whether a file is accepted. Any exception but ProblemsError fails the test."""
    try:
        fleet = fleet_from(content)
    except ProblemsError as error:
        last = content.decode("utf-8", "replace").count("\n") + 2
        for problem in error.problems:
            assert 1 <= problem.position.line <= last + content.count(b"\r")
            assert problem.position.column >= 1
            assert problem.message
            assert str(problem).isprintable()
        return False
    assert fleet.hosts
    for name, host in fleet.hosts.items():
        assert set(opencode_providers(fleet, name)) >= {default_provider(fleet, name)} - {None}
        assert all(origin.file == "fleet.yaml" for origin in host.origins.values())
    return True


def token_in(chance: random.Random) -> bytes:
    at = chance.randrange(len(EXAMPLE))
    return EXAMPLE[:at] + chance.choice(TOKENS).encode() + EXAMPLE[at:]


def value_replaced(chance: random.Random) -> bytes:
    values = list(re.finditer(rb"(?<=: )[^\s,{}\[\]][^\n,{}\[\]]*", EXAMPLE))
    found = chance.choice(values)
    return EXAMPLE[: found.start()] + chance.choice(TOKENS).encode() + EXAMPLE[found.end() :]


def key_replaced(chance: random.Random) -> bytes:
    found = chance.choice(list(re.finditer(rb"[a-z_0-9.-]+(?=:)", EXAMPLE)))
    return EXAMPLE[: found.start()] + chance.choice(TOKENS).encode() + EXAMPLE[found.end() :]


def lines_changed(chance: random.Random) -> bytes:
    lines = list(LINES)
    at = chance.randrange(len(lines))
    match chance.randrange(4):
        case 0:
            del lines[at]
        case 1:
            lines.insert(chance.randrange(len(lines)), lines[at])
        case 2:
            lines[at] = " " * chance.randrange(1, 5) + lines[at]
        case _:
            lines[at] = lines[at][chance.randrange(1, 4) :]
    return "".join(lines).encode()


def cut_off(chance: random.Random) -> bytes:
    return EXAMPLE[: chance.randrange(len(EXAMPLE))]


def bytes_changed(chance: random.Random) -> bytes:
    content = bytearray(EXAMPLE)
    for _ in range(chance.randrange(1, 4)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


DAMAGES = (token_in, value_replaced, key_replaced, lines_changed, cut_off, bytes_changed)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_example_is_accepted_or_refused_with_a_position(
    damage: Callable[[random.Random], bytes],
) -> None:
    chance = random.Random(damage.__name__)
    verdicts = [judge(damage(chance)) for _ in range(150)]
    assert not all(verdicts), "this damage never does any"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, len(EXAMPLE)), st.sampled_from(TOKENS)), max_size=3))
def test_any_tokens_anywhere_are_accepted_or_refused(edits: list[tuple[int, str]]) -> None:
    content = EXAMPLE
    for at, token in edits:
        content = content[:at] + token.encode() + content[at:]
    judge(content)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_any_bytes_are_refused(content: bytes) -> None:
    assert not judge(content)
