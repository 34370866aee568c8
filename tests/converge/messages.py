"""What the code may say to a person when a host fails, found in its source. Pure.

A message is an argument of one of the errors and records below. Its pieces of fixed text are what
a person can search the troubleshooting pages for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAID_BY = (
    *("HostError", "UnknownStateError", "ServerError", "BuildError", "ConfigError", "UnitError"),
    *("SecretError", "FleetError", "UnlockedError", "record_failure", "_give_up", "NoFitError"),
)
PLACES = ("deploys", "inventories")
# Shorter pieces say nothing of their own; such messages pass on another one's text.
SHORTEST = 12
# A remedy that leads to its page needs no line there.
POINTER = "see docs/troubleshooting/"


@dataclass(frozen=True)
class Message:
    """One message: where it is said, and its pieces of fixed text, white space made one."""

    place: str
    pieces: tuple[str, ...]


def messages() -> list[Message]:
    """Every message of the source, in its order."""
    found = [
        Message(f"{path.relative_to(ROOT)}:{line}", pieces)
        for package in PLACES
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, pieces in _of(ast.parse(path.read_text("utf-8")))
    ]
    return list(dict.fromkeys(found))


def _of(tree: ast.AST) -> Iterator[tuple[int, tuple[str, ...]]]:
    for node in ast.walk(tree):
        yield from _reasons(node)
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", "")
        if name in SAID_BY:
            texts = [each for argument in node.args for each in _pieces(argument)]
        elif name in ("Change", "Job"):
            # What no converge mends carries its remedy, and so does a job that fails.
            told = {word.arg: word.value for word in node.keywords}
            texts = [*_pieces(told["remedy"])] if "remedy" in told else []
            texts = [text for text in texts if not text.startswith(POINTER)]
        else:
            continue
        pieces = tuple(text for text in texts if len(text) >= SHORTEST)
        if pieces:
            yield node.lineno, pieces


# A job's script tells by `reason` why it fails: words in double quotes, with the shell's variables.
_REASON = re.compile(r"""\breason ((?:"(?:[^"\\]|\\.)*"[ \\\n]*)+)""")
_VARIABLE = re.compile(r"\$\([^)]*\)*\)|\$\{[^}]*\}|\$\w+|@\w+@|\0")


def _reasons(node: ast.AST) -> Iterator[tuple[int, tuple[str, ...]]]:
    """What the scripts in a piece of text say, each by itself."""
    if isinstance(node, ast.JoinedStr):
        text = "".join(str(getattr(part, "value", "\0")) for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    else:
        return
    for match in _REASON.finditer(text):
        said = " ".join(re.findall(r'"((?:[^"\\]|\\.)*)"', match[1]))
        clauses = [clause for part in _VARIABLE.split(said) for clause in part.split(": ")]
        pieces = tuple(" ".join(clause.split()).strip(" :;,.()\\'") for clause in clauses)
        pieces = tuple(piece for piece in pieces if len(piece) >= SHORTEST)
        if pieces:
            yield getattr(node, "lineno", 0), pieces


def _pieces(node: ast.AST) -> Iterator[str]:
    """The clauses of fixed text in an expression; those of an f-string one by one."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            for clause in " ".join(part.value.split()).split(": "):
                yield clause.strip(" :;,.()")
