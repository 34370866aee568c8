"""The typed, frozen settings that components take: what the fleet file says, names resolved.

Everything here is pure data. A component's ``@deploy`` takes one of these classes, so anyone's
own ``deploy.py`` can build them by hand. Ours come from :mod:`inventories.resolve`, which joins a
fleet file with its lock file. ``to_data``/``from_data`` turn them into the JSON-friendly mapping
that travels as pyinfra host data under the one key ``fleet``, and back.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar

from inventories.sizing.dimensions import Dimensions

CudaProvider = Literal["nvidia-repo", "wheels", "distribution", "existing", "none"]
DriverModules = Literal["open", "proprietary"]
Reboot = Literal["never", "allowed"]
Backend = Literal["cuda", "cpu", "vulkan"]
CompilerCache = Literal["none", "ccache", "sccache"]
LoadMode = Literal["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"]
Switch = Literal["auto", "enabled", "disabled"]
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
SplitMode = Literal["none", "layer", "row", "tensor"]
Numa = Literal["distribute", "isolate", "numactl"]
ReasoningFormat = Literal["auto", "none", "deepseek", "deepseek-legacy"]

MODELS_ROOT = "/var/lib/llamaherd/models"
BUILDS_ROOT = "/opt/llama.cpp"
CUDA_ROOT = "/opt/cuda"


@dataclass(frozen=True)
class SecretReference:
    """Where a secret is found on the controller; exactly one of the three is set.

    + env: name of an environment variable
    + file: path on the controller, relative to the fleet file; one trailing newline is dropped
    + command: argument vector whose standard output is the secret (one trailing newline dropped)
    + directory: absolute folder that a relative file counts from and a command runs in: the fleet
      file's; None for the working directory
    """

    env: str | None = None
    file: str | None = None
    command: tuple[str, ...] | None = None
    directory: str | None = None


@dataclass(frozen=True)
class Artifact:
    """One file that a host needs, pinned. Exactly one of ``url`` and ``path`` is set.

    + name: file name it gets on the host (may hold ``/`` for a file in a folder of a repository)
    + size: bytes
    + sha256: 64 lower-case hex digits
    + url: http(s) address that the host itself fetches
    + path: absolute path on the controller, uploaded over SSH
    """

    name: str
    size: int
    sha256: str
    url: str | None = None
    path: str | None = None


@dataclass(frozen=True)
class SshSettings:
    """How the controller reaches the host. ``user`` other than root implies sudo.

    + hostname: name, address or alias of the ssh configuration; defaults to the host's name
    + port, key, known_hosts, config_file: None leaves it to the ssh configuration
    + key, known_hosts, config_file: absolute paths on the controller
    """

    hostname: str
    user: str = "root"
    port: int | None = None
    key: str | None = None
    known_hosts: str | None = None
    config_file: str | None = None
    host_key_checking: Literal["yes", "accept-new", "no"] = "yes"
    password: SecretReference | None = None
    sudo_password: SecretReference | None = None


@dataclass(frozen=True)
class AptPackage:
    """A package pinned in a vendor's repository: exact version and the SHA-256 of its ``.deb``."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class CudaRepository:
    """The vendor's package repository for one distribution, as locked.

    + distribution: the vendor's name for it, such as ``debian12`` or ``ubuntu2404``
    + url: base address, such as ``.../cuda/repos/debian12/x86_64/``, with the final slash
    + key: the signing key (an ASCII armoured file) as an artifact
    + packages: exactly what is installed, nothing else is named
    """

    distribution: str
    url: str
    key: Artifact
    packages: tuple[AptPackage, ...]


@dataclass(frozen=True)
class CudaSettings:
    """The CUDA toolkit that builds need.

    + provider: ``nvidia-repo``, ``wheels``, ``distribution`` (its own ``nvidia-cuda-toolkit``),
      ``existing`` or ``none`` (a CPU host)
    + version: as the fleet file says it, such as ``13.0`` or ``13.0.2``; what ``distribution`` must
      turn out to be; None for existing and none
    + path: toolkit root for ``existing``, such as ``/usr/local/cuda-13.0``
    + repositories: for ``nvidia-repo``, one a distribution
    + wheels: for ``wheels``, the wheel files of the toolkit
    """

    provider: CudaProvider = "none"
    version: str | None = None
    path: str | None = None
    repositories: tuple[CudaRepository, ...] = ()
    wheels: tuple[Artifact, ...] = ()

    @property
    def root(self) -> str | None:
        """Toolkit root on the host (holds ``bin/nvcc``), or None on a CPU host."""
        if self.provider == "wheels":
            return f"{CUDA_ROOT}/{self.version}"
        if self.provider == "nvidia-repo":
            major_minor = ".".join((self.version or "").split(".")[:2])
            return f"/usr/local/cuda-{major_minor}"
        if self.provider == "distribution":
            return "/usr"
        return self.path if self.provider == "existing" else None


@dataclass(frozen=True)
class DriverSettings:
    """NVIDIA's driver, managed by us.

    + branch: first part of its version, such as 580
    + version: the locked one, as ``nvidia-smi`` says it
    + repositories: the locked packages, one a distribution
    + reboot: ``never`` stops a host that waits for one, ``allowed`` reboots it
    """

    branch: int
    version: str
    repositories: tuple[CudaRepository, ...]
    modules: DriverModules = "open"
    reboot: Reboot = "never"


@dataclass(frozen=True)
class GitSource:
    """A llama.cpp repository at a locked commit (40 hex digits)."""

    repository: str
    commit: str


@dataclass(frozen=True)
class ArchiveSource:
    """A tar archive of the source; ``subdirectory`` is where CMakeLists.txt lies inside it."""

    artifact: Artifact
    subdirectory: str = ""


DEFAULT_TARGETS = (
    "llama-server",
    "llama-cli",
    "llama-mtmd-cli",
    "llama-gguf-split",
    "llama-fit-params",
)


@dataclass(frozen=True)
class LlamaCppSettings:
    """One llama.cpp build. The build key is made of these and what the host is.

    + build_number, commit: passed to CMake always, and what the live server must report
    + architectures: CUDA compute capabilities without the dot, such as ``("89",)``; empty means
      those of the GPUs found on the host
    + native: tune for the host's own CPU (``GGML_NATIVE``)
    + cmake: extra CMake definitions by name, without ``-D``
    + jobs: upper bound of parallel compile jobs; None bounds by memory and cores only
    + compiler_cache: what keeps the compilers' output
    + backends: empty for cuda where there is a toolkit, else cpu
    + static: link the CUDA libraries into the programs
    + flash_attention_quants: pairs such as ``q8_0-q8_0``, or ``("all",)``; empty: its own
    + rpc: build the RPC backend and its server
    """

    source: GitSource | ArchiveSource
    build_number: int
    commit: str
    targets: tuple[str, ...] = DEFAULT_TARGETS
    architectures: tuple[str, ...] = ()
    native: bool = True
    cmake: Mapping[str, str] = field(default_factory=dict)
    jobs: int | None = None
    compiler_cache: CompilerCache = "none"
    backends: tuple[Backend, ...] = ()
    static: bool = False
    flash_attention_quants: tuple[str, ...] = ()
    rpc: bool = False

    def computes_with(self, cuda: CudaSettings | None) -> tuple[Backend, ...]:
        """The backends of a build with that toolkit."""
        if self.backends:
            return self.backends
        return ("cuda",) if cuda is not None and cuda.provider != "none" else ("cpu",)


@dataclass(frozen=True)
class Sampling:
    """Sampling defaults of a server; None leaves llama.cpp's own default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter of a model.

    + file: name of its file among the model's
    + token: secret for a gated hub
    """

    name: str
    file: str
    scale: float = 1.0
    token: SecretReference | None = None


@dataclass(frozen=True)
class ModelSettings:
    """A model as files on a host.

    + name: its name in the fleet file; also the alias that servers answer with
    + title: for people, such as ``unsloth/GLM-4.7-Flash-GGUF UD-Q4_K_XL``
    + directory: absolute, below MODELS_ROOT; one a revision
    + files: every file, in order; the first one is what llama-server loads (shards follow it),
      a projector and adapters come last
    + mmproj: name of the multimodal projector among ``files``, if any
    + token: secret for a gated hub
    + dimensions: what decides its memory; None where it isn't known
    + llama_cpp_build: lowest llama.cpp build that runs it right; None where none is known
    """

    name: str
    title: str
    directory: str
    files: tuple[Artifact, ...]
    mmproj: str | None = None
    reasoning: bool = False
    sampling: Sampling = Sampling()
    token: SecretReference | None = None
    dimensions: Dimensions | None = None
    adapters: tuple[Adapter, ...] = ()
    llama_cpp_build: int | None = None

    @property
    def path(self) -> str:
        """What ``llama-server --model`` gets."""
        return f"{self.directory}/{self.files[0].name}"

    def token_of(self, file: Artifact) -> SecretReference | None:
        """The secret that opens one of the files: an adapter may lie on another hub."""
        for adapter in self.adapters:
            if adapter.file == file.name:
                return adapter.token
        return self.token


@dataclass(frozen=True)
class DraftSettings:
    """Speculative decoding with a draft model; None leaves llama.cpp's own default.

    + model: name of the draft model
    + type: how it drafts, as llama.cpp names it
    + max, min: drafted tokens
    + p_min: lowest probability of a drafted token
    + gpu_layers: a number, ``auto`` or ``all``
    """

    model: str
    type: str = "draft-simple"
    max: int | None = None
    min: int | None = None
    p_min: float | None = None
    gpu_layers: str | None = None


@dataclass(frozen=True)
class Tls:
    """Where the administrator keeps a server's certificate and private key: paths on the host."""

    certificate: str
    key: str


@dataclass(frozen=True)
class ServerSettings:
    """One llama-server instance. What is None or empty is left to llama.cpp.

    + model: what it serves; of a router the model that clients start with
    + port: 0 with ``unix_socket``
    + host: address it binds
    + address: ``host:port`` under which other hosts reach it; None when bound to loopback
    + context: tokens that one session gets; ``-c`` is ``context * parallel``
    + parallel: sessions at once
    + gpus: None for all, () for none (CPU only), else indices or UUIDs for CUDA_VISIBLE_DEVICES
    + ready_timeout: seconds that a start may take until the model answers
    + llama_cpp, cuda: the server's own build and its toolkit; None for the host's
    + chat_template_file: absolute path on the controller; None for the template in the model's file
    + flash_attention, reasoning: ``auto`` is llama.cpp's default
    + cache_ram: MiB of host memory for prompts that no session holds; -1 is no limit
    + cache_reuse: tokens of the least chunk that is taken over from another place in the cache
    + slot_save: keep each session's K/V cache on disk while the server is restarted
    + kv_unified: one pool for all sessions, each of which still gets ``context`` at most
    + sleep_idle_seconds: unload the model after so long without a request
    + tensor_split: share of each GPU
    + gpu_layers: a number, ``auto`` or ``all``
    + chat_template: name of a template that llama.cpp brings along
    + chat_template_kwargs: JSON object for the template
    + tls: serve https
    + unix_socket: listen on ``/run/llama-server/<name>/llama.sock`` instead of a port
    + socket_group: group of the host that may connect there; None for root alone
    + models: of a router, each of its models as a server of that model alone would be
    + models_max: how many of them are loaded at once; 0 is no limit
    + load_on_startup: of a router's model, whether it is loaded before it is asked for
    """

    name: str
    model: str
    port: int
    context: int
    host: str = "127.0.0.1"
    address: str | None = None
    parallel: int = 2
    threads: int = -1
    load_mode: LoadMode = "auto"
    op_offload: bool = True
    jinja: bool = True
    sampling: Sampling = Sampling()
    gpus: tuple[str, ...] | None = None
    api_key: SecretReference | None = None
    extra_args: tuple[str, ...] = ()
    ready_timeout: int = 600
    llama_cpp: LlamaCppSettings | None = None
    cuda: CudaSettings | None = None
    draft: DraftSettings | None = None
    chat_template_file: str | None = None
    flash_attention: Switch | None = None
    cache_type_k: CacheType | None = None
    cache_type_v: CacheType | None = None
    cache_ram: int | None = None
    cache_reuse: int | None = None
    slot_save: bool = False
    kv_unified: bool | None = None
    swa_full: bool = False
    sleep_idle_seconds: int | None = None
    gpu_layers: str | None = None
    split_mode: SplitMode | None = None
    tensor_split: tuple[float, ...] = ()
    main_gpu: int | None = None
    cpu_moe: bool = False
    n_cpu_moe: int | None = None
    batch_size: int | None = None
    ubatch_size: int | None = None
    threads_batch: int | None = None
    numa: Numa | None = None
    reasoning: Switch | None = None
    reasoning_format: ReasoningFormat | None = None
    reasoning_budget: int | None = None
    chat_template: str | None = None
    chat_template_kwargs: str | None = None
    metrics: bool = False
    tls: Tls | None = None
    unix_socket: bool = False
    socket_group: str | None = None
    models: tuple[ServerSettings, ...] = ()
    models_max: int | None = None
    load_on_startup: bool = False

    @property
    def socket_path(self) -> str | None:
        """The unix socket that it listens on; llama-server wants the suffix. None for a port."""
        return f"/run/llama-server/{self.name}/llama.sock" if self.unix_socket else None

    @property
    def served(self) -> tuple[ServerSettings, ...]:
        """One of these settings a model: the server's own, or a router's models'."""
        return self.models or (self,)


@dataclass(frozen=True)
class OpenCodeModel:
    """A model that OpenCode offers. ``context`` and ``output`` are its ``limit``, in tokens.

    + images: whether it takes images as input: it has a multimodal projector
    + interleaved: field of an answer that carries a reasoning model's thoughts
    + tool_call: whether it calls tools
    """

    id: str
    name: str
    context: int
    output: int
    reasoning: bool = False
    images: bool = False
    interleaved: str = "reasoning_content"
    tool_call: bool = True


@dataclass(frozen=True)
class OpenCodeProvider:
    """A server as OpenCode sees it. ``server`` is ``HOST/SERVER``, for messages and checks.

    + models: what the server offers, at least one; the first is taken where none is named
    """

    id: str
    name: str
    server: str
    base_url: str
    models: tuple[OpenCodeModel, ...]
    api_key: SecretReference | None = None


@dataclass(frozen=True)
class OpenCodeAgent:
    """An agent that every user of a host is offered; None leaves it to OpenCode.

    + mode: ``primary``, ``subagent`` or ``all``
    + model: ``provider/model``
    + steps: how often it may go on by itself before it must answer
    + permission: as in :class:`OpenCodeSettings`, for this agent
    + tools: whether it has each of these tools at all
    """

    name: str
    description: str | None = None
    mode: Literal["primary", "subagent", "all"] | None = None
    model: str | None = None
    prompt: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    steps: int | None = None
    permission: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, Any] = field(default_factory=dict)
    hidden: bool | None = None
    disable: bool | None = None


@dataclass(frozen=True)
class OpenCodeSettings:
    """OpenCode on a host.

    + artifacts: npm package tarball by machine architecture (``x86_64``, ``aarch64``)
    + users: accounts whose ``~/.config/opencode/opencode.json`` gets our keys
    + default: id of the default provider
    + small: ``provider/model`` for titles and summaries; None: the default model
    + permission: ``allow``, ``ask`` or ``deny`` by tool, or by pattern within a tool; of several
      that match, OpenCode takes the last, so the order counts
    + instructions: files that every session reads, beside those that users name
    """

    version: str
    artifacts: Mapping[str, Artifact]
    users: tuple[str, ...]
    providers: tuple[OpenCodeProvider, ...]
    default: str
    small: str | None = None
    permission: Mapping[str, Any] = field(default_factory=dict)
    instructions: tuple[str, ...] = ()
    agents: tuple[OpenCodeAgent, ...] = ()

    @property
    def default_model(self) -> str:
        """``provider/model`` as OpenCode's ``model`` key wants it."""
        provider = next(p for p in self.providers if p.id == self.default)
        return f"{provider.id}/{provider.models[0].id}"

    @property
    def small_model(self) -> str:
        """``provider/model`` as OpenCode's ``small_model`` key wants it."""
        return self.small or self.default_model


@dataclass(frozen=True)
class ClaudeCodeSettings:
    """What points Claude Code at a server's Anthropic endpoint; the program is not ours.

    + users: accounts whose ``~/.claude/settings.json`` gets our values
    + server: ``HOST/SERVER``, for messages and checks
    + base_url: without ``/v1``
    + model: what it asks for
    + small_model: what it asks for in the background; None: the same
    + output: tokens of one answer at most
    """

    users: tuple[str, ...]
    server: str
    base_url: str
    model: str
    output: int
    small_model: str | None = None
    api_key: SecretReference | None = None


@dataclass(frozen=True)
class KnownHost:
    """How ssh names a host in known_hosts, and the file in which this machine finds its keys.

    + hostname, port: port None is 22
    + known_hosts: absolute path on the controller; None for the user's own
    """

    hostname: str
    port: int | None = None
    known_hosts: str | None = None


@dataclass(frozen=True)
class DriftTimerSettings:
    """The scheduled check for drift, on the one host that is the fleet's controller.

    + fleet: absolute path of the fleet file here; its lock lies beside it
    + hosts: every host of the fleet, for their keys
    + schedule: systemd's ``OnCalendar``
    + randomized_delay: seconds
    + timeout: seconds a host; None leaves it to ``llamaherd drift``
    + deep_share: such as ``1/7``; None hashes nothing
    + prometheus, html: absolute paths on the controller host; None writes none
    + notify: whether the fleet file has ``on_drift``
    """

    fleet: str
    hosts: tuple[KnownHost, ...] = ()
    schedule: str = "daily"
    randomized_delay: int = 1800
    timeout: int | None = None
    deep_share: str | None = None
    prometheus: str | None = None
    html: str | None = None
    notify: bool = False


@dataclass(frozen=True)
class DeclaredGpu:
    """A GPU that the fleet file says a host has.

    + memory: bytes
    + name, uuid: the driver's; empty for any
    """

    memory: int
    name: str = ""
    uuid: str = ""


@dataclass(frozen=True)
class ProxySettings:
    """The HTTP proxy of a host's own downloads; https None takes the one for http."""

    http: str | None = None
    https: str | None = None
    no_proxy: tuple[str, ...] = ()

    def environment(self) -> dict[str, str]:
        """What curl, git, apt and dnf read; curl takes http_proxy in lower case only."""
        local = ("localhost", "127.0.0.1", "::1")
        values = {
            "http_proxy": self.http,
            "https_proxy": self.https or self.http,
            "no_proxy": ",".join((*local, *self.no_proxy)),
        }
        given = {name: value for name, value in values.items() if value is not None}
        return given | {name.upper(): value for name, value in given.items()}


@dataclass(frozen=True)
class HostSettings:
    """Everything that one host should be. None or empty: the component has nothing to do there.

    + gpus: those it should have, in nvidia-smi's order; None where the fleet file doesn't say
    """

    name: str
    ssh: SshSettings
    cuda: CudaSettings | None = None
    llama_cpp: LlamaCppSettings | None = None
    models: tuple[ModelSettings, ...] = ()
    servers: tuple[ServerSettings, ...] = ()
    opencode: OpenCodeSettings | None = None
    claude_code: ClaudeCodeSettings | None = None
    drift_timer: DriftTimerSettings | None = None
    gpus: tuple[DeclaredGpu, ...] | None = None
    proxy: ProxySettings | None = None
    driver: DriverSettings | None = None

    def build_of(self, server: ServerSettings) -> tuple[LlamaCppSettings, CudaSettings] | None:
        """Build and toolkit of a server: its own, else the host's; None where there is none."""
        build, toolkit = server.llama_cpp or self.llama_cpp, server.cuda or self.cuda
        return None if build is None or toolkit is None else (build, toolkit)

    def backends_of(self, server: ServerSettings) -> tuple[Backend, ...]:
        """What a server's build computes with."""
        toolkit = server.cuda or self.cuda
        build = server.llama_cpp or self.llama_cpp
        if build is not None:
            return build.computes_with(toolkit)
        return ("cuda",) if toolkit is not None and toolkit.provider != "none" else ("cpu",)

    @property
    def builds(self) -> tuple[tuple[LlamaCppSettings, CudaSettings], ...]:
        """Every build of the host with its toolkit, each once, the host's own first."""
        found = []
        if self.llama_cpp is not None:
            found.append((self.llama_cpp, self.cuda or CudaSettings()))
        for server in self.servers:
            pair = self.build_of(server)
            if pair is not None and pair not in found:
                found.append(pair)
        return tuple(found)

    @property
    def toolkits(self) -> tuple[CudaSettings, ...]:
        """Every toolkit of the host, each once, the host's own first; none for a CPU host."""
        found: list[CudaSettings] = []
        for toolkit in (self.cuda, *(server.cuda for server in self.servers)):
            if toolkit is not None and toolkit.provider != "none" and toolkit not in found:
                found.append(toolkit)
        return tuple(found)

    def model(self, name: str) -> ModelSettings:
        """The model of that name; KeyError when the host has none."""
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(name)


T = TypeVar("T")


def to_data(settings: Any) -> Any:
    """Dataclasses as plain JSON-friendly values (mappings, lists, scalars)."""
    if settings is None or isinstance(settings, (str, int, float)):
        return settings  # most of what there is, in a fleet of thousands
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return {f.name: to_data(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
    if isinstance(settings, Mapping):
        return {key: to_data(value) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [to_data(value) for value in settings]
    return settings


def from_data(cls: type[T], data: Mapping[str, Any]) -> T:
    """The inverse of :func:`to_data`; unknown keys raise TypeError, missing ones too."""
    return typing.cast(T, _decode(cls, data))


@cache
def _hints(kind: type) -> dict[str, Any]:
    """A class's fields and their types; a fleet has thousands of each class."""
    return typing.get_type_hints(kind)


def _decode(kind: Any, value: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(typing.get_args(kind), value)
    if origin is tuple:
        item = typing.get_args(kind)[0]
        return tuple(_decode(item, element) for element in value)
    if origin is not None and _is_subclass(origin, Mapping):
        item = typing.get_args(kind)[1]
        return {key: _decode(item, element) for key, element in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        unknown = set(value) - set(hints)
        if unknown:
            raise TypeError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
        return kind(**{key: _decode(hints[key], element) for key, element in value.items()})
    return value


def _decode_union(kinds: tuple[Any, ...], value: Any) -> Any:
    if value is None:
        return None
    candidates = [kind for kind in kinds if kind is not type(None)]
    if isinstance(value, Mapping):
        for kind in candidates:
            if dataclasses.is_dataclass(kind) and set(value) <= {
                f.name for f in dataclasses.fields(kind)
            }:
                return _decode(kind, value)
    return _decode(candidates[0], value)


def _is_subclass(kind: Any, parent: type) -> bool:
    """``issubclass`` that answers False for what is no class (a Literal, say)."""
    return isinstance(kind, type) and issubclass(kind, parent)
