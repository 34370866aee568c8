"""Compares our sizing with llama.cpp's own and with gguf-parser's; writes docs/sizing.md's tables.

Writes a header-only GGUF file of each family (tests/sizing/synthetic.py), and asks for the same
loads

- ``llama-fit-params``, what it would take. On a machine without a GPU it reports all of it as host
  memory, with a tied embedding counted once; so do we here;
- with ``--rpc-server`` (llama.cpp built with GGML_RPC), the same with one or two devices, each an
  RPC server on loopback: what lies on a device, and what stays in host memory, is llama.cpp's own
  placement then, experts in host memory included;
- with ``--server``, a llama-server that really loads the file and says what it allocated;
- with ``--gguf-parser``, gguf-parser (github.com/gpustack/gguf-parser-go), which is not ours.

The numbers are kept in tests/sizing/recorded.json, for tests that run without any of them; what
isn't asked anew stays as it was recorded.

    python benchmarks/fit.py --binary build/bin/llama-fit-params [--write]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "sizing")]

from synthetic import families  # noqa: E402

from inventories.gguf import Header, read_file_header  # noqa: E402
from inventories.sizing.dimensions import dimensions_of  # noqa: E402
from inventories.sizing.estimate import MIB, Load, estimate  # noqa: E402

RECORDED = ROOT / "tests" / "sizing" / "recorded.json"
DOCUMENT = ROOT / "docs" / "sizing.md"
PARTS = ("fit-params", "devices", "server")

LOADS = (
    Load(32768),
    Load(65000, parallel=2),
    Load(131072, type_k="q8_0", type_v="q8_0"),
    Load(30000, parallel=4, type_k="q5_1", type_v="q5_1"),
    Load(20000, parallel=2, type_k="q8_0", type_v="q4_0", ubatch=1024),
    Load(40000, parallel=3, swa_full=True),
)
"""What every family is asked for."""

SERVED = (
    Load(4096, parallel=2),
    Load(4000, parallel=3, unified=True),
    Load(4096, parallel=2, type_k="q8_0", type_v="q8_0", swa_full=True),
)
"""What a real llama-server allocates: small enough for a small machine."""

SERVED_FAMILIES = (
    *("llama-3.1-8b", "glm-4.7-flash", "gpt-oss-20b", "gemma-3-27b"),
    *("granite-4.0-h-small", "falcon-h1-7b", "mamba2-2.7b"),
)
"""One of each kind of cache that a small machine can load: a llama-server reads all of the file."""

OFTEN_SERVED = 12 << 30
"""Bytes of the largest file that is loaded at every load of SERVED, not only at the first."""

ON_DEVICES = ((1, 0), (2, 0), (1, 8), (1, 20))
"""Devices, and layers whose experts stay in host memory."""

ONE_TYPE = frozenset({"glm-4.7-flash"})
"""MLA: llama.cpp refuses keys of one type with values of another."""


@dataclass(frozen=True)
class Case:
    """One question and the answers, in MiB as they are printed; None where nobody was asked.

    + weights, cache, compute: llama-fit-params' on a machine without a GPU
    + parser: gguf-parser's weights and K/V on the GPU
    + parser_compute: all else that it counts there
    """

    model: str
    load: Load
    weights: int
    cache: int
    compute: int
    parser: float | None = None
    parser_compute: float | None = None

    def document(self) -> dict[str, Any]:
        """As recorded."""
        return {**asdict(self), "load": asdict(self.load)}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Case:
        """The inverse of :meth:`document`."""
        return cls(**{**values, "load": Load(**values["load"])})


@dataclass(frozen=True)
class Placed:
    """llama.cpp's placement over devices: MiB of model, context and compute of each, host last."""

    model: str
    load: Load
    devices: tuple[tuple[int, int, int], ...]
    host: tuple[int, int, int]


@dataclass(frozen=True)
class Served:
    """What a llama-server that loaded the file said it allocated, in MiB."""

    model: str
    load: Load
    weights: float
    cache: float


@dataclass(frozen=True)
class Ours:
    """Our answer, in MiB.

    + weights: of the whole file, a tied embedding once, as they lie where there is no GPU
    + device, host: weights where there is one
    + pair: compute buffers of two GPUs together
    """

    weights: float
    cache: float
    compute: float
    device: float
    host: float
    pair: float

    def difference(self, case: Case) -> float:
        """How far weights plus K/V are from llama.cpp's, as a share of that."""
        theirs = case.weights + case.cache
        return (self.weights + self.cache - theirs) / theirs

    def beside_parser(self, case: Case) -> tuple[float, float]:
        """How far we and gguf-parser are from llama.cpp in weights plus K/V on the GPU.

        llama.cpp's own on the GPU is what it said, less the token embedding, which stays in host
        memory but where it is the output as well.
        """
        assert case.parser is not None
        theirs = case.weights - (self.weights - self.device) + case.cache
        return (self.device + self.cache) / theirs - 1, case.parser / theirs - 1


def ours(header: Header, load: Load) -> Ours:
    """What we say."""
    memory = estimate(dimensions_of([header], "synthetic"), load)
    weights = sum(tensor.size for tensor in header.tensors)
    return Ours(
        weights / MIB,
        memory.cache / MIB,
        memory.compute / MIB,
        memory.weights / MIB,
        memory.host / MIB,
        memory.buffers(2) / MIB,
    )


# llama-fit-params -------------------------------------------------------------------------------


def ask(
    binary: str, path: Path, load: Load, devices: Sequence[str] = ()
) -> dict[str, tuple[int, int, int]]:
    """What llama-fit-params prints for each device and the host: model, context, compute, in MiB.

    + devices: ``host:port`` of RPC servers
    """
    command = [
        *(binary, "--model", str(path), "--ctx-size", str(load.context * load.parallel)),
        *("--parallel", str(load.parallel), "--no-repack", "--fit-print", "on"),
        *("--cache-type-k", load.type_k, "--cache-type-v", load.type_v),
        *("--ubatch-size", str(load.ubatch), *(("--swa-full",) if load.swa_full else ())),
        *(("--rpc", ",".join(devices), "--n-gpu-layers", "999") if devices else ()),
        *(("--n-cpu-moe", str(load.cpu_moe)) if load.cpu_moe else ()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    lines = [line.split() for line in done.stdout.splitlines()]
    found = {
        words[0]: (int(words[1]), int(words[2]), int(words[3]))
        for words in lines
        if len(words) == 4 and all(word.isdecimal() for word in words[1:])
    }
    if "Host" not in found or len(found) != len(devices) + 1:
        raise SystemExit(f"{path.name}: {binary} said {done.stdout!r}:\n{done.stderr[-2000:]}")
    return found


def loads_of(name: str) -> Iterator[Load]:
    """The loads that a family is asked for."""
    for load in LOADS:
        if load.type_k == load.type_v or name not in ONE_TYPE:
            yield load


def measured(binary: str, folder: Path, parser: str | None = None) -> Iterator[tuple[Case, Ours]]:
    """Every family at every load, theirs beside ours."""
    for name, path, header in written(folder):
        for load in loads_of(name):
            case = Case(name, load, *ask(binary, path, load)["Host"])
            if parser is not None:
                case = beside(case, parser, path, header)
            yield case, ours(header, load)


def written(folder: Path) -> Iterator[tuple[str, Path, Header]]:
    """Each family's file while it is looked at."""
    for name, model in families():
        path = folder / f"{name}.gguf"
        model.write(path)
        yield name, path, read_file_header(path)
        path.unlink()


def placed(binary: str, rpc_server: str, folder: Path) -> Iterator[Placed]:
    """Every family on one device and on two, and the experts of some layers in host memory."""
    with ExitStack() as stack:
        devices = [stack.enter_context(rpc_device(rpc_server)) for _ in range(2)]
        for name, path, header in written(folder):
            weights = dimensions_of([header], name).weights
            experts = weights.expert_layers if weights is not None else 0
            for count, layers in ON_DEVICES:
                if layers > experts:
                    continue
                load = Load(32768, parallel=2, cpu_moe=layers)
                found = ask(binary, path, load, devices[:count])
                host = found.pop("Host")
                yield Placed(name, load, tuple(found.values()), host)


@contextmanager
def rpc_device(binary: str) -> Iterator[str]:
    """An RPC server on loopback; its address."""
    port = free_port()
    process = subprocess.Popen(
        [binary, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{binary} doesn't listen on port {port}")
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# llama-server -----------------------------------------------------------------------------------

_MODEL_BUFFER = re.compile(r"load_tensors:.* model buffer size = +([0-9.]+) MiB")
_CACHE_BUFFER = re.compile(
    r"(?:llama_kv_cache|llama_memory_recurrent):.* (?:KV|RS) buffer size = +([0-9.]+) MiB"
)


def serve(binary: str, path: Path, load: Load, seconds: int = 900) -> tuple[float, float]:
    """What a llama-server says it allocated for weights and for caches, in MiB.

    It really loads the file, and is ended once it listens.
    """
    command = [
        *(binary, "--model", str(path), "--ctx-size", str(load.context * load.parallel)),
        *("--parallel", str(load.parallel), "--no-repack", "--fit", "off", "--no-warmup"),
        *("--cache-type-k", load.type_k, "--cache-type-v", load.type_v, "--verbosity", "4"),
        "--kv-unified" if load.unified else "--no-kv-unified",
        *(("--swa-full",) if load.swa_full else ()),
        *("--host", "127.0.0.1", "--port", str(free_port()), "--offline"),
    ]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            text = _until_it_listens(process, Path(f"/proc/self/fd/{log.fileno()}"), seconds)
        finally:
            process.kill()
            process.wait()
    weights = [float(size) for size in _MODEL_BUFFER.findall(text)]
    caches = [float(size) for size in _CACHE_BUFFER.findall(text)]
    return sum(weights), sum(caches)


def _until_it_listens(process: subprocess.Popen[bytes], log: Path, seconds: int) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        text = log.read_text("utf-8", errors="replace")
        if "listening on http" in text:
            return text
        if process.poll() is not None:
            break
        time.sleep(0.2)
    text = log.read_text("utf-8", errors="replace")
    raise SystemExit(f"{process.args} didn't come to listen:\n{text[-2000:]}")


def served(binary: str, folder: Path) -> Iterator[Served]:
    """The families that a small machine can load."""
    for name, path, _ in written(folder):
        if name not in SERVED_FAMILIES:
            continue
        for load in SERVED if path.stat().st_size <= OFTEN_SERVED else SERVED[:1]:
            yield Served(name, load, *serve(binary, path, load))


# gguf-parser ------------------------------------------------------------------------------------


def beside(case: Case, parser: str, path: Path, header: Header) -> Case:
    """The case with gguf-parser's answer.

    It prints a GPU's memory in two sums: ``uma`` is weights, K/V and the buffer of the logits,
    ``nonuma`` the compute buffers as well (file_estimate__llamacpp.go, read at 8dc7a62). The
    logits' buffer is (vocabulary + embedding) x 4 bytes for each token of a batch.
    """
    load = case.load
    command = [
        *(parser, "--path", str(path), "--ctx-size", str(load.context * load.parallel)),
        *("--parallel-size", str(load.parallel), "--ubatch-size", str(load.ubatch)),
        *("--cache-type-k", load.type_k, "--cache-type-v", load.type_v, "--flash-attention"),
        *("--no-mmap", "--platform-footprint", "0,0", "--estimate", "--json"),
        *(("--swa-full",) if load.swa_full else ()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise SystemExit(f"{path.name}: {parser}: {(done.stderr or done.stdout)[-2000:]}")
    (gpu,) = json.loads(done.stdout)["estimate"]["items"][0]["vrams"]
    dimensions = dimensions_of([header], case.model)
    tokens = min(load.context * load.parallel, load.ubatch)
    logits = (dimensions.vocabulary + dimensions.embedding) * 4 * tokens
    known = (gpu["uma"] - logits) / MIB
    return replace(
        case, parser=round(known, 2), parser_compute=round(gpu["nonuma"] / MIB - known, 2)
    )


# The document -----------------------------------------------------------------------------------


def markdown(pairs: Sequence[tuple[Case, Ours]]) -> str:
    """The table of weights, caches and compute buffers, and the summary below it."""
    lines = [
        "| model | load | weights | llama.cpp | K/V, states | llama.cpp | difference "
        "| gguf-parser's | compute | llama.cpp | gguf-parser |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case, own in pairs:
        parser, compute = "", ""
        if case.parser is not None:
            parser = f"{own.beside_parser(case)[1]:+.2%}"
            compute = f"{case.parser_compute:.0f}"
        lines.append(
            f"| {case.model} | {words(case.load)} "
            f"| {own.weights:.0f} | {case.weights} | {own.cache:.0f} | {case.cache} "
            f"| {own.difference(case):+.2%} | {parser} "
            f"| {own.compute:.0f} | {case.compute} | {compute} |"
        )
    return "\n".join([*lines, "", *summary(pairs)])


def words(load: Load) -> str:
    """A load in a cell of a table."""
    kinds = load.type_k if load.type_k == load.type_v else f"{load.type_k}/{load.type_v}"
    flags = [f"-ub {load.ubatch}"] if load.ubatch != 512 else []
    flags += ["--swa-full"] if load.swa_full else []
    flags += ["--kv-unified"] if load.unified else []
    flags += [f"--n-cpu-moe {load.cpu_moe}"] if load.cpu_moe else []
    return " ".join([f"{load.context} x {load.parallel}, {kinds}", *flags])


def summary(pairs: Sequence[tuple[Case, Ours]]) -> list[str]:
    """Worst and mean difference from llama.cpp, of both."""
    asked = [(case, own) for case, own in pairs if case.parser is not None]
    lines = ["| off llama.cpp's own | llamaherd, worst | mean | gguf-parser, worst | mean |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    if not asked:
        return []
    for title, found in (
        ("weights plus K/V on the GPU", [own.beside_parser(case) for case, own in asked]),
        ("with the compute buffers", [_whole(case, own) for case, own in asked]),
    ):
        mine, theirs = ([abs(pair[side]) for pair in found] for side in (0, 1))
        lines.append(
            f"| {title} | {max(mine):.2%} | {sum(mine) / len(mine):.2%} "
            f"| {max(theirs):.2%} | {sum(theirs) / len(theirs):.2%} |"
        )
    return lines


def _whole(case: Case, own: Ours) -> tuple[float, float]:
    assert case.parser is not None
    assert case.parser_compute is not None
    theirs = case.weights - (own.weights - own.device) + case.cache + case.compute
    mine = own.device + own.cache + own.compute
    return mine / theirs - 1, (case.parser + case.parser_compute) / theirs - 1


def devices_markdown(found: Sequence[Placed], headers: Mapping[str, Header]) -> str:
    """The table of placements: ours beside llama.cpp's, on all devices together and in memory."""
    lines = [
        "| model | devices | load | weights there | llama.cpp | K/V, states | llama.cpp "
        "| weights in memory | llama.cpp | compute | llama.cpp |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in found:
        own = ours(headers[case.model], case.load)
        weights, cache = (sum(device[part] for device in case.devices) for part in (0, 1))
        compute = sum(device[2] for device in case.devices)
        buffers = own.pair if len(case.devices) > 1 else own.compute
        lines.append(
            f"| {case.model} | {len(case.devices)} | {words(case.load)} | {own.device:.0f} "
            f"| {weights} | {own.cache:.0f} | {cache + case.host[1]} | {own.host:.0f} "
            f"| {case.host[0]} | {buffers:.0f} | {compute} |"
        )
    return "\n".join(lines)


def served_markdown(found: Sequence[Served], headers: Mapping[str, Header]) -> str:
    """The table of what llama-servers allocated."""
    lines = [
        "| model | load | weights | llama-server | K/V, states | llama-server | difference |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in found:
        own = ours(headers[case.model], case.load)
        theirs = case.weights + case.cache
        lines.append(
            f"| {case.model} | {words(case.load)} | {own.weights:.1f} | {case.weights:.1f} "
            f"| {own.cache:.1f} | {case.cache:.1f} "
            f"| {(own.weights + own.cache) / theirs - 1:+.2%} |"
        )
    return "\n".join(lines)


def put(text: str, part: str, table: str) -> str:
    """The document with one of its tables made anew."""
    begin, end = f"<!-- {part}: made by make bench-fit -->", f"<!-- {part}: end -->"
    before, found, rest = text.partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"{DOCUMENT.name} has no place for the table {part}: {begin} ... {end}")
    return f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"


def version(binary: str) -> str:
    """The build that answered."""
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    lines = (done.stderr + done.stdout).splitlines()
    return next((line.strip() for line in lines if line.startswith("version")), "unknown")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; 1 when any case is more than 5 % off."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--binary", default="llama-fit-params", help="llama-fit-params to ask")
    parser.add_argument("--rpc-server", help="ggml-rpc-server of the same build, for devices")
    parser.add_argument("--server", help="llama-server to load the files with")
    parser.add_argument("--gguf-parser", help="gguf-parser to ask the same")
    parser.add_argument("--write", action="store_true", help="renew the document and the records")
    args = parser.parse_args(argv)
    for name in ("binary", "rpc_server", "server", "gguf_parser"):
        given = getattr(args, name)
        if given and shutil.which(given) is None:
            raise SystemExit(f"{given}: no such program (--{name.replace('_', '-')})")
    records: dict[str, Any] = json.loads(RECORDED.read_text("utf-8"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        headers = {name: header for name, _, header in written(folder)}
        pairs = list(measured(args.binary, folder, args.gguf_parser))
        records |= {"build": version(args.binary), "cases": [c.document() for c, _ in pairs]}
        if args.rpc_server:
            records["devices"] = [
                asdict(case) for case in placed(args.binary, args.rpc_server, folder)
            ]
        if args.server:
            records["served"] = [asdict(case) for case in served(args.server, folder)]
    placements = [_placed(values) for values in records.get("devices", [])]
    servers = [Served(**{**v, "load": Load(**v["load"])}) for v in records.get("served", [])]
    tables = {
        "fit-params": markdown(pairs),
        "devices": devices_markdown(placements, headers),
        "server": served_markdown(servers, headers),
    }
    print("\n\n".join(tables.values()))
    if args.write:
        RECORDED.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        text = DOCUMENT.read_text(encoding="utf-8")
        for part in PARTS:
            text = put(text, part, tables[part])
        DOCUMENT.write_text(text, encoding="utf-8")
    worst = max(abs(own.difference(case)) for case, own in pairs)
    print(f"\n{records['build']}: the worst difference of weights plus K/V is {worst:.2%}")
    return 1 if worst > 0.05 else 0


def _placed(values: Mapping[str, Any]) -> Placed:
    return Placed(
        values["model"],
        Load(**values["load"]),
        tuple((d[0], d[1], d[2]) for d in values["devices"]),
        (values["host"][0], values["host"][1], values["host"][2]),
    )


if __name__ == "__main__":
    sys.exit(main())
