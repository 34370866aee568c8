"""Reads a model's header where the model is: by HTTP range from a hub, or off a local file.

Only the front of each file is fetched, piece by piece, as :mod:`inventories.gguf` asks for it. A
server that doesn't know ranges is read from the beginning and hung up on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import requests

from inventories.gguf import MAX_HEADER, GgufError, Header, Read, read_file_header, read_header
from inventories.pinning.web import PinError, World, ask, shown
from inventories.settings import Artifact
from inventories.sizing.dimensions import Dimensions, SizingError, dimensions_of


def range_reader(url: str, auth: requests.auth.AuthBase | None = None) -> Read:
    """A reader of the file at an address. What it raises is a :class:`PinError`."""

    def read(offset: int, size: int) -> bytes:
        headers = {"Range": f"bytes={offset}-{offset + size - 1}", "Accept-Encoding": "identity"}
        with ask(url, auth=auth, headers=headers, stream=True) as response:
            if response.status_code == 416:
                return b""
            if response.status_code not in (200, 206):
                raise PinError(f"{shown(url)}: HTTP {response.status_code} {response.reason or ''}")
            skipped = offset if response.status_code == 200 else 0
            if skipped + size > MAX_HEADER:
                raise PinError(f"{shown(url)}: the server doesn't answer Range requests")
            return _body(response, url, skipped + size)[skipped:]

    return read


def _body(response: requests.Response, url: str, size: int) -> bytes:
    """Up to ``size`` bytes of an answer; the rest is left unread."""
    data = bytearray()
    try:
        while len(data) < size:
            piece = response.raw.read(size - len(data), decode_content=False)
            if not piece:
                break
            data += piece
    except Exception as error:
        raise PinError(
            f"{shown(url)}: the answer broke off ({type(error).__name__}); try again"
        ) from None
    return bytes(data)


def read_headers(
    files: Sequence[Artifact], directory: Path, auth: requests.auth.AuthBase | None = None
) -> tuple[Header, ...]:
    """The header of each file, wherever it lies; relative paths count from ``directory``.

    Raises :class:`PinError` when a file can't be reached, :class:`GgufError` when it is no GGUF.
    """
    return tuple(_header(file, directory, auth) for file in files)


def _header(file: Artifact, directory: Path, auth: requests.auth.AuthBase | None) -> Header:
    if file.path is not None:
        return read_file_header(directory / file.path)
    return read_header(range_reader(str(file.url), auth), shown(str(file.url)))


def model_dimensions(
    files: Sequence[Artifact], world: World, auth: requests.auth.AuthBase | None = None
) -> Dimensions | None:
    """The dimensions of a model that is being pinned; None when its headers don't tell them.

    A pin is good without them (only the check whether it fits is lost), so nothing is raised.
    """
    world.tick(f"reading the header of {files[0].name}")
    try:
        return dimensions_of(read_headers(files, world.directory, auth), files[0].name)
    except (PinError, GgufError, SizingError):
        return None
