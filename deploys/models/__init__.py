"""Model files: resumed after an interruption, verified before the rename, then only stat'ed."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence

from pyinfra.api import deploy

from deploys.common.changes import Change, listened, record
from deploys.common.downloads import Fetch, fetch_artifacts
from deploys.common.operations import (
    Commands,
    HostError,
    current_host,
    host_operation,
    host_settings,
    read,
)
from deploys.common.progress import human_bytes
from deploys.common.secrets import secret
from deploys.common.shell import digest
from deploys.models.adoption import adoption_functions
from facts.models import ModelFile, ModelFiles
from inventories.settings import Artifact, ModelSettings, SecretReference

# What is left free on the disk when every file is there.
MARGIN = 1024**3


@deploy("Models")
def models(settings: Sequence[ModelSettings] | None = None) -> None:
    """Bring every model that the host's servers use.

    + settings: default to the host's own
    """
    wanted = host_settings().models if settings is None else settings
    if wanted:
        model_files(name="Fetch the models", models=tuple(wanted))


@host_operation
def model_files(models: Sequence[ModelSettings]) -> Commands:
    """Have all files of these models, verified.

    + models: what to have, each in its own directory
    """
    states = read(ModelFiles, paths=[path for model in models for path in paths(model)])
    missing = {model.name: missing_files(model, states) for model in models}
    for model in models:
        for file in missing[model.name]:
            state = states[posixpath.join(model.directory, file.name)]
            to_come = bytes_to_come(file, state)
            record(Change("declared", state.path, describe(file, state), fetch=to_come))
    if not listened():
        # A drift check and a plan hear it of preflight, which sums up all that is to come.
        require_space(models, states)
    for model in models:
        if not missing[model.name]:
            current_host().noop(f"model {model.name} is there, verified")
            continue
        for transfer in fetches(model, missing[model.name]):
            yield from fetch_artifacts(transfer)


def paths(model: ModelSettings) -> list[str]:
    """Absolute paths of a model's files."""
    return [posixpath.join(model.directory, file.name) for file in model.files]


def missing_files(model: ModelSettings, states: Mapping[str, ModelFile]) -> tuple[Artifact, ...]:
    """Files that aren't there, or aren't the bytes that were verified."""
    return tuple(
        file
        for file, path in zip(model.files, paths(model), strict=True)
        if states[path].verified != file.sha256
    )


def describe(file: Artifact, state: ModelFile) -> str:
    """How a file that isn't what was verified differs, as far as its stat tells."""
    if state.size is None:
        arrived = f", {human_bytes(state.partial)} have arrived" if state.partial else ""
        return f"missing ({human_bytes(file.size)}{arrived})"
    if state.size != file.size:
        return f"{state.size} bytes -> {file.size}"
    return "not the bytes that were verified: time or inode changed, or there is no record"


def bytes_to_come(file: Artifact, state: ModelFile) -> int:
    """Bytes that a file which isn't as verified still lacks; what lies there is gone on from."""
    return max(0, file.size - max(state.partial, state.size or 0))


def require_space(models: Sequence[ModelSettings], states: Mapping[str, ModelFile]) -> None:
    """HostError when what is still to come doesn't fit on the file systems that it goes to.

    What has arrived of a file counts as there. A file that will be linked or shares its blocks with
    another program's costs nothing; nobody knows beforehand, so it counts too.
    """
    to_come: dict[str, int] = {}
    free: dict[str, int] = {}
    for model in models:
        for file in missing_files(model, states):
            state = states[posixpath.join(model.directory, file.name)]
            rest = bytes_to_come(file, state)
            to_come[state.mount] = to_come.get(state.mount, 0) + rest
            free[state.mount] = state.free
    short = [
        f"models need {human_bytes(rest)} more and {human_bytes(MARGIN)} to spare, "
        f"{mount} has {human_bytes(free[mount])}"
        for mount, rest in to_come.items()
        if rest and rest + MARGIN > free[mount]
    ]
    if short:
        raise HostError(f"{'; '.join(short)}: make room, or choose a smaller quant")


def fetches(model: ModelSettings, files: Sequence[Artifact]) -> Iterator[Fetch]:
    """The transfers of some of a model's files: one a token, which goes to its own hub alone."""
    groups: dict[SecretReference | None, list[Artifact]] = {}
    for file in files:
        groups.setdefault(model.token_of(file), []).append(file)
    for token, group in groups.items():
        yield _fetch(model, tuple(group), None if token is None else secret(token))


def _fetch(model: ModelSettings, files: tuple[Artifact, ...], token: str | None) -> Fetch:
    return Fetch(
        name=f"model-{digest([model.directory, [file.sha256 for file in files]])}",
        title=f"fetching {model.name}",
        artifacts=files,
        directory=model.directory,
        header=None if token is None else f"Authorization: Bearer {token}",
        elsewhere=adoption_functions(),
        remedy="check that the host reaches the model's source; the next run goes on from here",
    )
