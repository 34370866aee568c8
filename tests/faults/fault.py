"""What a case of the fault harness is: a declared value, and the function that carries it out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fault_bed import Bed

GROUPS = (
    "controller killed",
    "host powered off",
    "network cut",
    "two at once",
    "hub",
    "git",
    "disk full",
    "clock",
    "port",
    "server",
    "model",
    "opencode",
    "packages",
)
SAYS = "says in one line: "


class Serving(Enum):
    """What must be true of the server that served before, right after the fault.

    SAME: its process is the same one and answers, and a converge doesn't touch it.
    UNTIL_HEALED: the same, until the converge that heals restarts it for a reason.
    ANSWERS: one answers, another process perhaps.
    DOWN: the fault is about the server or the whole host: nothing is asked before the converge.
    """

    SAME = "same"
    UNTIL_HEALED = "until healed"
    ANSWERS = "answers"
    DOWN = "down"


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, and what comes of it.

    + name: short, for people: a row of the table
    + group: one of GROUPS
    + breaks: one sentence, what is broken
    + heals: one sentence, what is asserted; ``says in one line: ...`` where a person must act
    + carry_out: breaks it, on a host in order; asserts what must be true meanwhile. Whatever it
      did to the lab's network, hub and commands is undone by the harness
    + quick: one of the representative third that ``make test`` runs
    + changes: text of the fleet file to be replaced, for a case that needs another fleet
    + serving: what is asserted of the server between the fault and the converge that heals
    + says: a regular expression that one of the last lines of a converge must match, where a
      person must act
    + mend: what that person does; after it a plain converge must be green
    + nothing_left: the converge that heals must find everything done already, and change nothing
    + puts_back: the refused converge leaves the files of before the fault, not those that it finds
    + known: what is seen instead, of a case that the product doesn't heal yet: it must fail
    """

    name: str
    group: str
    breaks: str
    heals: str
    carry_out: Callable[[Bed], None]
    quick: bool = False
    changes: tuple[tuple[str, str], ...] = ()
    serving: Serving = Serving.SAME
    says: str = ""
    mend: Callable[[Bed], None] | None = None
    nothing_left: bool = False
    puts_back: bool = False
    known: str = ""

    @property
    def identifier(self) -> str:
        """Its name as a test's."""
        return identifier(self.group, self.name)


def identifier(group: str, name: str) -> str:
    """A case's name as a test's: what ``pytest -k`` takes."""
    return re.sub(r"[^\w-]", "", f"{group} {name}".replace(" ", "-"))
