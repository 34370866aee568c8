"""A fleet file's server as what it becomes on a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploys.llama_server.files import server_files
from deploys.llama_server.instance import Instance
from inventories.fleet import Fleet, load_fleet
from inventories.lock import Lock, ModelPin, OpenCodePin, SourcePin, requests_of
from inventories.resolve import resolve_host
from inventories.settings import Artifact, HostSettings, ServerSettings

BINARY = "/opt/llama.cpp/b10900-0c1e570-abc/bin/llama-server"
FLEET = """\
version: 1
models:
  glm: {{path: glm.gguf, sha256: {sha}}}
  small: {{path: small.gguf, sha256: {sha}, sampling: {{top_k: 20}}}}
defaults:
  cuda: {{provider: none}}
  llama_cpp: {{ref: b10900}}
hosts:
  box:
    servers:
      coder: {server}
    {more}
"""


def settings_of(folder: Path, server: str, more: str = "") -> HostSettings:
    """The settings of the host ``box`` with this server, in YAML's flow style."""
    path = folder / "fleet.yaml"
    path.write_text(FLEET.format(sha="a" * 64, server=server, more=more))
    fleet = load_fleet(path)
    return resolve_host(fleet, _lock(fleet), "box")


def _lock(fleet: Fleet) -> Lock:
    pins: dict[str, dict[str, Any]] = {}
    for request in requests_of(fleet):
        file = Artifact(f"{request.name}.gguf", 7, "a" * 64, url="https://example.com/file")
        makers = {
            "models": ModelPin(request.body, (file,)),
            "llama_cpp": SourcePin(request.body, "c" * 40, 10900),
            "opencode": OpenCodePin(request.body, "1.18.33", {"x86_64": file}),
        }
        pins.setdefault(request.kind, {})[request.name] = makers[request.kind]
    return Lock(**pins)


def instance_of(
    settings: HostSettings, options: frozenset[str] = frozenset(), *, gpu: bool = False
) -> Instance:
    """The first server of a host, with a made-up key where it has one."""
    server: ServerSettings = settings.servers[0]
    return Instance(
        server=server,
        model=settings.model(server.model),
        binary=BINARY,
        options=options,
        gpu=gpu,
        api_key=None if server.api_key is None else "k3y-k3y",
        models=tuple(settings.model(served.model) for served in server.models),
    )


def files_of(settings: HostSettings, *, gpu: bool = False) -> dict[str, str]:
    """The server's files by the last part of their path; the unit is ``unit``."""
    files = server_files(instance_of(settings, gpu=gpu))
    return {
        "unit" if file.path.endswith(".service") else file.path.rpartition("/")[2]: file.content
        for file in files
    }
