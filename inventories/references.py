"""Which server a name means: ``SERVER`` is of the host itself, ``HOST/SERVER`` of any host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

IMPLICIT_PROVIDER = "llama.cpp"
"""The provider id that upstream's recipe uses; ours when the fleet file names none."""


def split_reference(reference: str, host: str) -> tuple[str, str]:
    """``(host, server)`` of a reference that is written on ``host``."""
    owner, slash, server = reference.rpartition("/")
    return (owner, server) if slash else (host, server)


def resolve_providers(
    host: str, opencode: Mapping[str, Any], servers: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """Provider id to (host, server): those written, and one for the default server if none has it.

    + opencode: the section, with plain values
    + servers: names of the host's own servers; the only one is the default where nothing is said

    References are not checked against the fleet here. Empty when nothing says which server.
    """
    providers = {
        name: split_reference(provider["server"], host)
        for name, provider in opencode.get("providers", {}).items()
    }
    default = opencode.get("default")
    if default is None and not providers and len(servers) == 1:
        default = servers[0]
    if default is None or default in providers:
        return providers
    target = split_reference(default, host)
    if target in providers.values():
        return providers
    return {**providers, free_provider_id(providers): target}


def resolve_default(
    host: str, opencode: Mapping[str, Any], providers: Mapping[str, tuple[str, str]]
) -> str | None:
    """The id of the default provider among resolved ``providers``; None where it is open."""
    default = opencode.get("default")
    if default is None:
        return next(iter(providers)) if len(providers) == 1 else None
    if default in opencode.get("providers", {}):
        return str(default)
    target = split_reference(default, host)
    return next((name for name, found in providers.items() if found == target), None)


def free_provider_id(taken: Mapping[str, Any]) -> str:
    """``llama.cpp``, or that with a number where somebody uses the name for another server."""
    number, name = 1, IMPLICIT_PROVIDER
    while name in taken:
        number += 1
        name = f"{IMPLICIT_PROVIDER}-{number}"
    return name
