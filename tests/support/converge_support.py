"""A fleet file, the lab host it describes, and the means to work on both."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
LAB = str(PROJECT / "molecule" / "lab")
BIN = Path(sys.executable).parent

# How lab hosts build llama.cpp: one target, from the archive, with the compiler's output cached.
DEFAULTS = """\
defaults:
  cuda: {{provider: none}}
  llama_cpp:
    archive:
      path: {project}/.lab/downloads/llama_cpp_python-0.3.36.tar.gz
      sha256: 832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
      subdirectory: llama_cpp_python-0.3.36/vendor/llama.cpp
    commit: 0c1e570
    build_number: 1
    ccache: true
    targets: [llama-server]
"""

MODELS = """\
version: 1
models:
  smollm2:
    hub: {{repo: demo/SmolLM2-135M-Instruct-GGUF, quant: Q4_1}}
"""

FLEET = (
    MODELS
    + DEFAULTS
    + """\
hosts:
  box:
    ssh: {{hostname: {alias}, user: ops, config_file: {ssh_config}}}
    servers:
      coder: {{model: smollm2, port: 8888, context: 8192, api_key: {{env: TEST_API_KEY}}}}
    opencode: {{users: [dev]}}
    clients: {{claude_code: {{users: [dev], server: coder}}}}
"""
)


@dataclass
class Site:
    """A fleet file, the host it describes, and the means to work on both."""

    lab: Any
    fleet: Path
    environment: dict[str, str]
    key: str

    def run(self, *command: str, fleet: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A command of the project's, as a user types it."""
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            cwd=PROJECT,
            env=self.environment | {"FLEET": str(fleet or self.fleet)},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def converge(
        self, *options: str, fleet: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """``pyinfra inventory.py deploy.py -y``."""
        return self.run("pyinfra", "inventory.py", "deploy.py", "-y", *options, fleet=fleet)

    def start_converge(self, fleet: Path) -> subprocess.Popen[str]:
        """The same, left running."""
        return subprocess.Popen(
            [str(BIN / "pyinfra"), "inventory.py", "deploy.py", "-y"],
            cwd=PROJECT,
            env=self.environment | {"FLEET": str(fleet)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def ssh(self, command: str) -> str:
        """What a command says on the host, run by root; it may fail."""
        done = subprocess.run(
            [*self.lab.ssh(), command], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    def variant(self, name: str, *changes: tuple[str, str]) -> Path:
        """A locked fleet file that differs from the first one in some of its text."""
        text = self.fleet.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = self.fleet.with_name(f"{name}.yaml")
        path.write_text(text)
        locked = self.run("llamaherd", "lock", str(path))
        assert locked.returncode == 0, locked.stderr
        return path


@contextlib.contextmanager
def converged(
    fleet: str, folder: Path, prefix: str, before: Callable[[Site], None] = lambda _: None
) -> Iterator[Site]:
    """A lab host on which one converge has gone well.

    + fleet: the fleet file's text, with places for ``project``, ``alias`` and ``ssh_config``
    + folder: where the fleet file and its lock lie
    + before: done to the host before its fleet is locked
    """
    if LAB not in sys.path:
        sys.path.insert(0, LAB)
    from lab import lab_host, serve_hub

    with lab_host(f"{prefix}-{secrets.token_hex(3)}") as lab:
        key = f"test-{secrets.token_hex(16)}"
        environment = dict(os.environ) | {"HF_ENDPOINT": serve_hub(lab), "TEST_API_KEY": key}
        path = folder / "box.yaml"
        path.write_text(fleet.format(project=PROJECT, alias=lab.alias, ssh_config=lab.ssh_config))
        site = Site(lab, path, environment, key)
        before(site)
        locked = site.run("llamaherd", "lock", str(path))
        assert locked.returncode == 0, locked.stderr
        result = site.converge()
        assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
        yield site


def changed(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Names of the operations that changed something, from ``--json``."""
    operations = json.loads(result.stdout)["results"]["operations"]
    return [operation["name"] for operation in operations if operation["success"]]
