"""Lab hosts dressed up as boxes in many conditions.

sysfs and procfs are the kernel's: bind mounts put folders of ours over the two that count. Tools
that a lab has no hardware for are stand-ins in ``/usr/local/bin`` that replay what real ones print.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema

from schemas.validate import load_schema

BIN = Path(sys.executable).parent
SMI = """\
#!/bin/sh
case "$*" in
  *ecc.mode*) sed '/^[0-9][0-9]*, /s|$|, [N/A], [N/A], [N/A]|' /fake/gpus ;;
  *mig.mode*) cat /fake/cards ;;
  *query-gpu*) cat /fake/gpus ;;
  *query-compute*) ;;
  *) cat /fake/smi ;;
esac
[ ! -e /fake/smi-fails ]
"""
DRESS = """\
set -e
mkdir -p /fake/pci/devices /fake/driver
mount --bind /fake/pci /sys/bus/pci
mount -t tmpfs none /proc/driver
for tool in lspci dmesg modinfo; do
  printf '#!/bin/sh\\ncat /fake/%s 2>/dev/null\\n' "$tool" > "/usr/local/bin/$tool"
  chmod 755 "/usr/local/bin/$tool"
done
"""
CLEAN = "rm -rf /fake/* /proc/driver/nvidia /usr/local/bin/nvidia-smi /usr/local/bin/date"


@dataclass
class Box:
    """A dressed lab host, and how llamaherd is run against it."""

    lab: Any
    folder: Path
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def config(self) -> Path:
        """An ssh configuration with a known_hosts of its own."""
        return self.folder / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        """It begins with the lab's own entry."""
        return self.folder / "known_hosts"

    def set_up(self, *, key: str = "") -> None:
        """Write both; ``key`` is another key than the lab's."""
        lab = self.lab.directory
        self.known_hosts.write_text((lab / "known_hosts").read_text())
        self.config.write_text(
            f"Host box\n  HostName {self.lab.address}\n  IdentitiesOnly yes\n"
            f"  IdentityFile {key or lab / 'key'}\n  UserKnownHostsFile {self.known_hosts}\n"
        )

    def wear(self, **files: str) -> None:
        """Nothing but these: lspci, dmesg, modinfo, module, gpus, cards, smi."""
        script = [CLEAN]
        for name, text in files.items():
            path = "/proc/driver/nvidia/version" if name == "module" else f"/fake/{name}"
            script.append(f"mkdir -p {Path(path).parent}\ncat > {path} <<'END'\n{text}\nEND")
        if "gpus" in files:
            path = "/usr/local/bin/nvidia-smi"
            script.append(f"cat > {path} <<'END'\n{SMI}END\nchmod 755 {path}")
        self.lab.run("\n".join(script))

    def llamaherd(
        self, *words: str, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """``llamaherd onboard`` with these words, without a terminal."""
        command = [str(BIN / "llamaherd"), "onboard", *words, "--ssh-config", str(self.config)]
        if "HF_ENDPOINT" not in environment:
            command.append("--no-bandwidth")
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd=self.folder,
            env=self.environment | environment,
        )

    def look(self, *words: str, **environment: str) -> tuple[int, dict[str, Any]]:
        """Exit status and the one target's report, which the schema describes."""
        done = self.llamaherd(*words, "--json", **environment)
        assert done.stdout, done.stderr
        document = json.loads(done.stdout)
        assert "targets" in document, done.stderr
        jsonschema.validate(document, load_schema("onboard.report.schema.json"))
        assert done.returncode == (0 if document["ok"] else 1), done.stderr
        return done.returncode, document["targets"][0]


def ids(report: dict[str, Any], severity: str = "blocker") -> list[str]:
    """The findings of a severity."""
    return [f["id"] for f in report["findings"] if f["severity"] == severity]
