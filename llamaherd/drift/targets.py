"""What a drift check is asked: which hosts, how thoroughly, how long. Pure; and its JSON form."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

from inventories.settings import Artifact, HostSettings, from_data, to_data

TIMEOUT = 120
"""Seconds that a host may take, connecting included, unless told otherwise."""

HASH_RATE = 50_000_000
"""Bytes a second that a host hashes at the least; a file may take that much longer."""

HASH_MARGIN = 60
"""Seconds on top, for hosts that are busy."""


@dataclass(frozen=True)
class Share:
    """``numerator`` of ``denominator`` parts of all files, another part each day."""

    numerator: int
    denominator: int

    def holds(self, host: str, path: str, day: int) -> bool:
        """Whether a file's turn is that day; each file has it ``numerator`` times in a round.

        + day: any count of days, such as ``date.toordinal()``
        """
        name = hashlib.sha256(f"{host}\0{path}".encode()).digest()
        return (int.from_bytes(name[:8]) + day) % self.denominator < self.numerator


def parse_share(text: str) -> Share:
    """``1/7`` as a share; ValueError says what one looks like."""
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
    if match is None or not 0 < int(match[1]) <= int(match[2]):
        raise ValueError(f"{text!r} is no share such as 1/7")
    return Share(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Options:
    """How to check.

    + timeout: seconds that a host may take, hashing not counted
    + deep: hash model files and binaries anew
    + share: only a share of them; None for all
    + day: which day's share
    + plan: look at what a converge would do alone, with preflight's answers; nothing live is asked
    """

    timeout: float = TIMEOUT
    deep: bool = False
    share: Share | None = None
    day: int = field(default_factory=lambda: date.today().toordinal())
    plan: bool = False

    def chosen(self, settings: HostSettings) -> list[tuple[str, Artifact]]:
        """Model files of a host to hash, each with its path."""
        if not self.deep:
            return []
        files = {
            f"{model.directory}/{file.name}": file
            for model in settings.models
            for file in model.files
        }
        return [
            (path, file)
            for path, file in files.items()
            if self.share is None or self.share.holds(settings.name, path, self.day)
        ]

    def seconds(self, settings: HostSettings) -> float:
        """How long a host may take in all."""
        if not self.deep:
            return self.timeout
        # Binaries are a fraction of any model: the margin is theirs.
        return self.timeout + sum(hash_seconds(file.size) for _, file in self.chosen(settings)) + 60


def hash_seconds(size: int) -> int:
    """How long hashing a file may take."""
    return HASH_MARGIN + size // HASH_RATE


@dataclass(frozen=True)
class Target:
    """A host to check.

    + data: more for pyinfra, over what its ssh settings say
    + address: what pyinfra knows it by; empty for its name. ``@fake/...`` for a simulated one
    """

    settings: HostSettings
    data: Mapping[str, Any] = field(default_factory=dict)
    address: str = ""

    @property
    def name(self) -> str:
        """What pyinfra knows it by."""
        return self.address or self.settings.name


def to_job(targets: Sequence[Target], options: Options, directory: str) -> dict[str, Any]:
    """What a worker is told, JSON-friendly; secrets in it are references."""
    return {
        "directory": directory,
        "options": asdict(options),
        "targets": [
            {"settings": to_data(t.settings), "data": dict(t.data), "address": t.address}
            for t in targets
        ],
    }


def from_job(job: Mapping[str, Any]) -> tuple[list[Target], Options, str]:
    """The inverse of :func:`to_job`."""
    targets = [
        Target(from_data(HostSettings, t["settings"]), t["data"], t["address"])
        for t in job["targets"]
    ]
    share = job["options"]["share"]
    options = Options(**(job["options"] | {"share": Share(**share) if share else None}))
    return targets, options, str(job["directory"])
