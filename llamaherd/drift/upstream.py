"""What is published beyond what is locked. Information: it is never drift."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from packaging.version import InvalidVersion, Version

from inventories.fleet import Fleet
from inventories.lock import (
    Kind,
    Lock,
    ModelPin,
    OpenCodePin,
    Request,
    SourcePin,
    find_pin,
    requests_of,
)
from inventories.pinning import git, hub, opencode
from inventories.pinning.web import PinError, World
from llamaherd.drift.report import Finding

COMPONENTS: dict[Kind, str] = {
    "models": "models",
    "llama_cpp": "llama_cpp",
    "opencode": "opencode",
    "cuda": "cuda",
}
AT_ONCE = 8


def upstream_findings(fleet: Fleet, lock: Lock, world: World) -> tuple[Finding, ...]:
    """Pins that are behind, and what could not be asked; one line each, in the lock's order."""
    requests = [request for request in requests_of(fleet) if request.kind in _QUESTIONS]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda request: list(_findings(request, lock, world)), requests))
    return tuple(finding for findings in found for finding in findings)


def _findings(request: Request, lock: Lock, world: World) -> Iterator[Finding]:
    finding = Finding("upstream", COMPONENTS[request.kind], request.name, "")
    try:
        news = _QUESTIONS[request.kind](request, lock, world)
    except PinError as error:
        yield replace(finding, summary=f"could not be asked: {error}")
        return
    if news:
        yield replace(finding, summary=news, remedy=_remedy(request))


def _remedy(request: Request) -> str:
    """A release and a version are named by the fleet file: moving the pin alone moves nothing."""
    names = {"opencode": "opencode.version", "llama_cpp": "llama_cpp.ref"}
    if request.kind == "opencode" or git.is_release(str(request.body.get("ref", ""))):
        return f"set {names[request.kind]}, then run llamaherd lock"
    return f"run llamaherd lock --update {request.name}"


def _model(request: Request, lock: Lock, world: World) -> str:
    pin = find_pin(lock, request)
    if not isinstance(pin, ModelPin) or pin.revision is None:
        return ""
    now = hub.published(request.body, world)
    return "" if now == pin.revision else f"locked at {pin.revision[:7]}, published is {now[:7]}"


def _source(request: Request, lock: Lock, world: World) -> str:
    pin = find_pin(lock, request)
    if not isinstance(pin, SourcePin) or pin.commit is None:
        return ""
    now = git.published(request.body, world)
    if now is None or now.commit is None or now.commit == pin.commit:
        return ""
    if now.build_number is not None:
        return f"locked at b{pin.build_number}, published is b{now.build_number}"
    return f"locked at {pin.commit[:7]}, published is {now.commit[:7]}"


def _opencode(request: Request, lock: Lock, world: World) -> str:
    pin = find_pin(lock, request)
    if not isinstance(pin, OpenCodePin):
        return ""
    now = opencode.published(request.body, world)
    try:
        newer = Version(now) > Version(pin.version)
    except InvalidVersion:
        newer = now != pin.version
    return f"locked at {pin.version}, published is {now}" if newer else ""


_QUESTIONS: dict[Kind, Callable[[Request, Lock, World], str]] = {
    "models": _model,
    "llama_cpp": _source,
    "opencode": _opencode,
}
