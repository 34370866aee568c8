"""JSON and JSONC are edited in place: what is not ours stays byte for byte, comments included."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploys.common.json_text import JsonText, JsonTextError, blank_comments, comments_of

PLACE = "settings.json"


def edited(text: str, *path: str, value: Any = 1) -> str:
    editor = JsonText(text, PLACE, comments=True)
    editor.set(path, value)
    return editor.text


def without(text: str, *path: str) -> str:
    editor = JsonText(text, PLACE, comments=True)
    editor.remove(path[:-1], path[-1])
    return editor.text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{\n  "a": 0 // note\n}\n', '{\n  "a": 0, // note\n  "new": 1\n}\n'),
        ('{\n  "a": 0, // note\n}\n', '{\n  "a": 0, // note\n  "new": 1\n}\n'),
        ('{\n  "a": 0,\n  // last\n}\n', '{\n  "a": 0,\n  "new": 1\n  // last\n}\n'),
        ('{"a": 0 /* , */}', '{"a": 0, /* , */\n  "new": 1}'),
        ('{"a": 0, }', '{"a": 0, "new": 1 }'),
        ("{ // nothing yet\n}\n", '{ // nothing yet\n  "new": 1\n}\n'),
        ("{\n  // nothing\n  // yet\n}", '{\n  // nothing\n  // yet\n  "new": 1\n}'),
        ("{ /* nothing */ }", '{ /* nothing */ "new": 1 }'),
        ("// before\n{}// behind", '// before\n{\n  "new": 1\n}// behind'),
        ('{"a": "// no comment",}', '{"a": "// no comment", "new": 1}'),
        ('{\r\n  "a": 0 // note\r\n}', '{\r\n  "a": 0, // note\r\n  "new": 1\r\n}'),
        ('{\n  "new": /* was */ 7 // note\n}', '{\n  "new": /* was */ 1 // note\n}'),
        ("", '{\n  "new": 1\n}\n'),
    ],
)
def test_a_member_goes_in_and_comments_stay_with_what_they_were_beside(
    before: str, after: str
) -> None:
    assert edited(before, "new") == after


def test_a_first_member_does_not_come_between_another_and_its_comment() -> None:
    editor = JsonText('{ // mine\n  // the theme\n  "a": 0\n}', PLACE, comments=True)
    editor.insert((), "$schema", "x", first=True)
    assert editor.text == '{ // mine\n  "$schema": "x",\n  // the theme\n  "a": 0\n}'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{\n  "a": 0,\n  "b": 1\n}', '{\n  "a": 0\n}'),
        ('{\n  "a": 0, // a\n  // b\n  "b": 1 // too\n}', '{\n  "a": 0 // a\n  // b\n  // too\n}'),
        ('{\n  "a": 0,\n  "b": 1,\n}', '{\n  "a": 0,\n}'),
        ('{"a": 0, "b": 1}', '{"a": 0}'),
        ('{"b": 1, "c": 2}', '{"c": 2}'),
        ('{"b": 1}', "{}"),
        ('{\n  "b": 1, // gone\n  "c": 2\n}', '{\n  // gone\n  "c": 2\n}'),
    ],
)
def test_a_member_goes_with_its_comma_and_leaves_the_comments(before: str, after: str) -> None:
    assert without(before, "b") == after


def test_a_reader_without_comments_gets_none() -> None:
    with pytest.raises(JsonTextError, match=r"settings.json:2:3: comments and trailing commas"):
        JsonText('{\n  // mine\n  "a": 1\n}', PLACE)


@pytest.mark.parametrize("text", ["{,}", '{"a": [1,,]}', "{/*}", '{"a": "x\n"}', "{} x", '{"a":,}'])
def test_what_no_reader_takes_is_refused(text: str) -> None:
    with pytest.raises(JsonTextError, match="not JSON"):
        JsonText(text, PLACE, comments=True)


names = st.text(max_size=5) | st.sampled_from(["a", "b", "new", "//", "/*", ",", "}"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.just("// /* ,}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=10,
)
TRIVIA = ["", "", "", " ", "\n", "\n  ", "\t", "/* ,} */", '// "x": [,\n', "/*\n*/", "/***/"]


@st.composite
def jsonc(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A document, and a text of it with comments and trailing commas wherever they may stand."""
    document = draw(st.dictionaries(names, values, max_size=4))
    between = st.sampled_from(TRIVIA)

    def written(value: Any) -> str:
        if isinstance(value, dict):
            items = [f"{spaced(json.dumps(k))}:{spaced(written(v))}" for k, v in value.items()]
            return "{" + joined(items) + "}"
        if isinstance(value, list):
            return "[" + joined([spaced(written(item)) for item in value]) + "]"
        return json.dumps(value, ensure_ascii=draw(st.booleans()))

    def joined(items: list[str]) -> str:
        trailing = "," + draw(between) if items and draw(st.booleans()) else ""
        return draw(between) + ",".join(items) + trailing

    def spaced(text: str) -> str:
        return draw(between) + text + draw(between)

    return spaced(written(document)), document


def meaning(text: str) -> Any:
    return json.loads(blank_comments(text))


def is_subsequence(part: str, whole: str) -> bool:
    """Whether nothing of a text is lost in another, but for white space in an empty object."""
    rest = iter(whole)
    return all(char in rest for char in "".join(part.split()))


@given(jsonc(), st.lists(st.tuples(names, values), min_size=1, max_size=3), st.booleans())
def test_any_text_keeps_every_comment_and_every_other_value(
    made: tuple[str, dict[str, Any]], settings: list[tuple[str, Any]], first: bool
) -> None:
    text, document = made
    assert meaning(text) == document
    editor = JsonText(text, PLACE, comments=True)
    replaced = False
    for name, value in settings:
        if first and name not in document:
            editor.insert((), name, value, first=True)
        else:
            replaced = replaced or name in document
            editor.set((name,), value)
        document = {**document, name: value}
        assert meaning(editor.text) == document
    if not replaced:
        assert comments_of(editor.text) == comments_of(text)
        assert is_subsequence(text, editor.text)
    again = JsonText(editor.text, PLACE, comments=True)
    for name, value in dict(settings).items():
        again.set((name,), value)
    assert again.text == editor.text


@given(jsonc(), st.data())
def test_any_member_can_go_and_leaves_every_comment_outside_it(
    made: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    text, document = made
    if not document:
        return
    name = data.draw(st.sampled_from(list(document)))
    rest = {key: value for key, value in document.items() if key != name}
    after = without(text, name)
    assert meaning(after) == rest
    editor = JsonText(text, PLACE, comments=True)
    member = editor._scan(editor._object(()))[name]
    inside = comments_of(text[member.key_start : member.value_end])
    assert sorted(comments_of(after) + inside) == sorted(comments_of(text))
    assert is_subsequence(after, text)
