"""OpenCode's configuration as text: pure, no I/O, no pyinfra.

Owns the whole of ``/etc/opencode/opencode.json`` and, in each named user's ``opencode.json`` or
``opencode.jsonc``, only these values: ``$schema`` (where absent), ``model``, and inside
``provider.<id>`` of a declared provider ``npm``, ``name``, ``options.baseURL``, ``options.apiKey``
and ``models``. Every other byte of a user's file is left as it is, comments included: values are
replaced in the text.

Refuses to edit what OpenCode can't read (``JsonTextError`` names file, line and column). A
provider that left the fleet stays in users' files: nothing in the entry proves that it was ours,
and ``enabled_providers`` in the system file switches it off.

Upstream behaviour relied on, seen with OpenCode 1.18.33: ``/etc/opencode/opencode.json`` wins over
every file of a user: objects are merged, arrays replaced, but for ``instructions``, which are
joined; it reads ``opencode.json``, then ``opencode.jsonc`` over it, both with comments and
trailing commas; a file without ``$schema`` is rewritten by OpenCode; ``{file:~/...}`` is read
relative to the user's home, and is fatal where missing; ``npm: @ai-sdk/openai-compatible`` is
inside the binary; ``limit`` needs ``context`` and ``output``.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from deploys.common.json_text import JsonText
from inventories.settings import OpenCodeAgent, OpenCodeModel, OpenCodeProvider, OpenCodeSettings

SCHEMA = "https://opencode.ai/config.json"
NPM = "@ai-sdk/openai-compatible"
SYSTEM_CONFIG = "/etc/opencode/opencode.json"
USER_CONFIG = ".config/opencode/opencode.json"
KEY_DIRECTORY = ".config/opencode/llamaherd"


def key_path(provider_id: str) -> str:
    """Where a user's copy of a provider's API key lies, relative to the home."""
    return f"{KEY_DIRECTORY}/{provider_id}.key"


def key_reference(provider_id: str) -> str:
    """What stands for that key in the configuration."""
    return f"{{file:~/{key_path(provider_id)}}}"


def system_config(settings: OpenCodeSettings) -> str:
    """The text of ``/etc/opencode/opencode.json``: only our providers, nothing shared.

    ``small_model`` is always there, so that titles are not asked of a cloud. What a team decides
    for everybody stands here too: agents, permissions and instructions.
    """
    document: dict[str, Any] = {
        "$schema": SCHEMA,
        "enabled_providers": [provider.id for provider in settings.providers],
        "share": "disabled",
        "autoupdate": False,
        "model": settings.default_model,
        "small_model": settings.small_model,
    }
    if settings.instructions:
        document["instructions"] = list(settings.instructions)
    if settings.permission:
        document["permission"] = settings.permission
    if settings.agents:
        document["agent"] = {agent.name: agent_entry(agent) for agent in settings.agents}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def agent_entry(agent: OpenCodeAgent) -> dict[str, Any]:
    """``agent.<name>``: what is set, under OpenCode's own names, which are ours."""
    names = [field.name for field in fields(agent) if field.name != "name"]
    return {name: value for name in names if (value := getattr(agent, name)) not in (None, {})}


def model_entry(model: OpenCodeModel) -> dict[str, Any]:
    """``models.<id>`` of a provider."""
    entry: dict[str, Any] = {
        "name": model.name,
        "limit": {"context": model.context, "output": model.output},
        "modalities": {"input": ["text"], "output": ["text"]},
    }
    if model.images:
        # Two switches: what the model reads, and whether OpenCode lets a file be attached for it.
        entry |= {
            "modalities": {"input": ["text", "image"], "output": ["text"]},
            "attachment": True,
        }
    if model.reasoning:
        # Without `interleaved` OpenCode drops the thoughts, and the server its prompt cache.
        entry |= {"reasoning": True, "interleaved": {"field": model.interleaved}}
    if not model.tool_call:
        entry["tool_call"] = False  # OpenCode's default is true
    return entry


def provider_entry(provider: OpenCodeProvider) -> dict[str, Any]:
    """``provider.<id>`` as a new file gets it."""
    options = {"baseURL": provider.base_url}
    if provider.api_key is not None:
        options["apiKey"] = key_reference(provider.id)
    return {
        "npm": NPM,
        "name": provider.name,
        "options": options,
        "models": {model.id: model_entry(model) for model in provider.models},
    }


def user_config(text: str, settings: OpenCodeSettings, place: str) -> str:
    """``text`` of a user's configuration with our values in it; the same text when they are.

    + text: may be empty or blank, for a file that is absent or empty
    + place: the file, for messages
    """
    editor = _editor(text, settings, place)
    if "$schema" not in editor.members(()):
        editor.insert((), "$schema", SCHEMA, first=True)
    editor.set(("model",), settings.default_model)
    for provider in settings.providers:
        at = ("provider", provider.id)
        if editor.has(at):
            _edit_provider(editor, provider)
        else:
            editor.set(at, provider_entry(provider))
    return editor.text


def overriding_config(text: str, settings: OpenCodeSettings, place: str) -> str:
    """``text`` of an ``opencode.jsonc`` beside ``opencode.json``, which it must not contradict.

    It wins over the other file, where our values are: those that it has too are set, none is added.
    """
    editor = _editor(text, settings, place)
    for provider in settings.providers:
        if editor.has(("provider", provider.id)):
            _edit_provider(editor, provider, add=False)
    return editor.text


def _editor(text: str, settings: OpenCodeSettings, place: str) -> JsonText:
    editor = JsonText(text, place, comments=True)
    for provider in settings.providers:
        # Refuses what leads there and is no object, while positions are still those of the file.
        editor.has(("provider", provider.id, "options", "baseURL"))
    return editor


def _edit_provider(editor: JsonText, provider: OpenCodeProvider, *, add: bool = True) -> None:
    """Set our values of a provider that is there; with ``add`` also those that are not."""
    entry = provider_entry(provider)
    at = ("provider", provider.id)
    options = [("options", name) for name in entry["options"]]
    paths: list[tuple[str, ...]] = [("npm",), ("name",), *options, ("models",)]
    for path in paths:
        value = entry["options"][path[1]] if len(path) == 2 else entry[path[0]]
        if add or editor.has((*at, *path)):
            editor.set((*at, *path), value)
    if provider.api_key is None and editor.value((*at, "options", "apiKey")) == key_reference(
        provider.id
    ):
        editor.remove((*at, "options"), "apiKey")
