"""A host's folders below a temporary one, looked at and pruned by the very scripts of a host."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploys.llama_cpp.build import machine, plan_build
from deploys.prune.removal import parse_removal, removal_command
from deploys.prune.unused import Item, Judgement, judge
from facts.holdings import Holdings, HostHoldings, parse_holdings
from facts.system import SystemState
from inventories.settings import (
    Artifact,
    CudaSettings,
    GitSource,
    HostSettings,
    LlamaCppSettings,
    ModelSettings,
    OpenCodeSettings,
    SshSettings,
)

COMMIT = "0c1e570" + "0" * 33
REVISION = "0d32489ecb9db6d2a4fc93bd27ef01519f95474d"
MODELS = "/var/lib/llamaherd/models"
DIRECTORY = f"{MODELS}/unsloth/GLM/{REVISION}"
# Every place of a host that the scripts name, and how they may write it.
_PLACES = ("/opt/llama.cpp", "/opt/opencode", "/var/lib/llamaherd", "/usr/local/bin/opencode")
_CONFIGURED = ("/etc/systemd/system", "/run/systemd/system", "/etc/llama-server")

MODEL = ModelSettings("glm", "GLM", DIRECTORY, (Artifact("m.gguf", 4096, "a" * 64, url="x"),))
BUILD = LlamaCppSettings(GitSource("https://example.org/llama.cpp", COMMIT), 8146, COMMIT)
OPENCODE = OpenCodeSettings(
    "1.18.33",
    {"x86_64": Artifact("opencode.tgz", 9, "c" * 64, url="https://example.org/o.tgz")},
    ("dev",),
    (),
    "x",
)
SETTINGS = HostSettings(
    name="gpu-01",
    ssh=SshSettings("gpu-01"),
    cuda=CudaSettings("none"),
    llama_cpp=BUILD,
    models=(MODEL,),
    opencode=OPENCODE,
)


@dataclass
class Sandbox:
    """The folders, and systemd's answer to which jobs run."""

    root: Path
    jobs: str = ""

    def at(self, path: str) -> Path:
        """Where a host's path lies here."""
        return self.root / path.lstrip("/")

    def there(self, path: str) -> bool:
        return os.path.lexists(self.at(path))

    def write(self, path: str, text: str = "x") -> str:
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).write_text(text)
        return path

    def build(self, name: str, targets: tuple[str, ...] = ("llama-server",), **more: Any) -> str:
        """A finished build, as a build's script leaves it."""
        path = f"/opt/llama.cpp/{name}"
        records = {}
        for target in targets:
            stat = self.at(self.write(f"{path}/bin/{target}", f"program {target}")).stat()
            records[target] = f"{stat.st_size} {int(stat.st_mtime)} {'d' * 64}"
        manifest = {"name": name, "targets": list(targets), "binaries": records} | more
        self.write(f"{path}/manifest.json", json.dumps(manifest) + "\n")
        return path

    def model(self, path: str, text: str = "weights", *, verified: bool = True) -> str:
        """A model file with its record of verification."""
        self.write(path, text)
        if verified:
            stat = self.at(path).stat()
            noted = f"{stat.st_size} {int(stat.st_mtime)} {stat.st_ino}"
            folder, _, name = path.rpartition("/")
            record = json.dumps({"sha256": "a" * 64, "stat": noted})
            self.write(f"{folder}/.verified/{name}.json", f"{record}\n")
        return path

    def opencode(self, version: str) -> str:
        path = f"/opt/opencode/{version}"
        size = self.at(self.write(f"{path}/opencode", "program")).stat().st_size
        self.write(f"{path}/run", "#!/bin/sh\n")
        self.write(f"{path}/manifest.json", json.dumps({"version": version, "size": size}))
        return path

    def release(self, server: str, kind: str, *uses: str) -> None:
        """A release as it lies on a host: a link to a folder, or ``next`` itself."""
        base = f"/var/lib/llamaherd/releases/{server}"
        name = "next" if kind == "next" else f"hash-{kind}"
        self.write(f"{base}/{name}/uses", "".join(f"{self.at(path)}\n" for path in uses))
        if kind != "next":
            self.at(f"{base}/{kind}").symlink_to(name)

    def _here(self, script: str) -> str:
        """A host's script, kept to this folder."""
        for place in (*_PLACES, *_CONFIGURED):
            script = script.replace(place, f"{self.root}{place}")
        return script.replace("/opt/llama[.]cpp", f"{self.root}/opt/llama[.]cpp")

    def _sh(self, script: str, lines: list[str] | None = None) -> list[str]:
        bin_ = self.root / "bin"
        bin_.mkdir(exist_ok=True)
        systemctl = bin_ / "systemctl"
        systemctl.write_text(f"#!/bin/sh\nprintf '%s' {shlex.quote(self.jobs)}\n")
        systemctl.chmod(0o755)
        done = subprocess.run(
            ["sh", "-c", self._here(script)],
            input="".join(f"{self._here(line)}\n" for line in lines or []),
            env=os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.replace(str(self.root), "").splitlines()

    def answer(self) -> list[str]:
        """What a host answers."""
        return self._sh(shlex.split(HostHoldings().command())[2])

    def look(self) -> Holdings:
        """What that is made into."""
        return parse_holdings(self.answer())

    def judge(self, settings: HostSettings = SETTINGS) -> Judgement:
        return judge(settings, self.look())

    def remove(self, items: tuple[Item, ...]) -> Mapping[str, str]:
        """What the host says of its removal."""
        command = removal_command(items)
        script = shlex.split(str(command))[2]
        return parse_removal(self._sh(script, list(command.connector_arguments["_stdin"])))


def declared_build(system: SystemState) -> str:
    """Name of the build that SETTINGS make on a host."""
    return plan_build(BUILD, CudaSettings("none"), machine(system)).name


def folder(path: str) -> str:
    """What a path lies in."""
    return path.rpartition("/")[0]
