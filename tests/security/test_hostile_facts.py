"""Whatever a fact is asked about, its command hands over as it is, by a real shell, or refuses."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

import pytest
from hostile import CANARY, MARK, TEXTS, Shell
from hypothesis import HealthCheck, example, given, settings
from pyinfra.api import FactBase

import facts
from facts.live import Endpoint

PLAIN = "plain"


def own_facts() -> dict[str, type[FactBase[Any]]]:
    """Every fact of ours by name."""
    found = {}
    for module in pkgutil.iter_modules(facts.__path__):
        loaded = importlib.import_module(f"facts.{module.name}")
        for name, kind in vars(loaded).items():
            if isinstance(kind, type) and issubclass(kind, FactBase) and kind is not FactBase:
                found[name] = kind
    return found


FACTS = own_facts()
# What an argument means nothing without.
BESIDE = {("LiveServer", "known_as"): {"certificate": PLAIN}}


def values(hint: Any, text: str) -> list[Any]:
    """Arguments of a type with ``text`` in one place each; none for types without text."""
    if hint is str:
        return [text]
    if hint == Sequence[str]:
        return [[text], [PLAIN, text]]
    if hint == Mapping[str, str]:
        return [{text: PLAIN}, {PLAIN: text}]
    if hint == Mapping[str, Mapping[str, str]] or hint == Mapping[str, Mapping[str, str]] | None:
        return [{text: {PLAIN: PLAIN}}, {PLAIN: {text: PLAIN}}, {PLAIN: {PLAIN: text}}]
    if hint == Sequence[Endpoint]:
        return [
            [Endpoint(text, 8080)],
            [Endpoint(PLAIN, 8080, address=text)],
            [Endpoint(PLAIN, 8080, socket=text)],
        ]
    if hint in (int, bool):
        return []
    raise AssertionError(f"no strings are known for an argument of type {hint}: add them here")


def plainly(hint: Any) -> Any:
    """An argument without anything odd."""
    if hint is int:
        return 7
    if hint is bool:
        return True
    return values(hint, PLAIN)[0]


def cases() -> list[tuple[str, str]]:
    """Fact and argument of every argument that holds text."""
    found = []
    for name, fact in FACTS.items():
        hints = get_type_hints(fact.command)
        hints.pop("return", None)
        found += [(name, argument) for argument, hint in hints.items() if values(hint, PLAIN)]
    return found


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("shell"))


def commands(name: str, argument: str, text: str) -> list[str]:
    """The fact's commands with the string in each place of that argument; none where refused."""
    fact = FACTS[name]
    hints = get_type_hints(fact.command)
    hints.pop("return", None)
    found = []
    for value in values(hints[argument], text):
        arguments = {
            other.name: plainly(hints[other.name])
            for other in inspect.signature(fact.command).parameters.values()
            if other.name != "self"
            and (other.default is inspect.Parameter.empty or other.default in ((), None))
        }
        arguments |= BESIDE.get((name, argument), {}) | {argument: value}
        try:
            found.append(fact().command(**arguments))
        except ValueError:
            continue
    return found


def test_every_argument_is_one_that_can_be_tried() -> None:
    assert len(FACTS) >= 20
    assert len(cases()) >= 20
    for name, fact in FACTS.items():
        kinds = {p.kind for p in inspect.signature(fact.command).parameters.values()}
        assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}, name


@pytest.mark.parametrize(("name", "argument"), cases())
@settings(max_examples=2, suppress_health_check=list(HealthCheck))
@given(text=TEXTS)
@example(text=f'$({CANARY})\' {MARK} "`{CANARY}`"\n{CANARY}\n')
@example(text=f"../../{MARK}/..")
def test_a_fact_hands_over_what_it_is_asked_about(
    shell: Shell, name: str, argument: str, text: str
) -> None:
    for command in commands(name, argument, text):
        assert shell.parses(command)
        ran = shell.run(command)
        assert not ran.canary, command
        assert ran.torn(text) == []


@pytest.mark.parametrize(("name", "argument"), cases())
def test_the_stand_ins_see_what_a_fact_is_asked_about(
    shell: Shell, name: str, argument: str
) -> None:
    text = f"a '{MARK}' \"b\""
    ran = [shell.run(command, trace=True) for command in commands(name, argument, text)]
    assert any(each.whole(text) or text in each.output for each in ran)


@pytest.mark.parametrize(("name", "argument"), cases())
def test_a_string_with_a_nul_ends_its_command_and_runs_nothing(
    shell: Shell, name: str, argument: str
) -> None:
    for command in commands(name, argument, f"a\0; {CANARY}; {MARK}"):
        if "\0" not in command:
            continue
        # A shell gets no more than what stands before it, whose quote nobody closes.
        before = command.partition("\0")[0]
        assert not shell.parses(before)
        assert not shell.run(before).canary
