"""``llamaherd fit``: the largest context of a model that fits, with the numbers that make it.

Offline for what the catalogue and the lock know; a file, an address or ``REPO:QUANT`` is read by
its header, not downloaded.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inventories import catalogue
from inventories.fleet import Fleet, load_fleet
from inventories.gguf import GgufError
from inventories.lock import read_lock
from inventories.pinning import PinError, World
from inventories.pinning.header import read_headers
from inventories.pinning.hub import pin_model, quant_of
from inventories.resolve import model_title
from inventories.settings import Artifact
from inventories.sizing.dimensions import SizingError, dimensions_of
from inventories.sizing.estimate import GIB, KV_TYPES
from inventories.sizing.known import known_model
from inventories.sizing.options import gpu_sizes
from llamaherd.arguments import DEFAULT_FLEET, CommandError, Subparsers, add_json_argument
from llamaherd.fit_answers import (
    ANYTHING,
    Answer,
    Candidate,
    Question,
    Recommendation,
    Row,
    Sized,
    answer_of,
    choices_of,
)
from llamaherd.tables import WIDTH, table
from schemas.validate import did_you_mean

DEFAULT_GPUS = ("16G", "24G", "32G", "48G")
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
MAX_SHARDS = 256


def add_parser(subparsers: Subparsers) -> None:
    """Add ``fit`` to the command line."""
    parser = subparsers.add_parser(
        "fit",
        help="what of a model fits on which GPUs",
        description="Print the largest context that fits at each quantisation and K/V type, with "
        "the numbers that make it, and what to run. MODEL is a name of the catalogue or of the "
        "fleet, a .gguf file, its address, or REPO:QUANT on the hub; headers are read, files "
        "aren't downloaded.",
        epilog="Exit status: 0 something fits, 1 nothing does, or the question can't be answered.",
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="catalogue or fleet name, file, URL, REPO:QUANT"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="every model of the fleet and the catalogue, on each of the GPUs, each pair, and all",
    )
    parser.add_argument(
        "--vram",
        action="append",
        default=[],
        metavar="SIZE",
        help="GPUs of the box: 24G, 24564M or 2x24G; again for a further, unlike one "
        f"(default: {', '.join(DEFAULT_GPUS)} each on its own)",
    )
    parser.add_argument(
        "--context",
        type=_tokens,
        metavar="N",
        help="tokens that one session needs: 65536 or 64k (default: the most that fit)",
    )
    parser.add_argument(
        "--parallel", type=_positive, default=1, metavar="N", help="sessions at once (default 1)"
    )
    parser.add_argument("--kv", choices=KV_TYPES, help="K/V type (default: f16, q8_0 and q4_0)")
    parser.add_argument(
        "--cpu-moe",
        type=_natural,
        default=0,
        metavar="N",
        help="layers whose experts stay in host memory",
    )
    parser.add_argument(
        "--fleet", metavar="FILE", help=f"fleet file; default: $FLEET, then {DEFAULT_FLEET}"
    )
    add_json_argument(parser)
    parser.set_defaults(func=run)


def _tokens(text: str) -> int:
    """Tokens, also as people say them: 64k is 65,536."""
    if text.lower().endswith("k"):
        return _positive(str(_natural(text[:-1]) * 1024))
    return _positive(text)


def _positive(text: str) -> int:
    number = _natural(text)
    if not 0 < number <= 1 << 24:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {1 << 24}")
    return number


def _natural(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Carry out ``llamaherd fit``; 0 when something fits."""
    if (args.model is None) == (not args.all):
        raise CommandError("name a model (llamaherd fit MODEL), or look at all of them with --all")
    question = Question(args.context, args.parallel, args.kv, args.cpu_moe)
    path = fleet_file(args.fleet)
    unknown: list[str] = []
    try:
        if args.all:
            boxes = choices_of(boxes_of(args.vram)[0]) if args.vram else boxes_of(args.vram)
            fleet = load_fleet(path) if path is not None else None
            answers = [answer_of(model, boxes, question) for model in all_models(fleet, unknown)]
        else:
            answers = [answer_of(find_model(args.model, path), boxes_of(args.vram), question)]
    except (SizingError, GgufError, PinError) as error:
        raise CommandError(str(error)) from None
    if args.json:
        documents = [report(answer, question) for answer in answers]
        whole = {"ok": any(a.ok for a in answers), "models": documents, "unknown": unknown}
        print(json.dumps(whole if args.all else documents[0], indent=2))
    else:
        print("\n\n".join(render(answer, question) for answer in answers))
        if unknown:
            print("\n" + _unknown(unknown))
    return 0 if any(answer.ok for answer in answers) else 1


def all_models(fleet: Fleet | None, unknown: list[str]) -> Iterator[Sized]:
    """The fleet's models, then those of the catalogue that the fleet doesn't name.

    + unknown: gets the names of those of which nothing is known
    """
    own = tuple(fleet.models) if fleet is not None else ()
    for name in (*own, *(name for name in catalogue.names() if name not in own)):
        try:
            if fleet is not None and name in own:
                yield fleet_model(fleet, name)
            else:
                yield catalogue_model(catalogue.entry(name))
        except CommandError:
            unknown.append(name)


def _unknown(names: Sequence[str]) -> str:
    said = f"Not sized, for nothing is known of their memory yet: {', '.join(names)}."
    return textwrap.fill(f"{said} `llamaherd fit NAME` says what would help.", WIDTH)


def boxes_of(sizes: Sequence[str]) -> list[tuple[int, ...]]:
    """The GPUs of each box to look at, in bytes: one box as told, or each usual card."""
    if sizes:
        return [tuple(size for text in sizes for size in gpu_sizes(text))]
    return [gpu_sizes(text) for text in DEFAULT_GPUS]


def fleet_file(named: str | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The fleet file to look into, None when none is named and there is none at the usual place."""
    path = Path(named or environ.get("FLEET") or DEFAULT_FLEET)
    if path.is_file():
        return path
    if named:
        raise CommandError(f"there is no fleet file {path}: name another one")
    return None


# The model --------------------------------------------------------------------------------------


def find_model(name: str, fleet_path: Path | None) -> Sized:
    """The model that a word on the command line means.

    Raises :class:`CommandError` when it means none, or nothing is known of its memory.
    """
    if name.startswith(("http://", "https://")):
        return _remote(name)
    if name.lower().endswith(".gguf") or Path(name).is_file():
        return _local(Path(name))
    if "/" in name and ":" in name:
        return _on_hub(name)
    if name.count("/") == 1 and not Path(name).exists() and not name.startswith((".", "~")):
        raise CommandError(
            f"{name}: which quantisation? name it as {name}:Q4_K_M (a file ends in .gguf)"
        )
    fleet = load_fleet(fleet_path) if fleet_path is not None else None
    if fleet is not None and name in fleet.models:
        return fleet_model(fleet, name)
    if name in catalogue.names():
        return catalogue_model(catalogue.entry(name))
    known = {*catalogue.names(), *(fleet.models if fleet is not None else ())}
    hint = did_you_mean(name, known, known_as="known models")
    raise CommandError(
        f"{name} is no model of the catalogue{' or the fleet' if fleet else ''}{hint} "
        "(a file ends in .gguf; on a hub it is REPO:QUANT)"
    )


def catalogue_model(entry: catalogue.Entry) -> Sized:
    """A catalogue's model with every quantisation whose size is known."""
    candidates = (Candidate(item.name, entry.dimensions_of(item)) for item in entry.quantizations)
    return Sized(entry.name, "catalogue", tuple(candidates))


def fleet_model(fleet: Fleet, name: str) -> Sized:
    """A fleet's model, by what the lock knows, else by the catalogue entry that it takes up."""
    lock = read_lock(fleet.path)
    known = known_model(fleet, lock, name)
    pin = lock.models.get(name) if lock is not None else None
    if known is not None:
        file = pin.files[0].name if pin is not None and known.source == "lock" else ""
        quant = known.quant or quant_of(file) or model_title(fleet.models[name])
        return Sized(name, known.source, (Candidate(quant, known.dimensions, known.extra),))
    remedy = f"llamaherd lock {fleet.path}" + (f" --update {name}" if pin is not None else "")
    raise CommandError(f"nothing is known of the memory of {name} yet; run: {remedy}")


def _local(path: Path) -> Sized:
    names = _shards(path.name)
    files = [Artifact(name, 0, "", path=str(path.with_name(name).absolute())) for name in names]
    return Sized(str(path), "file", (_candidate(files, str(path)),))


def _remote(url: str) -> Sized:
    base, slash, last = url.partition("?")[0].rpartition("/")
    files = [Artifact(name, 0, "", url=f"{base}{slash}{name}") for name in _shards(last)]
    return Sized(url, "url", (_candidate(files, url),))


def _shards(name: str) -> list[str]:
    """All files of a split model by the name of one; the name alone for a whole one."""
    shard = _SHARD.fullmatch(name)
    if shard is None:
        return [name]
    count = int(shard["count"])
    if not 0 < count <= MAX_SHARDS:
        raise CommandError(f"{name}: {count} shards; at most {MAX_SHARDS} are read")
    stem, of = shard["stem"], shard["count"]
    return [f"{stem}-{number:05d}-of-{of}.gguf" for number in range(1, count + 1)]


def _candidate(files: Sequence[Artifact], place: str) -> Candidate:
    headers = read_headers(files, Path())
    if len(files) < headers[0].split_count:
        raise CommandError(
            f"{place}: one of {headers[0].split_count} files of a split model; name it as "
            "NAME-00001-of-0000N.gguf, with the others beside it"
        )
    return Candidate(quant_of(files[0].name) or "-", dimensions_of(headers, place))


def _on_hub(name: str) -> Sized:
    repo, _, quant = name.rpartition(":")
    world = World(directory=Path(), hub_token=_token)
    pin = pin_model({"hub": {"repo": repo, "quant": quant}}, world)
    if pin.dimensions is not None:
        return Sized(name, "hub", (Candidate(quant, pin.dimensions),))
    # The pin doesn't say why; reading again does.
    return Sized(name, "hub", (_candidate(pin.files, name),))


def _token(_: Mapping[str, Any]) -> str | None:
    return os.environ.get("HF_TOKEN") or None


# Output -----------------------------------------------------------------------------------------


def report(answer: Answer, question: Question) -> dict[str, Any]:
    """One model as ``--json`` prints it; ``schemas/fit.report.schema.json`` describes it."""
    model = answer.model
    dimensions = model.candidates[0].dimensions
    return {
        "ok": answer.ok,
        "model": model.name,
        "source": model.source,
        "estimated": model.estimated,
        "architecture": dimensions.architecture,
        "trained_context": dimensions.context,
        "parallel": question.parallel,
        "context": question.context,
        "rows": [row_document(row) for row in answer.rows],
        "experts_outside": [row_document(row) for row in answer.outside],
        "recommendations": [
            {**row_document(found.row), "reason": found.reason}
            for found in answer.advice
            if found is not None
        ],
    }


def row_document(row: Row) -> dict[str, Any]:
    """One row as ``--json`` prints it."""
    found = row.found
    return {
        "gpus": list(row.gpus),
        "quant": row.quant,
        "kv": row.type_kv,
        "fits": found is not None and found.fits,
        "context": found.load.context if found is not None else None,
        "cpu_moe": found.load.cpu_moe if found is not None else None,
        "bytes": None
        if found is None
        else {
            "weights": found.memory.weights,
            "cache": found.memory.cache,
            "compute": found.memory.buffers(len(row.gpus)),
            "host": found.memory.host,
            "margin": found.needed - found.memory.total(len(row.gpus)),
            "needed": found.needed,
            "available": found.available,
        },
    }


def render(answer: Answer, question: Question = ANYTHING) -> str:
    """One model for people, without a newline at the end."""
    model = answer.model
    dimensions = model.candidates[0].dimensions
    sessions = f"{question.parallel} session{'s' if question.parallel > 1 else ''}"
    title = (
        f"{model.name} ({dimensions.architecture}, trained for {dimensions.context:,} tokens), "
        f"{sessions}; GiB"
    )
    parts = [textwrap.fill(title, WIDTH), rows_table(answer.rows)]
    if answer.outside:
        parts += ["", "With experts in host memory (--n-cpu-moe N):", outside_table(answer.outside)]
    advice = zip(answer.boxes, answer.advice, strict=True)
    parts += ["", *(_filled(_sentence(gpus, found)) for gpus, found in advice)]
    notes = "Compute is an estimate; the margin is for the driver, fragmentation and splitting."
    if question.context and question.context > dimensions.context:
        notes += f" It was trained for {dimensions.context:,} tokens: more of them may be nonsense."
    if model.estimated:
        notes += " Weights follow from the file's size."
    return "\n".join([*parts, textwrap.fill(notes, WIDTH)])


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def rows_table(rows: Sequence[Row]) -> str:
    """Rows for people: the context, and the numbers that make it; what fits nowhere in one row."""
    headers = ("GPU", "QUANT", "K/V", "CONTEXT", "WEIGHTS", "CACHE", "COMPUTE", "MARGIN", "TOTAL")
    cells: list[tuple[str, ...]] = []
    for gpus, of_box in itertools.groupby(rows, lambda row: row.gpus):
        box = list(of_box)
        if _nothing_fits(box):
            cells.append((shown_gpus(gpus), "any", "any", "none fits"))
            continue
        for quant, of_quant in itertools.groupby(box, lambda row: row.quant):
            kinds = list(of_quant)
            nothing = [(shown_gpus(gpus), quant, "any", "none fits")]
            cells += nothing if _nothing_fits(kinds) else map(_cells, kinds)
    return table(cells, headers)


def _nothing_fits(rows: Sequence[Row]) -> bool:
    return len(rows) > 1 and all(row.found is None for row in rows)


def outside_table(rows: Sequence[Row]) -> str:
    """Rows with experts outside: how many layers', and what they take there."""
    headers = ("GPU", "QUANT", "K/V", "CONTEXT", "N", "HOST", "WEIGHTS", "CACHE", "TOTAL")
    cells = [
        (
            *(shown_gpus(row.gpus), row.quant, row.type_kv, f"{found.load.context:,}"),
            *(str(found.load.cpu_moe), _gib(found.memory.host)),
            *(_gib(found.memory.weights), _gib(found.memory.cache), _gib(found.needed)),
        )
        for row in rows
        if (found := row.found) is not None
    ]
    return table(cells, headers)


def _cells(row: Row) -> tuple[str, ...]:
    found, gpus = row.found, shown_gpus(row.gpus)
    if found is None:
        return (gpus, row.quant, row.type_kv, "none fits")
    memory = found.memory
    over = found.needed - found.available
    total = _gib(found.needed) if over <= 0 else f"{_gib(found.needed)}: {_gib(over)} short"
    return (
        gpus,
        row.quant,
        row.type_kv,
        f"{found.load.context:,}",
        _gib(memory.weights),
        _gib(memory.cache),
        _gib(memory.buffers(len(row.gpus))),
        _gib(found.needed - memory.total(len(row.gpus))),
        total,
    )


def _sentence(gpus: tuple[int, ...], found: Recommendation | None) -> str:
    if found is None:
        return f"{shown_gpus(gpus)}: nothing of it fits; take a smaller quantisation or more GPUs."
    row = found.row
    tokens = row.found.load.context if row.found is not None else 0
    return f"{shown_gpus(gpus)}: {row.quant}, {row.type_kv} K/V, {tokens:,} tokens: {found.reason}."


def shown_gpus(gpus: Sequence[int]) -> str:
    """GPUs as ``--vram`` takes them: like ones together."""
    counts: dict[int, int] = {}
    for size in gpus:
        counts[size] = counts.get(size, 0) + 1
    return "+".join(
        f"{f'{count}x' if count > 1 else ''}{_short(size)}" for size, count in counts.items()
    )


def _short(size: int) -> str:
    return f"{size / GIB:.0f}G" if size % GIB == 0 else f"{size / GIB:.1f}G"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
