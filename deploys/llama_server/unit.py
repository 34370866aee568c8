"""What a server is on its host: its command line, its unit, its files. Pure.

Upstream behaviour relied on (llama.cpp's common/arg.cpp, tools/server; systemd.exec(5)):
``--load-mode`` replaced ``--mmap``, ``--no-mmap`` and ``--mlock``, which newer builds refuse;
``-c`` is shared by all ``-np`` slots; the API key file holds one key a line.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploys.common.files import ManagedFile
from deploys.common.shell import word
from deploys.llama_server.errors import ServerError
from deploys.llama_server.extras import adapter_values, draft_values
from facts.servers import CONFIG_VARIABLE, MARK, UNITS, unit_name
from inventories.settings import ModelSettings, Sampling, ServerSettings

SETTINGS = "/etc/llama-server"
STATE = "/var/lib/llama-server"
ACCOUNT = "llama-server"
SYSUSERS = "/etc/sysusers.d/llama-server.conf"
RENDER_GROUP = "render"

# Options that llamaherd sets: in extra_args they would contradict the fleet file.
MANAGED_OPTIONS = frozenset(
    {
        "--model",
        "-m",
        "--alias",
        "-a",
        "--host",
        "--port",
        "--ctx-size",
        "-c",
        "--parallel",
        "-np",
        "--threads",
        "-t",
        "--api-key",
        "--api-key-file",
        "--load-mode",
        "-lm",
        "--mmap",
        "--no-mmap",
        "--mlock",
        "--op-offload",
        "--no-op-offload",
        "--jinja",
        "--no-jinja",
        "--temp",
        "--temperature",
        "--top-p",
        "--top-k",
        "--min-p",
        "--repeat-penalty",
        "--mmproj",
        "-mm",
        "--hf-repo",
        "-hf",
        "-hfr",
    }
)
# Options that hand a shared server's host to whoever can reach it.
REFUSED_OPTIONS = frozenset(
    {
        "--tools",
        "--agent",
        "--mcp-servers-config",
        "--mcp-servers-json",
        "--ui-mcp-proxy",
        "--webui-mcp-proxy",
    }
)


class _Template(string.Template):
    delimiter = "@"  # systemd and the shell have their own use for "$"


@dataclass(frozen=True)
class Instance:
    """A server as it will be on its host.

    + binary: absolute path of llama-server, in an immutable build
    + options: long options that this llama-server knows; empty when nobody could ask it
    + gpu: whether the server's build uses CUDA
    + api_key: the secret; None for a server without
    + vulkan: whether the server's build uses Vulkan
    + draft: the model that drafts for it, if any
    + chat_template: text of its own chat template; None for the one in the model's file
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


def arguments(instance: Instance) -> list[str]:
    """llama-server's arguments, the program itself not among them."""
    server = instance.server
    result = ["--model", instance.model.path, "--alias", instance.model.name]
    result += ["--host", server.host, "--port", str(server.port)]
    result += ["--ctx-size", str(server.context * server.parallel)]
    result += ["--parallel", str(server.parallel), "--threads", str(server.threads)]
    result += _load_mode(instance)
    if not server.op_offload:
        result.append("--no-op-offload")
    result.append("--jinja" if server.jinja else "--no-jinja")
    result += _sampling(server.sampling)
    if instance.model.mmproj is not None:
        result += ["--mmproj", f"{instance.model.directory}/{instance.model.mmproj}"]
    result += [part for option in _extras(instance).items() for part in option]
    if "--offline" in instance.options:
        result.append("--offline")
    if "--cors-origins" in instance.options:
        # By default any web page that a user opens could talk to the server.
        result += ["--cors-origins", "localhost"]
    if instance.api_key is not None:
        result += ["--api-key-file", "${CREDENTIALS_DIRECTORY}/api-key"]
    return result + extra_arguments(server)


def _extras(instance: Instance) -> dict[str, str]:
    """Options of what it loads beside the model."""
    values = adapter_values(instance.model)
    server = instance.server
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
        part.replace("${CREDENTIALS_DIRECTORY}", folder) if part.startswith("${") else part
        for part in (instance.binary, *arguments(instance))
    )


def _load_mode(instance: Instance) -> list[str]:
    mode = instance.server.load_mode
    if mode == "auto":
        return []
    if "--load-mode" in instance.options or not instance.options:
        return ["--load-mode", mode]
    old = {"none": ["--no-mmap"], "mmap": [], "mlock": ["--no-mmap", "--mlock"]}
    old["mmap+mlock"] = ["--mlock"]
    if mode not in old:
        raise ServerError(
            f"servers.{instance.server.name}.load_mode: this llama.cpp doesn't know {mode}: "
            "choose another mode or a newer llama_cpp.ref"
        )
    return old[mode]


def _sampling(sampling: Sampling) -> list[str]:
    flags = {
        "--temp": sampling.temperature,
        "--top-p": sampling.top_p,
        "--top-k": sampling.top_k,
        "--min-p": sampling.min_p,
        "--repeat-penalty": sampling.repeat_penalty,
    }
    return [
        part for flag, value in flags.items() if value is not None for part in (flag, f"{value}")
    ]


def extra_arguments(server: ServerSettings) -> list[str]:
    """The fleet file's own arguments; ServerError for those that llamaherd sets or refuses."""
    for argument in server.extra_args:
        name = argument.partition("=")[0]
        if name in MANAGED_OPTIONS:
            raise ServerError(
                f"servers.{server.name}.extra_args: {name} is set from the fleet file: "
                "use the setting of that name"
            )
        if name in REFUSED_OPTIONS:
            raise ServerError(
                f"servers.{server.name}.extra_args: {name} lets clients act on the host: remove it"
            )
    return list(server.extra_args)


def systemd_word(value: str) -> str:
    """One word of an ``Exec`` line: quoted, specifiers and variables taken literally."""
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise ServerError(f"{value!r} holds a control character")
    text = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    plain = text == value and value and not any(character in value for character in " \t'\"")
    return value if plain else f'"{text}"'


def _command(instance: Instance) -> str:
    keyfile = "${CREDENTIALS_DIRECTORY}/api-key"
    line = [instance.binary, *arguments(instance)]
    return " ".join(part if part == keyfile else systemd_word(part) for part in line)


def _environment(instance: Instance) -> dict[str, str]:
    home = f"{STATE}/{instance.server.name}"
    result = {"HOME": home}
    if instance.gpu:
        result |= {"CUDA_CACHE_PATH": f"{home}/cuda", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        if instance.server.gpus is not None:
            result["CUDA_VISIBLE_DEVICES"] = ",".join(instance.server.gpus)
    if instance.vulkan and instance.server.gpus:
        result["GGML_VK_VISIBLE_DEVICES"] = ",".join(_vulkan_gpus(instance.server))
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


_GPU_DEVICES = """DevicePolicy=closed
DeviceAllow=char-nvidiactl rw
DeviceAllow=char-nvidia-frontend rw
DeviceAllow=char-nvidia rw
DeviceAllow=char-nvidia-uvm rw
DeviceAllow=char-nvidia-caps rw
ProcSubset=all"""
# Any vendor's GPU by its render node; NVIDIA's Vulkan driver opens its own devices as well.
_VULKAN_DEVICES = f"""{_GPU_DEVICES}
DeviceAllow=char-drm rw
SupplementaryGroups={RENDER_GROUP}"""
_CPU_DEVICES = """PrivateDevices=yes
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
    config = hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]
    return _render_unit(instance, _environment(instance) | {CONFIG_VARIABLE: config})


def config_hash(unit: str) -> str:
    """The configuration hash that a rendered unit gives its process."""
    return unit.partition(f"{CONFIG_VARIABLE}=")[2].partition("\n")[0].strip('"')


def _render_unit(instance: Instance, environment: Mapping[str, str]) -> str:
    server = instance.server
    key = f"LoadCredential=api-key:{SETTINGS}/{server.name}/api-key"
    text = _template("llama-server.service").substitute(
        mark=MARK,
        name=server.name,
        title=instance.model.title.replace("%", "%%"),
        environment="\n".join(
            f"Environment={systemd_word(f'{name}={value}')}" for name, value in environment.items()
        ),
        credentials=key if instance.api_key is not None else "",
        before="ExecStartPre=+-/usr/bin/nvidia-modprobe -u -c0" if instance.gpu else "",
        command=_command(instance),
        ready_timeout=server.ready_timeout,
        limits="LimitMEMLOCK=infinity" if "mlock" in server.load_mode else "",
        devices=_devices(instance),
        addresses=_addresses(server.host),
    )
    return _without_gaps(text)


def _devices(instance: Instance) -> str:
    if instance.vulkan:
        return _VULKAN_DEVICES
    return _GPU_DEVICES if instance.gpu else _CPU_DEVICES


def _addresses(host: str) -> str:
    if not is_loopback(host):
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
    return _template("wait-ready.sh").substitute(
        mark=MARK,
        url=word(f"http://{own_address(server.host)}:{server.port}"),
        key=word(f"{SETTINGS}/{server.name}/api-key"),
        alias=word(json.dumps(instance.model.name)),
    )


def _template(name: str) -> _Template:
    return _Template(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _without_gaps(text: str) -> str:
    """The template's empty placeholders leave empty lines: no two in a row."""
    lines: list[str] = []
    for line in text.splitlines():
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines) + "\n"


def server_files(instance: Instance) -> tuple[ManagedFile, ...]:
    """A server's files: unit, readiness script, API key."""
    name = instance.server.name
    folder = f"{SETTINGS}/{name}"
    files = [
        ManagedFile(f"{UNITS}/{unit_name(name)}", render_unit(instance)),
        ManagedFile(f"{folder}/wait-ready", render_wait_ready(instance), mode="755"),
    ]
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
    """Keys and templates that must not outlive their setting."""
    found = []
    for instance in instances:
        if instance.api_key is None:
            found.append(f"{SETTINGS}/{instance.server.name}/api-key")
        if instance.chat_template is None:
            found.append(template_path(instance.server.name))
    return tuple(found)
