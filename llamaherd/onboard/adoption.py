"""Which model of the fleet, or of the catalogue, a file that lies on a box could stand for. Pure.

A file of known SHA-256 (the hub's and Ollama's caches name theirs by it) is the model or isn't,
where the lock has the model. Else size and name decide, which is a guess and is called one: two
quantisations of one shape may have the same size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from facts.found_models import FoundModel
from inventories import catalogue
from inventories.fleet import Fleet
from inventories.lock import Lock
from llamaherd.onboard.report import Adoptable


@dataclass(frozen=True)
class Wanted:
    """A file that a model needs.

    + sha256: empty where nobody has pinned it
    + words: what a name of the file holds, in lower case
    """

    model: str
    size: int
    sha256: str = ""
    words: str = ""


def wanted_files(fleet: Fleet | None, lock: Lock | None) -> tuple[Wanted, ...]:
    """The locked files of the fleet's models, then those of the catalogue that it doesn't name."""
    pins = lock.models if lock is not None else {}
    own = [
        Wanted(name, file.size, file.sha256, file.name.rsplit("/", 1)[-1].lower())
        for name, pin in pins.items()
        for file in pin.files
    ]
    return (*own, *_of_the_catalogue({*pins, *(fleet.models if fleet is not None else ())}))


def _of_the_catalogue(known: set[str]) -> Iterator[Wanted]:
    for entry in catalogue.entries():
        if entry.name not in known:
            for quant in entry.quantizations:
                yield Wanted(entry.name, quant.size, "", quant.name.lower())


def adoptable(found: Iterable[FoundModel], wanted: Sequence[Wanted]) -> tuple[Adoptable, ...]:
    """Each found file that could stand for a wanted one; llamaherd's own are no finds."""
    matches = (_match(file, wanted) for file in found if file.source != "llamaherd")
    return tuple(match for match in matches if match is not None)


def _match(file: FoundModel, wanted: Sequence[Wanted]) -> Adoptable | None:
    for want in wanted:
        if want.size == file.size and want.sha256 and want.sha256 == file.sha256:
            return Adoptable(want.model, file.path, certain=True)
    for want in wanted:
        if want.size != file.size or (want.sha256 and file.sha256):
            continue
        # Ollama's names say nothing of the file that they began as.
        if want.words in file.name.lower() or file.source == "ollama":
            return Adoptable(want.model, file.path, certain=False)
    return None
