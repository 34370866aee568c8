"""What a server is on its host: its command line, its unit, its files. Pure.

Upstream behaviour relied on (llama.cpp's common/arg.cpp, tools/server; systemd.exec(5)):
``--load-mode`` replaced ``--mmap``, ``--no-mmap`` and ``--mlock``, which newer builds refuse;
``-c`` is shared by all ``-np`` slots; the API key file holds one key a line.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploys.common.files import ManagedFile
from deploys.common.shell import digest, operand, word
from deploys.llama_server.errors import ServerError
from deploys.llama_server.extras import adapter_values, draft_values
from facts.servers import CONFIG_VARIABLE, MARK, UNITS, unit_name
from inventories.llama_options import (
    Value,
    command_line,
    flag_of,
    is_dangerous,
    managed,
    preset,
    process_values,
    render,
)
from inventories.settings import ModelSettings, ServerSettings

SETTINGS = "/etc/llama-server"
STATE = "/var/lib/llama-server"
ACCOUNT = "llama-server"
SYSUSERS = "/etc/sysusers.d/llama-server.conf"
RENDER_GROUP = "render"
CREDENTIALS = "${CREDENTIALS_DIRECTORY}"
KEY_FILE = f"{SETTINGS}/{{name}}/api-key"
"""Where a server's key is kept, by the server's name."""
FILES = ("wait-ready", "models.ini", "slots", "chat-template.jinja", "api-key")
"""What a server's folder below SETTINGS may hold of ours."""

# Architectures for which llama.cpp has no --split-mode tensor (src/llama-arch.cpp at 0c1e570).
NO_TENSOR_SPLIT = frozenset(
    {
        *("grok", "mpt", "plamo2", "minicpm3", "gemma3n", "mamba", "mamba2", "jamba", "falcon-h1"),
        *("olmo2", "olmoe", "deepseek2", "deepseek32", "hy_v4", "dots3note", "glm-dsa", "bitnet"),
        *("t5", "nemotron_h", "nemotron_h_moe", "granitehybrid", "minimax-01", "minimax-m2"),
        *("minimax-m3", "mistral4", "kimi-linear", "bailingmoe3", "kimi-k3", "glm5-next"),
        *("qwen3tts", "qwen4exp"),
    }
)

# Names what a saved slot can be restored into, in the environment of the process that saves it.
SLOTS_VARIABLE = "LLAMAHERD_SLOTS"
# Seconds that saving, or restoring, the slots of a server may take in all.
SLOTS_SECONDS = 60


class _Template(string.Template):
    delimiter = "@"  # systemd and the shell have their own use for "$"


@dataclass(frozen=True)
class Instance:
    """A server as it will be on its host.

    + model: what it serves; of a router its first one
    + binary: absolute path of llama-server, in an immutable build
    + options: long options that this llama-server knows; empty when nobody could ask it
    + gpu: whether the server's build uses CUDA
    + api_key: the secret; None for a server without
    + vulkan: whether the server's build uses Vulkan
    + draft: the model that drafts for it, if any
    + chat_template: text of its own chat template; None for the one in the model's file
    + models: all models of a router
    """

    server: ServerSettings
    model: ModelSettings
    binary: str
    options: frozenset[str]
    gpu: bool
    api_key: str | None = None
    vulkan: bool = False
    draft: ModelSettings | None = None
    chat_template: str | None = None
    models: tuple[ModelSettings, ...] = ()


def arguments(instance: Instance) -> list[str]:
    """llama-server's arguments, the program itself not among them."""
    server = instance.server
    values = _router_values(instance) if server.models else _own_values(instance)
    _require_known(instance, values)
    if "--offline" in instance.options:
        values["--offline"] = True
    if "--cors-origins" in instance.options:
        # By default any web page that a user opens could talk to the server.
        values["--cors-origins"] = "localhost"
    return command_line(values) + extra_arguments(server)


def _own_values(instance: Instance) -> dict[str, Value]:
    """Options of a server of one model."""
    server = instance.server
    return {
        "--alias": instance.model.name,
        **_listening(instance),
        **_model_values(instance, server, instance.model),
    }


def _listening(instance: Instance) -> dict[str, Value]:
    """Options of whatever listens, be it a router."""
    server = instance.server
    values: dict[str, Value] = {"--host": server.host, "--port": server.port}
    if server.socket_path is not None:
        values = {"--host": server.socket_path}
    if instance.api_key is not None:
        values["--api-key-file"] = f"{CREDENTIALS}/api-key"
    if server.tls is not None:
        values["--ssl-cert-file"] = f"{CREDENTIALS}/tls-certificate"
        values["--ssl-key-file"] = f"{CREDENTIALS}/tls-key"
    return values


def _router_values(instance: Instance) -> dict[str, Value]:
    """Options of a router: its own alone, for they would win over every model's in the preset."""
    return {
        "--models-preset": f"{SETTINGS}/{instance.server.name}/models.ini",
        "--models-max": instance.server.models_max,
        **_listening(instance),
    }


def _model_values(
    instance: Instance, server: ServerSettings, model: ModelSettings
) -> dict[str, Value]:
    """Options of a process that runs a model as ``server`` says."""
    _require_possible(instance, server, model)
    values = process_values(server)
    values |= _load_mode(instance, server) | _flash_attention(instance, server)
    values["--model"] = model.path
    if model.mmproj is not None:
        values["--mmproj"] = f"{model.directory}/{model.mmproj}"
    if server.slot_save:
        values["--slot-save-path"] = slot_folder(server.name)
    if server.kv_unified and _knows(instance, "--kv-unified-per-slot"):
        # One pool for all, but no session gets more than it was told.
        values["--kv-unified-per-slot"] = server.context
    return values | _extras(instance, server, model)


def _require_possible(instance: Instance, server: ServerSettings, model: ModelSettings) -> None:
    """ServerError for what can't be done with this model, by its architecture above all."""
    name = instance.server.name
    if server.chat_template_file is not None and instance.server.models:
        raise ServerError(
            f"servers.{name}.models: {model.name} has a chat template in a file, which a server "
            "with several models can't give it: name one of llama.cpp's own with chat_template"
        )
    dimensions = model.dimensions
    if dimensions is None:
        return
    if server.split_mode == "tensor" and dimensions.architecture in NO_TENSOR_SPLIT:
        raise ServerError(
            f"servers.{name}.split_mode: llama.cpp can't split a model of the architecture "
            f"{dimensions.architecture} by tensors: use layer"
        )
    type_k, type_v = server.cache_type_k or "f16", server.cache_type_v or "f16"
    shared = any(layers.k and not layers.v for layers in dimensions.cache)
    if shared and type_k != type_v:
        raise ServerError(
            f"servers.{name}.cache_type_v: {model.name} keeps keys and values together "
            f"(MLA): set cache_type_k and cache_type_v to the same type"
        )


def render_preset(instance: Instance) -> str:
    """A router's preset file: a section a model, as that model alone would be served."""
    by_name = {model.name: model for model in instance.models}
    sections = {}
    for server in instance.server.models:
        values = _model_values(instance, server, by_name[server.model])
        values["--load-on-startup"] = server.load_on_startup or None
        _require_known(instance, values)
        systemd_text(server.model)  # a name of two lines would be two lines of the file
        sections[server.model] = values
    try:
        return f"{MARK}: the next converge undoes changes here.\n{preset(sections)}"
    except ValueError as error:
        raise ServerError(f"servers.{instance.server.name}.models: {error}") from error


def _extras(instance: Instance, server: ServerSettings, model: ModelSettings) -> dict[str, str]:
    """Options of what it loads beside the model."""
    values = adapter_values(model)
    if server.draft is not None and instance.draft is not None:
        values |= draft_values(server.name, server.draft, instance.draft, instance.options)
    if instance.chat_template is not None:
        values["--chat-template-file"] = template_path(server.name)
    return values


def template_path(server: str) -> str:
    """Where a server's own chat template lies on its host."""
    return f"{SETTINGS}/{server}/chat-template.jinja"


def process_arguments(instance: Instance) -> tuple[str, ...]:
    """What the process of an instance has for arguments, the program first."""
    folder = f"/run/credentials/{unit_name(instance.server.name)}"
    return tuple(
        part.replace(CREDENTIALS, folder) if part.startswith(CREDENTIALS) else part
        for part in (instance.binary, *arguments(instance))
    )


def _knows(instance: Instance, option: str) -> bool:
    """Whether the installed build has an option; one that nobody could ask is taken to."""
    return option in instance.options or not instance.options


def _require_known(instance: Instance, values: Mapping[str, Value]) -> None:
    """ServerError for a setting whose option the installed build doesn't have."""
    for option, value in render(values):
        words = option.words(value)
        if option.recent and words and not _knows(instance, words[0]):
            raise ServerError(
                f"servers.{instance.server.name}.{option.setting}: this llama.cpp "
                f"({_build_name(instance)}) has no {words[0]}: "
                "set a newer llama_cpp.ref, or delete the setting"
            )


def _build_name(instance: Instance) -> str:
    return Path(instance.binary).parent.parent.name


def _load_mode(instance: Instance, server: ServerSettings) -> dict[str, Value]:
    mode = server.load_mode
    if mode == "auto":
        return {}
    if _knows(instance, "--load-mode"):
        return {"--load-mode": mode}
    old: dict[str, dict[str, Value]] = {
        "none": {"--no-mmap": True},
        "mmap": {},
        "mlock": {"--no-mmap": True, "--mlock": True},
        "mmap+mlock": {"--mlock": True},
    }
    if mode not in old:
        raise ServerError(
            f"servers.{server.name}.load_mode: this llama.cpp doesn't know {mode}: "
            "choose another mode or a newer llama_cpp.ref"
        )
    return old[mode]


def _flash_attention(instance: Instance, server: ServerSettings) -> dict[str, Value]:
    """Builds of before autumn 2025, which have no ``--cache-ram`` either, know it as a switch."""
    if _knows(instance, "--cache-ram"):
        return {}
    return {"--flash-attn": True if server.flash_attention == "enabled" else None}


def extra_arguments(server: ServerSettings) -> list[str]:
    """The fleet file's own arguments; ServerError for those that llamaherd sets or refuses."""
    settings = {
        option.setting: True
        for served in (server, *server.models)
        for option, _ in render(process_values(served))
    } | {"slot_save": server.slot_save}
    for argument in server.extra_args:
        name = flag_of(argument)
        option = managed(argument, settings)
        if option is not None:
            raise ServerError(
                f"servers.{server.name}.extra_args: {name} is set from the fleet file: "
                f"use the setting {option.setting}"
            )
        if is_dangerous(argument):
            raise ServerError(
                f"servers.{server.name}.extra_args: {name} lets clients act on the host: remove it"
            )
    return list(server.extra_args)


def systemd_text(value: str) -> str:
    """Text within one line of a unit, specifiers taken literally; ServerError for more lines."""
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise ServerError(f"{value!r} holds a control character")
    return value.replace("%", "%%")


def systemd_word(value: str) -> str:
    """One word of an ``Exec`` line: quoted, specifiers and variables taken literally."""
    systemd_text(value)
    text = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    plain = text == value and value and not any(character in value for character in " \t'\"")
    return value if plain else f'"{text}"'


def _command(instance: Instance) -> str:
    line = [instance.binary, *arguments(instance)]
    return " ".join(
        part if part.startswith(f"{CREDENTIALS}/") else systemd_word(part) for part in line
    )


def _environment(instance: Instance) -> dict[str, str]:
    home = f"{STATE}/{instance.server.name}"
    result = {"HOME": home}
    if instance.gpu:
        result |= {"CUDA_CACHE_PATH": f"{home}/cuda", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        if instance.server.gpus is not None:
            result["CUDA_VISIBLE_DEVICES"] = ",".join(instance.server.gpus)
    if instance.vulkan and instance.server.gpus:
        result["GGML_VK_VISIBLE_DEVICES"] = ",".join(_vulkan_gpus(instance.server))
    if instance.server.slot_save:
        result[SLOTS_VARIABLE] = _slot_key(instance)
    return result


def _vulkan_gpus(server: ServerSettings) -> Iterable[str]:
    """GPUs as ggml-vulkan.cpp reads them: by index alone."""
    for gpu in server.gpus or ():
        if not gpu.isdecimal():
            raise ServerError(
                f"servers.{server.name}.gpus: Vulkan knows GPUs by index: write that instead of "
                f"{gpu}"
            )
        yield gpu


def _slot_key(instance: Instance) -> str:
    """What of a server decides whether a saved K/V cache means the same to it."""
    server = instance.server
    return digest(
        [
            [file.sha256 for file in instance.model.files],
            _build_name(instance),
            server.context,
            server.parallel,
            [server.cache_type_k, server.cache_type_v, server.flash_attention],
            [server.kv_unified, server.swa_full],
            list(server.extra_args),
        ]
    )


# PrivateUsers beside NVIDIA's devices: NixOS's modules for llama.cpp and Ollama run CUDA so, and
# rootless containers do (nvidia-container-toolkit issue 648). The device files' modes hold as ever:
# access by a supplementary group stays, for the kernel compares the host's group numbers.
_GPU_DEVICES = """DevicePolicy=closed
DeviceAllow=char-nvidiactl rw
DeviceAllow=char-nvidia-frontend rw
DeviceAllow=char-nvidia rw
DeviceAllow=char-nvidia-uvm rw
DeviceAllow=char-nvidia-caps rw
PrivateMounts=yes
PrivateUsers=yes
ProcSubset=all"""
# Any vendor's GPU by its render node; NVIDIA's Vulkan driver opens its own devices as well. Shaders
# are compiled for the GPU and never run by the CPU: NixOS's modules deny Vulkan such memory, too.
_VULKAN_DEVICES = f"""{_GPU_DEVICES}
DeviceAllow=char-drm rw
SupplementaryGroups={RENDER_GROUP}
MemoryDenyWriteExecute=yes"""
_CPU_DEVICES = """PrivateDevices=yes
PrivateMounts=yes
PrivateUsers=yes
ProcSubset=pid
MemoryDenyWriteExecute=yes"""


def render_unit(instance: Instance) -> str:
    """The unit file, with the hash of everything that shapes the process in its environment."""
    text = _render_unit(instance, _environment(instance))
    content = [text, *(file.sha256 for file in instance.model.files)]
    if instance.draft is not None:
        content += [file.sha256 for file in instance.draft.files]
    if instance.chat_template is not None:
        content.append(instance.chat_template)
    if instance.server.models:
        content += [file.sha256 for model in instance.models for file in model.files]
        content.append(render_preset(instance))
    config = hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]
    return _render_unit(instance, _environment(instance) | {CONFIG_VARIABLE: config})


def config_hash(unit: str) -> str:
    """The configuration hash that a rendered unit gives its process."""
    return unit.partition(f"{CONFIG_VARIABLE}=")[2].partition("\n")[0].strip('"')


def _render_unit(instance: Instance, environment: Mapping[str, str]) -> str:
    server = instance.server
    text = server_template("llama-server.service").substitute(
        mark=MARK,
        name=server.name,
        title=systemd_text(_title(instance)),
        environment="\n".join(
            f"Environment={systemd_word(f'{name}={value}')}" for name, value in environment.items()
        ),
        credentials="\n".join(
            f"LoadCredential={name}:{systemd_text(path)}"
            for name, path in _credentials(instance).items()
        ),
        before="\n".join(_before(instance)),
        command=_command(instance),
        ready_timeout=server.ready_timeout + (SLOTS_SECONDS if server.slot_save else 0),
        stop_timeout=SLOTS_SECONDS + 30 if server.slot_save else 30,
        slots=f" llama-server/{server.name}/slots" if server.slot_save else "",
        further="\n".join(_further(server)),
        devices=_devices(instance),
        addresses=_addresses(server),
    )
    return _without_gaps(text)


def _devices(instance: Instance) -> str:
    if instance.vulkan:
        return _VULKAN_DEVICES
    return _GPU_DEVICES if instance.gpu else _CPU_DEVICES


def _title(instance: Instance) -> str:
    return ", ".join(model.title for model in instance.models) or instance.model.title


def _credentials(instance: Instance) -> dict[str, str]:
    """Files that systemd hands to the process, by the names that it gives them."""
    server = instance.server
    found = {}
    if instance.api_key is not None:
        found["api-key"] = f"{SETTINGS}/{server.name}/api-key"
    return found | tls_credentials(server)


def tls_credentials(server: ServerSettings) -> dict[str, str]:
    """The administrator's own files among them: they may change without us."""
    if server.tls is None:
        return {}
    return {"tls-certificate": server.tls.certificate, "tls-key": server.tls.key}


def _before(instance: Instance) -> Iterator[str]:
    if instance.gpu:
        yield "ExecStartPre=+-/usr/bin/nvidia-modprobe -u -c0"
    if instance.server.socket_path is not None:
        # One that SIGKILL left behind keeps the next process from binding it.
        yield f"ExecStartPre=-/bin/rm -f -- {instance.server.socket_path}"


def _further(server: ServerSettings) -> Iterator[str]:
    """Lines that only some servers have."""
    served = server.models or (server,)
    if any("mlock" in each.load_mode for each in served):
        yield "LimitMEMLOCK=infinity"
    if server.unix_socket:
        yield f"RuntimeDirectory=llama-server/{server.name}"
        yield "PrivateNetwork=yes"
    if server.socket_path is not None and server.socket_group is not None:
        path = server.socket_path
        group = operand(server.socket_group)
        yield f"ExecStartPost=+/bin/sh -c 'chgrp -- {group} {path} && chmod 660 -- {path}'"
    if server.slot_save:
        script = f"/bin/sh {SETTINGS}/{server.name}/slots"
        yield f"ExecStartPost=+-{script} restore"
        yield f"ExecStop=+-{script} save"


def slot_folder(name: str) -> str:
    """Where a server's saved slots lie: in its state directory, its own to read alone."""
    return f"{STATE}/{name}/slots"


def _addresses(server: ServerSettings) -> str:
    if not is_loopback(server.host):
        return ""
    return "IPAddressDeny=any\nIPAddressAllow=localhost"


def is_loopback(host: str) -> bool:
    """Whether an address to bind is reachable from this host alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_address(host: str) -> str:
    """The address under which the host itself reaches a server bound to ``host``, for a URL."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    return f"[{host}]" if ":" in host else host


def render_wait_ready(instance: Instance) -> str:
    """The script that ends when the model answers."""
    server = instance.server
    names = [model.name for model in instance.models] or [instance.model.name]
    return server_template("wait-ready.sh").substitute(
        mark=MARK,
        url=word(own_url(server)),
        key=word(KEY_FILE.format(name=server.name)),
        curl=curl_options(server),
        listed=" && ".join(f"ask /v1/models | grep -qF {word(json.dumps(n))}" for n in names),
    )


def own_url(server: ServerSettings) -> str:
    """Where the host itself asks a server."""
    if server.unix_socket:
        return "http://localhost"
    scheme = "https" if server.tls is not None else "http"
    return f"{scheme}://{own_address(server.host)}:{server.port}"


def curl_options(server: ServerSettings) -> str:
    """What curl needs beside the address, with a blank before it."""
    if server.socket_path is not None:
        return f" --unix-socket {word(server.socket_path)}"
    # It asks a process of this host by its address, which no certificate need name.
    return " --insecure" if server.tls is not None else ""


def render_slots(instance: Instance) -> str:
    """The script that saves every session's K/V cache before a stop and restores it after."""
    server = instance.server
    return server_template("slots.sh").substitute(
        mark=MARK,
        url=word(own_url(server)),
        key=word(KEY_FILE.format(name=server.name)),
        curl=curl_options(server),
        folder=word(slot_folder(server.name)),
        slots=server.parallel,
        seconds=SLOTS_SECONDS,
        variable=SLOTS_VARIABLE,
    )


def server_template(name: str) -> _Template:
    """A file that lies beside this one, with places such as ``@{name}`` to fill in."""
    return _Template(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _without_gaps(text: str) -> str:
    """The template's empty placeholders leave empty lines: no two in a row."""
    lines: list[str] = []
    for line in text.splitlines():
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines) + "\n"


# As the fleet file's schema has it: it becomes names of units and folders.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def server_files(instance: Instance) -> tuple[ManagedFile, ...]:
    """A server's files: unit, readiness script, and what its settings want besides; keys last."""
    name = instance.server.name
    if not _NAME.fullmatch(name):
        raise ServerError(f"servers.{name!r}: this is no name of a server")
    folder = f"{SETTINGS}/{name}"
    files = [
        ManagedFile(f"{UNITS}/{unit_name(name)}", render_unit(instance)),
        ManagedFile(f"{folder}/wait-ready", render_wait_ready(instance), mode="600"),
    ]
    if instance.server.models:
        files.append(ManagedFile(f"{folder}/models.ini", render_preset(instance)))
    if instance.server.slot_save:
        files.append(ManagedFile(f"{folder}/slots", render_slots(instance), mode="600"))
    if instance.api_key is not None:
        key = f"{instance.api_key}\n"
        files.append(ManagedFile(f"{folder}/api-key", key, mode="600", secret=True))
    if instance.chat_template is not None:
        files.append(ManagedFile(template_path(name), instance.chat_template))
    return tuple(files)


def account_file(instances: Iterable[Instance] = ()) -> ManagedFile:
    """The declaration of the servers' system account, for systemd-sysusers.

    + instances: with a Vulkan build among them, the group that owns render nodes is declared too:
      a unit whose group doesn't exist won't start
    """
    text = f'{MARK}\nu {ACCOUNT} - "llama-server" {STATE}\n'
    if any(instance.vulkan for instance in instances):
        text += f"g {RENDER_GROUP} -\n"
    return ManagedFile(SYSUSERS, text)


def obsolete_files(instances: Iterable[Instance]) -> tuple[str, ...]:
    """Files that must not outlive their setting."""
    return tuple(
        f"{SETTINGS}/{instance.server.name}/{name}"
        for instance in instances
        for name, needed in (
            ("api-key", instance.api_key is not None),
            ("models.ini", bool(instance.server.models)),
            ("slots", instance.server.slot_save),
            ("chat-template.jinja", instance.chat_template is not None),
        )
        if not needed
    )
