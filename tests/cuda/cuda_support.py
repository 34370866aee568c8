"""What the tests of the CUDA component share: pyinfra's own command line, run against a host."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inventories.settings import CudaSettings, to_data

INVENTORY = """
lab = [({alias!r}, {{"ssh_config_file": {config!r}, "ssh_user": {user!r}}})]
"""

DEPLOY = """
import json
from pathlib import Path
from deploys.cuda import cuda
from inventories.settings import CudaSettings, from_data

settings = json.loads(Path({settings!r}).read_text(encoding="utf-8"))
cuda(from_data(CudaSettings, settings), _sudo={sudo})
"""


@dataclass(frozen=True)
class Outcome:
    """What a converge ended with.

    + changed: hosts that an operation changed
    + output: what a person would have seen
    """

    status: int
    changed: tuple[str, ...]
    output: str


Converge = Callable[..., Outcome]


def converge_with(
    host: Any, folder: Path, settings: CudaSettings, user: str = "root", *options: str
) -> Outcome:
    """Run the component on a lab host as ``pyinfra -y hosts.py deploy.py`` does."""
    data, inventory, deploy = (folder / name for name in ("data.json", "hosts.py", "deploy.py"))
    data.write_text(json.dumps(to_data(settings)), encoding="utf-8")
    config = str(host.ssh_config)
    inventory.write_text(INVENTORY.format(alias=host.alias, config=config, user=user))
    deploy.write_text(DEPLOY.format(settings=str(data), sudo=user != "root"))
    done = subprocess.run(
        [sys.executable, "-m", "pyinfra", "--json", "-y", *options, str(inventory), str(deploy)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    document = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    operations = (document.get("results") or {}).get("operations", [])
    changed = tuple(host for operation in operations for host in operation["success"])
    return Outcome(done.returncode, changed, done.stderr)
