"""What a fleet file comes to: everything that a converge would put on a host, as texts by place.

A fleet file goes the whole way that it goes in a converge: read, validated, merged, joined with a
lock, resolved, rendered. Only the lock's pins are invented: each answers what the fleet asks, and
the facts of the host, which are those of one with a GPU.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from fleet_support import problems_of

from deploys.claude_code.config import user_settings
from deploys.common.downloads import fetch_lines
from deploys.common.jobs import Job, through_proxy
from deploys.cuda import distribution, repository, wheels
from deploys.drift_timer.units import unit_files
from deploys.driver import install as driver_install
from deploys.llama_cpp.build import Machine, build_script, job_count, plan_build, source_script
from deploys.llama_server.files import server_files
from deploys.llama_server.instance import Instance
from deploys.opencode.config import SYSTEM_CONFIG, USER_CONFIG, system_config, user_config
from deploys.opencode.install import install_job
from deploys.packages import wanted
from facts.cuda import CudaState
from inventories.fleet import fleet_of
from inventories.groups import connection_data
from inventories.lock import (
    CudaPin,
    DriverPin,
    Lock,
    ModelPin,
    OpenCodePin,
    Request,
    SourcePin,
    requests_of,
)
from inventories.resolve import resolve_host
from inventories.secrets import resolve_secret
from inventories.settings import (
    AptPackage,
    ArchiveSource,
    Artifact,
    CudaRepository,
    CudaSettings,
    DriverSettings,
    HostSettings,
    OpenCodeSettings,
)
from inventories.sizing.declared import check_memory
from schemas.document import parse_document

# The places that a setting can show in.
PROBLEMS = "what validation says"
CONNECTION = "how the host is reached"
LOCK = "what is asked to be pinned"
PACKAGES = "the distribution's packages"
CUDA = "the toolkit's job"
BUILD = "the build's scripts"
MODELS = "the models' transfers"
SERVER = "the servers' files"
OPENCODE = "OpenCode's files"
INSTALL = "OpenCode's installation"
CLAUDE = "Claude Code's settings"
TIMER = "the scheduled check's units"
DRIVER = "the driver's job"
JOBS = "what a job on the host begins with"
MEMORY = "what is said of memory"

HOST = "gpu"
BASE = """
version: 1
models:
  glm: {hub: {repo: org/glm-GGUF, quant: Q4_K_M}}
  other: {hub: {repo: org/other-GGUF, quant: Q4_K_M}}
groups:
  team:
  more: {servers: {coder: {threads: 77}}}
hosts:
  gpu:
    cuda: {provider: nvidia-repo, version: "13.0"}
    llama_cpp: {ref: b8146}
    servers:
      coder: {model: glm, port: 8888}
    opencode: {users: [dev], default: coder}
"""
# Where a path of the reference lies in BASE, by its first steps; a host's section otherwise.
HOMES: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("version",): ("version",),
    ("hub",): ("hub",),
    ("drift",): ("drift",),
    ("models", "NAME"): ("models", "glm"),
    ("groups", "NAME"): ("groups", "team"),
    ("hosts", "NAME"): ("hosts", HOST),
    ("servers", "NAME"): ("hosts", HOST, "servers", "coder"),
    ("servers", "NAME", "models", "NAME"): ("hosts", HOST, "servers", "coder", "models", "glm"),
    ("opencode", "providers", "NAME"): ("hosts", HOST, "opencode", "providers", "office"),
    ("models", "NAME", "adapters", "NAME"): ("models", "glm", "adapters", "reviewer"),
    ("SECRET",): ("hosts", HOST, "servers", "coder", "api_key"),
    ("SAMPLING",): ("hosts", HOST, "servers", "coder", "sampling"),
}


class EveryOption(frozenset[str]):
    """The options of a llama-server that knows them all."""

    def __contains__(self, option: object) -> bool:
        return True

    def __bool__(self) -> bool:
        return True


@dataclass(frozen=True)
class Effect:
    """What one key does.

    + value: what is written there; the fleet must not have shown ``text`` before
    + place: where its effect shows, one of the places above
    + text: what is found there then, and wasn't before
    + given: settings of the host (YAML) that the key needs beside it, there before it is written
    + top: the same, of the whole file
    + host: the host whose files are looked at
    """

    value: Any
    place: str
    text: str
    given: str = ""
    top: str = ""
    host: str = HOST


def where(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path in a fleet file of a path of the reference."""
    for length in range(len(path), 0, -1):
        if path[:length] in HOMES:
            return (*HOMES[path[:length]], *path[length:])
    return ("hosts", HOST, *path)


def written(effect: Effect, path: tuple[str, ...], change: bool) -> str:
    """The fleet file before or after the change, as text."""
    fleet = merged(yaml.safe_load(BASE), yaml.safe_load(effect.top or "{}"))
    fleet = merged(fleet, {"hosts": {HOST: yaml.safe_load(effect.given or "{}")}})
    if change:
        value: Any = effect.value
        for step in reversed(where(path)):
            value = [value] if step == "N" else {step: value}
        fleet = merged(fleet, value)
    return json.dumps(fleet)


def merged(below: Any, above: Any) -> Any:
    """``above`` over ``below``; null removes, a list's one entry goes over the list's first."""
    if isinstance(above, dict):
        result = dict(below) if isinstance(below, dict) else {}
        for key, value in above.items():
            result[key] = merged(result.get(key), value)
        return {key: value for key, value in result.items() if value is not None or key == "team"}
    lists = isinstance(above, list) and isinstance(below, list) and above and below
    if lists and isinstance(above[0], dict) and isinstance(below[0], dict):
        return [merged(below[0], above[0]), *below[1:]]
    return copy.deepcopy(above)


def shown(text: str, folder: Path, host: str = HOST) -> dict[str, str]:
    """Everything that a host of a fleet file comes to, by place; an invalid file only has problems.

    + folder: of the fleet file; secrets of files and commands are looked up there
    """
    problems = "\n".join(problems_of(text))
    if problems:
        return {PROBLEMS: problems}
    fleet = fleet_of(parse_document(text.encode(), "fleet.yaml"), folder / "fleet.yaml")
    requests = requests_of(fleet)
    settings = resolve_host(fleet, lock_for(requests), host)
    asked = [f"{each.kind}: {json.dumps(each.body)}" for each in requests]
    return {
        PROBLEMS: problems,
        LOCK: "\n".join(asked),
        MEMORY: "\n".join(map(str, check_memory(fleet, None))),
        **host_texts(settings, folder),
    }


def host_texts(settings: HostSettings, folder: Path) -> dict[str, str]:
    """What one host's settings come to."""
    connection = connection_data(settings, folder)
    transport = connection.pop("ssh_paramiko_connect_kwargs")["transport_factory"]
    if "_sudo_password" in connection:
        # pyinfra gets a placeholder; the transport gives the password itself.
        connection["_sudo_password"] = inspect.getclosurevars(transport).nonlocals["password"]
    return {
        CONNECTION: json.dumps(connection, default=str),
        PACKAGES: " ".join(wanted(settings)),
        CUDA: "\n".join(map(cuda_text, settings.toolkits)),
        DRIVER: driver_text(settings.driver),
        JOBS: through_proxy(Job("x", "x", "true"), settings.proxy).script,
        BUILD: "\n".join(build_texts(settings)),
        MODELS: "\n".join(model_texts(settings, folder)),
        SERVER: "\n".join(server_texts(settings, folder)),
        OPENCODE: "\n".join(opencode_texts(settings)),
        CLAUDE: "\n".join(claude_code_texts(settings)),
        INSTALL: "" if settings.opencode is None else install_text(settings.opencode),
        TIMER: "\n".join(
            file.content
            for timer in ([settings.drift_timer] if settings.drift_timer else [])
            for file in unit_files(timer, "0" * 12)
        ),
    }


def cuda_text(settings: CudaSettings | None) -> str:
    """The toolkit's root, and the job that brings it."""
    if settings is None or settings.provider in ("existing", "none"):
        return "" if settings is None else f"root {settings.root}"
    if settings.provider == "wheels":
        return wheels.job(settings).script
    if settings.provider == "distribution":
        return f"{settings.version} of the distribution: {distribution.script()}"
    return repository.script([str(settings.root)], settings.repositories[0], CudaState())


def driver_text(settings: DriverSettings | None) -> str:
    """The job that installs the driver."""
    if settings is None:
        return ""
    return driver_install.script(settings, settings.repositories[0], CudaState(), False)


def build_texts(settings: HostSettings) -> Iterator[str]:
    """Where the source comes from and how it is compiled."""
    machine = Machine("debian12", "x86_64", "a CPU", ("89",))
    for settings_of_it, cuda in settings.builds:
        build = plan_build(settings_of_it, cuda, machine)
        yield source_script(settings_of_it, build)
        source = settings_of_it.source
        if isinstance(source, ArchiveSource):
            yield fetch_lines((source.artifact,), build.work)
        jobs = job_count(settings_of_it, 64, 10**13, cuda.root is not None)
        yield build_script(build, jobs)


def model_texts(settings: HostSettings, folder: Path) -> Iterator[str]:
    """How each model is fetched."""
    for model in settings.models:
        for file in model.files:
            reference = model.token_of(file)
            token = "" if reference is None else resolve_secret(reference, folder)
            yield f"token {token}"
            yield fetch_lines([file], model.directory)


def server_texts(settings: HostSettings, folder: Path) -> Iterator[str]:
    """Each server's files, with their paths and modes."""
    for server in settings.servers:
        assert settings.llama_cpp is not None
        assert settings.cuda is not None
        key = None if server.api_key is None else resolve_secret(server.api_key, folder)
        instance = Instance(
            server,
            settings.model(server.model),
            "/opt/llama.cpp/b1/bin/llama-server",
            EveryOption(),
            settings.cuda.root is not None,
            key,
            draft=None if server.draft is None else settings.model(server.draft.model),
            chat_template=server.chat_template_file,
            models=tuple(settings.model(served.model) for served in server.models),
        )
        for file in server_files(instance):
            yield f"# {file.path} {file.mode}\n{file.content}"


def install_text(settings: OpenCodeSettings) -> str:
    """The job that brings OpenCode's binary."""
    return install_job(settings.version, settings.artifacts["x86_64"]).script


def opencode_texts(settings: HostSettings) -> Iterator[str]:
    """The system's file and each user's."""
    opencode = settings.opencode
    if opencode is None:
        return
    yield f"# {SYSTEM_CONFIG}\n{system_config(opencode)}"
    for user in opencode.users:
        yield f"# ~{user}/{USER_CONFIG}\n{user_config('', opencode, user)}"


def claude_code_texts(settings: HostSettings) -> Iterator[str]:
    """Each user's settings."""
    claude_code = settings.claude_code
    for user in claude_code.users if claude_code is not None else ():
        assert claude_code is not None
        yield f"# ~{user}/.claude/settings.json\n{user_settings('', claude_code, user)}"


# Pins -------------------------------------------------------------------------------------------


def artifact(body: Any, name: str, **place: Any) -> Artifact:
    """A file that only this request gets."""
    digest = hashlib.sha256(json.dumps([body, name]).encode()).hexdigest()
    return Artifact(name, 4096, place.pop("sha256", None) or digest, **place)


def lock_for(requests: tuple[Request, ...]) -> Lock:
    """A lock that answers every request."""
    pins: dict[str, dict[str, Any]] = {
        "models": {},
        "llama_cpp": {},
        "opencode": {},
        "cuda": {},
        "driver": {},
    }
    for each in requests:
        pins[each.kind][each.name] = _PINS[each.kind](each.body)
    return Lock(**pins)


def _file(body: Any, asked: Mapping[str, Any]) -> Artifact:
    """What a request for a url or a path with its checksum gets."""
    place = {key: asked[key] for key in ("url", "path", "sha256") if key in asked}
    name = str(asked.get("url") or asked["path"]).rpartition("/")[2]
    return artifact(body, name, **place)


def _adapter(place: Mapping[str, Any]) -> Artifact:
    if "hub" not in place:
        return _file(place, place)
    hub = place["hub"]
    url = f"{hub.get('endpoint', 'https://hub.example.org')}/{hub['repo']}/{hub['file']}"
    return artifact(place, hub["file"], url=url)


def _model(body: Mapping[str, Any]) -> ModelPin:
    adapters = {name: _adapter(place) for name, place in body.get("adapters", {}).items()}
    if "hub" not in body:
        return ModelPin(body, (_file(body, body),), adapters=adapters)
    hub = body["hub"]
    endpoint = hub.get("endpoint", "https://hub.example.org")
    names = [hub.get("file") or f"model-{hub.get('quant')}.gguf"]
    names += ["mmproj-F16.gguf"] if body.get("mmproj") else []
    files = tuple(artifact(body, name, url=f"{endpoint}/{hub['repo']}/{name}") for name in names)
    commit = hashlib.sha1(json.dumps(body).encode()).hexdigest()
    mmproj = names[1] if len(names) > 1 else None
    return ModelPin(body, files, commit, mmproj, adapters=adapters)


def _source(body: Mapping[str, Any]) -> SourcePin:
    if "archive" in body:
        return SourcePin(body, archive=_file(body, body["archive"]))
    return SourcePin(body, hashlib.sha1(json.dumps(body).encode()).hexdigest(), 8146)


def _opencode(body: Mapping[str, Any]) -> OpenCodePin:
    registry = body.get("registry", "https://registry.example.org")
    tarball = artifact(body, "opencode.tgz", url=f"{registry}/opencode-{body['version']}.tgz")
    return OpenCodePin(body, body["version"], {"x86_64": tarball})


def _cuda(body: Mapping[str, Any]) -> CudaPin:
    version = body["version"]
    if body["provider"] == "wheels":
        wheel = artifact(body, "nvcc-x86_64.whl", url="https://example.org/nvcc-x86_64.whl")
        return CudaPin(body, version, wheels=(wheel,))
    return CudaPin(
        body,
        version,
        repositories=tuple(
            CudaRepository(
                name,
                f"{body['url']}/{name}/x86_64/",
                artifact(body, "key.asc", url=f"{body['url']}/{name}/{body.get('key', 'k.pub')}"),
                (AptPackage(f"cuda-nvcc-{version.replace('.', '-')}", f"{version}.1", "f" * 64),),
            )
            for name in body["distributions"]
        ),
    )


def _driver(body: Mapping[str, Any]) -> DriverPin:
    version = f"{body['branch']}.1"
    name = "nvidia-open" if body["modules"] == "open" else "cuda-drivers"
    package = AptPackage(f"{name}-{body['branch']}", f"{version}-1", "f" * 64)
    key = artifact(body, "key.asc", url="https://example.org/key")
    found = CudaRepository("debian12", f"{body['url']}/debian12/x86_64/", key, (package,))
    return DriverPin(body, version, (found,))


_PINS = {
    "models": _model,
    "llama_cpp": _source,
    "opencode": _opencode,
    "cuda": _cuda,
    "driver": _driver,
}
