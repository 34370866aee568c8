"""Rules of one merged server of a fleet file that a JSON Schema can't say. Pure.

Upstream behaviour relied on (llama.cpp 0c1e570): a quantised V cache and ``--split-mode tensor``
need flash attention (src/llama-context.cpp); a router refuses to load more models at its start
than ``--models-max`` (tools/server/server-models.cpp); a sleeping server has no slots any more;
with ``--jinja`` a template's name, but for ``chatml``, is taken for its text: every prompt is then
that word (*ran*).
What depends on a model's architecture is checked where that is known: deploys/llama_server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from inventories.llama_options import flag_of, managed, refusal
from schemas.document import Mark, Node
from schemas.validate import did_you_mean

UNQUANTISED = frozenset({"f32", "f16", "bf16"})
DEFAULT_MODELS_MAX = 4
"""How many models a router loads at once where nothing is said (common/common.h)."""

Finding = tuple[Mark, tuple[str | int, ...], str]


def server_findings(server: Node, key: Mark, models: Mapping[str, Node]) -> Iterator[Finding]:
    """What is wrong with a server: the place, the path below the server, and what mends it.

    + key: where the server's name is written
    + models: of the fleet
    """
    yield from _one_of(server, key, "model", "models", "model")
    yield from _place(server, key)
    yield from _model_names(server, models)
    yield from _router(server)
    yield from _slots(server)
    if "chat_template" in server.value and "chat_template_file" in server.value:
        later = max(server.keys["chat_template"], server.keys["chat_template_file"])
        message = "chat_template and chat_template_file exclude each other; set one of them to null"
        yield later, (), message
    for path, node in _processes(server):
        yield from _process(server, node, path)
    yield from _arguments(server, models)


def _one_of(server: Node, key: Mark, first: str, second: str, named: str) -> Iterator[Finding]:
    if first in server.value and second in server.value:
        later = max(server.keys[first], server.keys[second])
        yield (
            later,
            (),
            f"{first} and {second} exclude each other; set the one you do not want to null",
        )
    elif first not in server.value and second not in server.value:
        yield key, (), f"{named} is missing: neither the host nor its groups nor defaults set it"


def _place(server: Node, key: Mark) -> Iterator[Finding]:
    socket = _set(server, "unix_socket")
    if not socket:
        if "port" not in server.value:
            yield key, (), "port is missing: neither the host nor its groups nor defaults set it"
        group = server.get("socket_group")
        if group is not None:
            message = "only a server with unix_socket: true has a socket; delete this"
            yield group.mark, ("socket_group",), message
    else:
        for name in ("port", "host", "address", "tls"):
            if name in server.value:
                message = (
                    f"a server on a unix socket has no {name}; set it, or unix_socket, to null"
                )
                yield server.keys[name], (name,), message
    tls = server.get("tls")
    if tls is None or tls.kind != "mapping":
        return
    for name in ("certificate", "key"):
        if name not in tls.value:
            yield server.keys["tls"], ("tls",), f"{name} is missing"


def _model_names(server: Node, models: Mapping[str, Node]) -> Iterator[Finding]:
    named: list[tuple[Mark, tuple[str, ...], str]] = []
    model, several = server.get("model"), server.get("models")
    if model is not None and model.kind == "string":
        named.append((model.mark, ("model",), str(model.value)))
    if several is not None and several.kind == "mapping":
        named += [(several.keys[name], ("models", name), name) for name in several.value]
        if not several.value:
            yield server.keys["models"], ("models",), "names no model"
    for mark, path, name in named:
        if name not in models:
            hint = did_you_mean(name, models, known_as="models of this file")
            yield mark, path, f"there is no model {name}{hint}"


def _router(server: Node) -> Iterator[Finding]:
    several = server.get("models")
    if several is None:
        if "models_max" in server.value:
            message = "goes with models; delete this"
            yield server.keys["models_max"], ("models_max",), message
        return
    if several.kind != "mapping":
        return
    if "draft" in server.value:
        message = "a draft model goes with model, not with models; set one of them to null"
        yield server.keys["draft"], ("draft",), message
    if _set(server, "slot_save"):
        message = "a server with several models can't save their sessions; set it to false"
        yield server.keys["slot_save"], ("slot_save",), message
    limit = _value(server, "models_max", DEFAULT_MODELS_MAX)
    first = [n for n, node in several.value.items() if _set(node, "load_on_startup")]
    if limit and len(first) > limit:
        message = f"{len(first)} models have load_on_startup, and models_max is {limit}"
        yield several.keys[first[-1]], ("models", first[-1]), message


def _slots(server: Node) -> Iterator[Finding]:
    if _set(server, "slot_save") and "sleep_idle_seconds" in server.value:
        message = (
            "slot_save and sleep_idle_seconds exclude each other: a sleeping server has no "
            "sessions left to save; set the one you do not want to null"
        )
        yield max(server.keys["slot_save"], server.keys["sleep_idle_seconds"]), (), message


def _processes(server: Node) -> Iterator[tuple[tuple[str, ...], Node]]:
    """Each process that runs a model, by the path of its own settings."""
    several = server.get("models")
    if several is None or several.kind != "mapping":
        yield (), server
        return
    for name, node in several.value.items():
        if node.kind == "mapping":
            yield ("models", name), node


def _process(server: Node, own: Node, path: tuple[str, ...]) -> Iterator[Finding]:
    """What goes ill together in one process; its own settings lie over the server's."""

    def value(name: str) -> Any:
        return _value(own, name, _value(server, name, None))

    def blame(*names: str) -> tuple[Mark, tuple[str, ...]]:
        """The one that was written last, in the process's own settings if it is there."""
        owner = own if any(name in own.value for name in names) else server
        there = [name for name in names if name in owner.value]
        last = max(there, key=lambda name: owner.keys[name])
        return owner.value[last].mark, (*(path if owner is own else ()), last)

    no_flash = value("flash_attention") == "disabled"
    kind = value("cache_type_v")
    if no_flash and kind is not None and kind not in UNQUANTISED:
        message = f"cache_type_v {kind} needs flash attention: set flash_attention to enabled"
        yield (*blame("flash_attention", "cache_type_v"), message)
    if no_flash and value("split_mode") == "tensor":
        message = "split_mode tensor needs flash attention: set flash_attention to enabled"
        yield (*blame("flash_attention", "split_mode"), message)
    if value("cpu_moe") and value("n_cpu_moe") is not None:
        message = "cpu_moe keeps all experts in host memory, n_cpu_moe some: keep one of them"
        yield (*blame("cpu_moe", "n_cpu_moe"), message)
    template = value("chat_template")
    if template not in (None, "chatml") and value("jinja") is not False:
        message = (
            f"with jinja llama.cpp takes {template} for the text of a template, not its name: set "
            "jinja: false too (tool calls then don't work), or use chatml or chat_template_file"
        )
        yield (*blame("chat_template"), message)
    batch, ubatch = value("batch_size") or 2048, value("ubatch_size") or 512
    if ubatch > batch:
        message = f"ubatch_size {ubatch} is more than batch_size {batch}"
        yield (*blame("batch_size", "ubatch_size"), message)
    yield from _split(server, own, path)


def _split(server: Node, own: Node, path: tuple[str, ...]) -> Iterator[Finding]:
    gpus = server.get("gpus")
    if gpus is None or gpus.kind != "sequence":
        return
    count = len(gpus.value)
    for node, below in {id(own): (own, path), id(server): (server, ())}.values():
        shares, main = node.get("tensor_split"), node.get("main_gpu")
        if shares is not None and shares.kind == "sequence" and len(shares.value) > count:
            message = f"has {len(shares.value)} shares for {count} GPUs"
            yield shares.mark, (*below, "tensor_split"), message
        if main is not None and main.kind == "integer" and main.value >= max(count, 1):
            message = f"there is no GPU {main.value} among the {count} of gpus (counted from 0)"
            yield main.mark, (*below, "main_gpu"), message


def _arguments(server: Node, models: Mapping[str, Node]) -> Iterator[Finding]:
    arguments = server.get("extra_args")
    if arguments is None or arguments.kind != "sequence":
        return
    settings = _settings(server, models)
    for index, item in enumerate(arguments.value):
        if item.kind != "string":
            continue
        option = managed(item.value, settings)
        said = refusal(item.value)
        if option is not None:
            said = f"instead of {flag_of(item.value)}, use the setting {_place_of(option.setting)}"
        if said is not None:
            yield item.mark, ("extra_args", index), said


def _settings(server: Node, models: Mapping[str, Node]) -> dict[str, object]:
    """What stands for an option beside ``extra_args``: of the server, and of what it serves."""
    settings: dict[str, object] = {name: node.value for name, node in server.value.items()}
    for _, node in _processes(server):
        settings |= {name: child.value for name, child in node.value.items()}
    if settings.get("gpus") == "all":
        del settings["gpus"]
    named = [_value(server, "model", None)]
    several = server.get("models")
    if several is not None and several.kind == "mapping":
        named += several.value
    if any(name in models and models[name].get("adapters") is not None for name in named):
        settings["models.adapters"] = True
    return settings


def _place_of(setting: str) -> str:
    """A setting as its owner's: a server's, unless it says whose."""
    owner, _, key = setting.partition(".")
    if owner == "models" and key:
        return f"models.NAME.{key}"
    return setting if owner == "hub" else f"{setting} of the server"


def _value(node: Node, name: str, default: Any) -> Any:
    """A scalar; ``default`` where it is missing or was refused."""
    child = node.get(name)
    return default if child is None or child.kind == "invalid" else child.value


def _set(node: Node, name: str) -> bool:
    return node.kind == "mapping" and _value(node, name, False) is True
