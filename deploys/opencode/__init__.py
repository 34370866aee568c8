"""OpenCode: its binary, the system configuration, and our values in users' configurations.

Owns ``/opt/opencode/<version>/`` (immutable once finished), the link ``/usr/local/bin/opencode``,
``/etc/opencode/opencode.json``, a note for each user below ``/var/lib/llamaherd/opencode/``, and
what :mod:`deploys.opencode.config` lists of each user's file.
Refuses, before anything changes: an account that the host lacks, a configuration that can't be
edited, a ``/usr/local/bin/opencode`` of somebody else.

The order matters: without a configuration OpenCode sends prompts to a cloud service, so the
system configuration is there before the binary is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyinfra.api import FunctionCommand, StringCommand, deploy

from deploys.common.changes import Change, listened, record, refusal
from deploys.common.downloads import upload_artifacts
from deploys.common.files import ManagedFile, is_current, record_change, write_files
from deploys.common.jobs import run_job
from deploys.common.json_secrets import holds_secret
from deploys.common.json_text import JsonText, JsonTextError
from deploys.common.operations import (
    Commands,
    HostError,
    current_host,
    host_operation,
    host_settings,
    read,
    system,
)
from deploys.common.secrets import secret
from deploys.common.shell import script_word
from deploys.common.users import account_problem, config_text, link_problem, write_problem
from deploys.opencode.check import Check, acceptance, check_users
from deploys.opencode.config import (
    SYSTEM_CONFIG,
    key_path,
    overriding_config,
    system_config,
    user_config,
)
from deploys.opencode.install import (
    current_manifest,
    install_job,
    link_script,
    locked_artifact,
    run_path,
)
from facts.files import FileState
from facts.opencode import COMMAND, OpenCode, OpenCodeState, OpenCodeUser
from inventories.settings import Artifact, OpenCodeSettings


@deploy("OpenCode")
def opencode(settings: OpenCodeSettings | None = None) -> None:
    """OpenCode at its locked version, set up for the declared servers and users.

    + settings: defaults to the host's own; a host without any gets nothing
    """
    settings = settings or host_settings().opencode
    if settings is None:
        return
    install_opencode(name=f"Install and configure OpenCode {settings.version}", settings=settings)


@host_operation
def install_opencode(settings: OpenCodeSettings) -> Commands:
    """System configuration, binary, users' configurations, in this order.

    + settings: what OpenCode should be on this host
    """
    keys = [key_path(p.id) for p in settings.providers if p.api_key is not None]
    state = read(OpenCode, version=settings.version, users=settings.users, secrets=keys)
    artifact = locked_artifact(settings, system().architecture)
    etc = ManagedFile(SYSTEM_CONFIG, system_config(settings))
    if not is_current(etc, state.system_config):
        record_change(etc, state.system_config)
    _record_installation(settings.version, artifact, state)
    refuse(settings, state)
    users = user_files(settings, state, _keys(settings))

    yield from write_files([etc], _states(etc.path, state.system_config))
    yield from _install(settings.version, artifact, state)
    yield from write_files(list(users), {f.path: s for f, s in users.items() if s is not None})
    yield from _check(settings, state, is_current(etc, state.system_config), users)


def _check(
    settings: OpenCodeSettings,
    state: OpenCodeState,
    same_system: bool,
    users: Mapping[ManagedFile, FileState | None],
) -> Commands:
    """Ask OpenCode about whatever was written; about everybody where it concerns everybody.

    And about whomever it wasn't asked for since the files became what they are: a run that was cut
    off in between may have left something that OpenCode refuses. That question changes nothing, so
    a drift check doesn't hear of it.
    """
    configs = {path for u in state.users.values() for path in (u.config_path, u.jsonc_path)}
    written = {f: s for f, s in users.items() if f.path in configs and not is_current(f, s)}
    artifact = locked_artifact(settings, system().architecture)
    same_program = _is_installed(settings.version, artifact, state)
    same_program = same_program and state.link == run_path(settings.version)
    changed = {file.as_user for file, there in users.items() if not is_current(file, there)}
    wanted = {name: acceptance(settings, name, users) for name in settings.users}
    if not listened():
        changed |= {name for name in wanted if state.users[name].accepted != wanted[name]}
    names = [n for n in settings.users if n in changed or not (same_system and same_program)]
    if names:
        yield FunctionCommand(check_users, (Check(settings, tuple(names), written, wanted),), {})


def refuse(settings: OpenCodeSettings, state: OpenCodeState) -> None:
    """HostError with every reason why this host can't be brought in order."""
    problems = []
    if state.link is not None and not state.link.startswith("/opt/opencode/"):
        whose = f"a link to {state.link}" if state.link else "a file"
        problems.append(
            f"{COMMAND} is {whose} that llamaherd did not make: remove it, or move it away"
        )
    if state.system_config is not None and state.system_config.kind != "file":
        problems.append(
            f"{SYSTEM_CONFIG} is a {state.system_config.kind}: move it away, llamaherd writes it"
        )
    problems += _system_problems(settings, state)
    for name in settings.users:
        user = state.users.get(name)
        problem = account_problem(name, user, "opencode.users")
        if problem is not None:
            problems.append(problem)
        elif user is not None:
            problems += _config_problems(settings, user)
    if problems:
        raise HostError("; ".join(problems), *(refusal(text, "OpenCode") for text in problems))


def _system_problems(settings: OpenCodeSettings, state: OpenCodeState) -> list[str]:
    """A further file of the site's may add settings, but it wins over ours where both have one."""
    override = state.system_override
    if override is None:
        return []
    try:
        theirs = JsonText(config_text(override, "root"), override.path, comments=True).members(())
    except JsonTextError as error:
        return [str(error)]
    ours = json.loads(system_config(settings))
    both = [key for key in theirs if key in ours and key != "$schema"]
    if not both:
        return []
    return [f"{override.path} sets {', '.join(both)} over llamaherd's: take that out there"]


def _config_problems(settings: OpenCodeSettings, user: OpenCodeUser) -> list[str]:
    there = {user.config_path: user.config, user.jsonc_path: user.jsonc}
    links = {
        path: problem
        for path, state in there.items()
        if (problem := link_problem(path, state, user, "opencode.users")) is not None
    }
    problems = []
    try:
        for file, state in _configs(settings, user).items():
            if state is not None and is_current(file, state):
                continue
            problem = links.get(file.path) or write_problem(
                file.path, state, user.name, user.closed, "opencode.users"
            )
            if problem is not None:
                problems.append(problem)
    except JsonTextError as error:
        problems += list(links.values()) or [str(error)]
    return problems


def user_files(
    settings: OpenCodeSettings, state: OpenCodeState, keys: Mapping[str, str]
) -> dict[ManagedFile, FileState | None]:
    """Each user's files as they should be, with what is there now; a key before its reference.

    + keys: API key by provider id
    """
    files: dict[ManagedFile, FileState | None] = {}
    for name in settings.users:
        user = state.users[name]
        for provider, key in keys.items():
            path = key_path(provider)
            file = ManagedFile(
                f"{user.home}/{path}", key + "\n", mode="600", secret=True, as_user=name
            )
            files[file] = user.secrets.get(path)
        files |= _configs(settings, user)
    return files


def _configs(settings: OpenCodeSettings, user: OpenCodeUser) -> dict[ManagedFile, FileState | None]:
    """A user's configuration: the file that there is, both where there are two."""
    files: dict[ManagedFile, FileState | None] = {}
    if user.config is not None or user.jsonc is None:
        before = "" if user.config is None else config_text(user.config, user.name)
        text = user_config(before, settings, user.config_path)
        files[_config(user, user.config_path, user.config, before, text)] = user.config
    if user.jsonc is not None:
        before = config_text(user.jsonc, user.name)
        edit = user_config if user.config is None else overriding_config
        text = edit(before, settings, user.jsonc_path)
        files[_config(user, user.jsonc_path, user.jsonc, before, text)] = user.jsonc
    return files


def _config(
    user: OpenCodeUser, path: str, state: FileState | None, before: str, text: str
) -> ManagedFile:
    mode = "644" if state is None else state.mode
    return ManagedFile(path, text, mode=mode, secret=holds_secret(before), as_user=user.name)


def _keys(settings: OpenCodeSettings) -> dict[str, str]:
    return {p.id: secret(p.api_key) for p in settings.providers if p.api_key is not None}


def _states(path: str, state: FileState | None) -> dict[str, FileState]:
    return {} if state is None else {path: state}


def _record_installation(version: str, artifact: Artifact, state: OpenCodeState) -> None:
    if not _is_installed(version, artifact, state):
        subject = f"/opt/opencode/{version}"
        record(Change("declared", subject, _difference(state), fetch=artifact.size))
    strange = state.link is not None and not state.link.startswith("/opt/opencode/")
    if state.link != run_path(version) and not strange:
        now = "missing" if state.link is None else f"-> {state.link}"
        record(Change("declared", COMMAND, f"{now}, should be -> {run_path(version)}"))


def _install(version: str, artifact: Artifact, state: OpenCodeState) -> Commands:
    if _is_installed(version, artifact, state):
        current_host().noop(f"OpenCode {version} is installed")
    else:
        yield from upload_artifacts([artifact])
        yield from run_job(install_job(version, artifact))
    if state.link == run_path(version):
        current_host().noop(f"{COMMAND} starts OpenCode {version}")
    else:
        yield StringCommand(f"sh -c {script_word(link_script(version))}")


def _is_installed(version: str, artifact: Artifact, state: OpenCodeState) -> bool:
    expected = current_manifest(version, artifact)
    manifest: Mapping[str, Any] = state.manifest
    return _is_whole(state) and all(manifest.get(key) == value for key, value in expected.items())


def _is_whole(state: OpenCodeState) -> bool:
    """Whether binary and ``run`` are those that were installed; the time where it was noted."""
    noted = state.manifest
    return (
        state.binary_size > 0
        and state.binary_size == noted.get("size")
        and noted.get("mtime") in (None, state.binary_mtime)
        and state.run in (None, noted.get("run"))
    )


def _difference(state: OpenCodeState) -> str:
    if not state.manifest:
        return "not installed"
    if state.binary_size == 0:
        return "its binary is missing, or not executable"
    if not _is_whole(state):
        return "a file in it is not the one that was installed"
    return "another release's files"
