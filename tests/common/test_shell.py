"""Whatever a name holds, the shell gets it back as one word, or we refuse it."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploys.common.shell import digest, operand, script_word, word, words

PRINTABLE = st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", codec="utf-8"))


def shell(script: str) -> str:
    return subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout.decode()


@settings(max_examples=30)  # each starts a shell
@given(PRINTABLE)
def test_a_word_comes_back_from_the_shell_as_it_was(text: str) -> None:
    assert shell(f"printf %s {word(text)}") == text


@settings(max_examples=30)  # each starts a shell
@given(st.lists(PRINTABLE, min_size=1, max_size=4))
def test_words_stay_apart(texts: list[str]) -> None:
    assert shell(f"printf '%s\\0' {words(texts)}").split("\0")[:-1] == texts


@settings(max_examples=30)  # each starts a shell
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")))
def test_a_script_comes_back_whole_with_its_lines(text: str) -> None:
    assert shell(f"printf %s {script_word(text)}") == text


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "\x1b[31m", "tab\t", "\x7f"])
def test_control_characters_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        word(text)


@pytest.mark.parametrize("text", ["-rf", "--output=/etc/passwd", "-"])
def test_an_operand_that_looks_like_an_option_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="taken for an option"):
        operand(text)


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
