"""What ``opencode debug config`` says: does a configuration resolve as the fleet declares? Pure.

Free of pyinfra, so that commands may load it before they patch for gevent.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from typing import Any

from inventories.settings import OpenCodeProvider, OpenCodeSettings

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def opencode_said(exit_code: int, error: str) -> str:
    """OpenCode's complaint without colours, and without the file that it quotes whole."""
    if exit_code == 127:
        return "there is no OpenCode"
    if exit_code == 124:
        return "opencode debug config took more than 60 s"
    text = _COLOUR.sub("", error)
    # It quotes the file, and the broken line once more: there may be secrets in them.
    text = re.sub(r"--- JSONC Input ---.*?--- Errors ---", "", text, flags=re.S)
    text = re.sub(r"^\s*(Line \d+: .*|\^)$", "", text, flags=re.M)
    text = text.split("--- End ---")[0].removeprefix("Error: ")
    said = textwrap.shorten(text, 400, placeholder=" ...")
    return said or f"opencode debug config exited {exit_code}"


def config_differences(settings: OpenCodeSettings, config: Mapping[str, Any]) -> list[str]:
    """Where a resolved configuration is not what the fleet declares, in words."""
    differences = [
        _difference(key, config.get(key), wanted)
        for key, wanted in (
            ("model", settings.default_model),
            ("small_model", settings.small_model),
        )
    ]
    enabled = config.get("enabled_providers")
    wanted = sorted(provider.id for provider in settings.providers)
    seen = sorted(map(str, enabled)) if isinstance(enabled, list) else enabled
    differences.append(_difference("enabled_providers", seen, wanted))
    disabled = config.get("disabled_providers")
    for provider in settings.providers:
        if isinstance(disabled, list) and provider.id in disabled:
            differences.append(f"disabled_providers holds {provider.id}")
        differences += _provider_differences(provider, config)
    return [difference for difference in differences if difference]


def _provider_differences(provider: OpenCodeProvider, config: Mapping[str, Any]) -> list[str]:
    entry = _at(config, "provider", provider.id)
    if not isinstance(entry, dict):
        return [f"there is no provider {provider.id}"]
    wanted_values: list[tuple[tuple[str, ...], Any]] = [
        (("options", "baseURL"), provider.base_url),
    ]
    for model in provider.models:
        limit = ("models", model.id, "limit")
        wanted_values += [((*limit, "context"), model.context), ((*limit, "output"), model.output)]
        if model.images:
            wanted_values.append((("models", model.id, "attachment"), True))
    return [
        _difference(f"provider.{provider.id}.{'.'.join(path)}", _at(entry, *path), wanted)
        for path, wanted in wanted_values
    ]


def _at(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _difference(path: str, seen: Any, wanted: Any) -> str:
    if seen == wanted:
        return ""
    return f"{path} is {json.dumps(seen)}, expected {json.dumps(wanted)}"
