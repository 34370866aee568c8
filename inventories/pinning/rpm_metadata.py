"""What an RPM repository says of its packages: ``repomd.xml`` and the primary index.

Owns the reading and the order of versions, and refuses an index whose checksum isn't the one that
``repomd.xml`` states. Format: createrepo_c's ``primary.xml``; versions: rpm-version(7).
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any
from xml.etree import ElementTree

from inventories.pinning.web import PinError, ask, require_ok, shown

COMMON = "{http://linux.duke.edu/metadata/common}"
REPO = "{http://linux.duke.edu/metadata/repo}"
RPM = "{http://linux.duke.edu/metadata/rpm}"
MAX_INDEX = 512 << 20
"""Bytes; a bigger index is not one."""

_OPERATORS = {"EQ": "=", "GE": ">=", "LE": "<=", "GT": ">>", "LT": "<<"}
_PIECES = re.compile(r"[0-9]+|[A-Za-z]+|~|\^")


@dataclass(frozen=True)
class RpmRelation:
    """A dependency, or what a package provides: a name, and maybe a bound (``>=`` ``13.0-1``)."""

    name: str
    op: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class RpmEntry:
    """A package of the index; ``version`` is ``[EPOCH:]VERSION-RELEASE``."""

    name: str
    version: str
    sha256: str
    requires: tuple[RpmRelation, ...]
    provides: tuple[str, ...]


def fetch_primary(base: str, architecture: str) -> list[RpmEntry] | None:
    """The packages for one machine architecture; None when there is no repository at ``base``."""
    url = f"{base}repodata/repomd.xml"
    response = ask(url, headers={"Accept-Encoding": "identity"})
    if response.status_code in (403, 404):
        return None
    require_ok(response, url)
    place, algorithm, digest = _primary(_parse(response.content, url), url)
    address = base + place
    with ask(address, headers={"Accept-Encoding": "identity"}, stream=True) as answer:
        require_ok(answer, address)
        raw = answer.raw.read(MAX_INDEX + 1, decode_content=False)
    if hashlib.new(algorithm, raw).hexdigest() != digest:
        raise PinError(
            f"{shown(address)}: is not what repomd.xml says (checksum); try again, for a "
            "repository or mirror may be changing right now"
        )
    return parse_primary(_unpacked(raw, place, address), architecture, address)


def _parse(content: bytes, url: str) -> ElementTree.Element:
    # No document type: entities that blow up a document are declared there.
    if b"<!DOCTYPE" in content[:4096]:
        raise PinError(f"{shown(url)}: is no repository metadata; is cuda.repository.url right?")
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError:
        raise PinError(
            f"{shown(url)}: is no repository metadata; is cuda.repository.url right?"
        ) from None


def _primary(root: ElementTree.Element, url: str) -> tuple[str, str, str]:
    """Place, kind and value of the checksum of the primary index."""
    for data in root.iter(f"{REPO}data"):
        location, checksum = data.find(f"{REPO}location"), data.find(f"{REPO}checksum")
        if data.get("type") == "primary" and location is not None and checksum is not None:
            kind = str(checksum.get("type"))
            if kind in ("sha256", "sha384", "sha512"):
                return str(location.get("href")), kind, str(checksum.text).strip()
    raise PinError(f"{shown(url)}: names no primary index with a SHA-2 checksum")


def _unpacked(raw: bytes, place: str, url: str) -> bytes:
    if place.endswith(".zst"):
        raise PinError(
            f"{shown(url)}: is packed with zstd, which can't be read here: have the mirror made "
            "with createrepo_c --general-compress-type=gz"
        )
    unpack = {".gz": gzip.decompress, ".xz": lzma.decompress, ".bz2": bz2.decompress}
    try:
        return unpack.get("." + place.rpartition(".")[2], bytes)(raw)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        raise PinError(f"{shown(url)}: is broken; try again") from None


def parse_primary(text: bytes, architecture: str, url: str) -> list[RpmEntry]:
    """The packages of a primary index that a machine of that architecture installs."""
    found = []
    for package in _parse(text, url).iter(f"{COMMON}package"):
        checksum = package.find(f"{COMMON}checksum")
        if package.findtext(f"{COMMON}arch") not in (architecture, "noarch") or checksum is None:
            continue
        version = package.find(f"{COMMON}version")
        form = package.find(f"{COMMON}format")
        name = package.findtext(f"{COMMON}name")
        if name is None or version is None or form is None or checksum.get("type") != "sha256":
            continue
        found.append(
            RpmEntry(
                name,
                evr(version.attrib),
                str(checksum.text).strip(),
                tuple(_relations(form, "requires")),
                tuple(relation.name for relation in _relations(form, "provides")),
            )
        )
    return found


def _relations(form: ElementTree.Element, kind: str) -> Iterable[RpmRelation]:
    section = form.find(f"{RPM}{kind}")
    for entry in section if section is not None else ():
        name = entry.get("name", "")
        # Files and rich dependencies ("(a or b)") are the distribution's business.
        if name.startswith(("/", "(", "rpmlib(", "config(")):
            continue
        op = _OPERATORS.get(entry.get("flags", ""))
        yield RpmRelation(name, op, evr(entry.attrib) if op else None)


def evr(attributes: Mapping[str, Any]) -> str:
    """``[EPOCH:]VERSION[-RELEASE]`` of the attributes epoch, ver and rel."""
    epoch, release = attributes.get("epoch") or "0", attributes.get("rel")
    text = str(attributes.get("ver", ""))
    return f"{'' if epoch == '0' else f'{epoch}:'}{text}{f'-{release}' if release else ''}"


def compare_rpm(one: str, other: str) -> int:
    """Negative, zero or positive as ``one`` is older, the same or newer (rpm-version(7)).

    Where one of them has no release, as in a dependency, the releases aren't compared.
    """
    (epoch_one, version_one, release_one), (epoch_other, version_other, release_other) = (
        _split(one),
        _split(other),
    )
    if epoch_one != epoch_other:
        return epoch_one - epoch_other
    order = compare_part(version_one, version_other)
    if order or not release_one or not release_other:
        return order
    return compare_part(release_one, release_other)


def _split(text: str) -> tuple[int, str, str]:
    epoch, colon, rest = text.partition(":")
    number, rest = (int(epoch), rest) if colon and epoch.isdigit() else (0, text)
    version, _, release = rest.partition("-")
    return number, version, release


def compare_part(one: str, other: str) -> int:
    """rpmvercmp(): digits and letters in turn; ``~`` before the end, ``^`` after it."""
    for a, b in zip_longest(_PIECES.findall(one), _PIECES.findall(other), fillvalue=""):
        if a == b:
            continue
        if "~" in (a, b):
            return -1 if a == "~" else 1
        if "^" in (a, b):
            # After the end, and before any further piece.
            return (1 if b == "" else -1) if a == "^" else (-1 if a == "" else 1)
        if not a or not b:
            return 1 if a else -1
        if a.isdigit() != b.isdigit():
            return 1 if a.isdigit() else -1
        if a.isdigit() and int(a) != int(b):
            return int(a) - int(b)
        if not a.isdigit():
            return 1 if a > b else -1
    return 0
