"""Model files on a host, and the records of their verification: only stat, never a hash."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.values import FactValue, listed


@dataclass(frozen=True)
class ModelFile(FactValue):
    """One file.

    + size: bytes; ``partial`` is what has arrived of an unfinished transfer
    + verified: the SHA-256 that these very bytes on disk were verified against; empty when there
      is no record, or size, mtime or inode differ from it
    + mount, free: the file system that it lies on, or would, and the bytes that are free there;
      asked only where something may have to be fetched
    """

    path: str
    size: int | None
    partial: int
    verified: str
    mount: str = ""
    free: int = 0


_SCRIPT = r"""
look() {
  stat=$(stat -c '%s %Y %i' -- "$1" 2>/dev/null) || stat=
  part=$(stat -c %s -- "$1.part" 2>/dev/null) || part=0
  note=$(cat -- "$(dirname -- "$1")/.verified/$(basename -- "$1").json" 2>/dev/null) || note=
  space=
  case $note in
  *"\"stat\": \"${stat:-none}\""*) ;;
  *) at=$1; while [ ! -e "$at" ]; do at=$(dirname -- "$at"); done
    space=$(df -B1 --output=avail,target -- "$at" | tail -n 1) ;;
  esac
  printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$stat" "$part" "$space" "$note"
}
"""


class ModelFiles(FactBase[Mapping[str, ModelFile]]):
    """State of the given model files by path; every path asked for is in the answer.

    + paths: absolute
    """

    def command(self, paths: Sequence[str]) -> str:
        script = (
            _SCRIPT + "\n".join(f"look {shlex.quote(path)}" for path in listed(paths)) + "\ntrue"
        )
        return f"sh -c {shlex.quote(script)}"

    @staticmethod
    def default() -> Mapping[str, ModelFile]:
        return {}

    def process(self, output: list[str]) -> Mapping[str, ModelFile]:
        return {file.path: file for file in map(parse_model_file, output)}


def parse_model_file(line: str) -> ModelFile:
    """One line of the command as a value; FactProcessError when it isn't one."""
    try:
        path, stat, part, space, note = line.split("\t")
        free, _, mount = space.strip().partition(" ")
        return ModelFile(
            path=path,
            size=int(stat.split()[0]) if stat else None,
            partial=int(part),
            verified=_verified(stat, note),
            mount=mount.strip(),
            free=int(free or 0),
        )
    except ValueError as error:
        raise FactProcessError(f"cannot read the model file state {line[:80]!r}") from error


def _verified(stat: str, note: str) -> str:
    try:
        record = json.loads(note)
        return str(record["sha256"]) if stat and record["stat"] == stat else ""
    except (ValueError, KeyError, TypeError):
        return ""
