"""llama-server's command line, and a router's preset file. Pure.

Upstream behaviour relied on (llama.cpp's common/arg.cpp, tools/server): ``--load-mode`` replaced
``--mmap``, ``--no-mmap`` and ``--mlock``, which newer builds refuse; ``-c`` is shared by all
``-np`` slots.
"""

from __future__ import annotations

from collections.abc import Mapping

from deploys.common.systemd import unit_text
from deploys.llama_server.errors import ServerError
from deploys.llama_server.extras import adapter_values, draft_values
from deploys.llama_server.instance import (
    CREDENTIALS,
    SETTINGS,
    Instance,
    build_name,
    knows,
    slot_folder,
    template_path,
)
from facts.servers import MARK, unit_name
from inventories.llama_options import (
    Value,
    command_line,
    flag_of,
    is_dangerous,
    managed,
    preset,
    process_values,
    refusal,
    render,
)
from inventories.settings import ModelSettings, ServerSettings

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
    if server.kv_unified and knows(instance, "--kv-unified-per-slot"):
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
        unit_text(server.model)  # a name of two lines would be two lines of the file
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


def process_arguments(instance: Instance) -> tuple[str, ...]:
    """What the process of an instance has for arguments, the program first."""
    folder = f"/run/credentials/{unit_name(instance.server.name)}"
    return tuple(
        part.replace(CREDENTIALS, folder) if part.startswith(CREDENTIALS) else part
        for part in (instance.binary, *arguments(instance))
    )


def _require_known(instance: Instance, values: Mapping[str, Value]) -> None:
    """ServerError for a setting whose option the installed build doesn't have."""
    for option, value in render(values):
        words = option.words(value)
        if option.recent and words and not knows(instance, words[0]):
            raise ServerError(
                f"servers.{instance.server.name}.{option.setting}: this llama.cpp "
                f"({build_name(instance)}) has no {words[0]}: "
                "set a newer llama_cpp.ref, or delete the setting"
            )


def _load_mode(instance: Instance, server: ServerSettings) -> dict[str, Value]:
    mode = server.load_mode
    if mode == "auto":
        return {}
    if knows(instance, "--load-mode"):
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
    if knows(instance, "--cache-ram"):
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
        refused = refusal(argument)
        if refused is not None:
            raise ServerError(f"servers.{server.name}.extra_args: {refused}: remove it")
    return list(server.extra_args)
