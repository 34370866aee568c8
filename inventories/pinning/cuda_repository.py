"""Pins a CUDA toolkit to exact packages of the vendor's apt repository, or of a mirror of it.

Reads each distribution's ``Packages`` index and takes what a build of llama.cpp needs, plus what
those depend on inside the same repository, each at one exact version: so nothing floats.

``13.0`` takes the newest packages of that series. ``13.0.2`` takes the versions that the vendor's
``cuda-toolkit-13-0`` of release 13.0.2 names as its own (its dependencies' lower bounds).
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Any

from inventories.lock import CudaPin
from inventories.pinning.names import check_file_name
from inventories.pinning.web import PinError, World, ask, hash_url, require_ok, shown
from inventories.settings import AptPackage, Artifact, CudaRepository

ARCHITECTURE = "x86_64"
NEEDED = ("cuda-nvcc", "cuda-cudart-dev", "libcublas-dev", "cuda-cccl", "cuda-driver-dev")
"""Packages of a build, without the version at the end of their names."""

DEFAULT_KEY = "3bf863cc.pub"
MAX_INDEX = 512 << 20
"""Bytes; a bigger index is not one."""

_RELATION = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9+.-]*)(?::[a-z0-9]+)?\s*(?:\(\s*(?P<op>[<>=]+)\s*(?P<version>[^)\s]+)\s*\))?"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """A package in an index. ``depends`` are alternatives: any one of the inner tuple will do."""

    name: str
    version: str
    sha256: str
    depends: tuple[tuple[Relation, ...], ...]


@dataclass(frozen=True)
class Relation:
    """A dependency: a name, and maybe a bound such as ``>=`` ``13.0.88``."""

    name: str
    op: str | None = None
    version: str | None = None


def pin_toolkit(body: Mapping[str, Any], world: World) -> CudaPin:
    """The packages for every distribution that the repository has."""
    version = str(body["version"])
    if not re.fullmatch(r"[0-9]+\.[0-9]+(\.[0-9]+)?", version):
        raise PinError(f"cuda.version {version!r} must be a version such as 13.0 or 13.0.2")
    found, failures = [], []
    for distribution in body["distributions"]:
        try:
            repository = _pin_distribution(body, distribution, version, world)
        except PinError as error:
            failures.append(str(error))
            continue
        if repository is not None:
            found.append(repository)
    if failures:
        raise PinError("; ".join(failures))
    if not found:
        raise PinError(
            f"{shown(body['url'])}: has none of {', '.join(body['distributions'])} (HTTP 404); "
            "check cuda.repository.url and .distributions"
        )
    return CudaPin(request=body, version=_resolved(found, version), repositories=tuple(found))


def _resolved(repositories: list[CudaRepository], version: str) -> str:
    """What to call the result: the release asked for, or the compiler's version."""
    if version.count(".") == 2:
        return version
    name = f"cuda-nvcc-{_dashed(version)}"
    compilers = [p.version for r in repositories for p in r.packages if p.name == name]
    return newest(compilers)


def _pin_distribution(
    body: Mapping[str, Any], distribution: str, version: str, world: World
) -> CudaRepository | None:
    """One distribution's packages; None when the repository doesn't have the distribution."""
    base = f"{body['url'].rstrip('/')}/{distribution}/{ARCHITECTURE}/"
    world.tick(f"asking {shown(base)}")
    index = _fetch_index(base)
    if index is None:
        return None
    packages = choose_packages(parse_index(index), version, shown(base))
    return CudaRepository(distribution, base, _pin_key(base, body.get("key")), packages)


def _fetch_index(base: str) -> str | None:
    for name in ("Packages.gz", "Packages"):
        url = base + name
        # A server that labels the .gz as Content-Encoding would have it unpacked on the way.
        with ask(url, headers={"Accept-Encoding": "identity"}, stream=True) as response:
            if response.status_code in (403, 404):
                continue  # an object store without listing rights says 403 for what isn't there
            require_ok(response, url)
            raw = response.raw.read(MAX_INDEX + 1, decode_content=False)
        return _text(raw, url)
    return None


def _text(raw: bytes, url: str) -> str:
    try:
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        return raw.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        raise PinError(
            f"{shown(url)}: is no package index; is cuda.repository.url right?"
        ) from None


def _pin_key(base: str, name: str | None) -> Artifact:
    key = check_file_name(name or DEFAULT_KEY)
    url = base + key
    response = ask(url)
    if response.status_code == 404:
        raise PinError(f"{shown(url)}: no signing key there; name it as cuda.repository.key")
    require_ok(response, url)
    if b"-----BEGIN PGP PUBLIC KEY BLOCK-----" not in response.content:
        raise PinError(f"{shown(url)}: is no ASCII-armoured signing key")
    size, sha256 = hash_url(url)
    return Artifact(key, size, sha256, url=url)


def _dashed(version: str) -> str:
    return "-".join(version.split(".")[:2])


def choose_packages(entries: Iterable[Entry], version: str, place: str) -> tuple[AptPackage, ...]:
    """What a build needs, closed over dependencies inside the index, sorted by name.

    Raises :class:`PinError` that lists the series or releases there are.
    """
    index: dict[str, list[Entry]] = {}
    for entry in entries:
        index.setdefault(entry.name, []).append(entry)
    wanted = [f"{name}-{_dashed(version)}" for name in NEEDED]
    missing = [name for name in wanted if name not in index]
    if missing:
        raise PinError(f"{place}: has no {', '.join(missing)}{_series(index)}")
    exact = _release(index, version, place) if version.count(".") == 2 else {}
    chosen: dict[str, Entry] = {}
    todo = [Relation(name) for name in reversed(wanted)]
    while todo:
        relation = todo.pop()
        if relation.name in chosen:
            _require(chosen[relation.name], relation, place)
            continue
        entry = _pick(index[relation.name], relation, exact.get(relation.name), place)
        chosen[entry.name] = entry
        todo += _inside(entry, index)
    return tuple(AptPackage(e.name, e.version, e.sha256) for _, e in sorted(chosen.items()))


def _inside(entry: Entry, index: Mapping[str, Any]) -> list[Relation]:
    """An entry's dependencies that this index can meet; the distribution meets the others."""
    first = (next((r for r in any_of if r.name in index), None) for any_of in entry.depends)
    return [relation for relation in first if relation is not None]


def _pick(entries: list[Entry], relation: Relation, exact: str | None, place: str) -> Entry:
    fitting = [entry for entry in entries if _meets(entry.version, relation)]
    if exact is not None:
        same = [entry for entry in fitting if _upstream(entry.version) == _upstream(exact)]
        fitting = same or fitting
    if not fitting:
        raise PinError(f"{place}: has no {relation.name} {relation.op} {relation.version}")
    best = newest(entry.version for entry in fitting)
    return next(entry for entry in fitting if entry.version == best)


def _require(entry: Entry, relation: Relation, place: str) -> None:
    if not _meets(entry.version, relation):
        raise PinError(
            f"{place}: packages disagree: {relation.name} {entry.version} is needed by one and "
            f"{relation.op} {relation.version} by another; name another cuda.version"
        )


def _meets(version: str, relation: Relation) -> bool:
    if relation.op is None or relation.version is None:
        return True
    order = compare_versions(version, relation.version)
    return {
        "=": order == 0,
        ">=": order >= 0,
        "<=": order <= 0,
        ">>": order > 0,
        "<<": order < 0,
    }.get(relation.op, True)


def _upstream(version: str) -> str:
    return version.rpartition("-")[0] or version


def _release(index: Mapping[str, list[Entry]], version: str, place: str) -> dict[str, str]:
    """Version by package name, as the vendor's toolkit metapackage of a release names them."""
    meta = f"cuda-toolkit-{_dashed(version)}"
    releases = {_upstream(entry.version): entry for entry in index.get(meta, [])}
    if version not in releases:
        known = ", ".join(sorted(releases, key=cmp_to_key(compare_versions))) or "none"
        raise PinError(f"{place}: has no {meta} of release {version} (there are: {known})")
    bounds: dict[str, str] = {}
    todo = [releases[version]]
    while todo:
        for relation in _inside(todo.pop(), index):
            if relation.version is None or relation.name in bounds:
                continue
            bounds[relation.name] = relation.version
            todo += [
                entry
                for entry in index[relation.name]
                if _upstream(entry.version) == _upstream(relation.version)
            ][:1]
    return bounds


def _series(index: Iterable[str]) -> str:
    """The toolkit series in an index, for a message."""
    pattern = re.compile(rf"{NEEDED[0]}-([0-9]+)-([0-9]+)")
    found = sorted((int(m[1]), int(m[2])) for name in index if (m := pattern.fullmatch(name)))
    if not found:
        return "; is cuda.repository.url right?"
    return f" (there are: {', '.join(f'{a}.{b}' for a, b in found)}); change cuda.version"


def parse_index(text: str) -> list[Entry]:
    """The packages of a ``Packages`` index; without name, version and SHA-256 it isn't one."""
    entries = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t"):
                fields[key] = fields.get(key, "") + " " + line.strip()
                continue
            key, _, value = line.partition(":")
            fields[key] = value.strip()
        name, version, sha256 = (fields.get(k, "") for k in ("Package", "Version", "SHA256"))
        if name and version and _SHA256.fullmatch(sha256):
            needs = ", ".join(filter(None, (fields.get("Pre-Depends"), fields.get("Depends"))))
            entries.append(Entry(name, version, sha256, _relations(needs)))
    return entries


def _relations(text: str) -> tuple[tuple[Relation, ...], ...]:
    found = []
    for any_of in filter(None, (part.strip() for part in text.split(","))):
        matches = (_RELATION.match(choice.strip()) for choice in any_of.split("|"))
        found.append(tuple(Relation(m["name"], m["op"], m["version"]) for m in matches if m))
    return tuple(found)


def newest(versions: Iterable[str]) -> str:
    """The newest of some Debian versions."""
    return max(versions, key=cmp_to_key(compare_versions))


def compare_versions(one: str, other: str) -> int:
    """Negative, zero or positive as ``one`` is older, the same or newer (deb-version(7))."""
    epoch_one, epoch_other = _epoch(one), _epoch(other)
    if epoch_one[0] != epoch_other[0]:
        return epoch_one[0] - epoch_other[0]
    for part_one, part_other in zip(_split(epoch_one[1]), _split(epoch_other[1]), strict=True):
        order = _compare_part(part_one, part_other)
        if order:
            return order
    return 0


def _epoch(version: str) -> tuple[int, str]:
    epoch, colon, rest = version.partition(":")
    return (int(epoch), rest) if colon and epoch.isdigit() else (0, version)


def _split(version: str) -> tuple[str, str]:
    upstream, dash, revision = version.rpartition("-")
    return (upstream, revision) if dash else (version, "0")


def _compare_part(one: str, other: str) -> int:
    """dpkg's rule: text and numbers in turn; ``~`` before the end, letters before the rest."""
    parts_one = re.findall(r"(\D*)(\d*)", one)
    parts_other = re.findall(r"(\D*)(\d*)", other)
    for index in range(max(len(parts_one), len(parts_other))):
        text_one, number_one = parts_one[index] if index < len(parts_one) else ("", "")
        text_other, number_other = parts_other[index] if index < len(parts_other) else ("", "")
        key_one, key_other = _text_key(text_one), _text_key(text_other)
        if key_one != key_other:
            return -1 if key_one < key_other else 1
        difference = int(number_one or 0) - int(number_other or 0)
        if difference:
            return difference
    return 0


def _text_key(text: str) -> list[int]:
    # The end ranks between ``~`` and everything else.
    ranks = [-1 if c == "~" else ord(c) if c.isalpha() else ord(c) + 256 for c in text]
    return [*ranks, 0]
