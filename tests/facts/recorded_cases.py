"""Recorded output of real hosts as cases: where they lie, how they are made and read again.

One file a case, ``tests/facts/<fact>/cases/<host>-<state>.json``; the folder is the fact's class
name in lower case, words joined by underscores:

    host        which host it was; cases of one fact count by it
    source      what host that was, and in what state
    arguments   what the fact was asked
    output      the lines that the host printed
    value       what is made of them, as pyinfra's command line prints it; or error: a pattern

A new case: ``record.py`` beside this file.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyinfra.api.facts import FactBase
from pyinfra_cli.util import json_encode  # type: ignore[import-untyped]

import facts
from facts.live import Endpoint

ROOT = Path(__file__).parent
BOOT = "6a1f0c52-0000-4000-8000-5f2d5eedc0de"
"""Stands in recordings for every boot id."""

KERNEL = "6.1.0-40-amd64"
"""Stands in recordings for the kernel's release, which is the lab machine's and not the host's."""

_UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")


def fact_classes() -> dict[str, type[FactBase[Any]]]:
    """Every fact of the project by the name of its folder of cases."""
    found = {}
    for module in pkgutil.iter_modules(facts.__path__, "facts."):
        for _, item in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(item, FactBase) and item.__module__ == module.name:
                found[folder_name(item.__name__)] = item
    return found


def folder_name(name: str) -> str:
    """``LlamaServers`` as ``llama_servers``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def case_paths() -> list[Path]:
    """Every case of this form."""
    return sorted(ROOT.glob("*/cases/*.json"))


def read(path: Path) -> dict[str, Any]:
    """A case."""
    case: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return case


def command(fact: type[FactBase[Any]], arguments: Mapping[str, Any]) -> str:
    """What the host is asked; a case's servers are written as mappings."""
    given = dict(arguments)
    if "servers" in given:
        given["servers"] = [Endpoint(**server) for server in given["servers"]]
    return str(fact().command(**given))


def plain(value: Any) -> Any:
    """A fact's value as pyinfra's command line prints it."""
    return json.loads(json.dumps(value, default=json_encode))


def scrub(output: str) -> list[str]:
    """The lines without what tells one machine from all others."""
    output = re.sub(r"(?m)^kernel=.*$", f"kernel={KERNEL}", output)
    return _UUID.sub(BOOT, output).splitlines()
