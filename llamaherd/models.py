"""``llamaherd models``: the catalogue, and what of it and of the fleet runs where."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inventories import catalogue
from inventories.builds import served_models
from inventories.fleet import Fleet, load_fleet
from inventories.lock import Lock, read_lock
from inventories.resolve import model_title
from inventories.sizing.dimensions import Dimensions
from inventories.sizing.estimate import GIB, Load, cache_bytes
from llamaherd.arguments import CommandError, Subparsers, add_fleet_argument, add_json_argument
from llamaherd.fit import fleet_file
from llamaherd.show import shown
from llamaherd.tables import table
from schemas.problems import Position, ProblemsError

SAMPLE = 65_536
"""Tokens for which the K/V cache is told."""


@dataclass(frozen=True)
class Known:
    """A model to list.

    + catalogue: name of the entry behind it; None where there is none
    + size: bytes of its files; None when not known
    + cache: bytes of K/V and states of one session of SAMPLE tokens; None when not known
    + build: lowest llama.cpp build for it; None for any
    + servers: ``HOST/SERVER`` that serve it in this fleet
    """

    name: str
    title: str
    catalogue: str | None
    quant: str | None
    size: int | None
    context: int | None
    cache: int | None
    licence: str | None
    build: int | None
    reasoning: bool
    servers: tuple[str, ...] = ()


def add_parser(subparsers: Subparsers) -> None:
    """Add ``models`` to the command line."""
    parser = subparsers.add_parser(
        "models",
        help="list the catalogue and the fleet's models, and what runs where",
        description="List the models of the catalogue with their sizes, and those of the fleet "
        "with the servers that run them. A fleet takes one up with `catalogue: NAME`. Without a "
        "fleet file only the catalogue is listed.",
    )
    add_fleet_argument(parser)
    parser.add_argument(
        "--about", metavar="NAME", help="print all that the catalogue says of one model"
    )
    parser.add_argument(
        "--origin", action="store_true", help="print where each value of the fleet's models is from"
    )
    add_json_argument(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 0; a bad fleet file is a ProblemsError."""
    if args.about is not None:
        return _about(args.about, as_json=args.json)
    path = fleet_file(args.fleet)
    fleet = load_fleet(path) if path is not None else None
    if args.origin and fleet is None:
        raise CommandError("--origin needs a fleet file: name one, or set FLEET")
    known = [catalogue_known(entry) for entry in catalogue.entries()]
    own = fleet_known(fleet) if fleet is not None else []
    if args.json:
        print(json.dumps(report(fleet, known, own), indent=2))
    else:
        _print(fleet, known, own, origin=args.origin)
    return 0


def catalogue_known(entry: catalogue.Entry) -> Known:
    """An entry of the catalogue, with its usual quantisation."""
    usual = entry.quantization(entry.quant)
    return Known(
        name=entry.name,
        title=entry.title,
        catalogue=entry.name,
        quant=entry.quant,
        size=usual.size if usual is not None else None,
        context=entry.shape.context,
        cache=_cache(entry.shape),
        licence=entry.licence,
        build=entry.build,
        reasoning=entry.reasoning,
    )


def fleet_known(fleet: Fleet) -> list[Known]:
    """The fleet's models by name, with the servers that run them."""
    lock = _lock(fleet)
    servers: dict[str, list[str]] = {name: [] for name in fleet.models}
    for host in fleet.hosts.values():
        for name, server in host.values["servers"].items():
            for model in served_models(server):
                servers[model].append(f"{host.name}/{name}")
    return [_own(name, values, lock, servers[name]) for name, values in fleet.models.items()]


def _lock(fleet: Fleet) -> Lock:
    try:
        return read_lock(fleet.path) or Lock()
    except ProblemsError:
        return Lock()  # `llamaherd lock --check` says what is wrong with it


def _own(name: str, values: Mapping[str, Any], lock: Lock, servers: list[str]) -> Known:
    pin = lock.models.get(name)
    entry = catalogue.entry(values["catalogue"]) if values.get("catalogue") else None
    quant = values.get("hub", {}).get("quant")
    listed = entry.quantization(quant) if entry is not None and quant else None
    shape = pin.dimensions if pin is not None else None
    if shape is None and entry is not None:
        shape = entry.shape
    if pin is not None:
        size: int | None = sum(file.size for file in pin.files)
    else:
        size = listed.size if listed is not None else None
    return Known(
        name=name,
        title=model_title(values),
        catalogue=entry.name if entry is not None else None,
        quant=quant,
        size=size,
        context=shape.context if shape is not None else None,
        cache=_cache(shape),
        licence=entry.licence if entry is not None else None,
        build=values.get("llama_cpp_build"),
        reasoning=bool(values.get("reasoning")),
        servers=tuple(sorted(servers)),
    )


def _cache(shape: Dimensions | None) -> int | None:
    if shape is None:
        return None
    load = Load(min(SAMPLE, shape.context))
    state = shape.state.layers * shape.state.size * 4 if shape.state is not None else 0
    return cache_bytes(shape, load) + state


def report(fleet: Fleet | None, known: list[Known], own: list[Known]) -> dict[str, Any]:
    """What ``--json`` prints; ``schemas/models.report.schema.json`` describes it."""
    return {
        "ok": True,
        "fleet": str(fleet.path) if fleet is not None else None,
        "catalogue": [
            {**_document(model), "quantizations": _quantizations(catalogue.entry(model.name))}
            for model in known
        ],
        "models": [
            {**_document(model), "origins": _origins(fleet, model.name) if fleet else []}
            for model in own
        ],
    }


def _document(model: Known) -> dict[str, Any]:
    return {
        "name": model.name,
        "title": model.title,
        "catalogue": model.catalogue,
        "quant": model.quant,
        "size": model.size,
        "context": model.context,
        "cache_64k": model.cache,
        "licence": model.licence,
        "llama_cpp_build": model.build,
        "reasoning": model.reasoning,
        "servers": list(model.servers),
    }


def _quantizations(entry: catalogue.Entry) -> list[dict[str, Any]]:
    return [
        {"quant": item.name, "size": item.size, "approximate": item.approximate}
        for item in entry.quantizations
    ]


def _about(name: str, *, as_json: bool) -> int:
    """Print one entry, each fact with the page that says so."""
    if name not in catalogue.names():
        raise CommandError(catalogue.unknown(name))
    entry = catalogue.entry(name)
    if as_json:
        known = report(None, [catalogue_known(entry)], [])
        print(json.dumps(known, indent=2))
        return 0
    print(f"{entry.title}\n{entry.description}\n")
    print(table(list(_facts(entry))))
    print("\nSources:")
    for source in dict.fromkeys(entry.sources.values()):
        parts = (part for part, where in entry.sources.items() if where == source)
        # No line breaks: an address is for opening.
        print(f"{source} ({', '.join(parts)})")
    return 0


def _facts(entry: catalogue.Entry) -> Iterator[tuple[str, str]]:
    yield "hub", entry.repo
    yield "licence", entry.licence
    yield "llama.cpp", f"b{entry.build} or newer"
    yield "thinks", "yes" if entry.reasoning else "no"
    yield "tool calls", "yes" if entry.opencode["tool_call"] else "no"
    yield "context", f"{entry.shape.context:,}"
    for item in entry.quantizations:
        about = "about " if item.approximate else ""
        usual = ", the usual one" if item.name == entry.quant else ""
        yield item.name, f"{about}{item.size / GIB:.1f} GiB{usual}"
    for use, values in entry.sampling.items():
        yield f"for {use}s", ", ".join(f"{key} {value}" for key, value in values.items())
    for part, reason in entry.left_out.items():
        yield "left out", f"{part}: {reason}"


def _origins(fleet: Fleet, name: str) -> list[dict[str, Any]]:
    return [
        {"path": list(path), "file": place.file, "line": place.line, "column": place.column}
        for path, place in fleet.model_origins[name].items()
    ]


def _print(fleet: Fleet | None, known: list[Known], own: list[Known], *, origin: bool) -> None:
    print("Catalogue (GiB; K/V cache of one session of 64k tokens; lowest llama.cpp build):")
    rows = [(*_cells(model), f"b{model.build}", model.licence or "-") for model in known]
    print(table(rows, ("NAME", "QUANT", "SIZE", "CONTEXT", "K/V", "FROM", "LICENCE")))
    if fleet is None:
        return
    print(f"\nModels of {fleet.path}:")
    if not own:
        print("none; take one up with `catalogue: NAME`")
        return
    running = [(*_cells(model), ", ".join(model.servers) or "nowhere") for model in own]
    print(table(running, ("NAME", "QUANT", "SIZE", "CONTEXT", "K/V", "RUNS ON")))
    if origin:
        _print_origins(fleet, own)


def _print_origins(fleet: Fleet, own: list[Known]) -> None:
    for model in own:
        rows = []
        for path, place in fleet.model_origins[model.name].items():
            value: Any = fleet.models[model.name]
            for key in path:
                value = value[key]
            rows.append((".".join(path), shown(value), _place(place)))
        print(f"\n{model.name}")
        print(table(rows, ("SETTING", "VALUE", "ORIGIN")))


def _place(place: Position) -> str:
    return f"{Path(place.file).name}:{place.line}"


def _cells(model: Known) -> tuple[str, str, str, str, str]:
    return (
        model.name,
        model.quant or "-",
        f"{model.size / GIB:.1f}" if model.size is not None else "-",
        f"{model.context:,}" if model.context is not None else "-",
        f"{model.cache / GIB:.1f}" if model.cache is not None else "-",
    )
