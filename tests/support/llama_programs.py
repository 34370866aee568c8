"""llama.cpp's programs for tests that ask them here, without a lab host around them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from converge_support import DEFAULTS, converged

PROGRAMS = ("llama-fit-params", "llama-server")
FLEET = (
    "version: 1\n"
    + DEFAULTS.replace("[llama-server]", f"[{', '.join(PROGRAMS)}]")
    + """\
hosts:
  box:
    ssh: {{hostname: {alias}, user: ops, config_file: {ssh_config}}}
"""
)


def compiled(folder: Path) -> dict[str, str]:
    """Paths by name: compiled on a lab host by a converge, and copied into a folder."""
    with converged(FLEET, folder, "programs") as site:
        for name in PROGRAMS:
            with (folder / name).open("wb") as file:
                ask = [*site.lab.ssh(), f"cat /opt/llama.cpp/b*/bin/{name}"]
                subprocess.run(ask, stdout=file, check=True)
            (folder / name).chmod(0o755)
    return {name: str(folder / name) for name in PROGRAMS}
