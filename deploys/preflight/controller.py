"""What a converge takes from the machine that it runs on: secrets, files to upload, chat templates.

Each is looked for before anything changes on a host, and only where it will be needed there. A
secret is asked for once a run, and its value goes nowhere from here.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from deploys.common.changes import Change, refusal
from deploys.common.downloads import check_source
from deploys.common.operations import HostError, UnknownStateError
from deploys.common.secrets import secret
from deploys.llama_server.possible import template_problems
from deploys.preflight.disk import planned_builds
from facts.opencode import ROOT as OPENCODE_ROOT
from facts.system import SystemState
from inventories.settings import ArchiveSource, Artifact, HostSettings, SecretReference

SUBJECT = "controller"


def controller_findings(settings: HostSettings, facts: SystemState) -> list[Change]:
    """What this machine lacks of what the host will need, each with its remedy."""
    found = [problem for one in _secrets(settings, facts) if (problem := _secret_problem(one))]
    texts = [*template_problems(settings)]
    texts += [text for file in _uploads(settings, facts) if (text := _file_problem(file))]
    changes = [*found, *(refusal(text, SUBJECT) for text in texts)]
    return list(dict.fromkeys(replace(change, subject=SUBJECT) for change in changes))


@cache
def _secret_problem(reference: SecretReference) -> Change | None:
    """Failures are kept, too: a command that hangs is waited for once, not for each host."""
    try:
        secret(reference)
    except UnknownStateError as error:
        remedy = "it is needed on the machine that converges: have it there, then run again"
        return Change("declared", SUBJECT, str(error), remedy=remedy)
    return None


def _secrets(settings: HostSettings, facts: SystemState) -> Iterator[SecretReference]:
    """Those that a converge asks for; a hub's token only where a file is still to come."""
    keys = [server.api_key for server in settings.servers]
    for model in settings.models:
        for file in model.files:
            path = posixpath.join(model.directory, file.name)
            keys.append(model.token_of(file) if _to_come(path, file, facts) else None)
    if settings.opencode is not None:
        keys += [provider.api_key for provider in settings.opencode.providers]
    if settings.claude_code is not None:
        keys.append(settings.claude_code.api_key)
    yield from dict.fromkeys(key for key in keys if key is not None)


def _to_come(path: str, file: Artifact, facts: SystemState) -> bool:
    return facts.there.get(path) != file.size


def _file_problem(file: Artifact) -> str:
    try:
        check_source(file)
    except HostError as error:
        return str(error)
    return ""


def _uploads(settings: HostSettings, facts: SystemState) -> Iterator[Artifact]:
    """Files of this machine's that the host doesn't have yet."""
    return (file for file in _artifacts(settings, facts) if file.path is not None)


def _artifacts(settings: HostSettings, facts: SystemState) -> Iterator[Artifact]:
    for model in settings.models:
        for file in model.files:
            if _to_come(posixpath.join(model.directory, file.name), file, facts):
                yield file
    for build, planned in planned_builds(settings, facts):
        there = f"{planned.path}/manifest.json" in facts.there
        if isinstance(build.source, ArchiveSource) and not there:
            yield build.source.artifact
    for toolkit in settings.toolkits:
        if f"{toolkit.root}/manifest.json" not in facts.there:
            yield from toolkit.wheels
    opencode = settings.opencode
    artifact = None if opencode is None else opencode.artifacts.get(facts.architecture)
    if opencode is None or artifact is None:
        return
    if f"{OPENCODE_ROOT}/{opencode.version}/manifest.json" not in facts.there:
        yield artifact
