"""Asks the outside world what names stand for: hubs, repositories, registries.

One module a kind. Each takes a request's body (see :mod:`inventories.lock`) and returns a pin, or
raises :class:`inventories.pinning.web.PinError` with a message that says what would mend it.
:func:`resolve` picks the module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from inventories.lock import ModelPin, Pin, Request
from inventories.pinning import archive, cuda_repository, cuda_wheels, git, hub, opencode
from inventories.pinning.web import PinError, World

__all__ = ["PinError", "World", "resolve"]


def resolve(request: Request, world: World) -> Pin:
    """The pin that answers a request, asked for now.

    Raises :class:`PinError` for everything that can go wrong out there.
    """
    body = request.body
    if request.kind == "models":
        return _model(body, world)
    if request.kind == "llama_cpp":
        return archive.pin_source(body, world) if "archive" in body else git.pin_source(body, world)
    if request.kind == "opencode":
        return opencode.pin_release(body, world)
    if request.kind == "driver":
        return cuda_repository.pin_driver(body, world)
    return _cuda(body, world)


def _model(body: Mapping[str, Any], world: World) -> ModelPin:
    """A model with its adapters, wherever each of them lies."""
    pin = hub.pin_model(body, world) if "hub" in body else archive.pin_model(body, world)
    adapters = {
        name: hub.pin_adapter(place["hub"], world)
        if "hub" in place
        else archive.pin_adapter(place, world)
        for name, place in body.get("adapters", {}).items()
    }
    return replace(pin, adapters=adapters) if adapters else pin


def _cuda(body: Mapping[str, Any], world: World) -> Pin:
    if body["provider"] == "wheels":
        return cuda_wheels.pin_toolkit(body, world)
    return cuda_repository.pin_toolkit(body, world)
