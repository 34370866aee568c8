"""Compares our sizing with llama.cpp's own, and writes the table in docs/sizing.md.

Writes a header-only GGUF file of each family (tests/sizing/synthetic.py), asks ``llama-fit-params``
what it would take, and puts both side by side. On a machine without a GPU llama.cpp reports all of
it as host memory, with a tied embedding counted once; so do we here. The numbers are kept in
tests/sizing/recorded.json, for tests that run without the binary.

    python benchmarks/fit.py --binary build/bin/llama-fit-params [--write]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "sizing")]

from synthetic import families  # noqa: E402

from inventories.gguf import Header, read_file_header  # noqa: E402
from inventories.sizing.dimensions import dimensions_of  # noqa: E402
from inventories.sizing.estimate import MIB, Load, estimate  # noqa: E402

RECORDED = ROOT / "tests" / "sizing" / "recorded.json"
DOCUMENT = ROOT / "docs" / "sizing.md"
BEGIN, END = "<!-- made by make bench-fit -->", "<!-- end -->"

LOADS = (
    Load(32768),
    Load(65000, parallel=2),
    Load(131072, type_k="q8_0", type_v="q8_0"),
    Load(30000, parallel=4, type_k="q5_1", type_v="q5_1"),
)


@dataclass(frozen=True)
class Case:
    """One question and llama.cpp's answer, in MiB as it prints them."""

    model: str
    context: int
    parallel: int
    type_k: str
    type_v: str
    weights: int
    cache: int
    compute: int

    @property
    def load(self) -> Load:
        """The question."""
        return Load(self.context, self.parallel, self.type_k, self.type_v)


@dataclass(frozen=True)
class Ours:
    """Our answer to the same question, in MiB."""

    weights: float
    cache: float
    compute: float

    def difference(self, case: Case) -> float:
        """How far weights plus K/V are from llama.cpp's, as a share of that."""
        theirs = case.weights + case.cache
        return (self.weights + self.cache - theirs) / theirs


def ours(header: Header, load: Load) -> Ours:
    """Weights of the whole file, a tied embedding once, as they lie on one device."""
    memory = estimate(dimensions_of([header], "synthetic"), load)
    weights = sum(tensor.size for tensor in header.tensors)
    return Ours(weights / MIB, memory.cache / MIB, memory.compute / MIB)


def ask(binary: str, path: Path, load: Load) -> tuple[int, int, int]:
    """What llama-fit-params prints for the host: model, context and compute, in MiB."""
    command = [
        *(binary, "--model", str(path), "--ctx-size", str(load.context * load.parallel)),
        *("--parallel", str(load.parallel), "--no-repack", "--fit-print", "on"),
        *("--cache-type-k", load.type_k, "--cache-type-v", load.type_v),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    line = next((row for row in done.stdout.splitlines() if row.startswith("Host ")), None)
    if line is None:
        raise SystemExit(f"{path.name}: {binary} printed no Host line:\n{done.stderr[-2000:]}")
    model, context, compute = map(int, line.split()[1:4])
    return model, context, compute


def measured(binary: str, folder: Path) -> Iterator[tuple[Case, Ours]]:
    """Every family at every load, theirs beside ours."""
    for name, model in families():
        path = folder / f"{name}.gguf"
        model.write(path)
        header = read_file_header(path)
        for load in LOADS:
            answer = ask(binary, path, load)
            case = Case(name, load.context, load.parallel, load.type_k, load.type_v, *answer)
            yield case, ours(header, load)
        path.unlink()


def markdown(pairs: Sequence[tuple[Case, Ours]]) -> str:
    """The table of the document."""
    lines = [
        "| model | context | K/V | weights | llama.cpp | K/V, states | llama.cpp | "
        "difference | compute | llama.cpp |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case, own in pairs:
        kinds = case.type_k if case.type_k == case.type_v else f"{case.type_k}/{case.type_v}"
        lines.append(
            f"| {case.model} | {case.context} x {case.parallel} | {kinds} "
            f"| {own.weights:.0f} | {case.weights} | {own.cache:.0f} | {case.cache} "
            f"| {own.difference(case):+.2%} | {own.compute:.0f} | {case.compute} |"
        )
    return "\n".join(lines)


def version(binary: str) -> str:
    """The build that answered."""
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    lines = (done.stderr + done.stdout).splitlines()
    return next((line.strip() for line in lines if line.startswith("version")), "unknown")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 when any case is more than 5 % off."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--binary", default="llama-fit-params", help="llama-fit-params to ask")
    parser.add_argument("--write", action="store_true", help="renew the document and the records")
    args = parser.parse_args(argv)
    binary = shutil.which(args.binary)
    if binary is None:
        raise SystemExit(f"{args.binary}: no such program; build the target llama-fit-params")
    with tempfile.TemporaryDirectory() as folder:
        pairs = list(measured(binary, Path(folder)))
    table = markdown(pairs)
    print(table)
    if args.write:
        records = {"build": version(binary), "cases": [asdict(case) for case, _ in pairs]}
        RECORDED.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        text = DOCUMENT.read_text(encoding="utf-8")
        before, after = text.partition(BEGIN)[0], text.partition(END)[2]
        DOCUMENT.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    worst = max(abs(own.difference(case)) for case, own in pairs)
    print(f"\n{version(binary)}: the worst difference of weights plus K/V is {worst:.2%}")
    return 1 if worst > 0.05 else 0


if __name__ == "__main__":
    sys.exit(main())
