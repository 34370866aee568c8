"""Many small files laid down at once: one fact, one diff each, one atomic write each."""

from __future__ import annotations

import base64
import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyinfra import logger
from pyinfra.api import StringCommand

from deploys.common.changes import Change, record
from deploys.common.operations import Commands, current_host, current_state, host_operation, read
from deploys.common.shell import operand, script_word, word
from facts.files import Files, FileState


@dataclass(frozen=True)
class ManagedFile:
    """A file that is ours, whole.

    + content: text, written as UTF-8
    + mode: octal as a string, such as ``"644"``
    + secret: content never appears in a command, a diff or a log; only hashes are compared
    + as_user: write with that user's rights (for files in a home, where a link could lead astray);
      ``user`` and ``group`` are then that user's own and are not compared
    """

    path: str
    content: str
    mode: str = "644"
    user: str = "root"
    group: str = "root"
    secret: bool = False
    as_user: str | None = None


@host_operation
def managed_files(files: Sequence[ManagedFile]) -> Commands:
    """Lay down files: content, mode and owner, each replaced atomically, parents created.

    + files: what should be there
    """
    yield from write_files(files, read_states(files))


def read_states(files: Sequence[ManagedFile], also: Sequence[str] = ()) -> dict[str, FileState]:
    """The state of these files on the host, in one command.

    + also: further paths; their content isn't fetched
    """
    plain = [file.path for file in files if not file.secret]
    secret = [file.path for file in files if file.secret] + list(also)
    states = read(Files, paths=plain, secrets=secret)
    return dict(states)


def write_files(files: Sequence[ManagedFile], states: Mapping[str, FileState]) -> Commands:
    """Commands that mend each file that differs; says so for those that don't."""
    for file in files:
        state = states.get(file.path)
        if is_current(file, state):
            current_host().noop(f"{file.path} is as it should be")
            continue
        log_diff(file, state)
        record_change(file, state)
        yield write_command(file)


def remove_files(paths: Sequence[str], states: Mapping[str, FileState]) -> Commands:
    """Commands that remove those of the files that are there."""
    for path in paths:
        if path in states:
            record(Change("declared", path, "must not be there any more"))
            yield f"rm -f -- {operand(path)}"


def is_current(file: ManagedFile, state: FileState | None) -> bool:
    """Whether the host's file is what it should be."""
    if state is None or state.kind != "file" or state.mode != file.mode:
        return False
    owned = file.as_user is not None or (state.user, state.group) == (file.user, file.group)
    return owned and state.sha256 == file_digest(file)


def file_digest(file: ManagedFile) -> str:
    """SHA-256 of the content, as the fact tells it of the host's file."""
    return hashlib.sha256(file.content.encode()).hexdigest()


def diff(file: ManagedFile, state: FileState | None) -> list[str]:
    """Unified diff from the host's file to ours, with changes of mode and owner; never a secret."""
    lines = []
    if state is not None and state.kind != "file":
        lines.append(f"{file.path} is a {state.kind}; it becomes a file")
    if state is not None and state.mode != file.mode:
        lines.append(f"mode {state.mode} -> {file.mode}")
    if (
        state is not None
        and file.as_user is None
        and (state.user, state.group) != (file.user, file.group)
    ):
        lines.append(f"owner {state.user}:{state.group} -> {file.user}:{file.group}")
    if file.secret:
        return [*lines, f"{file.path}: a secret, not shown"]
    before = b"" if state is None or state.content is None else state.content
    lines += difflib.unified_diff(
        before.decode(errors="replace").splitlines(),
        file.content.splitlines(),
        "/dev/null" if state is None else file.path,
        file.path,
        lineterm="",
    )
    return lines


def record_change(file: ManagedFile, state: FileState | None) -> None:
    """Tell a drift check how the host's file differs."""
    record(Change("declared", file.path, summary(file, state), tuple(diff(file, state))))


def summary(file: ManagedFile, state: FileState | None) -> str:
    """How the host's file differs, in a few words."""
    if state is None:
        return "missing"
    if state.kind != "file":
        return f"a {state.kind} instead of a file"
    words = []
    if state.sha256 != file_digest(file):
        words.append("content differs")
    if state.mode != file.mode:
        words.append(f"mode {state.mode} -> {file.mode}")
    if file.as_user is None and (state.user, state.group) != (file.user, file.group):
        words.append(f"owner {state.user}:{state.group} -> {file.user}:{file.group}")
    return ", ".join(words)


def log_diff(file: ManagedFile, state: FileState | None) -> None:
    """Show the diff when pyinfra was called with ``--diff``."""
    if not current_state().config.DIFF:
        return
    prefix = current_host().print_prefix
    logger.info(f"{prefix}{'will create' if state is None else 'will change'} {file.path}")
    for line in diff(file, state):
        logger.info(f"{prefix}  {line}")


# A connection that breaks ends the content where it is: its size is checked. cat, unlike base64,
# says why it can't write. The status is asked for afterwards: within `&&` and `||` set -e is off.
_WRITE = """why=$(
exec 2>&1; set -eu; export LC_ALL=C
umask 022
mkdir -p -- "$(dirname -- {path})"
umask 077
# What a write left that a power cut or a SIGKILL ended; nobody else's files have such a name.
rm -f -- {path}.llamaherd-????????
new=$(mktemp -- {path}.llamaherd-XXXXXXXX)
trap 'rm -f -- "$new"' EXIT
base64 -d | cat > "$new"
[ "$(stat -c %s -- "$new")" = {size} ] || {{ echo "the connection broke off"; exit 1; }}
chmod {mode} -- "$new"
{chown}sync -- "$new"
mv -fT -- "$new" {path}
)
[ $? != 0 ] || exit 0
case $why in
*"No space left"* | *"quota exceeded"*) mend="make room there" ;;
*"Read-only"*) mend="make its file system writable" ;;
*"not permitted"*) mend="see whether it or its folder is immutable (lsattr)" ;;
*) mend="mend that" ;;
esac
printf '%s\n' "can't write "{path}": ${{why##*: }}: $mend, then run again" >&2; exit 1"""


def write_command(file: ManagedFile) -> StringCommand:
    """One command that replaces the file atomically; the content travels on standard input.

    So it is in no process's arguments and in no log, whatever pyinfra prints.
    """
    chown = "" if file.as_user else f'chown {word(f"{file.user}:{file.group}")} -- "$new"\n'
    content = file.content.encode()
    words = {"path": operand(file.path), "mode": operand(file.mode), "chown": chown}
    script = _WRITE.format(**words, size=len(content))
    shell = f"sh -c {script_word(script)}"
    if file.as_user:
        shell = f"runuser -u {operand(file.as_user)} -- {shell}"
    encoded = base64.encodebytes(content).decode()
    return StringCommand(shell, _stdin=encoded or "\n")
