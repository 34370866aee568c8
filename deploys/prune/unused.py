"""Which of a host's holdings nothing needs: pure.

Needed is what a current, previous or staged release uses, what the host's settings declare, what a
unit file names, and what a process has in use. Ours is a build whose manifest carries its folder's
name and whose files are those that it lists; a model file whose record of verification is of these
very bytes; an OpenCode version whose manifest carries its folder's name. Whatever is neither is
left alone, and told where it lies in the way.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deploys.common.downloads import RECORDS, upload_path
from deploys.llama_cpp.build import BuildError, machine, plan_build
from facts.holdings import INCOMING, MODELS, UPLOADS, Entry, Holdings
from facts.llama_cpp import BUILDS, WORK_PREFIX
from facts.opencode import ROOT
from inventories.settings import Artifact, HostSettings

Kind = Literal["build", "model", "opencode", "work", "download"]

_REVISION = re.compile(r"[0-9a-f]{40}|[0-9a-f]{16}")
_HEX = re.compile(r"[0-9a-f]{16,64}")


@dataclass(frozen=True)
class Item:
    """Something of ours that nothing needs.

    + kind: ``build``, ``model`` (a file), ``opencode`` (a version), ``work`` (a build that was cut
      off), ``download`` (a part of a file, or an upload, that nothing goes on from)
    + path: a file, or the folder
    + size: bytes that its removal frees
    + why: for people
    + files: what is removed, with the size and the time by which it is known, in this order
    + folders: removed after them where they are empty, in this order
    + tree: whether it is a scratch folder, which goes with all that is in it
    """

    kind: Kind
    path: str
    size: int
    why: str
    files: tuple[tuple[str, Entry], ...] = ()
    folders: tuple[str, ...] = ()
    tree: bool = False


@dataclass(frozen=True)
class Kept:
    """Something that stays.

    + why: who needs it, or what about it isn't ours
    + ours: False where nothing needs it, and it isn't ours beyond doubt
    """

    kind: Kind
    path: str
    size: int
    why: str
    ours: bool = True


@dataclass(frozen=True)
class Judgement:
    """What of a host's holdings goes, and what stays."""

    unused: tuple[Item, ...]
    kept: tuple[Kept, ...]


class UnknownNeedsError(Exception):
    """Nobody can tell what the host needs; the message says why, and what mends it."""


def judge(settings: HostSettings, holdings: Holdings) -> Judgement:
    """What goes and what stays.

    Raises :class:`UnknownNeedsError` where a list of what is needed can't be read.
    """
    needs = _Needs(settings, holdings)
    found = [
        *_builds(needs),
        *_models(needs),
        *_opencode(needs),
        *_work(needs),
        *_downloads(needs),
    ]
    return Judgement(
        tuple(item for item in found if isinstance(item, Item)),
        tuple(item for item in found if isinstance(item, Kept)),
    )


class _Needs:
    """Who needs what."""

    def __init__(self, settings: HostSettings, holdings: Holdings) -> None:
        self.settings = settings
        self.holdings = holdings
        if not holdings.system.root:
            raise UnknownNeedsError(
                f"no root rights as {settings.ssh.user}: allow that user sudo, or set ssh.user "
                "to root"
            )
        self.releases: dict[str, str] = {}
        for name, paths in holdings.releases.items():
            if paths is None:
                server, _, kind = name.rpartition(" ")
                raise UnknownNeedsError(
                    f"the list of what the {kind} release of server {server} uses can't be read: "
                    "run a converge first"
                )
            for path in paths:
                self.releases.setdefault(path, _release_words(name))
        self.builds = _declared_builds(settings, holdings)
        self.models = {
            posixpath.join(model.directory, file.name): model.name
            for model in settings.models
            for file in model.files
        }

    def who(self, path: str, declared: str = "") -> str:
        """Who needs a path or something below it; empty for nobody.

        + declared: what the settings say of it
        """
        if path in self.releases:
            return self.releases[path]
        below = f"{path}/"
        for used, name in self.releases.items():
            if used.startswith(below) or path.startswith(f"{used}/"):
                return name
        if declared:
            return declared
        for used, name in self.holdings.uses:
            # Told are paths up to their first white space.
            if used == path or used.startswith(below) or path.startswith(f"{used} "):
                return name
        return ""


def _release_words(name: str) -> str:
    server, _, kind = name.rpartition(" ")
    kinds = {"current": "the current", "previous": "the previous", "next": "a staged"}
    return f"{kinds.get(kind, 'a')} release of server {server}"


def _declared_builds(settings: HostSettings, holdings: Holdings) -> dict[str, str] | None:
    """Why a build is needed by its name; None where it can't be told which ones are declared."""
    found = {}
    for build, toolkit in settings.builds:
        try:
            name = plan_build(build, toolkit, machine(holdings.system)).name
        except BuildError:
            return None
        found[name] = "declared"
    return found


# Builds -----------------------------------------------------------------------------------------


def _builds(needs: _Needs) -> Iterator[Item | Kept]:
    for name, entries in _folders(BUILDS, needs.holdings):
        path = f"{BUILDS}/{name}"
        if name.startswith("."):
            continue
        size = sum(entry.taken for entry in entries.values())
        manifest = needs.holdings.note(f"{path}/manifest.json")
        declared = "" if needs.builds is None else needs.builds.get(name, "")
        who = needs.who(path, declared)
        if not who and needs.builds is None:
            who = "which build is declared can't be told: see what llamaherd plan says of its GPUs"
        strange = "" if who else _strange_build(path, name, manifest, entries)
        if who or strange:
            yield Kept("build", path, size, who or strange, ours=bool(who))
            continue
        files = [file for file in entries.items() if file[1].kind == "f"]
        # The manifest last: as long as it is there, what is left is known to be ours.
        files.sort(key=lambda file: file[0].endswith("/manifest.json"))
        why = "no release, setting, unit or process uses it"
        yield Item("build", path, size, why, tuple(files), (f"{path}/bin", path))


def _strange_build(
    path: str, name: str, manifest: Mapping[str, Any], entries: Mapping[str, Entry]
) -> str:
    """What of a build's folder isn't ours; empty where all of it is."""
    if manifest.get("name") != name:
        return "not ours: it has no manifest.json with its own name"
    records = manifest.get("binaries")
    targets = manifest.get("targets")
    known = records if isinstance(records, dict) else dict.fromkeys(targets or ())
    ours = {f"{path}/manifest.json", f"{path}/bin", *(f"{path}/bin/{binary}" for binary in known)}
    for at, entry in entries.items():
        if at not in ours or entry.kind not in "fd":
            return f"{at} in it isn't ours: move it away"
        record = str(known.get(posixpath.basename(at)) or "").rpartition(" ")[0]
        if record and record != f"{entry.size} {entry.mtime}":
            return f"{at} in it isn't the file that was built: look at it, then remove it"
    return ""


def _folders(root: str, holdings: Holdings) -> Iterator[tuple[str, dict[str, Entry]]]:
    """Folders right below a place by name, with all that is in each; links are none."""
    for path, entry in holdings.entries.items():
        if entry.kind == "d" and posixpath.dirname(path) == root:
            below = f"{path}/"
            yield (
                posixpath.basename(path),
                {at: there for at, there in holdings.entries.items() if at.startswith(below)},
            )


# Models -----------------------------------------------------------------------------------------


def _models(needs: _Needs) -> Iterator[Item | Kept]:
    holdings = needs.holdings
    for path, entry in holdings.entries.items():
        folder, name = posixpath.split(path)
        if not path.startswith(f"{MODELS}/") or posixpath.basename(folder) == RECORDS:
            continue
        if entry.kind != "f" or path.endswith(".part"):
            continue
        record = f"{folder}/{RECORDS}/{name}.json"
        model = needs.models.get(path)
        who = needs.who(path, f"model {model} of the host" if model else "")
        # A file that another program's name leads to as well frees nothing.
        size = entry.taken if entry.links == 1 else 0
        noted = holdings.note(record).get("stat") == f"{entry.size} {entry.mtime} {entry.inode}"
        if who or not noted:
            strange = "not ours: it has no record of verification, or is another file now"
            yield Kept("model", path, size, who or strange, ours=bool(who))
            continue
        notes = holdings.entries.get(record)
        files = [(path, entry), *([(record, notes)] if notes else [])]
        why = "no release, setting, unit or process uses it"
        if entry.links > 1:
            why += "; its bytes have another name too, which stays"
        yield Item("model", path, size, why, tuple(files), _above(folder, MODELS))


def _above(folder: str, root: str) -> tuple[str, ...]:
    """Folders that may be empty afterwards, the innermost first, and never the place itself."""
    found = [f"{folder}/{RECORDS}"]
    while folder.startswith(f"{root}/"):
        found.append(folder)
        folder = posixpath.dirname(folder)
    return tuple(found)


# OpenCode ---------------------------------------------------------------------------------------


def _opencode(needs: _Needs) -> Iterator[Item | Kept]:
    settings, holdings = needs.settings.opencode, needs.holdings
    for version, entries in _folders(ROOT, holdings):
        path = f"{ROOT}/{version}"
        if version.startswith("."):
            continue
        size = sum(entry.taken for entry in entries.values())
        locked = settings is not None and version == settings.version
        who = needs.who(path, "the locked version" if locked else "")
        if not who and holdings.command.startswith(f"{path}/"):
            who = "the command opencode leads there"
        manifest = holdings.note(f"{path}/manifest.json")
        strange = "" if who else _strange_version(path, version, manifest, entries)
        if who or strange:
            yield Kept("opencode", path, size, who or strange, ours=bool(who))
            continue
        files = sorted(entries.items(), key=lambda file: file[0].endswith("/manifest.json"))
        yield Item("opencode", path, size, "not the locked version", tuple(files), (path,))


def _strange_version(
    path: str, version: str, manifest: Mapping[str, Any], entries: Mapping[str, Entry]
) -> str:
    if manifest.get("version") != version:
        return "not ours: it has no manifest.json with its own version"
    ours = {f"{path}/{name}" for name in ("opencode", "run", "manifest.json")}
    for at, entry in entries.items():
        if at not in ours or entry.kind != "f":
            return f"{at} in it isn't ours: move it away"
    program = entries.get(f"{path}/opencode")
    if program is not None and manifest.get("size") not in (None, program.size):
        return f"{path}/opencode isn't the file that was installed: look at it, then remove it"
    return ""


# Leftovers --------------------------------------------------------------------------------------


def _work(needs: _Needs) -> Iterator[Item | Kept]:
    for path, size in needs.holdings.scratch.items():
        folder, name = posixpath.split(path)
        if folder != BUILDS or not name.startswith(WORK_PREFIX):
            continue
        build = name.removeprefix(WORK_PREFIX)
        declared = needs.builds is None or build in needs.builds
        who = needs.who(path, "the next converge goes on with it" if declared else "")
        if who:
            yield Kept("work", path, size, who)
        else:
            why = "a build that was cut off and that is not declared"
            yield Item("work", path, size, why, tree=True)


def _downloads(needs: _Needs) -> Iterator[Item | Kept]:
    """Parts of models, incoming archives of OpenCode, uploads."""
    artifacts = tuple(_artifacts(needs.settings))
    coming = {f"{path}.part" for path in needs.models}
    coming |= {upload_path(artifact) for artifact in artifacts}
    coming |= {f"{INCOMING}/{artifact.sha256[:16]}" for artifact in artifacts}
    goes_on = "the next converge goes on with it"
    for path, size in needs.holdings.scratch.items():
        if posixpath.dirname(path) != INCOMING or not _HEX.fullmatch(posixpath.basename(path)):
            continue
        who = needs.who(path, goes_on if path in coming else "")
        yield _download(path, size, who, tree=True)
    for path, entry in needs.holdings.entries.items():
        if entry.kind == "f" and _is_part(path, entry):
            who = needs.who(path, goes_on if path in coming else "")
            yield _download(path, entry.taken if entry.links == 1 else 0, who, entry)


def _is_part(path: str, entry: Entry) -> bool:
    """Whether a file is a part or an upload as only we name them."""
    folder, name = posixpath.split(path)
    if folder == UPLOADS:
        return bool(_HEX.fullmatch(name))
    if not (path.startswith(f"{MODELS}/") and name.endswith(".part") and entry.owner == 0):
        return False
    inside = folder.removeprefix(f"{MODELS}/").split("/")
    return len(inside) >= 3 and bool(_REVISION.fullmatch(inside[2]))


def _download(
    path: str, size: int, who: str, entry: Entry | None = None, *, tree: bool = False
) -> Item | Kept:
    if who:
        return Kept("download", path, size, who)
    why = "a download that was cut off and that nothing goes on with"
    if entry is None:
        return Item("download", path, size, why, tree=tree)
    folder = posixpath.dirname(path)
    folders = _above(folder, MODELS) if path.startswith(f"{MODELS}/") else ()
    return Item("download", path, size, why, ((path, entry),), folders)


def _artifacts(value: Any) -> Iterator[Artifact]:
    """Every pinned file anywhere in the settings."""
    if isinstance(value, Artifact):
        yield value
    elif dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            yield from _artifacts(getattr(value, each.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _artifacts(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _artifacts(item)
