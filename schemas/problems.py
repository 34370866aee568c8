"""Where something is written, and what is wrong with it there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Position:
    """A place in a text file. ``line`` and ``column`` count from 1, as editors do."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake: its position, the dotted path of the value (may be empty), and the message.

    The message says what is wrong and, where it can be known, what would mend it.
    """

    position: Position
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.position}: {self.path}: " if self.path else f"{self.position}: "
        return where + self.message


class ProblemsError(Exception):
    """Carries every problem found in one file (never empty), sorted by position.

    ``str()`` of it is what a person should read: one line a problem.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(set(problems)))
        if not self.problems:
            raise ValueError("ProblemsError needs at least one problem")
        super().__init__("\n".join(str(problem) for problem in self.problems))
