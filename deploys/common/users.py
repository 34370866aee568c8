"""Files in the homes of people: who is there, what may be read and written. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from deploys.common.json_text import JsonTextError
from facts.files import FileState


class Account(Protocol):
    """What a fact tells of an account."""

    @property
    def home(self) -> str: ...

    @property
    def home_exists(self) -> bool: ...


def account_problem(name: str, user: Account | None, setting: str) -> str | None:
    """Why nothing can be laid down for an account; None where all is well.

    + setting: the key of the fleet file that names it
    """
    if user is None:
        return (
            f"the host has no account {name}: create it (useradd --create-home {name}), "
            f"or take it out of {setting}"
        )
    if not user.home_exists:
        return (
            f"the home {user.home} of {name} does not exist: create it "
            f"(mkhomedir_helper {name}), or take {name} out of {setting}"
        )
    return None


class Places(Protocol):
    """What a fact tells of the files of an account.

    + closed: those in whose folder the account may not write
    + outside: those that a link leads to, out of the home
    """

    @property
    def name(self) -> str: ...

    @property
    def closed(self) -> Sequence[str]: ...

    @property
    def outside(self) -> Sequence[str]: ...


def link_problem(path: str, state: FileState | None, user: Places, setting: str) -> str | None:
    """Why a file that a link leads to, out of the home, is left alone; None where it may be used.

    What lies there may be anybody's (``/etc/shadow``), so no advice may be given on it, such as to
    change its owner or to move it away.

    + setting: the key of the fleet file that names the account
    """
    foreign = state is not None and state.user != user.name
    if path not in user.outside or not (foreign or path in user.closed):
        return None
    whose = f"belongs to {state.user}" if state is not None and foreign else "may not be written"
    return (
        f"a link in the home of {user.name} leads to {path}, which {whose}: remove that link, "
        f"or take {user.name} out of {setting}"
    )


def write_problem(
    path: str, state: FileState | None, user: str, closed: Sequence[str], setting: str
) -> str | None:
    """Why a user's file that needs a change can't get it; None where it can.

    + closed: files in whose folder the user may not write
    """
    if path in closed:
        return (
            f"{user} may not write {path}: make its folder that user's own (chown {user}), "
            f"or take {user} out of {setting}"
        )
    if state is not None and state.user != user:
        return (
            f"{path} belongs to {state.user}, and {user}'s values must go into it: "
            f"run chown {user} {path}"
        )
    return None


def config_text(state: FileState, user: str) -> str:
    """A configuration as text; JsonTextError for what is no small UTF-8 file."""
    if state.kind == "file" and not state.sha256:
        raise JsonTextError(
            f"{state.path} belongs to {state.user} and {user} may not read it: "
            f"run chown {user} {state.path}"
        )
    if state.kind != "file" or state.content is None:
        raise JsonTextError(
            f"{state.path} is no file of a size that a configuration has: move it away"
        )
    try:
        return state.content.decode()
    except UnicodeDecodeError as error:
        line = state.content.count(b"\n", 0, error.start) + 1
        raise JsonTextError(
            f"{state.path}:{line}: not UTF-8 text: save it as UTF-8, then run again"
        ) from None
