"""Secrets: found where the fleet says, and never shown."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from inventories.secrets import Secret, SecretError, resolve_secret
from inventories.settings import SecretReference

VALUE = secrets.token_hex(16)


def test_an_environment_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFICE_KEY", VALUE)
    assert resolve_secret(SecretReference(env="OFFICE_KEY"), Path()) == VALUE


def test_a_file_is_read_beside_the_fleet_and_loses_one_newline(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(VALUE + "\n")
    assert resolve_secret(SecretReference(file="key"), tmp_path) == VALUE


def test_a_command_runs_beside_the_fleet_without_a_shell(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(VALUE + "\n")
    assert resolve_secret(SecretReference(command=("cat", "key")), tmp_path) == VALUE
    with pytest.raises(SecretError):
        resolve_secret(SecretReference(command=("cat", "$(echo key)")), tmp_path)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (SecretReference(env="NOT_SET_ANYWHERE"), "NOT_SET_ANYWHERE: it is not set; export"),
        (SecretReference(file="absent"), "absent: No such file"),
        (SecretReference(file="."), "Is a directory"),
        (SecretReference(command=("no-such-program",)), "no-such-program: No such file"),
        (SecretReference(command=("sh", "-c", "exit 3")), "command sh: it exited 3"),
        (SecretReference(command=("true",)), "command true is empty"),
    ],
)
def test_a_missing_secret_is_named_by_its_reference(
    tmp_path: Path, reference: SecretReference, message: str
) -> None:
    with pytest.raises(SecretError, match=message):
        resolve_secret(reference, tmp_path)


@pytest.mark.parametrize(
    "content",
    ["", "\n", f"{VALUE}\nmore", f"{VALUE}\r\nmore", f"{VALUE}\0"],
    ids=["empty", "line break", "two lines", "two DOS lines", "NUL"],
)
def test_what_is_not_one_line_of_text_is_refused_without_showing_it(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "key").write_text(content)
    with pytest.raises(SecretError) as caught:
        resolve_secret(SecretReference(file="key"), tmp_path)
    assert VALUE not in str(caught.value)


def test_a_secret_shows_as_asterisks_and_works_as_text() -> None:
    secret = Secret(VALUE)
    assert VALUE not in repr({"password": secret})
    assert f"{secret}".encode() == VALUE.encode()
