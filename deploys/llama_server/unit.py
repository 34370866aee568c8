"""A server's unit: its sandbox, its environment, and the hash of all that shapes its process. Pure.

Upstream behaviour relied on: systemd.exec(5), systemd.resource-control(5).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from deploys.common.shell import digest, operand
from deploys.common.systemd import template, unit_text, unit_word, without_gaps
from deploys.llama_server.arguments import arguments, render_preset
from deploys.llama_server.errors import ServerError
from deploys.llama_server.instance import (
    CREDENTIALS,
    RENDER_GROUP,
    SETTINGS,
    SLOTS_SECONDS,
    SLOTS_VARIABLE,
    STATE,
    Instance,
    build_name,
)
from facts.servers import CONFIG_VARIABLE, MARK
from inventories.addresses import is_loopback
from inventories.settings import ServerSettings

_UNIT = Path(__file__).with_name("llama-server.service")


def _command(instance: Instance) -> str:
    line = [instance.binary, *arguments(instance)]
    return " ".join(
        part if part.startswith(f"{CREDENTIALS}/") else unit_word(part) for part in line
    )


def _environment(instance: Instance) -> dict[str, str]:
    home = f"{STATE}/{instance.server.name}"
    result = {"HOME": home}
    if instance.gpu:
        result |= {"CUDA_CACHE_PATH": f"{home}/cuda", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        if instance.server.gpus is not None:
            result["CUDA_VISIBLE_DEVICES"] = ",".join(instance.server.gpus)
    if instance.vulkan and instance.server.gpus is not None:
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
            build_name(instance),
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
    text = template(_UNIT).substitute(
        mark=MARK,
        name=server.name,
        title=unit_text(_title(instance)),
        environment="\n".join(
            f"Environment={unit_word(f'{name}={value}')}" for name, value in environment.items()
        ),
        credentials="\n".join(
            f"LoadCredential={name}:{unit_text(path)}"
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
    return without_gaps(text)


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
        # The server owns the folder and may put a link there: its own right to change the mode is
        # used, and the group of a link itself is changed.
        yield f"ExecStartPost=/bin/chmod 660 -- {path}"
        yield f"ExecStartPost=+/bin/chgrp -h -- {group} {path}"
    if server.slot_save:
        script = f"/bin/sh {SETTINGS}/{server.name}/slots"
        yield f"ExecStartPost=+-{script} restore"
        yield f"ExecStop=+-{script} save"


def _addresses(server: ServerSettings) -> str:
    if not is_loopback(server.host):
        return ""
    return "IPAddressDeny=any\nIPAddressAllow=localhost"
