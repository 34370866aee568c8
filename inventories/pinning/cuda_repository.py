"""Pins a CUDA toolkit, or a driver, to exact packages of the vendor's repository or a mirror of it.

Reads each distribution's index (``Packages`` for apt, ``repodata`` for dnf) and takes what a build
of llama.cpp needs, plus what those depend on inside the same repository, each at one exact version:
so nothing floats. A driver is the newest packages of its branch, and what they depend on.

``13.0`` takes the newest packages of that series. ``13.0.2`` takes the versions that the vendor's
``cuda-toolkit-13-0`` of release 13.0.2 names as its own (its dependencies' lower bounds).
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cmp_to_key
from typing import Any

from requests import Response

from inventories.lock import DEFAULT_DISTRIBUTIONS, CudaPin, DriverPin
from inventories.pinning.names import check_file_name
from inventories.pinning.rpm_metadata import RpmRelation, compare_rpm, fetch_primary
from inventories.pinning.web import PinError, World, ask, hash_url, require_ok, shown
from inventories.settings import AptPackage, Artifact, CudaRepository

ARCHITECTURE = "x86_64"
NEEDED = (
    ("cuda-nvcc",),
    ("cuda-cudart-dev",),
    ("libcublas-dev",),
    ("cuda-cccl", "cccl"),
    ("cuda-driver-dev",),
)
"""Packages of a build, without the version at the end of their names; any name of a row will do.

The RPM repositories say ``-devel`` instead of ``-dev``; 13.3 calls its ``cuda-cccl`` ``cccl``.
"""
FULL = (("cuda-toolkit",),)

KEYS = {"debian13": "8793F200.pub", "rhel9": "D42D0685.pub", "rhel10": "CDF6BA43.pub"}
"""Signing keys by distribution, as the vendor's own repository files name them."""
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
class Index:
    """A repository's packages by name, and how its versions are ordered.

    + provides: names of packages by what else they answer to
    + rpm: whether its packages are named as RPM repositories name them
    """

    packages: Mapping[str, Sequence[Entry]]
    compare: Callable[[str, str], int]
    provides: Mapping[str, str]
    rpm: bool = False

    def __contains__(self, name: str) -> bool:
        return name in self.packages or name in self.provides

    def entries(self, name: str) -> Sequence[Entry]:
        """All versions of a package, by its name or by what it provides."""
        return self.packages[name if name in self.packages else self.provides[name]]

    def newest(self, versions: Iterable[str]) -> str:
        """The newest of some versions."""
        return max(versions, key=cmp_to_key(self.compare))


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
    full = body.get("profile") == "full"

    def choose(index: Index, place: str) -> tuple[AptPackage, ...]:
        return choose_packages(index, version, place, full=full)

    found = _pin_distributions(body, choose, world)
    return CudaPin(request=body, version=_resolved(found, version), repositories=tuple(found))


def pin_driver(body: Mapping[str, Any], world: World) -> DriverPin:
    """The newest packages of a driver branch for every distribution that the repository has."""
    branch, modules = int(body["branch"]), str(body["modules"])
    found = _pin_distributions(
        body, lambda index, place: choose_driver(index, branch, modules, place), world
    )
    versions = sorted({p.version for r in found for p in r.packages if _is_driver(p.name)})
    return DriverPin(request=body, version=_bare(versions[-1]), repositories=tuple(found))


def _is_driver(name: str) -> bool:
    return name.startswith(("nvidia-open", "cuda-drivers"))


def _bare(version: str) -> str:
    """A version without epoch and revision, as ``nvidia-smi`` says it."""
    return version.rpartition(":")[2].partition("-")[0]


Choose = Callable[[Index, str], tuple[AptPackage, ...]]


def _pin_distributions(
    body: Mapping[str, Any], choose: Choose, world: World
) -> list[CudaRepository]:
    """Every distribution's packages.

    Of the distributions that are asked for where a fleet names none, those that lack what is asked
    for are left out, as those are that the repository lacks: no release is there for all of them.
    """
    found, failures, missing = [], [], []
    for distribution in body["distributions"]:
        try:
            repository = _pin_distribution(body, distribution, choose, world)
        except AbsentError as error:
            missing.append(str(error))
            continue
        except PinError as error:
            failures.append(str(error))
            continue
        if repository is not None:
            found.append(repository)
    if list(body["distributions"]) != list(DEFAULT_DISTRIBUTIONS) or not found:
        failures += missing
    if failures:
        raise PinError("; ".join(failures))
    if not found:
        raise PinError(
            f"{shown(body['url'])}: has none of {', '.join(body['distributions'])} (HTTP 404); "
            "check cuda.repository.url and .distributions"
        )
    return found


class AbsentError(PinError):
    """A repository is whole and hasn't what is asked for; the message says what it has."""


def _resolved(repositories: list[CudaRepository], version: str) -> str:
    """What to call the result: the release asked for, or the compiler's version."""
    if version.count(".") == 2:
        return version
    name = f"cuda-nvcc-{_dashed(version)}"
    compilers = [p.version for r in repositories for p in r.packages if p.name == name]
    # RPM's versions are Debian's here: digits, and a revision after a hyphen.
    return newest(compilers)


def _pin_distribution(
    body: Mapping[str, Any], distribution: str, choose: Choose, world: World
) -> CudaRepository | None:
    """One distribution's packages; None when the repository doesn't have the distribution."""
    base = f"{body['url'].rstrip('/')}/{distribution}/{ARCHITECTURE}/"
    world.tick(f"asking {shown(base)}")
    index = rpm_index(base) if distribution.startswith("rhel") else apt_index(base)
    if index is None:
        return None
    packages = choose(index, shown(base))
    key = _pin_key(base, distribution, body.get("key"))
    return CudaRepository(distribution, base, key, packages)


def apt_index(base: str) -> Index | None:
    """The index of a flat apt repository; None when there is none at ``base``."""
    text = _fetch_index(base)
    return None if text is None else index_of(parse_index(text))


def index_of(entries: Iterable[Entry], *, rpm: bool = False) -> Index:
    """Entries by name, in the order of Debian's versions or of RPM's."""
    packages: dict[str, list[Entry]] = {}
    for entry in entries:
        packages.setdefault(entry.name, []).append(entry)
    return Index(packages, compare_rpm if rpm else compare_versions, {}, rpm)


def rpm_index(base: str) -> Index | None:
    """The index of an RPM repository; None when there is none at ``base``."""
    found = fetch_primary(base, ARCHITECTURE)
    if found is None:
        return None
    entries = (
        Entry(
            entry.name,
            entry.version,
            entry.sha256,
            tuple((_relation(need),) for need in entry.requires),
        )
        for entry in found
    )
    provides = {name: entry.name for entry in found for name in entry.provides}
    return replace(index_of(entries, rpm=True), provides=provides)


def _relation(need: RpmRelation) -> Relation:
    return Relation(need.name, need.op, need.version)


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


def _pin_key(base: str, distribution: str, name: str | None) -> Artifact:
    """The signing key: the named one, else the distribution's, else any of the vendor's."""
    likely = [KEYS.get(distribution, DEFAULT_KEY), DEFAULT_KEY, *KEYS.values()]
    names = [check_file_name(name)] if name else list(dict.fromkeys(likely))
    for key in names:
        url = base + key
        response = ask(url)
        if response.status_code not in (403, 404):
            return _key(response, key, url)
    raise PinError(
        f"{shown(base + names[0])}: no signing key there; name it as cuda.repository.key"
    )


def _key(response: Response, key: str, url: str) -> Artifact:
    require_ok(response, url)
    if b"-----BEGIN PGP PUBLIC KEY BLOCK-----" not in response.content:
        raise PinError(f"{shown(url)}: is no ASCII-armoured signing key")
    size, sha256 = hash_url(url)
    return Artifact(key, size, sha256, url=url)


def _dashed(version: str) -> str:
    return "-".join(version.split(".")[:2])


def choose_packages(
    index: Index, version: str, place: str, *, full: bool = False
) -> tuple[AptPackage, ...]:
    """What a build needs, closed over dependencies inside the index, sorted by name.

    + full: the whole toolkit (the vendor's metapackage) instead

    Raises :class:`AbsentError` that lists the series or releases there are.
    """
    wanted: list[str] = []
    missing: list[str] = []
    for row in FULL if full else NEEDED:
        names = [f"{_spelled(name, index.rpm)}-{_dashed(version)}" for name in row]
        there = next((name for name in names if name in index), None)
        (wanted if there else missing).append(there or names[0])
    if missing:
        raise AbsentError(f"{place}: has no {', '.join(missing)}{_series(index.packages)}")
    exact = _release(index, version, place) if version.count(".") == 2 else {}
    return _closed(index, wanted, lambda name: exact.get(name), place)


def _spelled(name: str, rpm: bool) -> str:
    return f"{name}el" if rpm and name.endswith("-dev") else name


def choose_driver(index: Index, branch: int, modules: str, place: str) -> tuple[AptPackage, ...]:
    """A driver's packages, the newest of its branch, closed over dependencies inside the index.

    Branches lie side by side in one repository: whatever there is in this branch is taken from it.
    """
    root = "nvidia-open" if modules == "open" else "cuda-drivers"
    names = [name for name in (f"{root}-{branch}", root) if name in index]
    start = next((name for name in names if _of_branch(index.entries(name), branch)), None)
    if start is None:
        there = sorted({_branch(e) for name in names for e in index.entries(name)})
        known = ", ".join(map(str, there)) or "none"
        raise AbsentError(
            f"{place}: has no {root} of branch {branch} (there are: {known}); change driver.branch"
        )

    def wanted(name: str) -> str | None:
        inside = _of_branch(index.entries(name), branch)
        return index.newest(entry.version for entry in inside) if inside else None

    return _closed(index, [start], wanted, place)


def _branch(entry: Entry) -> int:
    major = _bare(entry.version).partition(".")[0]
    return int(major) if major.isdigit() else 0


def _of_branch(entries: Iterable[Entry], branch: int) -> list[Entry]:
    return [entry for entry in entries if _branch(entry) == branch]


def _closed(
    index: Index, wanted: Sequence[str], exact: Callable[[str], str | None], place: str
) -> tuple[AptPackage, ...]:
    """These packages and, inside the index, all that they depend on.

    + exact: the version that a package should have, if any does
    """
    chosen: dict[str, Entry] = {}
    todo = [Relation(name) for name in reversed(wanted)]
    while todo:
        relation = todo.pop()
        entries = index.entries(relation.name)
        name = entries[0].name
        if name != relation.name:
            relation = Relation(name)  # by what it provides: a version there isn't the package's
        if name in chosen:
            _require(index, chosen[name], relation, place)
            continue
        entry = _pick(index, entries, relation, exact(name), place)
        chosen[name] = entry
        todo += _inside(entry, index)
    return tuple(AptPackage(e.name, e.version, e.sha256) for _, e in sorted(chosen.items()))


def _inside(entry: Entry, index: Index) -> list[Relation]:
    """An entry's dependencies that this index can meet; the distribution meets the others."""
    first = (next((r for r in any_of if r.name in index), None) for any_of in entry.depends)
    return [relation for relation in first if relation is not None]


def _pick(
    index: Index, entries: Sequence[Entry], relation: Relation, exact: str | None, place: str
) -> Entry:
    fitting = [entry for entry in entries if _meets(index, entry.version, relation)]
    if exact is not None:
        same = [entry for entry in fitting if _upstream(entry.version) == _upstream(exact)]
        fitting = same or fitting
    if not fitting:
        raise PinError(f"{place}: has no {relation.name} {relation.op} {relation.version}")
    best = index.newest(entry.version for entry in fitting)
    return next(entry for entry in fitting if entry.version == best)


def _require(index: Index, entry: Entry, relation: Relation, place: str) -> None:
    if not _meets(index, entry.version, relation):
        raise PinError(
            f"{place}: packages disagree: {relation.name} {entry.version} is needed by one and "
            f"{relation.op} {relation.version} by another; name another cuda.version"
        )


def _meets(index: Index, version: str, relation: Relation) -> bool:
    if relation.op is None or relation.version is None:
        return True
    order = index.compare(version, relation.version)
    return {
        "=": order == 0,
        ">=": order >= 0,
        "<=": order <= 0,
        ">>": order > 0,
        "<<": order < 0,
    }.get(relation.op, True)


def _upstream(version: str) -> str:
    return version.rpartition("-")[0] or version


def _release(index: Index, version: str, place: str) -> dict[str, str]:
    """Version by package name, as the vendor's toolkit metapackage of a release names them."""
    meta = f"cuda-toolkit-{_dashed(version)}"
    releases = {_upstream(entry.version): entry for entry in index.packages.get(meta, [])}
    if version not in releases:
        known = ", ".join(sorted(releases, key=cmp_to_key(compare_versions))) or "none"
        raise AbsentError(f"{place}: has no {meta} of release {version} (there are: {known})")
    bounds: dict[str, str] = {}
    todo = [releases[version]]
    while todo:
        for relation in _inside(todo.pop(), index):
            if relation.version is None or relation.name in bounds:
                continue
            bounds[relation.name] = relation.version
            todo += [
                entry
                for entry in index.entries(relation.name)
                if _upstream(entry.version) == _upstream(relation.version)
            ][:1]
    return bounds


def _series(index: Iterable[str]) -> str:
    """The toolkit series in an index, for a message."""
    pattern = re.compile(r"cuda-nvcc-([0-9]+)-([0-9]+)")
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
