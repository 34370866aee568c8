"""A server as it will be on its host, and where its things lie there. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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

# Names what a saved slot can be restored into, in the environment of the process that saves it.
SLOTS_VARIABLE = "LLAMAHERD_SLOTS"

# Seconds that saving, or restoring, the slots of a server may take in all.
SLOTS_SECONDS = 60


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


def template_path(server: str) -> str:
    """Where a server's own chat template lies on its host."""
    return f"{SETTINGS}/{server}/chat-template.jinja"


def knows(instance: Instance, option: str) -> bool:
    """Whether the installed build has an option; one that nobody could ask is taken to."""
    return option in instance.options or not instance.options


def build_name(instance: Instance) -> str:
    """The name of the build that an instance runs from: its folder's."""
    return Path(instance.binary).parent.parent.name


def slot_folder(name: str) -> str:
    """Where a server's saved slots lie: in its state directory, its own to read alone."""
    return f"{STATE}/{name}/slots"
