"""Joins a fleet and its lock into the settings of one host.

Pure: no file is read, nothing is asked. Secrets stay references. Relative paths become absolute,
from the fleet file's folder. What is refused: a lock that lacks a pin (:class:`UnlockedError`);
:func:`inventories.lock.check_lock` reports all of them beforehand, with positions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from inventories.addresses import EVERYWHERE, is_loopback, own_address, with_port
from inventories.fleet import DEFAULT_HUB, Fleet, FleetHost, default_provider, opencode_providers
from inventories.lock import (
    CudaPin,
    DriverPin,
    Lock,
    ModelPin,
    OpenCodePin,
    SourcePin,
    cuda_request,
    driver_request,
    find_answer,
    model_request,
    opencode_request,
    source_request,
)
from inventories.references import claude_code_server, find_provider, split_model
from inventories.settings import (
    DEFAULT_TARGETS,
    MODELS_ROOT,
    Adapter,
    ArchiveSource,
    Artifact,
    ClaudeCodeSettings,
    CudaProvider,
    CudaSettings,
    DeclaredGpu,
    DraftSettings,
    DriftTimerSettings,
    DriverSettings,
    GitSource,
    HostSettings,
    KnownHost,
    LlamaCppSettings,
    ModelSettings,
    OpenCodeAgent,
    OpenCodeModel,
    OpenCodeProvider,
    OpenCodeSettings,
    ProxySettings,
    Sampling,
    SecretReference,
    ServerSettings,
    SshSettings,
    Tls,
)
from inventories.sizing.options import gpu_sizes

SHORT_COMMIT = 7
"""Digits of a commit in a build's version, as git abbreviates by default."""

MAX_OUTPUT = 16384
"""Tokens of one answer that OpenCode may ask for (it caps at 32000 itself)."""


class UnlockedError(Exception):
    """A host's settings need a pin that the lock doesn't have; names the command that mends it."""


def resolve_host(fleet: Fleet, lock: Lock, name: str) -> HostSettings:
    """What the host should be. KeyError for an unknown host, :class:`UnlockedError` for no pin."""
    host = fleet.hosts[name]
    servers = tuple(
        _with_build(fleet, lock, host, server_settings(fleet, host, server))
        for server in sorted(host.values.get("servers") or {})
    )
    drafts = {server.draft.model for server in servers if server.draft is not None}
    used = sorted({served.model for server in servers for served in server.served} | drafts)
    return HostSettings(
        name=name,
        ssh=ssh_settings(fleet, host),
        cuda=_cuda(fleet, lock, host.values.get("cuda")),
        llama_cpp=_llama_cpp(fleet, lock, host.values.get("llama_cpp")),
        models=tuple(model_settings(fleet, lock, model) for model in used),
        servers=servers,
        opencode=_opencode(fleet, lock, host),
        claude_code=_claude_code(fleet, host),
        drift_timer=_drift_timer(fleet) if host.values.get("controller") else None,
        gpus=declared_gpus(host.values.get("gpus")),
        proxy=_proxy(host.values.get("proxy")),
        driver=_driver(fleet, lock, host),
    )


def declared_gpus(values: Sequence[Mapping[str, Any]] | None) -> tuple[DeclaredGpu, ...] | None:
    """A fleet file's ``gpus``, one by one; None for none written."""
    if values is None:
        return None
    return tuple(
        DeclaredGpu(gpu_sizes(gpu["memory"])[0], gpu.get("name", ""), gpu.get("uuid", ""))
        for gpu in values
        for _ in range(gpu.get("count", 1))
    )


def secret_reference(
    value: Mapping[str, Any] | None, fleet: Fleet | None = None
) -> SecretReference | None:
    """A fleet file's ``{env: ..}``, ``{file: ..}`` or ``{command: ..}``; None for none.

    + fleet: its folder is where relative files count from and commands run
    """
    if not value:
        return None
    command = value.get("command")
    return SecretReference(
        env=value.get("env"),
        file=value.get("file"),
        command=tuple(command) if command else None,
        directory=_folder(fleet) if fleet is not None and not value.get("env") else None,
    )


def _folder(fleet: Fleet) -> str:
    return str(fleet.path.absolute().parent)


def ssh_settings(fleet: Fleet, host: FleetHost) -> SshSettings:
    """How the host is reached."""
    ssh = host.values.get("ssh") or {}
    return SshSettings(
        hostname=ssh.get("hostname") or host.name,
        user=ssh.get("user") or "root",
        port=ssh.get("port"),
        key=_absolute(fleet, ssh.get("key")),
        known_hosts=_absolute(fleet, ssh.get("known_hosts")),
        config_file=_absolute(fleet, ssh.get("config_file")),
        host_key_checking=ssh.get("host_key_checking") or "yes",
        password=secret_reference(ssh.get("password"), fleet),
        sudo_password=secret_reference(ssh.get("sudo_password"), fleet),
    )


def _absolute(fleet: Fleet, path: str | None) -> str | None:
    """A path of the fleet file as an absolute one; symbolic links are left as they are."""
    if path is None:
        return None
    return os.path.abspath(fleet.path.parent / os.path.expanduser(path))  # noqa: PTH100, PTH111


def _unlocked(fleet: Fleet, what: str) -> UnlockedError:
    return UnlockedError(f"the lock has no pin of {what}; run: llamaherd lock {fleet.path}")


# CUDA and llama.cpp -----------------------------------------------------------------------------


def _with_build(
    fleet: Fleet, lock: Lock, host: FleetHost, server: ServerSettings
) -> ServerSettings:
    """The server with the build and toolkit of its own that the fleet file gives it."""
    values = host.values["servers"][server.name]
    return replace(
        server,
        llama_cpp=_llama_cpp(fleet, lock, values.get("llama_cpp")),
        cuda=_cuda(fleet, lock, values.get("cuda")),
    )


def _driver(fleet: Fleet, lock: Lock, host: FleetHost) -> DriverSettings | None:
    """The driver of a host that llamaherd manages; None for one that is only observed."""
    values = host.values.get("driver")
    body = driver_request(values, host.values.get("cuda"))
    if values is None or body is None:
        return None
    pin: DriverPin | None = find_answer(lock.driver, body)
    if pin is None:
        raise _unlocked(fleet, f"driver {body['branch']}-{body['modules']}")
    return DriverSettings(
        branch=body["branch"],
        version=pin.version,
        repositories=pin.repositories,
        modules=body["modules"],
        reboot=values["reboot"],
    )


def _proxy(values: Mapping[str, Any] | None) -> ProxySettings | None:
    if not values:
        return None
    return ProxySettings(
        values.get("http"), values.get("https"), tuple(values.get("no_proxy") or ())
    )


def _cuda(fleet: Fleet, lock: Lock, cuda: Mapping[str, Any] | None) -> CudaSettings | None:
    if not cuda:
        return None
    provider: CudaProvider = cuda.get("provider") or "nvidia-repo"
    body = cuda_request(cuda)
    if body is None:
        version = cuda.get("version") if provider == "distribution" else None
        return CudaSettings(provider=provider, version=version, path=cuda.get("path"))
    pin: CudaPin | None = find_answer(lock.cuda, body)
    if pin is None:
        raise _unlocked(fleet, f"cuda {body['provider']} {body['version']}")
    return CudaSettings(
        provider=provider,
        version=body["version"],
        repositories=pin.repositories,
        wheels=tuple(_here(fleet, wheel) for wheel in pin.wheels),
    )


def _here(fleet: Fleet, artifact: Artifact) -> Artifact:
    """The artifact with an absolute path; a lock holds paths as the fleet file writes them."""
    return replace(artifact, path=_absolute(fleet, artifact.path))


def _llama_cpp(
    fleet: Fleet, lock: Lock, values: Mapping[str, Any] | None
) -> LlamaCppSettings | None:
    if not values:
        return None
    body = source_request(values)
    pin: SourcePin | None = find_answer(lock.llama_cpp, body)
    if pin is None:
        raise _unlocked(fleet, f"llama_cpp {values.get('ref') or 'archive'}")
    source: GitSource | ArchiveSource
    if pin.archive is not None:
        subdirectory = values["archive"].get("subdirectory") or ""
        source = ArchiveSource(_here(fleet, pin.archive), subdirectory)
        commit, number = str(values["commit"]), int(values["build_number"])
    else:
        source = GitSource(body["repository"], str(pin.commit))
        commit, number = str(pin.commit)[:SHORT_COMMIT], int(pin.build_number or 0)
    return LlamaCppSettings(
        source=source,
        build_number=number,
        commit=commit,
        targets=tuple(values.get("targets") or DEFAULT_TARGETS),
        architectures=tuple(str(a) for a in values.get("architectures") or ()),
        native=_flag(values, "native", True),
        cmake={
            str(key): _cmake(value)
            for key, value in sorted((values.get("cmake") or {}).items())
            if value is not None
        },
        jobs=values.get("jobs"),
        compiler_cache=values.get("compiler_cache")
        or ("ccache" if values.get("ccache") else "none"),
        backends=tuple(values.get("backends") or ()),
        static=_flag(values, "static", False),
        flash_attention_quants=_quants(values.get("flash_attention_quants")),
        rpc=_flag(values, "rpc", False),
    )


def _quants(value: Any) -> tuple[str, ...]:
    return ("all",) if value == "all" else tuple(value or ())


def _flag(values: Mapping[str, Any], key: str, default: bool) -> bool:
    value = values.get(key)
    return default if value is None else bool(value)


def _cmake(value: Any) -> str:
    return ("ON" if value else "OFF") if isinstance(value, bool) else str(value)


# Models and servers -----------------------------------------------------------------------------


def model_settings(fleet: Fleet, lock: Lock, name: str) -> ModelSettings:
    """A model of the fleet as files on a host."""
    model = fleet.models[name]
    pin: ModelPin | None = lock.models.get(name)
    if pin is None or dict(pin.request) != model_request(fleet, name):
        raise _unlocked(fleet, f"models {name}")
    return ModelSettings(
        name=name,
        title=model_title(model),
        directory=_directory(name, pin),
        files=tuple(_here(fleet, file) for file in (*pin.files, *_adapter_files(pin).values())),
        mmproj=pin.mmproj,
        reasoning=bool(model.get("reasoning")),
        sampling=_sampling(model.get("sampling")),
        token=hub_token(fleet, model.get("hub")),
        dimensions=pin.dimensions,
        adapters=tuple(
            _adapter(fleet, adapter, file.name, model["adapters"][adapter])
            for adapter, file in _adapter_files(pin).items()
        ),
        llama_cpp_build=model.get("llama_cpp_build"),
    )


def _adapter(fleet: Fleet, name: str, file: str, values: Mapping[str, Any]) -> Adapter:
    scale = values.get("scale")
    return Adapter(
        name=name,
        file=file,
        scale=1.0 if scale is None else float(scale),
        token=hub_token(fleet, values.get("hub")),
    )


def _adapter_files(pin: ModelPin) -> dict[str, Artifact]:
    """The adapters' files, in the order of their names, as they are called on a host.

    By content, because they lie beside the model whatever revision they are of; and without a comma
    or colon, which llama-server's option would take for the next adapter or a scale.
    """
    adapters = sorted((pin.adapters or {}).items())
    return {
        name: replace(file, name=f"adapters/{name}-{file.sha256[:12]}.gguf")
        for name, file in adapters
    }


def hub_token(fleet: Fleet, hub: Mapping[str, Any] | None) -> SecretReference | None:
    """The token for a model's or an adapter's ``hub``: its own, or the fleet's at the fleet's hub.

    A token is for one server; no other one must ever see it.
    """
    if not hub:
        return None
    if hub.get("token"):
        return secret_reference(hub["token"], fleet)
    home = fleet.hub.get("endpoint") or DEFAULT_HUB
    if _origin(hub.get("endpoint") or home) != _origin(home):
        return None
    return secret_reference(fleet.hub.get("token"), fleet)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def model_title(model: Mapping[str, Any]) -> str:
    """A model's name for people: as written, else repository and quant, else the file's name."""
    if model.get("title"):
        return str(model["title"])
    hub = model.get("hub")
    if hub:
        return f"{hub['repo']} {hub.get('quant') or hub.get('file') or ''}".strip()
    place = unquote(urlsplit(model["url"]).path) if model.get("url") else str(model["path"])
    return PurePosixPath(place).name


def _directory(name: str, pin: ModelPin) -> str:
    hub = pin.request.get("hub")
    if hub and pin.revision is not None:
        return f"{MODELS_ROOT}/{hub['repo']}/{pin.revision}"
    kind = "url" if pin.files[0].url is not None else "path"
    return f"{MODELS_ROOT}/{kind}/{name}/{pin.files[0].sha256[:16]}"


def _sampling(*layers: Mapping[str, Any] | None) -> Sampling:
    """Sampling settings, later layers over earlier ones."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update({key: value for key, value in (layer or {}).items() if value is not None})
    return Sampling(**merged)


# Settings that are the same in the fleet file and in ServerSettings.
_ALIKE = (
    *("host", "parallel", "threads", "load_mode", "op_offload", "jinja", "flash_attention"),
    *("cache_type_k", "cache_type_v", "cache_ram", "cache_reuse", "slot_save", "kv_unified"),
    *("swa_full", "sleep_idle_seconds", "split_mode", "main_gpu", "cpu_moe", "n_cpu_moe"),
    *("batch_size", "ubatch_size", "threads_batch", "numa", "reasoning", "reasoning_format"),
    *("reasoning_budget", "chat_template", "metrics", "unix_socket", "socket_group"),
    *("models_max", "load_on_startup"),
)


def server_settings(fleet: Fleet, host: FleetHost, name: str) -> ServerSettings:
    """A server of a host. No lock is needed: nothing of it is pinned."""
    values = host.values["servers"][name]
    several = values.get("models")
    if not several:
        return _served(fleet, host, name, values["model"])
    models = tuple(_served(fleet, host, name, model) for model in several)
    return replace(models[0], models=models, load_on_startup=False)


def _served(fleet: Fleet, host: FleetHost, name: str, model_name: str) -> ServerSettings:
    """A server as it would be if it served this one of its models alone."""
    whole = host.values["servers"][name]
    own = (whole.get("models") or {}).get(model_name) or {}
    values = {**whole, **{key: value for key, value in own.items() if value is not None}}
    model = fleet.models[model_name]
    given = {key: values[key] for key in _ALIKE if values.get(key) is not None}
    gpus, layers, tls = values.get("gpus"), values.get("gpu_layers"), values.get("tls")
    arguments = values.get("chat_template_kwargs")
    return ServerSettings(
        name=name,
        model=model_name,
        port=0 if values.get("unix_socket") else values["port"],
        context=values.get("context") or 65536,
        address=server_address(fleet, host, name),
        sampling=_sampling(model.get("sampling"), whole.get("sampling"), own.get("sampling")),
        gpus=None if gpus in (None, "all") else tuple(str(gpu) for gpu in gpus),
        api_key=secret_reference(values.get("api_key"), fleet),
        extra_args=tuple(values.get("extra_args") or ()),
        ready_timeout=values.get("ready_timeout") or 600,
        draft=_draft(values.get("draft")),
        # A template's name, said of this server, wins over a file that its model comes with.
        chat_template_file=None
        if values.get("chat_template")
        else _absolute(fleet, values.get("chat_template_file") or model.get("chat_template_file")),
        gpu_layers=None if layers is None else str(layers),
        tensor_split=tuple(values.get("tensor_split") or ()),
        chat_template_kwargs=json.dumps(arguments, sort_keys=True) if arguments else None,
        tls=Tls(tls["certificate"], tls["key"]) if tls else None,
        **given,
    )


def _draft(values: Mapping[str, Any] | None) -> DraftSettings | None:
    if not values or not values.get("model"):
        return None
    given = {key: value for key, value in values.items() if value is not None}
    if "gpu_layers" in given:
        given["gpu_layers"] = str(given["gpu_layers"])
    return DraftSettings(**given)


def server_address(fleet: Fleet, host: FleetHost, name: str) -> str | None:
    """``host:port`` under which other hosts reach a server; None when it is bound to loopback.

    The setting ``address`` comes first, then a concrete address that it binds, then the name by
    which ssh reaches the host.
    """
    values = host.values["servers"][name]
    if values.get("unix_socket"):
        return None
    port = values["port"]
    if values.get("address"):
        return with_port(values["address"], port)
    bound = values.get("host") or "127.0.0.1"
    if is_loopback(bound):
        return None
    reached = ssh_settings(fleet, host).hostname if bound in EVERYWHERE else bound
    return with_port(reached, port)


# OpenCode ---------------------------------------------------------------------------------------


def _opencode(fleet: Fleet, lock: Lock, host: FleetHost) -> OpenCodeSettings | None:
    values = host.values.get("opencode")
    if not values:
        return None
    body = opencode_request(values)
    pin: OpenCodePin | None = find_answer(lock.opencode, body)
    if pin is None:
        raise _unlocked(fleet, f"opencode {body.get('version')}")
    providers = opencode_providers(fleet, host.name)
    default = default_provider(fleet, host.name)
    if default is None:
        raise ValueError(f"{host.name}: OpenCode without a default server")  # validation forbids it
    offered = tuple(
        _provider(fleet, host, provider, *target) for provider, target in sorted(providers.items())
    )
    return OpenCodeSettings(
        version=pin.version,
        artifacts={name: _here(fleet, file) for name, file in pin.artifacts.items()},
        users=tuple(values.get("users") or ()),
        providers=offered,
        default=default,
        small=_model_id(host.name, values.get("small_model"), providers, offered),
        permission=_permission(values.get("permission")),
        instructions=tuple(values.get("instructions") or ()),
        agents=tuple(
            _agent(name, agent, _model_id(host.name, agent.get("model"), providers, offered))
            for name, agent in (values.get("agents") or {}).items()
        ),
    )


def _agent(name: str, values: Mapping[str, Any], model: str | None) -> OpenCodeAgent:
    given = {key: value for key, value in values.items() if value is not None}
    given |= {"model": model, "permission": _permission(values.get("permission"))}
    return OpenCodeAgent(name=name, **given)


def _model_id(
    host: str,
    reference: str | None,
    providers: Mapping[str, tuple[str, str]],
    offered: Sequence[OpenCodeProvider],
) -> str | None:
    """``provider/model`` of a reference to a server, and maybe to one of its models."""
    if reference is None:
        return None
    server, model = split_model(reference)
    name = find_provider(host, server, providers)
    provider = next(each for each in offered if each.id == name)
    return f"{provider.id}/{model or provider.models[0].id}"


def _permission(value: str | Mapping[str, Any] | None) -> Mapping[str, Any]:
    """As OpenCode itself reads one word for everything."""
    return {"*": value} if isinstance(value, str) else value or {}


def _provider(
    fleet: Fleet, client: FleetHost, provider: str, host: str, name: str
) -> OpenCodeProvider:
    target = fleet.hosts[host]
    server = server_settings(fleet, target, name)
    opencode = client.values.get("opencode") or {}
    written = (opencode.get("providers") or {}).get(provider, {})
    local = host == client.name
    address = _local_address(server) if local else server.address
    return OpenCodeProvider(
        id=provider,
        name=written.get("name") or ("llama-server (local)" if local else f"llama-server ({host})"),
        server=f"{host}/{name}",
        base_url=f"{'http' if server.tls is None else 'https'}://{address}/v1",
        models=tuple(_opencode_model(fleet, served) for served in server.served),
        api_key=server.api_key,
    )


def _opencode_model(fleet: Fleet, server: ServerSettings) -> OpenCodeModel:
    model = fleet.models[server.model]
    return OpenCodeModel(
        id=server.model,
        name=model_title(model),
        context=server.context,
        output=min(MAX_OUTPUT, server.context // 4),
        reasoning=bool(model.get("reasoning")) and server.reasoning != "disabled",
        images=bool(model.get("mmproj")),
        interleaved=model.get("interleaved") or "reasoning_content",
        tool_call=_flag(model, "tool_call", True),
    )


def _claude_code(fleet: Fleet, host: FleetHost) -> ClaudeCodeSettings | None:
    values = (host.values.get("clients") or {}).get("claude_code")
    if not values:
        return None
    target = claude_code_server(host.name, values, tuple(host.values.get("servers") or ()))
    if target is None:
        raise ValueError(f"{host.name}: Claude Code without a server")  # validation forbids it
    # The same server as OpenCode would see it: one source for address, model, limit and key.
    provider = _provider(fleet, host, "claude-code", *target)
    named = values.get("model") or provider.models[0].id
    model = next(each for each in provider.models if each.id == named)
    return ClaudeCodeSettings(
        users=tuple(values.get("users") or ()),
        server=provider.server,
        base_url=provider.base_url.removesuffix("/v1"),
        model=model.id,
        output=model.output,
        small_model=values.get("small_model"),
        api_key=provider.api_key,
    )


def _local_address(server: ServerSettings) -> str:
    """``host:port`` of a server for its own host: loopback, unless it listens elsewhere only.

    With TLS the name that it was given, if any: that is what a certificate holds.
    """
    if server.tls is not None and server.address is not None:
        return server.address
    return with_port(own_address(server.host), server.port)


# Drift ------------------------------------------------------------------------------------------


def _drift_timer(fleet: Fleet) -> DriftTimerSettings:
    """The scheduled check; what happens with its result is read from the fleet file by itself."""
    values = fleet.drift
    reached = [ssh_settings(fleet, host) for host in fleet.hosts.values()]
    given = {
        key: values[key]
        for key in ("schedule", "randomized_delay", "timeout", "deep_share", "prometheus", "html")
        if values.get(key) is not None
    }
    return DriftTimerSettings(
        fleet=os.path.abspath(fleet.path),  # noqa: PTH100
        hosts=tuple(KnownHost(ssh.hostname, ssh.port, ssh.known_hosts) for ssh in reached),
        notify="on_drift" in values,
        **given,
    )
