"""The lock file: what the names in a fleet file resolved to, and whether that is still current.

Pure but for :func:`read_lock` and :func:`write_lock`. Owns the file's format, the *requests* that a
fleet makes (what has to be pinned) and the comparison of the two. Each pin stores the request that
it answers, so a pin is stale exactly when the fleet asks something else now. Asking the outside
world is :mod:`inventories.pinning`'s business; joining fleet and lock is
:mod:`inventories.resolve`'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

import yaml

from inventories.atomic import replace_file
from inventories.builds import served_models, too_old
from inventories.fleet import Fleet
from inventories.settings import Artifact, CudaRepository, from_data, to_data
from inventories.sizing.dimensions import Dimensions
from schemas.document import parse_document
from schemas.problems import Position, Problem, ProblemsError
from schemas.validate import check_document

Kind = Literal["models", "llama_cpp", "opencode", "cuda", "driver"]
KINDS: tuple[Kind, ...] = ("models", "llama_cpp", "opencode", "cuda", "driver")

LOCK_VERSION = 1
DEFAULT_REPOSITORY = "https://github.com/ggml-org/llama.cpp"
DEFAULT_CUDA_URL = "https://developer.download.nvidia.com/compute/cuda/repos"
FORMER_DISTRIBUTIONS = ("debian12", "debian13", "ubuntu2204", "ubuntu2404")
"""What was locked by default before there were more: such a pin still answers."""
FORMER_KEY = "3bf863cc.pub"
DEFAULT_DISTRIBUTIONS = (*FORMER_DISTRIBUTIONS, "ubuntu2604", "rhel9", "rhel10")

_HEADER = """\
# Written by `llamaherd lock`; meant for git. What the names in the fleet file resolved to:
# hosts are told nothing else. Don't edit: `llamaherd lock --update NAME` moves a pin.
"""


@dataclass(frozen=True)
class ModelPin:
    """A model's files, in order: what llama-server loads first, the projector (if any) last.

    + revision: commit of the hub's repository (40 hex digits); None for a URL or a path
    + mmproj: name of the projector among ``files``
    + dimensions: what decides its memory, read off the files' headers; None where they don't tell
    + adapters: the file of each LoRA adapter, by its name; None where there are none
    """

    request: Mapping[str, Any]
    files: tuple[Artifact, ...]
    revision: str | None = None
    mmproj: str | None = None
    dimensions: Dimensions | None = None
    adapters: Mapping[str, Artifact] | None = None


@dataclass(frozen=True)
class SourcePin:
    """A llama.cpp source: ``commit`` and ``build_number`` from git, or else an ``archive``."""

    request: Mapping[str, Any]
    commit: str | None = None
    build_number: int | None = None
    archive: Artifact | None = None


@dataclass(frozen=True)
class OpenCodePin:
    """An OpenCode release: the package's tarball by machine architecture."""

    request: Mapping[str, Any]
    version: str
    artifacts: Mapping[str, Artifact]


@dataclass(frozen=True)
class CudaPin:
    """A CUDA toolkit: wheels, or packages by distribution. ``version`` is what it resolved to."""

    request: Mapping[str, Any]
    version: str
    wheels: tuple[Artifact, ...] = ()
    repositories: tuple[CudaRepository, ...] = ()


@dataclass(frozen=True)
class DriverPin:
    """A driver's packages by distribution. ``version`` is what ``nvidia-smi`` will say."""

    request: Mapping[str, Any]
    version: str
    repositories: tuple[CudaRepository, ...]


Pin: TypeAlias = ModelPin | SourcePin | OpenCodePin | CudaPin | DriverPin

_PIN_CLASSES: Mapping[str, type[Any]] = {
    "models": ModelPin,
    "llama_cpp": SourcePin,
    "opencode": OpenCodePin,
    "cuda": CudaPin,
    "driver": DriverPin,
}


@dataclass(frozen=True)
class Lock:
    """A lock file's content. Pins are found by kind and name, or by the request they answer."""

    models: Mapping[str, ModelPin] = field(default_factory=dict)
    llama_cpp: Mapping[str, SourcePin] = field(default_factory=dict)
    opencode: Mapping[str, OpenCodePin] = field(default_factory=dict)
    cuda: Mapping[str, CudaPin] = field(default_factory=dict)
    driver: Mapping[str, DriverPin] = field(default_factory=dict)

    def pins(self, kind: Kind) -> Mapping[str, Pin]:
        """The pins of one kind, by name."""
        pins: Mapping[str, Pin] = getattr(self, kind)
        return pins


@dataclass(frozen=True)
class Request:
    """Something that a fleet asks to be pinned.

    + name: the pin's name in the lock file, such as ``b8146`` or a model's name
    + body: everything that decides the answer, JSON-friendly
    + path: where in the fleet file it is asked for (the first place, when hosts share it)
    """

    kind: Kind
    name: str
    body: Mapping[str, Any]
    path: tuple[str, ...]

    @property
    def label(self) -> str:
        """For people and messages: kind and name."""
        return f"{self.kind} {self.name}"


def lock_path(fleet_path: Path) -> Path:
    """Where the lock of a fleet file lies: ``fleet.yaml`` -> ``fleet.lock.yaml``, beside it."""
    return fleet_path.with_name(f"{fleet_path.stem}.lock.yaml")


# Requests ---------------------------------------------------------------------------------------


def model_request(fleet: Fleet, name: str) -> dict[str, Any]:
    """What a model of the fleet asks for. Title, sampling and the like don't move the pin."""
    model = fleet.models[name]
    body = _place_request(fleet, model)
    if model.get("mmproj"):
        body["mmproj"] = model["mmproj"]
    if model.get("adapters"):
        adapters = sorted(model["adapters"].items())
        body["adapters"] = {name: _place_request(fleet, adapter) for name, adapter in adapters}
    return body


def _place_request(fleet: Fleet, place: Mapping[str, Any]) -> dict[str, Any]:
    """Where a model or an adapter comes from."""
    if place.get("hub"):
        return {"hub": hub_request(fleet, place["hub"])}
    return {key: place[key] for key in ("url", "path", "sha256") if place.get(key) is not None}


def hub_request(fleet: Fleet, hub: Mapping[str, Any]) -> dict[str, Any]:
    """What a ``hub`` section of a model or an adapter asks for; its token decides nothing."""
    keys = ("repo", "quant", "file", "revision", "endpoint")
    body = {key: hub[key] for key in keys if hub.get(key) is not None}
    endpoint = hub.get("endpoint") or fleet.hub.get("endpoint")
    return body | ({"endpoint": endpoint} if endpoint else {})


def hub_sections(fleet: Fleet) -> Iterator[Mapping[str, Any]]:
    """Every ``hub`` section of the fleet's models and their adapters."""
    for model in fleet.models.values():
        for place in (model, *(model.get("adapters") or {}).values()):
            if place.get("hub"):
                yield place["hub"]


def source_request(llama_cpp: Mapping[str, Any]) -> dict[str, Any]:
    """What a host's ``llama_cpp`` settings ask for: an archive, or a ref of a repository."""
    archive = llama_cpp.get("archive")
    if archive:
        keys = ("url", "path", "sha256")
        return {"archive": {key: archive[key] for key in keys if archive.get(key) is not None}}
    repository = llama_cpp.get("repository") or DEFAULT_REPOSITORY
    return {"repository": repository, "ref": llama_cpp["ref"]}


def opencode_request(opencode: Mapping[str, Any]) -> dict[str, Any]:
    """What a host's ``opencode`` settings ask for."""
    keys = ("version", "registry")
    return {key: opencode[key] for key in keys if opencode.get(key) is not None}


def cuda_request(cuda: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a host's ``cuda`` settings ask for; None for what isn't pinned, and for no toolkit."""
    if not cuda or cuda.get("provider") not in ("nvidia-repo", "wheels"):
        return None
    body: dict[str, Any] = {"provider": cuda["provider"], "version": str(cuda["version"])}
    if cuda["provider"] == "nvidia-repo":
        body |= _repository(cuda)
        if cuda.get("profile") == "full":
            body["profile"] = "full"
    return body


def _repository(cuda: Mapping[str, Any]) -> dict[str, Any]:
    """The vendor's repository, or the mirror that ``cuda`` names."""
    repository = cuda.get("repository") or {}
    body: dict[str, Any] = {"url": repository.get("url") or DEFAULT_CUDA_URL}
    body["distributions"] = list(repository.get("distributions") or DEFAULT_DISTRIBUTIONS)
    if repository.get("key"):
        body["key"] = repository["key"]
    return body


def driver_request(
    driver: Mapping[str, Any] | None, cuda: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """What ``driver`` settings ask for, in the repository that ``cuda`` names; None for none."""
    if not driver or not driver.get("manage"):
        return None
    body: dict[str, Any] = {"branch": driver["branch"], "modules": driver["modules"]}
    return body | _repository(cuda or {})


def requests_of(fleet: Fleet) -> tuple[Request, ...]:
    """Everything the fleet asks to be pinned, each thing once, in the lock file's order."""
    found: dict[tuple[str, str, str], Request] = {}
    for request in _every_request(fleet):
        # Models are found by their names: two of one file, with other settings, are two pins.
        name = request.name if request.kind == "models" else ""
        found.setdefault((request.kind, name, _canonical(request.body)), request)
    return tuple(sorted(_distinct(found.values()), key=lambda r: (KINDS.index(r.kind), r.name)))


def _every_request(fleet: Fleet) -> Iterator[Request]:
    for name in fleet.models:
        yield Request("models", name, model_request(fleet, name), ("models", name))
    seen: set[tuple[int, ...]] = set()
    for host in fleet.hosts.values():
        sections = [host.values.get(name) or {} for name in ("llama_cpp", "opencode", "cuda")]
        # Hosts with the same settings share the mappings: most of a big fleet asks nothing new.
        marks = tuple(id(section) for section in sections if section)
        if marks not in seen:
            seen.add(marks)
            yield from _host_requests(host.name, *sections)
        driver = driver_request(host.values.get("driver"), host.values.get("cuda"))
        if driver:
            name = f"{driver['branch']}-{driver['modules']}"
            yield Request("driver", name, driver, ("hosts", host.name, "driver"))
        for name, server in host.values["servers"].items():
            if "llama_cpp" in server or "cuda" in server:
                yield from _server_requests(host.name, name, server)


def _host_requests(
    host: str,
    llama_cpp: Mapping[str, Any],
    opencode: Mapping[str, Any],
    cuda: Mapping[str, Any],
) -> Iterator[Request]:
    yield from _build_requests(("hosts", host), llama_cpp, cuda)
    if opencode:
        body = opencode_request(opencode)
        yield Request("opencode", str(body["version"]), body, ("hosts", host, "opencode"))


def _server_requests(host: str, name: str, server: Mapping[str, Any]) -> Iterator[Request]:
    """What a server's own build asks for."""
    path = ("hosts", host, "servers", name)
    yield from _build_requests(path, server.get("llama_cpp") or {}, server.get("cuda") or {})


def _build_requests(
    path: tuple[str, ...], llama_cpp: Mapping[str, Any], cuda: Mapping[str, Any]
) -> Iterator[Request]:
    if llama_cpp:
        body = source_request(llama_cpp)
        yield Request("llama_cpp", _source_name(body), body, (*path, "llama_cpp"))
    toolkit = cuda_request(cuda)
    if toolkit:
        name = f"{toolkit['provider']}-{toolkit['version']}"
        yield Request("cuda", name, toolkit, (*path, "cuda"))


def _source_name(body: Mapping[str, Any]) -> str:
    """The ref, or the archive's file name."""
    if "archive" not in body:
        return str(body["ref"])
    archive = body["archive"]
    place = urlsplit(archive["url"]).path if "url" in archive else archive["path"]
    return PurePosixPath(place).name or archive["sha256"][:16]


def _distinct(requests: Iterable[Request]) -> Iterator[Request]:
    """Different requests under one name (a fork's ``b8146``) get where they go to appended."""
    groups: dict[tuple[str, str], list[Request]] = {}
    for request in requests:
        groups.setdefault((request.kind, request.name), []).append(request)
    for (kind, name), same in groups.items():
        # A model's name is unique already, and its pin is found by that name.
        if kind == "models" or len(same) == 1:
            yield from same
            continue
        for request in same:
            yield Request(
                request.kind, f"{name}@{_source(request.body)}", request.body, request.path
            )


def _source(body: Mapping[str, Any]) -> str:
    """What tells two requests of one name apart, as text."""
    if "archive" in body:
        return str(body["archive"].get("url") or body["archive"].get("path"))
    named = ("ref", "version", "provider", "branch", "modules")
    rest = {key: value for key, value in body.items() if key not in named}
    return ",".join(str(value) for value in rest.values()) or "default"


def _canonical(body: Any) -> str:
    return json.dumps(body, sort_keys=True, default=str)


# Comparison -------------------------------------------------------------------------------------


def find_pin(lock: Lock, request: Request) -> Pin | None:
    """The pin that answers the request, or None when it is missing or answers another one."""
    pins = lock.pins(request.kind)
    pin = pins.get(request.name)
    if request.kind == "models":
        return pin if pin is not None and _answers(pin, request.body) else None
    if pin is not None and _answers(pin, request.body):
        return pin
    return next((pin for pin in pins.values() if _answers(pin, request.body)), None)


def find_answer(pins: Mapping[str, Any], body: Mapping[str, Any]) -> Any:
    """The pin among these that answers ``body``; None when there is none."""
    return next((pin for pin in pins.values() if _answers(pin, body)), None)


def _answers(pin: Pin, body: Mapping[str, Any]) -> bool:
    if pin.request == body:
        return True
    if body.get("distributions") != list(DEFAULT_DISTRIBUTIONS):
        return False
    former = {**body, "distributions": list(FORMER_DISTRIBUTIONS)}
    # The key had a default then, which was written into the request.
    return pin.request in (former, {**former, "key": FORMER_KEY} if "key" not in body else former)


def check_lock(fleet: Fleet, lock: Lock | None) -> list[Problem]:
    """Every pin that is missing or stale, and every build that is too old for its models.

    Problems name the command or the setting that mends them.

    ``lock`` is None when there is no lock file yet.
    """
    remedy = f"run: llamaherd lock {fleet.path}"
    if lock is None:
        missing = f"there is no lock file {lock_path(fleet.path).name} beside it; {remedy}"
        return [Problem(Position(str(fleet.path), 1, 1), "", missing)]
    problems = []
    for request in requests_of(fleet):
        if find_pin(lock, request) is not None:
            continue
        stale = request.name in lock.pins(request.kind)
        state = "stale: the fleet file asks for something else now" if stale else "missing"
        message = f"the lock's pin of {request.label} is {state}; {remedy}"
        problems.append(Problem(position_of(fleet, request.path), ".".join(request.path), message))
    return sorted([*problems, *check_builds(fleet, lock)])


def check_builds(fleet: Fleet, lock: Lock) -> list[Problem]:
    """Locked llama.cpp builds that are too old for the models that they serve."""
    problems: dict[tuple[Position, str], Problem] = {}
    for host in fleet.hosts.values():
        for name, server in host.values["servers"].items():
            own = server.get("llama_cpp")
            section: Mapping[str, Any] = own or host.values.get("llama_cpp") or {}
            build = _locked_build(lock, section) if section else None
            if build is None:
                continue
            path = ("servers", name, "llama_cpp") if own else ("llama_cpp",)
            path = (*path, "ref" if section.get("ref") else "build_number")
            where = host.origins.get(path) or Position(str(fleet.path), 1, 1)
            for model in served_models(server):
                message = too_old(build, fleet.models[model].get("llama_cpp_build"), model)
                if message:
                    # One line, however many hosts have that ref from their group.
                    found = Problem(where, ".".join(("hosts", host.name, *path)), message)
                    problems.setdefault((where, model), found)
    return sorted(problems.values())


def _locked_build(lock: Lock, section: Mapping[str, Any]) -> int | None:
    pin: SourcePin | None = find_answer(lock.llama_cpp, source_request(section))
    if pin is None:
        return None
    return section.get("build_number") if pin.archive is not None else pin.build_number


def position_of(fleet: Fleet, path: tuple[str, ...]) -> Position:
    """Where a path of the fleet is written, or the nearest thing above it that is."""
    for length in range(len(path), 0, -1):
        if path[:length] in fleet.positions:
            return fleet.positions[path[:length]]
    return Position(str(fleet.path), 1, 1)


# The file ---------------------------------------------------------------------------------------


def dump_lock(lock: Lock) -> str:
    """The lock file's text: sorted by name, the same for the same pins."""
    document: dict[str, Any] = {"version": LOCK_VERSION}
    for kind in KINDS:
        pins = lock.pins(kind)
        if pins:
            document[kind] = {name: _plain(to_data(pins[name])) for name in sorted(pins)}
    return _HEADER + yaml.dump(
        document,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=4096,
        default_flow_style=False,
    )


class _Dumper(yaml.SafeDumper):
    """Quotes every text that could be taken for something else, in any version of YAML."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A string: plain only if it starts with a letter and holds nothing unusual."""
        plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out: ``*id001`` helps nobody who reads a diff."""
        return True


_Dumper.add_representer(str, _Dumper.represent_text)
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./:@%+=?&~-]*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none"})


def _plain(value: Any) -> Any:
    """Without what is None or an empty list: the absent and the empty read the same."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None and v != []}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def load_lock(text: str, file: str) -> Lock:
    """The lock that a file's text holds. ``file`` names it in messages.

    Raises :class:`schemas.problems.ProblemsError` with every problem for anything that
    :func:`dump_lock` wouldn't have written.
    """
    found = parse_document(text.encode(), file)
    problems = check_document(found, "lock.schema.json")
    if problems or found.root is None:
        raise ProblemsError(
            replace(problem, message=f"{problem.message}; {_REMAKE}") for problem in problems
        )
    document = found.root.plain()
    kinds = {
        kind: {name: from_data(_PIN_CLASSES[kind], pin) for name, pin in document[kind].items()}
        for kind in KINDS
        if kind in document
    }
    return Lock(**kinds)


_REMAKE = "take the file from version control, or remove it and run `llamaherd lock`"


def read_lock(fleet_path: Path) -> Lock | None:
    """The lock beside a fleet file; None when there is no such file.

    Raises :class:`schemas.problems.ProblemsError` when it can't be read or isn't a lock.
    """
    path = lock_path(fleet_path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        problem = Problem(Position(str(path), 1, 1), "", f"can't be read: {error}")
        raise ProblemsError([problem]) from None
    return load_lock(text, str(path))


def write_lock(fleet_path: Path, lock: Lock) -> bool:
    """Write the lock beside the fleet file, whole or not at all; False when it said that already.

    Raises OSError when the folder can't be written.
    """
    path = lock_path(fleet_path)
    text = dump_lock(lock)
    if path.exists() and path.read_bytes() == text.encode():
        return False
    replace_file(path, text.encode())
    return True


def pin_summary(pin: Pin | None) -> str:
    """What a pin resolved to, in a few words for a table; ``-`` for none."""
    if pin is None:
        return "-"
    if isinstance(pin, ModelPin):
        return (pin.revision or pin.files[0].sha256)[:12]
    if isinstance(pin, SourcePin):
        if pin.archive is not None:
            return pin.archive.sha256[:12]
        return f"{(pin.commit or '')[:12]} ({pin.build_number})"
    if isinstance(pin, (CudaPin, DriverPin)) and pin.repositories:
        return f"{pin.version} ({', '.join(r.distribution for r in pin.repositories)})"
    return pin.version
