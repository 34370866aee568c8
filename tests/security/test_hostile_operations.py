"""Whatever a setting holds, an operation quotes it or refuses it: every operation, every string.

One string at a time is hostile. What the operation then tells the host is compared with what it
tells for a plain one with a blank in it, which is quoted as well: nothing but the string itself may
differ, and it must stand there as a shell, JSON, systemd or an address has it. A real shell parses
it all, and carries it out with stand-ins for its programs.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib
import json
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import quote

import pytest
from hostile import CANARY, MARK, TEXTS, Shell
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st
from pyinfra.api import Config, FunctionCommand, Inventory, State, StringCommand
from pyinfra.api.connect import connect_all
from pyinfra.api.host import Host
from pyinfra.context import ctx_host, ctx_state

import deploys
import inventories.settings as model
from deploys.common.files import ManagedFile
from deploys.common.jobs import Job, look_command
from deploys.common.operations import HostError, read_through, use_settings
from deploys.llama_server.release import rollback_job
from deploys.prune.removal import removal_command
from deploys.prune.unused import Item
from facts.claude_code import ClaudeCode, ClaudeCodeUser
from facts.drift_timer import DriftTimer, DriftTimerState
from facts.driver import Driver, DriverState
from facts.holdings import Entry
from facts.models import ModelFile, ModelFiles
from facts.opencode import OpenCode, OpenCodeState, OpenCodeUser
from facts.servers import LlamaServers, ServersState, ServerState
from facts.system import PATHS, System, SystemState

COMMIT = "0c1e570" + "0" * 33
SHA = "a" * 64
# A plain string; what is quoted for its blank is quoted for anything.
PLAIN = "pl ain"
SECRET = model.SecretReference(command=("echo", "s3cret"))
FILE = model.Artifact("m.gguf", 4096, SHA, url="https://hub.example.com/m.gguf")
MODEL = model.ModelSettings(
    "glm",
    "GLM Q4",
    "/var/lib/llamaherd/models/glm",
    (FILE, replace(FILE, name="mmproj.gguf"), replace(FILE, name="lora.gguf")),
    mmproj="mmproj.gguf",
    token=SECRET,
    adapters=(model.Adapter("lora", "lora.gguf"),),
)
DRAFT = replace(MODEL, name="small", title="Small", directory="/var/lib/llamaherd/models/small")
SERVER = model.ServerSettings(
    "coder",
    "glm",
    8888,
    8192,
    gpus=("GPU-1",),
    api_key=SECRET,
    extra_args=("--verbose-prompt",),
    draft=model.DraftSettings("small", gpu_layers="all"),
    slot_save=True,
    gpu_layers="all",
    chat_template="chatml",
    chat_template_kwargs='{"a": 1}',
    tls=model.Tls("/etc/c.pem", "/etc/k.pem"),
)
SOCKET = model.ServerSettings(
    "hidden", "glm", 0, 512, unix_socket=True, socket_group="web", address="box:8080"
)
ROUTER = model.ServerSettings(
    "several", "glm", 8890, 512, models=(SOCKET, replace(SERVER, name="x", model="small"))
)
BUILD = model.LlamaCppSettings(
    model.GitSource("https://git.example.com/llama.cpp", COMMIT),
    10900,
    "0c1e570",
    targets=("llama-server", "ggml-rpc-server"),
    architectures=("89",),
    cmake={"GGML_X": "ON"},
    flash_attention_quants=("q8_0-q8_0",),
)
ARCHIVE = replace(BUILD, source=model.ArchiveSource(replace(FILE, name="a.tar"), "llama.cpp/src"))
EXISTING = model.CudaSettings("existing", "13.0", path="/usr/local/cuda-13.0")
WHEELS = model.CudaSettings("wheels", "13.0.2", wheels=(replace(FILE, name="a.whl"),))
REPOSITORY = model.CudaRepository(
    "debian12",
    "https://cuda.example.com/repos/debian12/x86_64/",
    replace(FILE, name="key.pub"),
    (model.AptPackage("cuda-nvcc-13-0", "13.0.88-1", SHA),),
)
PACKAGED = model.CudaSettings("nvidia-repo", "13.0", repositories=(REPOSITORY,))
RPM = replace(PACKAGED, repositories=(replace(REPOSITORY, distribution="rhel9"),))
DRIVER = model.DriverSettings(
    580,
    "580.65.06",
    (
        replace(
            REPOSITORY,
            packages=(
                model.AptPackage("nvidia-open", "580.65.06-1", SHA),
                model.AptPackage("nvidia-driver-cuda", "580.65.06-1", SHA),
            ),
        ),
    ),
)
OPENCODE = model.OpenCodeSettings(
    "1.18.33",
    {"x86_64": replace(FILE, name="opencode.tgz")},
    ("dev",),
    (
        model.OpenCodeProvider(
            "near",
            "Near",
            "box/coder",
            "http://127.0.0.1:8888/v1",
            (model.OpenCodeModel("glm", "GLM", 8192, 2048),),
            SECRET,
        ),
    ),
    "near",
    small="near/glm",
    permission={"bash": {"rm *": "deny"}},
    instructions=("/etc/rules.md",),
    agents=(
        model.OpenCodeAgent(
            "plan",
            description="Plans",
            model="near/glm",
            prompt="Think.",
            permission={"edit": "ask"},
        ),
    ),
)
CLAUDE = model.ClaudeCodeSettings(
    ("dev",), "box/coder", "http://127.0.0.1:8888", "glm", 2048, "glm", SECRET
)
HOST = model.HostSettings(
    "box",
    model.SshSettings("box"),
    cuda=EXISTING,
    llama_cpp=BUILD,
    models=(MODEL, DRAFT),
    servers=(SERVER, SOCKET, ROUTER),
    gpus=(model.DeclaredGpu(24 * 2**30, "RTX", "GPU-1"),),
)
PROXY = model.ProxySettings("http://proxy:1", "http://proxy:2", ("lan",))
DEBIAN = SystemState(
    distribution="debian",
    version_id="12",
    architecture="x86_64",
    cpu="EPYC",
    memory_total=2**36,
    memory_available=2**36,
    glibc="2.36",
    compiler="12.2.0",
    systemd=252,
    root=True,
    disk_free=dict.fromkeys(PATHS, 2**40),
    mounts=dict.fromkeys(PATHS, "/"),
)
RHEL = replace(DEBIAN, distribution="rhel", version_id="9.4", like=("fedora",))


@dataclass(frozen=True)
class Try:
    """An operation with arguments that have it do all that it can."""

    name: str
    arguments: Mapping[str, Any]
    system: SystemState = DEBIAN


def timer(folder: str) -> model.DriftTimerSettings:
    """A scheduled check; its fleet file must be there."""
    return model.DriftTimerSettings(
        f"{folder}/fleet.yaml",
        (model.KnownHost("box", 22, f"{folder}/known_hosts"),),
        deep_share="1/7",
        prometheus="/var/lib/a.prom",
        html="/var/www/a.html",
    )


FILES = (
    ManagedFile("/etc/a", "text\n"),
    ManagedFile("/home/dev/a", "text\n", mode="600", user="dev", group="dev", secret=True),
    ManagedFile("/home/dev/b", "text\n", as_user="dev"),
)
TRIES = {
    "packages": Try("installed", {"names": ("git",)}),
    "packages of rpm": Try("installed", {"names": ("git",)}, RHEL),
    "driver": Try("running", {"settings": DRIVER}),
    "preflight": Try("checks", {"settings": HOST}),
    "files": Try("managed_files", {"files": FILES}),
    "drift timer": Try("scheduled", {"settings": "timer"}),
    "servers": Try("servers", {"settings": HOST}),
    "build": Try("compiled", {"settings": BUILD, "cuda": EXISTING}),
    "build of an archive": Try("compiled", {"settings": ARCHIVE, "cuda": WHEELS}),
    "models": Try("model_files", {"models": (MODEL,)}),
    "existing toolkit": Try("toolkit", {"settings": EXISTING}),
    "wheels": Try("toolkit", {"settings": WHEELS}),
    "toolkit of a repository": Try("packaged_toolkits", {"settings": (PACKAGED,)}),
    "toolkit of rpm": Try("packaged_toolkits", {"settings": (RPM,)}, RHEL),
    "opencode": Try("install_opencode", {"settings": OPENCODE}),
    "claude code": Try("point_claude_code", {"settings": CLAUDE}),
}


def own_operations() -> dict[str, Any]:
    """Every operation of ours by name."""
    found = {}
    for module in pkgutil.walk_packages(deploys.__path__, "deploys."):
        loaded = importlib.import_module(module.name)
        for name, value in vars(loaded).items():
            inner = getattr(value, "_inner", None)
            # host_operation wraps the function; a deploy of pyinfra's is the function itself.
            if hasattr(inner, "__wrapped__") and value.__module__ == module.name:
                found[name] = value
    return found


OPERATIONS = own_operations()
Step = str | int


def leaves(value: Any, way: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """Where a tree of settings holds text of somebody's: not one of a few words, no reference."""
    if isinstance(value, str):
        yield way
    elif is_dataclass(value) and not isinstance(value, model.SecretReference):
        hints = get_type_hints(type(value))
        for each in dataclasses.fields(value):
            hint = hints[each.name]
            if not any(get_origin(part) is Literal for part in (hint, *get_args(hint))):
                yield from leaves(getattr(value, each.name), (*way, each.name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, (*way, key))
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from leaves(item, (*way, number))


def placed(value: Any, way: tuple[Step, ...], text: str) -> Any:
    """The tree with ``text`` at one of its leaves."""
    if not way:
        return text
    step, *rest = way
    if is_dataclass(value) and not isinstance(value, type):
        child = getattr(value, str(step))
        return replace(value, **{str(step): placed(child, tuple(rest), text)})
    if isinstance(value, Mapping):
        return {**value, step: placed(value[step], tuple(rest), text)}
    items = list(value)
    items[int(step)] = placed(items[int(step)], tuple(rest), text)
    return tuple(items)


class Bare:
    """A host with nothing on it, which answers every fact."""

    def __init__(self, system: SystemState) -> None:
        self.system = system

    def __call__(self, fact: Any, *args: Any, **kwargs: Any) -> Any:
        if fact is System:
            return self.system
        if fact is ModelFiles:
            return {path: ModelFile(path, None, 0, "", "/", 2**40) for path in kwargs["paths"]}
        if fact is LlamaServers:
            return ServersState(servers={name: ServerState(name) for name in kwargs["names"]})
        if fact is OpenCode:
            users = {
                name: OpenCodeUser(name, 1000, 1000, "/home/x", True, "/home/x/opencode.json")
                for name in kwargs["users"]
            }
            return OpenCodeState(users=users)
        if fact is ClaudeCode:
            return {
                name: ClaudeCodeUser(name, "/home/x", True, "/home/x/settings.json")
                for name in kwargs["users"]
            }
        if fact is DriftTimer:
            return DriftTimerState(python="3.11")
        if fact is Driver:
            return DriverState(boot="b")
        return fact.default()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    inventory = Inventory((["@fake/one"], {}))
    state = State(inventory, Config(), check_for_changes=False)
    with ctx_state.use(state):
        connect_all(state)
        (found,) = list(inventory)
        use_settings(found, replace(HOST, proxy=PROXY))
        with ctx_host.use(found):
            yield found


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("shell"))


class RefusedError(Exception):
    """The operation would not have it."""


@dataclass(frozen=True)
class Told:
    """What a host is told: shell commands, scripts of jobs, and contents of files."""

    commands: list[str]
    contents: list[str]


def told(host: Host, attempt: Try, arguments: Mapping[str, Any]) -> Told:
    """Everything that the operation sends to a bare host; RefusedError."""
    from deploys.common import operations

    operations._systems.pop(host, None)
    read_through(host, Bare(attempt.system))
    result = Told([], [])
    for command in OPERATIONS[attempt.name]._inner(**arguments):
        if isinstance(command, FunctionCommand):
            if command.function.__name__ == "_fail":
                raise RefusedError(command.args[0])
            for job in command.args:
                if isinstance(job, Job):
                    result.commands.append(look_command(job).get_raw_value())
            continue
        result.commands.append(command if isinstance(command, str) else command.get_raw_value())
        _unpack(command, result)
    return result


def _unpack(command: StringCommand | str, result: Told) -> None:
    """What travels on standard input: the files of a job, or one file's content."""
    stdin = {} if isinstance(command, str) else command.connector_arguments
    given = stdin.get("_stdin")
    if isinstance(given, list):
        for line in given:
            if line == ".":  # the end
                continue
            name, _, content = line.partition(" ")
            text = base64.b64decode(content).decode()
            (result.commands if name in ("run", "script") else result.contents).append(text)
    elif given:
        result.contents.append(base64.b64decode(given).decode())


def escapes(text: str) -> list[str]:
    """How the string may stand in what a shell reads: once, twice or three times quoted."""
    json_text = [json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]]
    pattern = "".join(f"\\{c}" if c in r"\.[]{}()*+?^$|" else c for c in text)
    found = []
    for form in (text, *json_text, pattern, quote(text)):
        for _ in range(3):
            form = form.replace("'", "'\"'\"'")
            found.append(form)
    # In a here-document whose end no JSON can spell.
    return [*found, *json_text]


def contents(text: str) -> list[str]:
    """How it may stand in a file: as it is on one line, or as the file's own language has it."""
    systemd = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return [*escapes(text), text, text.replace("%", "%%"), systemd, systemd.replace("$", "$$")]


# Digests and sizes of what holds the string differ, too.
_DIGEST = re.compile(r"\b[0-9a-f]{12,64}\b|(?<== )\d+(?= \])")


def differs(plain: str, odd: str, ways: list[str]) -> str:
    """Where a text says more than the string in the plain one's places; empty where it doesn't."""
    parts = [_DIGEST.sub("#", part) for part in plain.split(PLAIN)]
    rest = _DIGEST.sub("#", odd)
    for number, part in enumerate(parts):
        if not rest.startswith(part):
            return f"{part[:120]!r} became {rest[:120]!r}"
        rest = rest[len(part) :]
        if number == len(parts) - 1:
            break
        after = parts[number + 1][:40]
        ends = [way for way in ways if rest.startswith(way + after)]
        if not ends:
            return f"{rest[:120]!r} stands for the string before {after!r}"
        rest = rest[len(max(ends, key=len)) :]
    return "" if not rest else f"{rest[:120]!r} at the end"


def arguments_of(attempt: Try, folder: Path) -> dict[str, Any]:
    """The arguments; files that a controller must have are made."""
    found = dict(attempt.arguments)
    if found.get("settings") == "timer":
        (folder / "fleet.yaml").write_text("version: 1\n")
        (folder / "fleet.lock.yaml").write_text("version: 1\n")
        (folder / "known_hosts").write_text("")
        found["settings"] = timer(str(folder))
    return found


# What other settings refer to: these names change everywhere at once.
NAMES = frozenset({"glm", "small", "near", "near/glm"})


def everywhere(value: Any, way: tuple[Step, ...], text: str) -> Any:
    """The tree with ``text`` at a leaf, and at the leaves that name the same thing."""
    name = leaf(value, way)
    if name not in NAMES:
        return placed(value, way, text)
    for other in [each for each in leaves(value) if leaf(value, each) == name]:
        value = placed(value, other, text)
    return value


def leaf(value: Any, way: tuple[Step, ...]) -> str:
    """The text there."""
    for step in way:
        value = getattr(value, str(step)) if is_dataclass(value) else value[step]
    return str(value)


# What a host is told a part of, or another spelling of: a real shell parses it all the same.
IN_PART = {
    ("driver", "version"),
    ("build of an archive", "subdirectory"),
    ("toolkit of a repository", "version"),
    ("toolkit of rpm", "version"),
    ("opencode", "sha256"),
}
# Paths of the controller, which no host is told.
HERE = {("settings", "fleet"), ("settings", "hosts", 0, "known_hosts")}


def cases() -> list[tuple[str, tuple[Step, ...]]]:
    """Every string of every operation."""
    return [
        (name, way)
        for name, attempt in TRIES.items()
        for way in leaves(
            {k: timer("/x") if v == "timer" else v for k, v in attempt.arguments.items()}
        )
        if not (name == "drift timer" and way in HERE)
    ]


def test_every_operation_is_tried() -> None:
    missing = set(OPERATIONS) - {attempt.name for attempt in TRIES.values()}
    assert not missing, f"add to TRIES what has them do all that they can: {missing}"


def test_every_text_of_the_settings_is_tried() -> None:
    tried = set()
    for attempt in TRIES.values():
        for value in attempt.arguments.values():
            tried |= set(texts_of(timer("/x") if value == "timer" else value))
    known = {
        (kind, each.name)
        for kind in vars(model).values()
        if isinstance(kind, type) and is_dataclass(kind)
        for each in dataclasses.fields(kind)
        if str in (get_type_hints(kind)[each.name], *get_args(get_type_hints(kind)[each.name]))
    }
    missing = {
        f"{kind.__name__}.{name}"
        for kind, name in known - tried
        if not _is_choice(get_type_hints(kind)[name])
    }
    # Of the controller alone, or told to no host; a proxy is the host's own, tools are switches.
    # Keys of mappings aren't tried: the schema holds them to names.
    assert missing == {
        *("SecretReference.env", "SecretReference.file", "SecretReference.directory"),
        *("SshSettings.key", "SshSettings.known_hosts", "SshSettings.config_file"),
        *("Artifact.path", "ServerSettings.chat_template_file", "Dimensions.architecture"),
        *("ProxySettings.http", "ProxySettings.https", "ProxySettings.no_proxy"),
        "OpenCodeAgent.tools",
    }


def _is_choice(hint: Any) -> bool:
    return any(get_origin(part) is Literal for part in (hint, *get_args(hint)))


def texts_of(value: Any) -> Iterator[tuple[type, str]]:
    """Dataclass and field of every text that a tree of settings holds."""
    if is_dataclass(value):
        for each in dataclasses.fields(value):
            inner = getattr(value, each.name)
            if any(True for _ in leaves(inner)):
                yield type(value), each.name
            yield from texts_of(inner)
    elif isinstance(value, (tuple, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from texts_of(item)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("controller")


@pytest.mark.parametrize(
    ("name", "way"),
    cases(),
    ids=lambda value: value if isinstance(value, str) else ".".join(map(str, value)),
)
@settings(max_examples=1, phases=[Phase.explicit], suppress_health_check=list(HealthCheck))
@given(text=TEXTS)
@example(text=f'$({CANARY})\' {MARK} "`{CANARY}`"; {CANARY}; %n $$ \\')
@example(text=f"-{MARK} x")
@example(text=f"../../{MARK} x/..")
@example(text=f"{MARK} x\n{CANARY}\n")
@example(text=f"{MARK} x\0")
def test_an_operation_quotes_or_refuses(
    host: Host, shell: Shell, folder: Path, name: str, way: tuple[Step, ...], text: str
) -> None:
    quotes_or_refuses(host, shell, folder, name, way, text)


@pytest.mark.parametrize("name", TRIES)
@settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_an_operation_quotes_or_refuses_whatever_is_drawn(
    host: Host, shell: Shell, folder: Path, name: str, data: st.DataObject
) -> None:
    way = data.draw(st.sampled_from([way for tried, way in cases() if tried == name]))
    text = data.draw(TEXTS)
    # An address that begins so has a host, which the plain string hasn't: more than it differs.
    assume(not (way[-1] == "url" and text.startswith("//")))
    quotes_or_refuses(host, shell, folder, name, way, text)


def quotes_or_refuses(
    host: Host, shell: Shell, folder: Path, name: str, way: tuple[Step, ...], text: str
) -> None:
    """Assert that with ``text`` there, nothing but that text differs in what the host is told."""
    attempt = TRIES[name]
    arguments = arguments_of(attempt, folder)

    def tell(at: str) -> Told | None:
        try:
            return told(host, attempt, everywhere(arguments, way, at))
        except (RefusedError, HostError):
            return None

    odd = tell(text + " ")
    if odd is None:
        return
    for command in odd.commands:
        assert "\0" not in command
        assert shell.parses(command), command
    if (name, way[-1]) in IN_PART:
        return
    plain = tell(PLAIN)
    if plain is None:
        # It must be one of the few that the host has, or a path of this machine.
        assert not any(MARK in each for each in (*odd.commands, *odd.contents))
        return
    assert len(plain.commands) == len(odd.commands)
    for before, after in zip(plain.commands, odd.commands, strict=True):
        assert differs(before, after, escapes(text + " ")) == ""
    for before, after in zip(plain.contents, odd.contents, strict=True):
        if way[-1] != "content":
            assert before.count("\n") == after.count("\n")
        assert differs(before, after, contents(text + " ")) == ""


SAMPLES = (
    f'$({CANARY})\' {MARK} "`{CANARY}`"; {CANARY}; %n $$ \\',
    f"-{MARK} x",
    f"../../{MARK} x/..",
    f"{MARK} x\n{CANARY}\n",
)


@settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
@given(text=TEXTS)
@example(text=SAMPLES[0])
@example(text=SAMPLES[1])
@example(text=SAMPLES[2])
@example(text=SAMPLES[3])
def test_a_rollback_quotes_or_refuses_a_servers_name(shell: Shell, text: str) -> None:
    try:
        script = rollback_job(text + " ").script
    except (ValueError, HostError):
        return
    assert shell.parses(script), script
    assert differs(rollback_job(PLAIN).script, script, escapes(text + " ")) == ""


@settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
@given(text=TEXTS)
@example(text=SAMPLES[0])
@example(text=SAMPLES[1])
@example(text=SAMPLES[2])
@example(text=SAMPLES[3])
def test_a_removal_tells_a_name_as_one_field_of_one_line_or_refuses_it(
    shell: Shell, text: str
) -> None:
    """What goes is told on standard input: the command is the same whatever its name is."""

    def told_of(name: str) -> StringCommand:
        path = f"/opt/llama.cpp/{name}"
        files = ((f"{path}/bin/{name}", Entry("f", 1, 1, 1, 2, 3, 0)),)
        return removal_command([Item("build", path, 1, "old", files, (path,), tree=True)])

    plain = told_of(PLAIN)
    try:
        odd = told_of(text)
    except ValueError:
        assert any(ord(character) < 32 for character in text)
        return
    assert odd.get_raw_value() == plain.get_raw_value()
    assert shell.parses(odd.get_raw_value())
    lines = [line.replace(PLAIN, text) for line in plain.connector_arguments["_stdin"]]
    assert odd.connector_arguments["_stdin"] == lines
    assert all("\n" not in line for line in lines)
