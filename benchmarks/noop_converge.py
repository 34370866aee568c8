"""A host in order: what it costs to find that out, beside ansible-core.

    python benchmarks/noop_converge.py [ROUNDS] [--write]

Makes a lab host (root; docs/lab.md), brings it in order once, and then measures in turn, in this
one run: pyinfra connecting and running ``true`` (the floor), a converge with nothing to do,
``llamaherd drift``, and ansible-core with pipelining and its usual SSH connection kept open, which
checks the same state with 19 tasks of its own modules and the facts that it gathers by default.
One round of each isn't counted. Every run must exit 0 and change nothing.

Prints medians and ratios; ``--write`` renews the table of docs/performance.md. Exit status 1 when
the converge isn't at least ten times as fast as ansible-core, or when something failed.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "molecule" / "lab"), str(ROOT / "tests" / "support")]

import document  # noqa: E402
from converge_support import FLEET, PROJECT, Site  # noqa: E402
from lab import LabError, lab_host, serve_hub, stop_on_signals  # noqa: E402

PLAYBOOK = Path(__file__).parent / "ansible" / "host_in_order.yaml"
BIN = Path(sys.executable).parent
ROUNDS = 5
TIMES_FASTER = 10.0
PACKAGES = (
    "build-essential ca-certificates ccache cmake curl git iproute2 libgomp1 libssl-dev "
    "ninja-build ripgrep"
)
FILES = {
    "sysusers": "/etc/sysusers.d/llama-server.conf",
    "unit": "/etc/systemd/system/llama-server@coder.service",
    "wait-ready": "/etc/llama-server/coder/wait-ready",
    "api-key": "/etc/llama-server/coder/api-key",
    "opencode.json": "/etc/opencode/opencode.json",
    "user.json": "/home/dev/.config/opencode/opencode.json",
}


@dataclass(frozen=True)
class Contender:
    """One way to look at the host.

    + unchanged: whether its output says that there was nothing to do
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    unchanged: Callable[[str], bool]

    def seconds(self) -> float:
        """Wall-clock time of one run; RuntimeError when it failed or changed something."""
        began = time.monotonic()
        done = subprocess.run(
            self.command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        took = time.monotonic() - began
        output = done.stdout + done.stderr
        if done.returncode != 0 or not self.unchanged(output):
            raise RuntimeError(f"{self.name} (status {done.returncode}):\n{output[-3000:]}")
        return took


def prepare(site: Site, reference: Path) -> None:
    """Bring the host in order, and give Ansible the Python it needs there."""
    for command in (("llamaherd", "lock", str(site.fleet)), ("pyinfra", "-y", *CONVERGE)):
        done = site.run(*command)
        if done.returncode != 0:
            raise RuntimeError(done.stdout + done.stderr)
    site.lab.run("apt-get update -q && apt-get install -qy python3 python3-apt", timeout=300)
    for name, path in FILES.items():
        (reference / name).write_text(site.lab.run(f"cat {path}").stdout)
    (reference / "api-key").chmod(0o600)


CONVERGE = ("inventory.py", "deploy.py")


def contenders(site: Site, reference: Path) -> list[Contender]:
    """Everything that is measured, the floor first."""
    ours = site.environment | {"FLEET": str(site.fleet)}
    pyinfra = str(BIN / "pyinfra")
    return [
        Contender(
            "pyinfra exec true", [pyinfra, "-y", "inventory.py", "exec", "--", "true"], ours, bool
        ),
        Contender(
            "no-op converge",
            [pyinfra, "-y", *CONVERGE],
            ours,
            lambda output: "Success" not in output.partition("--> Results")[0],
        ),
        Contender("llamaherd drift", [str(BIN / "llamaherd"), "drift"], ours, lambda _: True),
        Contender(
            "ansible-core",
            ansible_command(site, reference),
            site.environment | {"ANSIBLE_PIPELINING": "1", "ANSIBLE_NOCOWS": "1"},
            lambda output: bool(re.search(r"ok=20 +changed=0 +unreachable=0 +failed=0", output)),
        ),
    ]


def ansible_command(site: Site, reference: Path) -> list[str]:
    """The playbook with an inventory and the host's own names."""
    inventory = reference / "inventory.ini"
    inventory.write_text(
        f"box ansible_host={site.lab.alias} ansible_user=ops "
        f"ansible_ssh_common_args='-F {site.lab.ssh_config}' "
        "ansible_python_interpreter=/usr/bin/python3\n"
    )
    model = site.lab.run("ls /var/lib/llamaherd/models/*/*/*/*.gguf").stdout.strip()
    folder, _, file = model.rpartition("/")
    record = f"{folder}/.verified/{file}.json"
    variables = {
        "reference": str(reference),
        "packages": PACKAGES.split(),
        "build": site.lab.run("ls -d /opt/llama.cpp/b*").stdout.strip(),
        "model": model,
        "record": record,
        "model_size": int(site.lab.run(f"stat -c %s {model}").stdout),
        "model_sha256": json.loads(site.lab.run(f"cat {record}").stdout)["sha256"],
        "opencode": site.lab.run("ls -d /opt/opencode/[0-9]*").stdout.strip(),
    }
    return [
        str(BIN / "ansible-playbook"),
        *("-i", str(inventory), "-e", json.dumps(variables), str(PLAYBOOK)),
    ]


def measure(entries: list[Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, in turn; the first round isn't counted."""
    for entry in entries:
        entry.seconds()
    times: dict[str, list[float]] = {entry.name: [] for entry in entries}
    for _ in range(rounds):
        for entry in entries:
            times[entry.name].append(entry.seconds())
    return times


def show(times: dict[str, list[float]]) -> float:
    """Print the table; how many times as long as a converge ansible-core takes."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    converge = medians["no-op converge"]
    print(f"{'':18} {'median':>8} {'least':>8} {'most':>8} {'to the converge':>16}")
    for name, values in times.items():
        row = f"{name:18} {medians[name]:6.2f} s {min(values):6.2f} s {max(values):6.2f} s"
        print(f"{row} {medians[name] / converge:16.2f}")
    return medians["ansible-core"] / converge


NAMES = {
    "pyinfra exec true": "pyinfra connecting and running `true`",
    "no-op converge": "converge with nothing to do",
    "llamaherd drift": "`llamaherd drift`",
    "ansible-core": "ansible-core 2.19, pipelining, connection kept open",
}


def markdown(times: dict[str, list[float]]) -> str:
    """The table of the document."""
    converge = statistics.median(times["no-op converge"])
    rows = []
    for name, values in times.items():
        median = statistics.median(values)
        seconds = [f"{value:.2f} s" for value in (median, min(values), max(values))]
        rows.append([NAMES[name], *seconds, f"{median / converge:.2f}"])
    return document.table(("", "median", "least", "most", "to the converge"), rows)


def main() -> int:
    """Measure; the ratio decides the exit status."""
    stop_on_signals()
    numbers = [int(word) for word in sys.argv[1:] if word != "--write"]
    rounds = numbers[0] if numbers else ROUNDS
    name = f"bench-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory() as folder, lab_host(name) as lab:
        reference = Path(folder)
        key = f"bench-{secrets.token_hex(16)}"
        fleet = reference / "box.yaml"
        fleet.write_text(FLEET.format(project=PROJECT, alias=lab.alias, ssh_config=lab.ssh_config))
        environment = dict(os.environ) | {
            "HF_ENDPOINT": serve_hub(lab),
            "TEST_API_KEY": key,
            "XDG_STATE_HOME": folder,
            # Everybody's modules compiled, whoever installed them and how.
            "PYTHONPYCACHEPREFIX": f"{folder}/bytecode",
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        site = Site(lab, fleet, environment, key)
        try:
            prepare(site, reference)
            times = measure(contenders(site, reference), rounds)
            ratio = show(times)
            if "--write" in sys.argv:
                document.write("noop_converge", markdown(times))
        except (RuntimeError, LabError) as error:
            print(error, file=sys.stderr)
            return 1
    print(f"\nansible-core takes {ratio:.1f} times as long (wanted: at least {TIMES_FASTER:g})")
    return 0 if ratio >= TIMES_FASTER else 1


if __name__ == "__main__":
    sys.exit(main())
