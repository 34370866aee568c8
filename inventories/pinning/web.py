"""Asking over HTTP, for every pinning module: time limits, plain errors, streamed hashes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import requests

TIMEOUT = (15, 60)
"""Seconds to connect, and between two pieces of an answer."""

CHUNK = 1 << 20

Tick = Callable[[str], None]


class PinError(Exception):
    """Something can't be pinned; the message names the place and the remedy."""


def _silent(_: str) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class World:
    """What the pinning modules know besides the request.

    + directory: the fleet file's folder; relative paths start there
    + environment: environment variables (``HF_ENDPOINT``, ``NPM_CONFIG_REGISTRY``)
    + hub_token: gives the token for what a request asks of a hub (the request's ``hub``) when it
      is needed, or None when the fleet names none
    + tick: told what goes on, for a progress line
    """

    directory: Path
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    hub_token: Callable[[Mapping[str, Any]], str | None] = lambda _: None
    tick: Tick = _silent


class BearerToken(requests.auth.AuthBase):
    """Sends a token to one origin (scheme, host and port) and to no other, redirects included."""

    def __init__(self, token: str | None, url: str) -> None:
        self._token = token
        self._origin = origin(url)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None and origin(request.url or "") == self._origin:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address, the scheme's own port filled in."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname or "", port


def ask(
    url: str,
    *,
    method: str = "GET",
    auth: requests.auth.AuthBase | None = None,
    headers: Mapping[str, str] | None = None,
    stream: bool = False,
) -> requests.Response:
    """One request. Any status comes back as a response; no answer at all is a :class:`PinError`."""
    try:
        return requests.request(
            method,
            url,
            auth=auth,
            headers=dict(headers or {}),
            stream=stream,
            timeout=TIMEOUT,
            allow_redirects=True,
        )
    except (requests.RequestException, ValueError) as error:
        raise PinError(f"{shown(url)}: {reason(error)}") from None


def ask_json(url: str, **how: Any) -> Any:
    """The JSON document at an address that must answer 200; else a :class:`PinError`."""
    response = ask(url, **how)
    require_ok(response, url)
    return decode_json(response, url)


def decode_json(response: requests.Response, url: str) -> Any:
    """The JSON of a response; a :class:`PinError` that names the address when it is none."""
    try:
        return response.json()
    except ValueError:
        raise PinError(f"{shown(url)}: the answer is not JSON; is the address right?") from None


def require_ok(response: requests.Response, url: str) -> None:
    """A :class:`PinError` unless the status is 200."""
    if response.status_code != 200:
        raise PinError(
            f"{shown(url)}: HTTP {response.status_code} {response.reason or ''}".rstrip()
        )


def shown(url: str) -> str:
    """An address as messages show it: without user name and password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="").geturl()


def without_userinfo(url: str, named: str) -> str:
    """An address that has none; PinError for one that would bring a password into the lock.

    + named: what names it, such as ``HF_ENDPOINT``
    """
    if "@" in urlsplit(url).netloc:
        raise PinError(
            f"{named} is {shown(url)} with a user or password, which would lie in the lock file "
            "for all to read: leave that out of the address"
        )
    return url


def reason(error: Exception) -> str:
    """Why a request failed, in a few words."""
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate isn't trusted (REQUESTS_CA_BUNDLE names your own authority's)"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"no connection within {TIMEOUT[0]} s; is the address right, and reachable?"
    if isinstance(error, requests.exceptions.Timeout):
        return f"no answer within {TIMEOUT[1]} s; try again"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "can't connect; is the address right, and reachable from here?"
    return str(error)


def content_length(url: str, *, auth: requests.auth.AuthBase | None = None) -> int:
    """Size in bytes of what is at an address, without fetching it.

    Asks HEAD, then GET without reading the body (some servers refuse HEAD). Raises
    :class:`PinError` when it isn't there or the server doesn't say.
    """
    # Compressed on the way, the length would be of something else.
    headers = {"Accept-Encoding": "identity"}
    for method in ("HEAD", "GET"):
        with ask(url, method=method, auth=auth, headers=headers, stream=True) as response:
            length = response.headers.get("Content-Length", "")
            if response.status_code == 200 and length.isdigit():
                return int(length)
    require_ok(response, url)
    raise PinError(f"{shown(url)}: the server doesn't say how big the file is (Content-Length)")


def hash_url(
    url: str,
    *,
    auth: requests.auth.AuthBase | None = None,
    tick: Tick = _silent,
    also: tuple[Any, ...] = (),
) -> tuple[int, str]:
    """Size and SHA-256 of what is at an address, read once and kept nowhere.

    + also: further hash objects that are fed the same bytes
    """
    headers = {"Accept-Encoding": "identity"}
    with ask(url, auth=auth, headers=headers, stream=True) as response:
        require_ok(response, url)
        expected = response.headers.get("Content-Length", "")
        total = int(expected) if expected.isdigit() else None
        size, digest = _hash(_chunks(response, url), total, shown(url), tick, also)
    if total is not None and size != total:
        raise PinError(f"{shown(url)}: the answer broke off at {size} of {total} bytes; try again")
    return size, digest


def _chunks(response: requests.Response, url: str) -> Iterator[bytes]:
    try:
        # Not iter_content: that would undo a Content-Encoding that describes the file itself.
        yield from response.raw.stream(CHUNK, decode_content=False)
    except Exception as error:
        raise PinError(
            f"{shown(url)}: the answer broke off ({type(error).__name__}); try again"
        ) from None


def hash_file(path: Path, *, tick: Tick = _silent) -> tuple[int, str]:
    """Size and SHA-256 of a file on the controller; :class:`PinError` when it can't be read."""
    try:
        with path.open("rb") as file:
            return _hash(_pieces(file), path.stat().st_size, str(path), tick, ())
    except OSError as error:
        raise PinError(f"{path}: {error.strerror}") from None


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(CHUNK):
        yield piece


def _hash(
    chunks: Iterator[bytes], total: int | None, name: str, tick: Tick, also: tuple[Any, ...]
) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        for other in also:
            other.update(chunk)
        size += len(chunk)
        of = f" of {total / 1e6:.0f}" if total else ""
        tick(f"reading {name}: {size / 1e6:.0f}{of} MB")
    return size, digest.hexdigest()
