"""The state of many small files, in one remote command."""

from __future__ import annotations

import base64
import binascii
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.values import FactValue, listed

# A file larger than this is none of ours: its content isn't fetched, only its hash.
CONTENT_LIMIT = 256 * 1024


@dataclass(frozen=True)
class FileState(FactValue):
    """One file as it is on the host.

    + kind: ``file``, ``link``, ``directory`` or ``other``
    + mode: octal without leading zero, such as ``644``
    + sha256: of the content; empty for what isn't a file, or may not be read
    + content: bytes; None for secrets, for large files and for what isn't a file
    """

    path: str
    kind: str
    mode: str
    user: str
    group: str
    sha256: str = ""
    content: bytes | None = None


LOOK = r"""
look() {
  path=$1; secret=$2
  if [ -L "$path" ]; then kind=link
  elif [ -f "$path" ]; then kind=file
  elif [ -d "$path" ]; then kind=directory
  elif [ -e "$path" ]; then kind=other
  else return; fi
  sum=- content=- about=$(stat -c '%s %a %U %G' "$path")
  if [ $kind = file ] && [ -r "$path" ]; then
    sum=$(sha256sum < "$path") && sum=${sum%% *}
    if [ "$secret" = 0 ] && [ "${about%% *}" -le LIMIT ]; then content=$(base64 -w 0 < "$path"); fi
  fi
  echo "$kind ${about#* } $sum ${content:-=} $path"
}
""".replace("LIMIT", str(CONTENT_LIMIT))
"""Shell function ``look PATH SECRET``: prints what :func:`parse_file` reads, or nothing."""


WRITABLE = r"""
resolved() { timeout 5 readlink -m -- "$1" || printf '%s\n' "$1"; }
closed() {
  case $1 in "$(resolved "$home")"/*) ;; *) echo "outside $1" ;; esac
  folder=$(dirname -- "$1")
  while [ ! -e "$folder" ]; do folder=$(dirname -- "$folder"); done
  [ -w "$folder" ] || echo "closed $1"
}
"""
"""Shell functions. ``resolved PATH``: where links lead; the path itself where that isn't found out
in a few seconds, for coreutils 9.1 follows ``a -> a/`` for ever, with more memory each time.
``closed PATH``: prints ``closed PATH`` where the account that runs it may not write in that file's
folder, ``outside PATH`` where it isn't below ``$home``."""


class Files(FactBase[Mapping[str, FileState]]):
    """State of the given paths; those that don't exist are absent from the answer.

    + paths: absolute paths whose content may be fetched (for a diff)
    + secrets: absolute paths of which only the hash is fetched
    """

    def command(self, paths: Sequence[str], secrets: Sequence[str] = ()) -> str:
        calls = [f"look {shlex.quote(path)} 0" for path in listed(paths)]
        calls += [f"look {shlex.quote(path)} 1" for path in listed(secrets)]
        script = LOOK + "\n".join(calls) + "\ntrue"
        return f"sh -c {shlex.quote(script)}"

    @staticmethod
    def default() -> Mapping[str, FileState]:
        return {}

    def process(self, output: list[str]) -> Mapping[str, FileState]:
        return {state.path: state for state in map(parse_file, output)}


def parse_file(line: str) -> FileState:
    """One line of the command as a value; FactProcessError when it isn't one."""
    try:
        kind, mode, user, group, sha256, content, path = line.split(" ", 6)
        return FileState(
            path=path,
            kind=kind,
            mode=mode,
            user=user,
            group=group,
            sha256="" if sha256 == "-" else sha256,
            content=_decode(content),
        )
    except (ValueError, binascii.Error) as error:
        raise FactProcessError(f"cannot read the file state {line[:80]!r}: {error}") from error


def _decode(content: str) -> bytes | None:
    if content == "-":
        return None
    return b"" if content == "=" else base64.b64decode(content, validate=True)
