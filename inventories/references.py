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


def split_model(reference: str) -> tuple[str, str | None]:
    """``REFERENCE`` and ``MODEL`` of ``REFERENCE:MODEL``; no model where none is named."""
    server, _, model = reference.partition(":")
    return server, model or None


def model_references(opencode: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
    """Everything but ``default`` that names a model, by its path below ``opencode``."""
    found: dict[tuple[str, ...], str] = {}
    if opencode.get("small_model") is not None:
        found["small_model",] = opencode["small_model"]
    for name, agent in opencode.get("agents", {}).items():
        if agent.get("model") is not None:
            found["agents", name, "model"] = agent["model"]
    return found


def resolve_providers(
    host: str, opencode: Mapping[str, Any], servers: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """Provider id to (host, server): those written, and one for each other server that is named.

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
    named = [] if default is None else [default]
    for reference in (*named, *model_references(opencode).values()):
        server, _ = split_model(reference)
        target = split_reference(server, host)
        if server not in providers and target not in providers.values():
            providers[free_provider_id(providers)] = target
    return providers


def find_provider(
    host: str, reference: str, providers: Mapping[str, tuple[str, str]]
) -> str | None:
    """The id of the provider that ``SERVER``, ``HOST/SERVER`` or a provider's id means."""
    if reference in providers:
        return reference
    target = split_reference(reference, host)
    return next((name for name, found in providers.items() if found == target), None)


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


def claude_code_server(
    host: str, claude_code: Mapping[str, Any], servers: Sequence[str]
) -> tuple[str, str] | None:
    """(host, server) that Claude Code is pointed at; None where nothing says which.

    + servers: names of the host's own servers; the only one is meant where nothing is said
    """
    reference = claude_code.get("server")
    if reference is None:
        return (host, servers[0]) if len(servers) == 1 else None
    return split_reference(reference, host)


def free_provider_id(taken: Mapping[str, Any]) -> str:
    """``llama.cpp``, or that with a number where somebody uses the name for another server."""
    number, name = 1, IMPLICIT_PROVIDER
    while name in taken:
        number += 1
        name = f"{IMPLICIT_PROVIDER}-{number}"
    return name
