"""The removal of what nothing needs: one command, which looks again before each item. Pure.

What is to go travels on standard input, never in the command's own arguments, where it would be
found in use. A run that is cut off leaves whole files under their names, and a manifest as long as
anything of its folder is left: the next run goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pyinfra.api import StringCommand

from deploys.common.shell import script_word, word
from deploys.prune.unused import Item
from facts.holdings import JOBS, PLACES, USES
from facts.servers import RELEASES

_TAB = "\t"

_SCRIPT = r"""set -u
running=$(@JOBS@) || { echo "refused systemd gives no answer"; exit 0; }
running=$(printf '%s\n' "$running" | cut -d ' ' -f 1 | grep -v -x -e llamaherd-drift.service -e '')
[ -z "$running" ] || { echo "refused a job runs there:" $running; exit 0; }

looked=$(mktemp -d /run/llamaherd-prune.XXXXXX)
trap 'rm -rf -- "$looked"' EXIT
{
@USES@
sed 's/^/release:/' @RELEASES@/*/current/uses @RELEASES@/*/previous/uses \
  @RELEASES@/*/next/uses 2>/dev/null
} | sed 's|^[^:]*:||' > "$looked/uses"

# needed PATH: whether it, or something below it, has come into use since the look before.
needed() {
  grep -qxF -e "$1" "$looked/uses" || grep -qF -e "$1/" "$looked/uses" || {
    # What was told is cut off at the first white space.
    case $1 in *' '*) grep -qxF -e "${1%% *}" "$looked/uses" ;; *) false ;; esac
  }
}

# plain PATH: below one of our places, and none itself, with no link on the way and no way out.
plain() {
  case $1 in *//*|*/./*|*/../*|*/.|*/..|*/|@PLACES@) return 1 ;; esac
  at=$1
  while :; do
    [ ! -L "$at" ] || return 1
    case $at in @PLACES@) return 0 ;; /|'') return 1 ;; esac
    at=${at%/*}
  done
}

status=left
reason=
tab=$(printf '\t')
while IFS="$tab" read -r what path known; do
  case $what in
    item)
      item=$path status=removed reason=
      if needed "$path"; then status=left reason="it has come into use"; fi ;;
    file)
      [ $status = removed ] || continue
      [ -e "$path" ] || [ -L "$path" ] || continue
      if ! plain "$path" || [ ! -f "$path" ] ||
        [ "$(stat -c '%s %Y %i' -- "$path" 2>/dev/null)" != "$known" ]
      then status=left reason="$path has changed since the look before"
      else
        rm -f -- "$path" 2>/dev/null || { status=left reason="$path can't be removed"; }
      fi ;;
    tree)
      [ $status = removed ] || continue
      if ! plain "$path" || { [ -e "$path" ] && [ ! -d "$path" ]; }
      then status=left reason="$path has changed since the look before"
      else
        rm -rf --one-file-system -- "$path" 2>/dev/null ||
          { status=left reason="$path can't be removed"; }
      fi ;;
    folder)
      [ $status = removed ] && plain "$path" && rmdir -- "$path" 2>/dev/null ;;
    done) printf '%s\t%s\t%s\n' "$status" "$item" "$reason" ;;
  esac
done
echo done
"""


def removal_command(items: Sequence[Item]) -> StringCommand:
    """One command that removes these, as far as nothing has changed since; tells what became of
    each, as :func:`parse_removal` reads it."""
    script = (
        _SCRIPT.replace("@JOBS@", JOBS)
        .replace("@USES@", USES)
        .replace("@RELEASES@", RELEASES)
        .replace("@PLACES@", "|".join(map(word, PLACES)))
    )
    return StringCommand(f"sh -c {script_word(script)}", _stdin=list(_lines(items)))


def _lines(items: Sequence[Item]) -> Iterator[str]:
    for item in items:
        yield _line("item", item.path)
        for path, entry in item.files:
            yield _line("file", path, f"{entry.size} {entry.mtime} {entry.inode}")
        if item.tree:
            yield _line("tree", item.path)
        for folder in item.folders:
            yield _line("folder", folder)
        yield _line("done")


def _line(*fields: str) -> str:
    """Fields by tabs; ValueError for a name that would make two of one."""
    for field in fields:
        if any(ord(character) < 32 for character in field):
            raise ValueError(f"{field!r} holds a control character")
    return _TAB.join(fields)


class RefusedError(Exception):
    """Nothing was removed; the message says why."""


def parse_removal(lines: Sequence[str]) -> Mapping[str, str]:
    """Why an item was left, by its path; empty for one that is gone.

    Raises :class:`RefusedError` where the host removed nothing, and for output that was cut off.
    """
    found = {}
    for line in lines:
        if line.startswith("refused "):
            raise RefusedError(line.removeprefix("refused "))
        status, _, rest = line.partition(_TAB)
        path, _, reason = rest.partition(_TAB)
        if status in ("removed", "left"):
            found[path] = reason if status == "left" else ""
    if lines[-1:] != ["done"]:
        raise RefusedError("the removal was cut off; run again, it goes on")
    return found
