"""A server's files on its host: its unit, its scripts, its key. Pure.

Upstream behaviour relied on (llama.cpp's tools/server): the API key file holds one key a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from deploys.common.files import ManagedFile
from deploys.common.shell import word
from deploys.common.systemd import template
from deploys.llama_server.arguments import render_preset
from deploys.llama_server.errors import ServerError
from deploys.llama_server.instance import (
    ACCOUNT,
    KEY_FILE,
    RENDER_GROUP,
    SETTINGS,
    SLOTS_SECONDS,
    SLOTS_VARIABLE,
    STATE,
    SYSUSERS,
    Instance,
    slot_folder,
    template_path,
)
from deploys.llama_server.unit import render_unit
from facts.servers import MARK, UNITS, unit_name
from inventories.addresses import own_address, with_port
from inventories.settings import ServerSettings

_HERE = Path(__file__).parent


def render_wait_ready(instance: Instance) -> str:
    """The script that ends when the model answers."""
    server = instance.server
    names = [model.name for model in instance.models] or [instance.model.name]
    return template(_HERE / "wait-ready.sh").substitute(
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
    return f"{scheme}://{with_port(own_address(server.host), server.port)}"


def curl_options(server: ServerSettings) -> str:
    """What curl needs beside the address, with a blank before it."""
    if server.socket_path is not None:
        return f" --unix-socket {word(server.socket_path)}"
    # It asks a process of this host by its address, which no certificate need name.
    return " --insecure" if server.tls is not None else ""


def render_slots(instance: Instance) -> str:
    """The script that saves every session's K/V cache before a stop and restores it after."""
    server = instance.server
    return template(_HERE / "slots.sh").substitute(
        mark=MARK,
        url=word(own_url(server)),
        key=word(KEY_FILE.format(name=server.name)),
        curl=curl_options(server),
        folder=word(slot_folder(server.name)),
        account=ACCOUNT,
        slots=server.parallel,
        seconds=SLOTS_SECONDS,
        variable=SLOTS_VARIABLE,
    )


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
