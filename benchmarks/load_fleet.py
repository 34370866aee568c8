"""How long it takes to load and validate a big fleet, next to merely parsing its YAML.

    python benchmarks/load_fleet.py [HOSTS] [--write]

Prints the CPU time of both in the same run, their ratio and the peak memory, for three shapes of
fleet: every host in a group, every tenth with an override, and every host with all of its own.
Exit status 1 when a fleet of the first two shapes, scaled to 10,000 hosts, misses the budget
(3 s; 500 MB). The third is for information: such a file is seven times as long. ``--write`` renews
the table of docs/performance.md.
"""

from __future__ import annotations

import gc
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import document
import yaml

from inventories.fleet import load_fleet
from inventories.sizing.declared import check_memory

BUDGET_SECONDS, BUDGET_MEGABYTES, BUDGET_HOSTS = 3.0, 500, 10_000

HEAD = """\
version: 1
models:
  glm-4.7-flash:
    catalogue: glm-4.7-flash
defaults:
  ssh: {user: ops}
  cuda: {provider: nvidia-repo, version: "13.0"}
  llama_cpp: {ref: b8146}
groups:
  coding:
    gpus: [{name: NVIDIA GeForce RTX 4090, memory: 24564M}]
    servers:
      coder: {model: glm-4.7-flash, port: 8888, context: 32768, parallel: 2}
    opencode: {users: [dev], default: coder}
hosts:
"""


def _address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def grouped(number: int) -> str:
    """A host that takes everything from its group."""
    return f"  gpu-{number:05d}: {{ssh: {{hostname: {_address(number)}}}, groups: [coding]}}\n"


def overriding(number: int) -> str:
    """Every tenth host changes a server and a build setting of its group."""
    if number % 10:
        return grouped(number)
    return (
        f"  gpu-{number:05d}:\n    ssh: {{hostname: {_address(number)}}}\n    groups: [coding]\n"
        f"    servers: {{coder: {{context: 16384}}}}\n    llama_cpp: {{jobs: 8}}\n"
    )


def alone(number: int) -> str:
    """A host that shares nothing with any other."""
    return f"""\
  gpu-{number:05d}:
    ssh: {{hostname: {_address(number)}, user: ops, port: 22}}
    cuda: {{provider: nvidia-repo, version: "13.0"}}
    llama_cpp: {{ref: b8146, architectures: ["89"], jobs: 8}}
    gpus: [{{name: NVIDIA GeForce RTX 4090, memory: 24564M, count: 2}}]
    servers:
      coder:
        model: glm-4.7-flash
        port: 8888
        host: 0.0.0.0
        api_key: {{env: OFFICE_API_KEY}}
        context: 65536
        parallel: 2
        sampling: {{temperature: 0.7, top_p: 1.0, min_p: 0.01}}
    opencode: {{users: [dev, ci], default: coder}}
"""


SHAPES = {
    grouped: "all from a group",
    overriding: "every tenth with an override",
    alone: "each with all of its own",
}


def _timed(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def validate(path: Path) -> None:
    """What ``llamaherd validate`` does, memory on the declared GPUs included."""
    problems = check_memory(load_fleet(path), None)
    if problems:
        raise SystemExit(f"the fleet that is measured is refused: {problems[0]}")


def main() -> int:
    """Measure each shape; the budget decides the exit status."""
    numbers = [int(word) for word in sys.argv[1:] if word != "--write"]
    hosts = numbers[0] if numbers else BUDGET_HOSTS
    failed, rows = False, []
    print(f"{hosts} hosts       plain YAML   validation   ratio   peak memory")
    for shape in SHAPES:
        text = HEAD + "".join(shape(number) for number in range(hosts))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "fleet.yaml"
            path.write_text(text, "utf-8")
            mine = _timed(lambda path=path: validate(path))  # type: ignore[misc]
            # Measured before the plain reader runs, which needs memory of its own.
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            plain = _timed(lambda: yaml.load(text, Loader=loader))  # noqa: B023
        times = f"{plain:8.2f} s {mine:10.2f} s {mine / plain:7.2f}"
        print(f"{shape.__name__:<16} {times} {peak:10.0f} MB")
        rows.append([SHAPES[shape], f"{plain:.2f} s", f"{mine:.2f} s", f"{peak:.0f} MB"])
        scale = BUDGET_HOSTS / hosts
        if shape is not alone and (mine * scale > BUDGET_SECONDS or peak > BUDGET_MEGABYTES):
            failed = True
    if "--write" in sys.argv:
        heads = (f"{hosts:,} hosts", "PyYAML alone", "read and validated", "peak memory")
        document.write("load_fleet", document.table(heads, rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
