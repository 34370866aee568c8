"""A host or a group goes into a fleet file, and every other byte stays."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from fleet_support import EXAMPLES
from hypothesis import given, settings
from hypothesis import strategies as st

from inventories.editing import EditError, add_group, add_host
from schemas.document import parse_document

ENTRY: dict[str, Any] = {"ssh": {"hostname": "10.0.0.17"}, "groups": ["coding"]}
GROUP: dict[str, Any] = {
    "servers": {"coder": {"model": "glm", "port": 8888, "context": 32768}},
    "opencode": {"users": ["dev"]},
}


def meaning(text: str) -> Any:
    document = parse_document(text.encode(), "fleet.yaml")
    assert document.root is not None, document.problems
    assert not document.problems
    return document.root.plain()


def added(old: str, new: str) -> str:
    """What one insertion put in; fails when anything else differs."""
    extra = len(new) - len(old)
    for place in range(len(old), -1, -1):
        if new[:place] + new[place + extra :] == old:
            return new[place : place + extra]
    raise AssertionError(f"more than one insertion:\n{new}")


def test_a_host_follows_the_blank_lines_and_blocks_of_the_example() -> None:
    old = EXAMPLES[0].read_text()
    new = add_host(old, "rtx5090-02", ENTRY)
    assert new == old + ("\n  rtx5090-02:\n    ssh: {hostname: 10.0.0.17}\n    groups: [coding]\n")


def test_a_host_goes_behind_the_one_that_is_named() -> None:
    new = add_host(EXAMPLES[0].read_text(), "rtx4090-03", ENTRY, after="rtx4090-02")
    names = list(meaning(new)["hosts"])
    assert names == ["rtx4090-01", "rtx4090-02", "rtx4090-03", "rtx5090-01", "workshop"]
    assert added(EXAMPLES[0].read_text(), new)


def test_a_group_goes_in_above_the_hosts() -> None:
    old = EXAMPLES[0].read_text()
    new = add_group(old, "large", GROUP)
    assert list(meaning(new)["groups"]) == ["coding", "large"]
    assert added(old, new) == (
        "  large:\n    servers:\n      coder: {model: glm, port: 8888, context: 32768}\n"
        "    opencode: {users: [dev]}\n"
    )


CASES = {
    "nothing below hosts": (
        "version: 1\nhosts:\n  # none yet\n\ngroups: {}\n",
        "version: 1\nhosts:\n  # none yet\n  a:\n    ssh: {hostname: x}\n\ngroups: {}\n",
    ),
    "an empty mapping": (
        "version: 1\nhosts: {}\n",
        "version: 1\nhosts: {a: {ssh: {hostname: x}}}\n",
    ),
    "no hosts key": (
        "version: 1\n# end\n...\n",
        "version: 1\nhosts:\n  a:\n    ssh: {hostname: x}\n# end\n...\n",
    ),
    "a null with a comment": (
        "version: 1\nhosts: null  # none\n",
        "version: 1\nhosts:  # none\n  a:\n    ssh: {hostname: x}\n",
    ),
    "hosts on one line": (
        "version: 1\nhosts: {b: {}}  # one\n",
        "version: 1\nhosts: {b: {}, a: {ssh: {hostname: x}}}  # one\n",
    ),
    "padded braces": (
        "version: 1\nhosts: { b: { groups: [] } }\n",
        "version: 1\nhosts: { b: { groups: [] }, a: { ssh: { hostname: x } } }\n",
    ),
    "flow over lines, the last with a comment": (
        "version: 1\nhosts: {\n  c: {},\n  b: {}  # last, for now\n}\n",
        "version: 1\nhosts: {\n  c: {},\n  b: {},  # last, for now\n  a: {ssh: {hostname: x}}\n}\n",
    ),
    "flow over lines with a comma at the end": (
        "version: 1\nhosts: {\n  b: {},  # last\n}\n",
        "version: 1\nhosts: {\n  b: {},  # last\n  a: {ssh: {hostname: x}},\n}\n",
    ),
    "JSON": (
        '{"version": 1, "hosts": {"b": {}}}',
        '{"version": 1, "hosts": {"b": {}, "a": {"ssh": {"hostname": "x"}}}}',
    ),
    "four spaces, CRLF, blocks only": (
        "version: 1\r\nhosts:\r\n    b:\r\n        ssh:\r\n            user: o\r\n",
        "version: 1\r\nhosts:\r\n    b:\r\n        ssh:\r\n            user: o\r\n"
        "    a:\r\n        ssh:\r\n            hostname: x\r\n",
    ),
    "neighbours on one line each": (
        "version: 1\nhosts:\n  b: {ssh: {user: o}}\n  # spare: soon\n\n# the end\n",
        "version: 1\nhosts:\n  b: {ssh: {user: o}}\n  # spare: soon\n"
        "  a: {ssh: {hostname: x}}\n\n# the end\n",
    ),
    "quoted names": (
        "version: 1\nhosts:\n  'b': {ssh: {user: o}}\n",
        "version: 1\nhosts:\n  'b': {ssh: {user: o}}\n  'a': {ssh: {hostname: x}}\n",
    ),
    "no newline at the end": (
        "version: 1\nhosts:\n  b:\n    ssh: {user: o}",
        "version: 1\nhosts:\n  b:\n    ssh: {user: o}\n  a:\n    ssh: {hostname: x}",
    ),
    "an anchor and an alias": (
        "version: 1\nhosts:\n  b: &b\n    ssh: {user: o}\n  c: *b  # as b\n",
        "version: 1\nhosts:\n  b: &b\n    ssh: {user: o}\n  c: *b  # as b\n"
        "  a:\n    ssh: {hostname: x}\n",
    ),
}


@pytest.mark.parametrize(("old", "new"), CASES.values(), ids=CASES.keys())
def test_a_host_is_written_as_its_file_is(old: str, new: str) -> None:
    assert add_host(old, "a", {"ssh": {"hostname": "x"}}) == new


def test_groups_are_made_above_the_hosts_where_there_are_none() -> None:
    old = "version: 1\n\n# Ours.\nhosts:\n  b: {}\n"
    new = "version: 1\n\ngroups:\n  g:\n    cuda: {provider: none}\n\n# Ours.\nhosts:\n  b: {}\n"
    assert add_group(old, "g", {"cuda": {"provider": "none"}}) == new


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("- a\n", "no mapping"),
        ("version: 1\nhosts: [a]\n", "hosts is no mapping"),
        ("version: 1\nhosts: {a: {}}\n", "hosts.a is there already"),
        ("version: 1\nhosts: {b: {}\n", "can't be read at"),
        ("version: 1\nhosts: &h {b: {}}\ngroups: *h\n", "elsewhere"),
        ("version: 1\ngroups: &h {b: {}}\nhosts: *h\n", "is an alias"),
    ],
)
def test_what_cannot_be_edited_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(EditError, match=said):
        add_host(text, "a", {})


def test_an_unknown_neighbour_is_refused() -> None:
    with pytest.raises(EditError, match="no c to put a behind"):
        add_host("version: 1\nhosts: {b: {}}\n", "a", {}, after="c")


def test_a_result_that_means_something_else_is_never_given() -> None:
    """The last text grows by the newline that the host needs, so there is no result at all."""
    with pytest.raises(EditError, match="end within a text"):
        add_host("version: 1\nhosts:\n  b:\n    note: |\n      x", "a", {})


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("10.0.0.17", "10.0.0.17"),
        ("fe80::1", "fe80::1"),
        ("a b", "a b"),
        ("no", '"no"'),
        ("y", '"y"'),
        ("89", '"89"'),
        ("1:30", '"1:30"'),
        ("a, b", '"a, b"'),
        ("", '""'),
    ],
)
def test_text_is_quoted_only_where_a_reader_would_take_it_for_else(
    value: str, written: str
) -> None:
    assert add_host("version: 1\n", "a", {"k": value}) == (
        f"version: 1\nhosts:\n  a:\n    k: {written}\n"
    )


SCALARS = st.one_of(
    st.text(st.characters(blacklist_categories=("Cs",)), max_size=12),
    st.sampled_from(
        ["no", "y", "1:30", "013", "1_0", "2026-01-01", "~", "", "::1", "fe80::1", "#a"]
    ),
    st.integers(-(10**9), 10**9),
    st.booleans(),
    st.none(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True), inner, max_size=3),
    ),
    max_leaves=8,
)
ENTRIES = st.dictionaries(st.sampled_from(["ssh", "groups", "servers"]), VALUES, max_size=3)


@given(ENTRIES, st.sampled_from([old for old, _ in CASES.values()]))
@settings(max_examples=150, deadline=None)
def test_whatever_the_entry_holds_is_read_again_as_it_was(entry: dict[str, Any], old: str) -> None:
    new = add_host(old, "a", entry)
    assert meaning(new)["hosts"]["a"] == entry
    assert yaml.safe_load(new)["hosts"]["a"] == entry, "a YAML 1.1 reader reads something else"


COMMENTS = st.sampled_from(["# a: comment", "#", "", "      # deep", "  # below hosts", "# {x: [}"])


@st.composite
def fleet_texts(draw: st.DrawFn) -> str:
    """An example file with other indentation, comments, blank lines, line ends and so on."""
    lines = draw(st.sampled_from(EXAMPLES)).read_text().splitlines()
    wider = draw(st.sampled_from([1, 2, 3]))
    lines = [" " * (len(x) - len(x.lstrip())) * (wider - 1) + x for x in lines]
    for _ in range(draw(st.integers(0, 6))):
        lines.insert(draw(st.integers(0, len(lines))), draw(COMMENTS))
    for _ in range(draw(st.integers(0, 3))):
        index = draw(st.integers(0, len(lines) - 1))
        lines[index] += draw(st.sampled_from(["  # note", " ", " # {", "   #"]))
    if draw(st.booleans()):
        lines = ["---", *lines]
    if draw(st.booleans()):
        lines.append("...")
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    text = newline.join(lines) + draw(st.sampled_from(["", newline]))
    return draw(st.sampled_from(["", "\ufeff"])) + text


@given(fleet_texts(), st.sampled_from([add_host, add_group]))
@settings(max_examples=150, deadline=None)
def test_without_the_insertion_the_file_is_what_it_was(text: str, add: Any) -> None:
    entry = ENTRY if add is add_host else GROUP
    new = add(text, "new_1", entry)
    inserted = added(text, new)
    assert "new_1" in inserted
    bare = inserted.replace("\r\n", "")
    assert ("\r\n" if "\r\n" in text else "\n") in inserted
    assert "\r\n" not in text or "\n" not in bare, "the line ends are the file's own"


@st.composite
def flow_texts(draw: st.DrawFn) -> str:
    """Hosts in brackets, in every layout."""
    gap = st.sampled_from(["", " ", "\n  ", " # c\n  ", "\n\n "])
    names = draw(st.lists(st.sampled_from("abcd"), max_size=4, unique=True))
    parts = [
        f"{draw(gap)}{name}: {draw(st.sampled_from(['{}', '{ssh: {user: o}}', ' {groups: []}']))}"
        f"{draw(gap)}"
        for name in names
    ]
    inside = ",".join(parts) + (draw(st.sampled_from(["", ","])) if parts else "")
    return f"version: 1\nhosts: {{{inside}{draw(gap)}}}  # all\nmodels: {{}}\n"


@given(flow_texts())
@settings(max_examples=200, deadline=None)
def test_in_brackets_every_byte_survives_in_its_order(text: str) -> None:
    new = add_host(text, "new_1", ENTRY)
    rest = iter(new)
    assert all(char in rest for char in text)
    assert len(new) - len(text) <= len("new_1: {ssh: {hostname: 10.0.0.17}, groups: [coding]}") + 8
    comments = [x.split("#")[1] for x in text.splitlines() if "#" in x]
    assert [x.split("#")[1] for x in new.splitlines() if "#" in x] == comments


@st.composite
def anchored_texts(draw: st.DrawFn) -> str:
    """Values that are named once and meant again, above, below and inside the hosts."""
    anchored = st.sampled_from(["&x {ssh: {user: o}}", "&x\n    ssh: &y {user: o}", "&x {}"])
    again = st.sampled_from(["*x", "*x  # as b", "{ssh: {user: o}}"])
    gap = st.sampled_from(["", "\n", "\n  # between\n", "# all the way left\n"])
    hosts = [f"  b: {draw(anchored)}\n", *(f"  {name}: {draw(again)}\n" for name in "cd")]
    below = draw(st.sampled_from(["", "\ndefaults: *x\n", "# the end\n", "models: {}\n...\n"]))
    text = "version: 1\nhosts:\n" + "".join(draw(gap) + host for host in hosts) + below
    return text.rstrip("\n") if draw(st.booleans()) else text


@given(anchored_texts(), st.sampled_from([None, "b", "c"]))
@settings(max_examples=200, deadline=None)
def test_anchors_and_what_they_mean_survive_byte_for_byte(text: str, after: str | None) -> None:
    new = add_host(text, "new_1", ENTRY, after=after)
    assert "new_1" in added(text, new)
    old, now = meaning(text), meaning(new)
    assert now["hosts"].pop("new_1") == ENTRY
    assert now == old
