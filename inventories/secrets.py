"""Turns a reference to a secret into the secret, on the controller, at the moment it is needed.

The only place that holds a secret's text. Messages name the reference, never the value; a value
that got into a traceback or a debug print shows as asterisks (:class:`Secret`).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from inventories.settings import SecretReference

COMMAND_TIMEOUT = 60
"""Seconds that a secret's command may take (a password manager may have to ask for a touch)."""


class SecretError(Exception):
    """A secret can't be had; the message names the reference and what would mend it."""


class Secret(str):
    """A secret's text. ``repr`` masks it, so that it doesn't get into tracebacks and debug output.

    ``str()``, formatting and encoding give the true value: it must reach a connection or a file.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'********'"


def describe(reference: SecretReference) -> str:
    """The reference in words, as messages name it."""
    if reference.env is not None:
        return f"environment variable {reference.env}"
    if reference.file is not None:
        return f"file {reference.file}"
    return f"command {(reference.command or ('?',))[0]}"


def resolve_secret(reference: SecretReference, directory: Path) -> Secret:
    """The secret that a reference names.

    + directory: relative files are found from there, commands run there, unless the reference has a
      folder of its own

    Raises :class:`SecretError` when it is missing, unreadable, empty, not text, or holds a control
    character (a line break would end a header or a key file's line early).
    """
    directory = Path(reference.directory) if reference.directory else directory
    value = _read(reference, directory).removesuffix("\n").removesuffix("\r")
    if not value:
        raise SecretError(f"secret from {describe(reference)} is empty; give it a value")
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise SecretError(
            f"secret from {describe(reference)} holds a line break or another control character; "
            "it must be one line of text"
        )
    return Secret(value)


def _read(reference: SecretReference, directory: Path) -> str:
    if reference.env is not None:
        return _from_environment(reference.env)
    if reference.file is not None:
        return _from_file(reference.file, directory)
    if reference.command:
        return _from_command(reference.command, directory)
    raise SecretError("secret reference names none of env, file and command")


def _from_environment(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise SecretError(f"secret from environment variable {name}: it is not set; export {name}")
    return value


def _from_file(name: str, directory: Path) -> str:
    path = directory / Path(name).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SecretError(f"secret from file {path}: it isn't UTF-8 text") from None
    except OSError as error:
        raise SecretError(f"secret from file {path}: {error.strerror}") from None


def _from_command(command: tuple[str, ...], directory: Path) -> str:
    name = command[0]
    try:
        # The command's own complaints go to the terminal: they may be what the user must answer.
        done = subprocess.run(
            command, cwd=directory, stdout=subprocess.PIPE, timeout=COMMAND_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise SecretError(
            f"secret from command {name}: no answer within {COMMAND_TIMEOUT} s; run it by hand"
        ) from None
    except OSError as error:
        raise SecretError(f"secret from command {name}: {error.strerror}") from None
    if done.returncode != 0:
        raise SecretError(
            f"secret from command {name}: it exited {done.returncode}; run it by hand to see why"
        )
    try:
        return done.stdout.decode("utf-8")
    except UnicodeDecodeError:
        raise SecretError(f"secret from command {name}: its output isn't UTF-8 text") from None
