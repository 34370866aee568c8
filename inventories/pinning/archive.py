"""Pins what a fleet file names by SHA-256 itself: a URL, or a path on the controller.

A source archive is read once and its hash checked here, so that a wrong one is found before any
host is touched. A model by URL is not: it may be tens of gigabytes, so its size is asked and every
host checks the hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from inventories.lock import ModelPin, SourcePin
from inventories.pinning.header import model_dimensions
from inventories.pinning.names import check_file_name
from inventories.pinning.web import PinError, World, content_length, hash_file, hash_url, shown
from inventories.settings import Artifact


def pin_source(body: Mapping[str, Any], world: World) -> SourcePin:
    """A llama.cpp archive: read, measured, its SHA-256 compared."""
    archive = body["archive"]
    if "url" in archive:
        size, sha256 = hash_url(archive["url"], tick=world.tick)
        _require_match(shown(archive["url"]), archive["sha256"], sha256)
        artifact = Artifact(_url_name(archive["url"]), size, sha256, url=archive["url"])
    else:
        artifact = _pin_path(archive["path"], archive["sha256"], world)
    return SourcePin(request=body, archive=artifact)


def pin_model(body: Mapping[str, Any], world: World) -> ModelPin:
    """A model of one file, by URL (size asked, hash as the fleet says) or path (hash checked)."""
    if "url" in body:
        world.tick(f"asking {shown(body['url'])}")
        size = content_length(body["url"])
        artifact = Artifact(_url_name(body["url"]), size, body["sha256"], url=body["url"])
    else:
        artifact = _pin_path(body["path"], body["sha256"], world)
    dimensions = model_dimensions((artifact,), world)
    return ModelPin(request=body, files=(artifact,), dimensions=dimensions)


def pin_adapter(body: Mapping[str, Any], world: World) -> Artifact:
    """An adapter by URL or path, as :func:`pin_model` has a model."""
    if "path" in body:
        return _pin_path(body["path"], body["sha256"], world)
    world.tick(f"asking {shown(body['url'])}")
    size = content_length(body["url"])
    return Artifact(_url_name(body["url"]), size, body["sha256"], url=body["url"])


def _pin_path(path: str, expected: str, world: World) -> Artifact:
    size, sha256 = hash_file(world.directory / path, tick=world.tick)
    _require_match(path, expected, sha256)
    # As the fleet file writes it: a lock file in git means the same in every checkout.
    return Artifact(check_file_name(PurePosixPath(path).name), size, sha256, path=path)


def _require_match(place: str, expected: str, found: str) -> None:
    if expected.lower() != found:
        raise PinError(
            f"{place}: its SHA-256 is {found}, the fleet file says {expected}; "
            "it isn't the file that was meant, or the fleet file needs the new value"
        )


def _url_name(url: str) -> str:
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not name:
        raise PinError(f"{shown(url)}: the address doesn't end in a file name")
    return check_file_name(name)
