"""Claude Code: what points it at a server of the fleet. The program itself is not ours.

Owns what :mod:`deploys.claude_code.config` lists of each named user's settings, and the key beside
them (``~/.claude/llamaherd.key``, for the user alone). Refuses, before anything changes: an account
that the host lacks, settings that can't be edited or written.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyinfra.api import deploy

from deploys.claude_code.config import user_settings
from deploys.common.changes import refusal
from deploys.common.files import ManagedFile, is_current, write_files
from deploys.common.json_secrets import holds_secret
from deploys.common.json_text import JsonTextError
from deploys.common.operations import Commands, HostError, host_operation, host_settings, read
from deploys.common.secrets import secret
from deploys.common.users import account_problem, config_text, link_problem, write_problem
from facts.claude_code import KEY, ClaudeCode, ClaudeCodeUser
from facts.files import FileState
from inventories.settings import ClaudeCodeSettings


@deploy("Claude Code")
def claude_code(settings: ClaudeCodeSettings | None = None) -> None:
    """Claude Code's environment for the declared users.

    + settings: defaults to the host's own; a host without any gets nothing
    """
    settings = settings or host_settings().claude_code
    if settings is None or not settings.users:
        return
    point_claude_code(name=f"Point Claude Code at {settings.server}", settings=settings)


@host_operation
def point_claude_code(settings: ClaudeCodeSettings) -> Commands:
    """Each user's key, then the settings that refer to it.

    + settings: whom, and where to
    """
    users = read(ClaudeCode, users=settings.users)
    refuse(settings, users)
    key = None if settings.api_key is None else secret(settings.api_key)
    files = user_files(settings, users, key)
    yield from write_files(list(files), {f.path: s for f, s in files.items() if s is not None})


def refuse(settings: ClaudeCodeSettings, users: Mapping[str, ClaudeCodeUser]) -> None:
    """HostError with every reason why this host's users can't be served."""
    problems = []
    for name in settings.users:
        user = users.get(name)
        problem = account_problem(name, user, "clients.claude_code.users")
        if problem is None and user is not None:
            problem = _settings_problem(settings, user)
        if problem is not None:
            problems.append(problem)
    if problems:
        raise HostError("; ".join(problems), *(refusal(text, "Claude Code") for text in problems))


def user_files(
    settings: ClaudeCodeSettings, users: Mapping[str, ClaudeCodeUser], key: str | None
) -> dict[ManagedFile, FileState | None]:
    """Each user's files as they should be, with what is there now; a key before its reference."""
    files: dict[ManagedFile, FileState | None] = {}
    for name in settings.users:
        user = users[name]
        if key is not None:
            path = f"{user.home}/{KEY}"
            file = ManagedFile(path, key + "\n", mode="600", secret=True, as_user=name)
            files[file] = user.key
        files[_settings_file(settings, user)] = user.settings
    return files


def _settings_file(settings: ClaudeCodeSettings, user: ClaudeCodeUser) -> ManagedFile:
    before = "" if user.settings is None else config_text(user.settings, user.name)
    return ManagedFile(
        user.path,
        user_settings(before, settings, user.path),
        mode="644" if user.settings is None else user.settings.mode,
        secret=holds_secret(before),
        as_user=user.name,
    )


def _settings_problem(settings: ClaudeCodeSettings, user: ClaudeCodeUser) -> str | None:
    link = link_problem(user.path, user.settings, user, "clients.claude_code.users")
    try:
        file = _settings_file(settings, user)
    except JsonTextError as error:
        return link or str(error)
    if user.settings is not None and is_current(file, user.settings):
        return None
    return link or write_problem(
        file.path, user.settings, user.name, user.closed, "clients.claude_code.users"
    )
