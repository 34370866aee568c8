"""A host in order, as pyinfra's fake connector answers for it, and ways to damage it.

What it answers is made from its settings by the deploys' own pure code: a host that a converge has
just left. Each field can be replaced, for a host that somebody has changed since.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from deploys.common.files import ManagedFile
from deploys.llama_cpp.build import Machine, plan_build
from deploys.llama_server.arguments import process_arguments
from deploys.llama_server.files import account_file, server_files
from deploys.llama_server.instance import Instance
from deploys.llama_server.unit import config_hash, render_unit
from deploys.opencode.check import acceptance
from deploys.opencode.config import SYSTEM_CONFIG, system_config, user_config
from deploys.opencode.install import current_manifest, run_path
from deploys.packages import wanted
from facts.system import DISKS
from inventories.settings import (
    Artifact,
    CudaSettings,
    GitSource,
    HostSettings,
    LlamaCppSettings,
    ModelSettings,
    OpenCodeModel,
    OpenCodeProvider,
    OpenCodeSettings,
    ServerSettings,
    SshSettings,
)

COMMIT = "0c1e570" + "0" * 33
MODEL = ModelSettings(
    "glm", "GLM", "/var/lib/llamaherd/models/glm", (Artifact("m.gguf", 4096, "a" * 64, url="x"),)
)
SERVER = ServerSettings("coder", "glm", 8888, 8192)
PROVIDER = OpenCodeProvider(
    "llamaherd-coder",
    "llama-server (local)",
    "gpu-01/coder",
    "http://127.0.0.1:8888/v1",
    (OpenCodeModel("glm", "GLM", 8192, 2048),),
)
OPENCODE = OpenCodeSettings(
    "1.18.33",
    {"x86_64": Artifact("opencode.tgz", 9, "c" * 64, url="https://example.org/o.tgz")},
    ("dev",),
    (PROVIDER,),
    PROVIDER.id,
)
SETTINGS = HostSettings(
    name="gpu-01",
    ssh=SshSettings("gpu-01"),
    cuda=CudaSettings("none"),
    llama_cpp=LlamaCppSettings(GitSource("https://example.org/llama.cpp", COMMIT), 8146, COMMIT),
    models=(MODEL,),
    servers=(SERVER,),
    opencode=OPENCODE,
)
CUDA = replace(
    SETTINGS,
    cuda=CudaSettings("existing", path="/usr/local/cuda-13.0"),
    servers=(replace(SERVER, gpus=("0",)),),
)
RTX4090 = "0, NVIDIA GeForce RTX 4090, GPU-1, 24564, 24000, 580.65.06, 8.9"
COMPUTING = ("@@llamaherd:reboot", "@@llamaherd:computing", "814", "answered")
GIB = 1024**3


def line_of(file: ManagedFile, owner: str = "") -> str:
    """A file as the fact about files prints it."""
    content = file.content.encode()
    name = owner or file.as_user or file.user
    shown = "-" if file.secret else base64.b64encode(content).decode()
    sha256 = hashlib.sha256(content).hexdigest()
    return f"file {file.mode} {name} {name} {sha256} {shown} {file.path}"


def answer(body: Any, status: int = 200) -> str:
    """One answer of a live server, as the host's shell sends it."""
    text = f"{json.dumps(body)}\n@@status {status}\n@@exit 0\n"
    return base64.b64encode(text.encode()).decode()


@dataclass(frozen=True)
class FakeHost:
    """What a host answers. ``unit`` holds lines of systemctl and /proc for its one server.

    + gone: needles of commands that fail
    """

    settings: HostSettings = SETTINGS
    gpus: tuple[str, ...] = ()
    listeners: tuple[str, ...] = ("8888 llama-server[814] llama-server@coder.service",)
    missing_packages: frozenset[str] = frozenset()
    built: bool = True
    binaries: Mapping[str, str] = field(default_factory=dict)
    unit: Mapping[str, str] = field(default_factory=dict)
    newer: tuple[str, ...] = ()
    account: bool = True
    others: tuple[str, ...] = ()
    files: Mapping[str, ManagedFile | None] = field(default_factory=dict)
    model_stat: str = "4096 100 7"
    model_record: str | None = "4096 100 7"
    model_space: str = f"{50 * 1024**3} /var/lib"
    opencode_size: int = 9000
    opencode_link: str = run_path("1.18.33")
    users: tuple[str, ...] = ("dev",)
    user_text: str | None = None
    opencode_asked: bool = True
    live: Mapping[str, Any] = field(default_factory=dict)
    health: int = 200
    running: tuple[str, ...] = ()
    model_sha256: str = "a" * 64
    gone: tuple[str, ...] = ()
    root: bool = True
    on_gpu: bool = False

    def responses(self) -> dict[str, Any]:
        """What pyinfra's fake connector is told: the first needle that is in a command answers."""
        answers: dict[str, Any] = {
            "@@llamaherd:machine": self._system(),
            "dpkg-query": self._packages(),
            "/opt/llama.cpp/*/manifest.json": self._builds(),
            ".verified": self._models(),
            "@@llamaherd:account": self._servers(),
            "@@llamaherd:link": self._opencode(),
            "@@llamaherd:reboot": self._running(),
            "nice -n 19": self._hashes(),
            "@@llamaherd:toolkits": ["@@llamaherd:toolkits", "13.0.88 /usr/local/cuda-13.0", "-"],
            "look()": self._files(),
        }
        failing = {"success": False, "stderr": "sudo: a terminal is required"}
        return answers | dict.fromkeys(self.gone, failing)

    @property
    def data(self) -> dict[str, Any]:
        """pyinfra's host data."""
        return {"fake_delay": 0, "fake_delay_jitter": 0, "fake_responses": self.responses()}

    @property
    def unit_file(self) -> ManagedFile:
        """The server's unit as it should be."""
        return server_files(self.instance)[0]

    @property
    def instance(self) -> Instance:
        """The server as declared."""
        assert self.settings.llama_cpp is not None
        assert self.settings.cuda is not None
        architectures = ("89",) if self.settings.cuda.root else ()
        machine = Machine("debian12", "x86_64", "EPYC", architectures)
        build = plan_build(self.settings.llama_cpp, self.settings.cuda, machine)
        gpu = self.settings.cuda.provider != "none"
        server = self.settings.servers[0]
        options = frozenset({"--offline", "--cors-origins"})
        return Instance(server, self.settings.model(server.model), build.server, options, gpu)

    def _system(self) -> list[str]:
        lines = ["@@llamaherd:os", "ID=debian", "VERSION_ID=12"]
        uid = "0" if self.root else "1000"
        lines += ["@@llamaherd:machine", "x86_64", "2", uid, "@@llamaherd:cpu", "EPYC"]
        lines += ["@@llamaherd:glibc", "glibc 2.36", "@@llamaherd:systemd", "systemd 252 (252.39)"]
        lines += ["@@llamaherd:compiler", "12.2.0", "@@llamaherd:disk"]
        lines += [f"{path} {50 * GIB} /" for path in DISKS]
        lines += ["@@llamaherd:there", *self._there()]
        lines += ["@@llamaherd:gpus", *self.gpus, "@@llamaherd:listeners", *self.listeners]
        return lines

    def _there(self) -> list[str]:
        """What lies on the disk of what a converge brings."""
        settings = self.settings
        models = settings.models if self.model_record and self.model_stat else ()
        lines = [f"{self.model_stat.split()[0]} {model.path}" for model in models]
        if self.built and settings.llama_cpp is not None:
            folder = self.instance.binary.removesuffix("/bin/llama-server")
            lines.append(f"900 {folder}/manifest.json")
        if settings.opencode is not None and self.opencode_size:
            lines.append(f"300 /opt/opencode/{settings.opencode.version}/manifest.json")
        return lines

    def _packages(self) -> list[str]:
        names = set(wanted(self.settings)) - self.missing_packages
        return [f"installed {name} 1.0-1" for name in sorted(names)]

    def _builds(self) -> list[str]:
        if not self.built or self.settings.llama_cpp is None:
            return []
        name = self.instance.binary.split("/")[3]
        noted = dict.fromkeys(self.settings.llama_cpp.targets, "900 100")
        records = {target: f"{stat} {'d' * 64}" for target, stat in noted.items()}
        seen = noted | dict(self.binaries)
        lines = [f"@@llamaherd:build {name}", json.dumps({"name": name, "binaries": records})]
        lines += [f"@@llamaherd:binaries {name}"]
        return lines + [
            f"/opt/llama.cpp/{name}/bin/{target} {stat}" for target, stat in seen.items() if stat
        ]

    def _models(self) -> list[str]:
        (model,) = self.settings.models or (None,)
        if model is None:
            return []
        record = {"sha256": model.files[0].sha256, "stat": self.model_record}
        note = json.dumps(record) if self.model_record else ""
        return [f"{model.path}\t{self.model_stat}\t0\t{self.model_space}\t{note}"]

    def _servers(self) -> list[str]:
        lines = ["@@llamaherd:account", *(["998"] if self.account else []), "@@llamaherd:units"]
        lines += [f"/etc/systemd/system/llama-server@{name}.service" for name in self.others]
        if not self.settings.servers:
            return lines
        cmdline = "\0".join(process_arguments(self.instance)) + "\0"
        unit = {
            "LoadState": "loaded",
            "ActiveState": "active",
            "SubState": "running",
            "UnitFileState": "enabled",
            "MainPID": "814",
            "NRestarts": "0",
            "NeedDaemonReload": "no",
            "DropInPaths": "",
            "Executable": self.instance.binary,
            "Arguments": base64.b64encode(cmdline.encode()).decode(),
            "Age": "90000",
            "Config": config_hash(render_unit(self.instance)),
            "Release": config_hash(render_unit(self.instance)),
        }
        lines.append(f"@@llamaherd:server {self.instance.server.name}")
        lines += [f"{key}={value}" for key, value in (unit | dict(self.unit)).items()]
        lines += [f"Newer={path}" for path in self.newer]
        if self.built:
            folder = self.instance.binary.removesuffix("/bin/llama-server")
            lines += [f"@@llamaherd:options {folder}", "--cors-origins --offline"]
        return lines

    def _files(self) -> list[str]:
        if not self.settings.servers:
            return []
        files = {f.path: f for f in (account_file(), *server_files(self.instance))}
        return [line_of(file) for file in (files | dict(self.files)).values() if file is not None]

    def _opencode(self) -> list[str]:
        settings = self.settings.opencode
        if settings is None:
            return []
        manifest = current_manifest(settings.version, settings.artifacts["x86_64"])
        manifest |= {"size": 9000, "mtime": 100, "sha256": "e" * 64}
        etc = ManagedFile(SYSTEM_CONFIG, system_config(settings))
        etc = self.files.get(etc.path) or etc
        lines = ["@@llamaherd:link", self.opencode_link, "@@llamaherd:manifest"]
        lines += [json.dumps(manifest), "@@llamaherd:binary", f"{self.opencode_size} 100"]
        lines += ["@@llamaherd:run", f"{manifest['run']}  -", "@@llamaherd:system", line_of(etc)]
        for name in self.users:
            path = f"/home/{name}/.config/opencode/opencode.json"
            text = self.user_text
            if text is None:
                text = user_config("", settings, path)
            file = ManagedFile(path, text, as_user=name)
            lines += [f"@@llamaherd:user {name}", f"{name}:x:1000:1000::/home/{name}:/bin/sh"]
            noted = acceptance(settings, name, [file]) if self.opencode_asked else ""
            lines += [f"accepted {noted}", "home", f"config {path}", line_of(file)]
        return lines

    def _running(self) -> list[str]:
        lines = list(self.running) or ["@@llamaherd:reboot"]
        for server in self.settings.servers:
            model = self.settings.model(server.model)
            props = {
                "build_info": "b8146-0c1e570",
                "model_path": model.path,
                "total_slots": server.parallel,
                "default_generation_settings": {"n_ctx": server.context},
            } | dict(self.live)
            lines += [f"@@server {server.name}"]
            lines += ["@@llamaherd:gpu", "yes"] if self.on_gpu else []
            lines += ["@@llamaherd:health"]
            lines += [answer({"status": "ok"}, self.health)]
            if self.health == 200:
                lines += ["@@llamaherd:props", answer(props)]
                lines += ["@@llamaherd:models", answer({"data": [{"id": model.name}]})]
        return lines

    def _hashes(self) -> list[str]:
        return [f"{self.model_sha256}  {model.path}" for model in self.settings.models]


def with_user_text(text: str) -> FakeHost:
    """A host whose user has that configuration."""
    return replace(FakeHost(), user_text=text)
