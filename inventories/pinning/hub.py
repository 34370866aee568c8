"""Pins a model on a hub: a revision, and every file with size and SHA-256.

Asks what llama.cpp itself asks (common/hf-cache.cpp and common/download.cpp, read at 0c1e570):
``/api/models/REPO/refs`` for the commit, ``/api/models/REPO/tree/COMMIT?recursive=true``, paginated
by ``Link``, for files; a file's SHA-256 is its LFS object id. Stricter than llama.cpp in one thing:
a quant must begin where a word begins, so that ``Q4_0`` doesn't find ``IQ4_0``.

The token goes to the endpoint's own host only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from inventories.fleet import DEFAULT_HUB
from inventories.lock import ModelPin
from inventories.pinning.header import model_dimensions
from inventories.pinning.names import check_file_name
from inventories.pinning.web import (
    BearerToken,
    PinError,
    World,
    ask,
    decode_json,
    hash_url,
    origin,
    require_ok,
    shown,
    without_userinfo,
)
from inventories.settings import Artifact
from schemas.validate import did_you_mean

MAX_PAGES = 1000
"""A tree of more pages than this is a server that sends us in circles."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_QUANT = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q\d|TQ\d|MXFP\d|NVFP\d|BF16|F16|F32)\w*)(?=[.-])", re.IGNORECASE
)


@dataclass(frozen=True)
class HubFile:
    """A file in a repository. ``sha256`` is None for one that isn't in large-file storage."""

    path: str
    size: int
    sha256: str | None = None


def pin_model(body: Mapping[str, Any], world: World) -> ModelPin:
    """The model's revision and files, asked of the hub now."""
    wanted = body["hub"]
    hub = _Hub(wanted, world)
    commit = hub.commit()
    listing = hub.files(commit)
    chosen = list(choose_files(listing, wanted.get("quant"), wanted.get("file"), hub.place))
    weights = len(chosen)
    projector = choose_projector(listing, body.get("mmproj"), hub.place)
    if projector is not None and projector not in chosen:
        chosen.append(projector)
    files = tuple(hub.artifact(file, commit) for file in chosen)
    return ModelPin(
        request=body,
        revision=commit,
        files=files,
        mmproj=projector.path if projector is not None else None,
        dimensions=model_dimensions(files[:weights], world, hub.auth),
    )


def pin_adapter(wanted: Mapping[str, Any], world: World) -> Artifact:
    """One file of a repository, asked of the hub now."""
    hub = _Hub(wanted, world)
    commit = hub.commit()
    listing = {file.path: file for file in hub.files(commit)}
    if wanted["file"] not in listing:
        near = did_you_mean(wanted["file"], listing)
        raise PinError(f"{hub.place}: has no file {wanted['file']}{near}")
    return hub.artifact(listing[wanted["file"]], commit)


def published(body: Mapping[str, Any], world: World) -> str:
    """The commit that the model's revision is now."""
    return _Hub(body["hub"], world).commit()


def choose_files(
    listing: Iterable[HubFile], quant: str | None, file: str | None, place: str
) -> tuple[HubFile, ...]:
    """The files of one model, shards in order; exactly one model must match.

    + quant: such as ``UD-Q4_K_XL``, any case; or else
    + file: a path in the repository (any shard stands for all); neither: the only model there

    Raises :class:`PinError` that lists what there is.
    """
    models = {f.path: f for f in listing if f.path.lower().endswith(".gguf") and not _is_mmproj(f)}
    if not models:
        raise PinError(
            f"{place}: holds no GGUF model; is it the repository with -GGUF in its name?"
        )
    sets = _by_model(models.values())
    if file is not None:
        if file not in models:
            raise PinError(f"{place}: has no file {file}{did_you_mean(file, models)}")
        return _whole(next(files for files in sets if models[file] in files), place)
    return _whole(_match(sets, quant, place), place)


def _match(sets: list[tuple[HubFile, ...]], quant: str | None, place: str) -> tuple[HubFile, ...]:
    known = sorted({label for files in sets if (label := quant_of(files[0].path))})
    if quant is None:
        matching = sets
    else:
        pattern = re.compile(rf"(?<![A-Za-z0-9]){re.escape(quant)}[.-]", re.IGNORECASE)
        matching = [files for files in sets if pattern.search(files[0].path)]
        # `Q8_0` is in `UD-Q8_0` too; the one that is called exactly so is meant.
        exact = [f for f in matching if (quant_of(f[0].path) or "").lower() == quant.lower()]
        matching = exact or matching
    if len(matching) == 1:
        return matching[0]
    if not matching:
        near = did_you_mean(quant or "", known)
        raise PinError(
            f"{place}: has no quant {quant}{near if near.startswith('; did') else ''} "
            f"(there are: {', '.join(known) or 'none that can be recognised; name hub.file'})"
        )
    what = f"quant {quant} matches" if quant else "no quant is named, and it holds"
    names = _some([files[0].path for files in matching])
    raise PinError(f"{place}: {what} {len(matching)} models: {names}; name one as hub.file")


def _some(names: list[str]) -> str:
    shown_names = ", ".join(names[:12])
    return shown_names if len(names) <= 12 else f"{shown_names} and {len(names) - 12} more"


def quant_of(path: str) -> str | None:
    """The quantisation in a file's name, such as ``UD-Q4_K_XL``; None when it states none."""
    found = _QUANT.findall(path.rpartition("/")[2])
    return str(found[-1]) if found else None


def _is_mmproj(file: HubFile) -> bool:
    return "mmproj" in file.path.rpartition("/")[2].lower()


def _by_model(files: Iterable[HubFile]) -> list[tuple[HubFile, ...]]:
    """Files grouped into models: shards of one model together, in order."""
    groups: dict[tuple[str, str], list[HubFile]] = {}
    for file in sorted(files, key=lambda f: f.path):
        shard = _SHARD.fullmatch(file.path)
        key = (shard["stem"], shard["count"]) if shard else (file.path, "")
        groups.setdefault(key, []).append(file)
    return [tuple(group) for group in groups.values()]


def _whole(files: tuple[HubFile, ...], place: str) -> tuple[HubFile, ...]:
    """The files, if no shard is missing."""
    shard = _SHARD.fullmatch(files[0].path)
    if shard is None:
        return files
    numbers = [int(match["number"]) for f in files if (match := _SHARD.fullmatch(f.path))]
    if numbers != list(range(1, int(shard["count"]) + 1)):
        raise PinError(
            f"{place}: {shard['stem']} has {len(files)} of its {int(shard['count'])} shards; "
            "the repository is incomplete at this revision"
        )
    return files


def choose_projector(
    listing: Iterable[HubFile], wanted: bool | str | None, place: str
) -> HubFile | None:
    """The multimodal projector to go along: True for the only (or the F16) one, a name for that."""
    if wanted is None or wanted is False:
        return None
    projectors = {f.path: f for f in listing if _is_mmproj(f) and f.path.endswith(".gguf")}
    if isinstance(wanted, str):
        matching = [f for f in projectors.values() if wanted in (f.path, f.path.rpartition("/")[2])]
    else:
        matching = list(projectors.values())
        half = [f for f in matching if (quant_of(f.path) or "").upper() == "F16"]
        matching = half if len(matching) > 1 else matching
    if len(matching) == 1:
        return matching[0]
    there = f"there are: {_some(sorted(projectors)) or 'none'}"
    asked = wanted if isinstance(wanted, str) else "to choose"
    raise PinError(f"{place}: no one multimodal projector {asked} ({there}); name it as mmproj")


class _Hub:
    """One repository on one hub."""

    def __init__(self, wanted: Mapping[str, Any], world: World) -> None:
        endpoint = wanted.get("endpoint") or world.environment.get("HF_ENDPOINT") or DEFAULT_HUB
        self._endpoint = without_userinfo(endpoint.rstrip("/"), "the hub's endpoint")
        if not self._endpoint.startswith(("http://", "https://")):
            raise PinError(f"hub endpoint {endpoint!r} must start with http:// or https://")
        self._repo: str = wanted["repo"]
        self._revision: str = wanted.get("revision") or "main"
        self._world = world
        self._token = world.hub_token(wanted)
        self.auth = BearerToken(self._token, self._endpoint)
        self.place = f"{shown(self._endpoint)}/{self._repo}"

    def commit(self) -> str:
        """The commit that the wanted revision is."""
        if _COMMIT.fullmatch(self._revision):
            return self._revision
        refs = self._get(f"{self._endpoint}/api/models/{quote(self._repo)}/refs")[0]
        named = {
            str(ref.get("name")): str(ref.get("targetCommit"))
            for kind in ("tags", "branches")
            for ref in _list(refs, kind)
        }
        commit = named.get(self._revision, "")
        if not _COMMIT.fullmatch(commit):
            near = did_you_mean(self._revision, named)
            raise PinError(f"{self.place}: has no branch or tag {self._revision}{near}")
        return commit

    def files(self, commit: str) -> list[HubFile]:
        """Every file at a commit, all pages."""
        url: str | None = (
            f"{self._endpoint}/api/models/{quote(self._repo)}/tree/{commit}?recursive=true"
        )
        found: list[HubFile] = []
        for _ in range(MAX_PAGES):
            if url is None:
                return found
            page, following = self._get(url)
            found += [_hub_file(entry, self.place) for entry in _entries(page, self.place)]
            url = following
        raise PinError(f"{self.place}: its list of files doesn't end")

    def artifact(self, file: HubFile, commit: str) -> Artifact:
        """The file as hosts fetch it; one without a SHA-256 in the listing is read for it."""
        name = check_file_name(file.path)
        url = f"{self._endpoint}/{quote(self._repo)}/resolve/{commit}/{quote(name)}"
        if file.sha256 is not None:
            return Artifact(name, file.size, file.sha256, url=url)
        size, sha256 = hash_url(url, auth=self.auth, tick=self._world.tick)
        if size != file.size:
            raise PinError(f"{shown(url)}: {size} bytes came, the hub lists {file.size}")
        return Artifact(name, size, sha256, url=url)

    def _get(self, url: str) -> tuple[Any, str | None]:
        """The document at an address of the hub, and the address of its next page."""
        self._world.tick(f"asking {shown(url)}")
        response = ask(url, auth=self.auth)
        if response.status_code in (401, 403):
            raise PinError(self._refused(response.status_code))
        if response.status_code == 404:
            raise PinError(f"{self.place}: not found (HTTP 404); check hub.repo and hub.revision")
        require_ok(response, url)
        following = response.links.get("next", {}).get("url")
        if following is not None and origin(following) != origin(self._endpoint):
            raise PinError(f"{self.place}: its list of files goes on at another host; refused")
        return decode_json(response, url), following

    def _refused(self, status: int) -> str:
        if self._token is None:
            return (
                f"{self.place}: needs a token, or doesn't exist (HTTP {status}); "
                "set hub: {token: {env: HF_TOKEN}} in the fleet file (in the model's own hub where "
                "that has an endpoint of its own), or check hub.repo"
            )
        return (
            f"{self.place}: the token is refused (HTTP {status}); accept the model's terms on "
            "its page with the token's account, or renew the token"
        )


def _list(document: Any, key: str) -> list[Mapping[str, Any]]:
    items = document.get(key) if isinstance(document, dict) else None
    return [item for item in items or [] if isinstance(item, dict)]


def _entries(page: Any, place: str) -> list[Mapping[str, Any]]:
    if not isinstance(page, list):
        raise PinError(f"{place}: its list of files isn't one; is the endpoint a model hub?")
    return [e for e in page if isinstance(e, dict) and e.get("type", "file") == "file"]


def _hub_file(entry: Mapping[str, Any], place: str) -> HubFile:
    path, size, lfs = entry.get("path"), entry.get("size"), entry.get("lfs")
    if not isinstance(path, str) or not isinstance(size, int):
        raise PinError(f"{place}: lists a file without path and size; is it a model hub?")
    oid = lfs.get("oid") if isinstance(lfs, dict) else None
    if oid is None:
        return HubFile(path, size)
    sha256 = str(oid).removeprefix("sha256:").lower()
    if not _SHA256.fullmatch(sha256):
        raise PinError(f"{place}: {path!r} has no SHA-256 as its object id, but {oid!r}")
    return HubFile(path, size, sha256)
