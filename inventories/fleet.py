"""The fleet file as a typed, frozen model: merged, with the place where each value was written.

``load_fleet`` is the only way in. What it returns has passed both layers of validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.problems import Position


@dataclass(frozen=True)
class FleetHost:
    """One host: its effective values (defaults < groups < host, schema defaults filled in).

    ``origins`` maps the path of each leaf and of each list, such as ``("servers", "coder", "port")``,
    to where it was written; a value that comes from the schema's default has no entry.
    """

    name: str
    groups: tuple[str, ...]
    values: Mapping[str, Any]
    origins: Mapping[tuple[str, ...], Position]


@dataclass(frozen=True)
class Fleet:
    """A valid fleet. ``models`` are as written, with schema defaults; ``groups`` name their hosts,
    hosts of included groups among them. ``positions`` maps every path of the file (from its root)
    to where it is written."""

    path: Path
    models: Mapping[str, Mapping[str, Any]]
    hosts: Mapping[str, FleetHost]
    groups: Mapping[str, tuple[str, ...]]
    positions: Mapping[tuple[str, ...], Position]


def load_fleet(path: Path) -> Fleet:
    """Read, validate and merge a fleet file.

    Raises :class:`schemas.problems.ProblemsError` with every problem found, and never anything
    else for bad content; a file that cannot be read is a problem at line 1 as well.
    """
    raise NotImplementedError
