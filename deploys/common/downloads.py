"""Pinned files brought to a host: fetched by the host, or uploaded from the controller.

Either way the bytes land under a temporary name beside the final one, an interrupted transfer
goes on where it stopped, and a file gets its final name only after its SHA-256 was right. What
was verified is recorded beside it (size, mtime, inode), so that later runs only stat.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gevent
from pyinfra import logger
from pyinfra.api import FunctionCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State

from deploys.common.jobs import Job, remote, run_job
from deploys.common.operations import Commands, HostError
from deploys.common.progress import DISPLAY, Amount, Track
from deploys.common.shell import operand, script_word, word
from deploys.common.summary import record_failure
from inventories.settings import Artifact

UPLOADS = "/var/lib/llamaherd/uploads"
RECORDS = ".verified"
CHUNK = 1024 * 1024

# Below this many bytes a second for this many seconds a transfer counts as stalled.
STALL_RATE = 1024
STALL_SECONDS = 60

_FETCH = r"""
partial() { stat -c %s -- "$1" 2>/dev/null || echo 0; }

# transfer URL PART SIZE: bring PART to SIZE bytes, going on where it stopped.
transfer() {
  attempt=0
  while [ "$(partial "$2")" -lt "$3" ]; do
    attempt=$((attempt + 1))
    if [ $attempt -gt 8 ]; then echo "gave up on $1 after 8 attempts" >&2; return 1; fi
    [ $attempt = 1 ] || sleep $((attempt < 6 ? attempt * 2 : 15))
    before=$(partial "$2") status=0
    curl --fail --location --silent --show-error --max-redirs 10 --connect-timeout 30 \
      --speed-limit @RATE@ --speed-time @STALL@ --continue-at - CURL_CONFIG \
      --output "$2" -- "$1" || status=$?
    # 33: the server knows no ranges. 22: it refused; with a partial file that may be the range.
    if [ $status = 33 ] || { [ $status = 22 ] && [ "$before" -gt 0 ]; }; then rm -f -- "$2"
    elif [ $status = 22 ] && [ $attempt -ge 3 ]; then return 1
    elif [ $status != 0 ]; then echo "curl exited $status, going on at $(partial "$2")" >&2; fi
    if [ $status = 0 ] && [ "$(partial "$2")" -lt "$3" ]; then
      echo "$1 holds $(partial "$2") bytes, the lock file says $3" >&2; rm -f -- "$2"; return 1
    fi
  done
}

# accept PART FINAL SIZE SHA256: verify, rename, record.
accept() {
  if [ "$(partial "$1")" != "$3" ]; then
    echo "$2: $(partial "$1") bytes, the lock file says $3" >&2; rm -f -- "$1"; return 1
  fi
  echo "verifying $2"
  sum=$(sha256sum < "$1"); sum=${sum%% *}
  if [ "$sum" != "$4" ]; then
    echo "$2: its SHA-256 is $sum, the lock file says $4" >&2; rm -f -- "$1"; return 1
  fi
  chmod 644 -- "$1"; sync -- "$1"; mv -fT -- "$1" "$2"; record "$2" "$4"
}

# record FINAL SHA256: note what was verified, and which bytes on disk that were.
record() {
  notes=$(dirname -- "$1")/@RECORDS@; mkdir -p -- "$notes"; note=$notes/$(basename -- "$1").json
  printf '{"sha256": "%s", "stat": "%s"}\n' "$2" "$(stat -c '%s %Y %i' -- "$1")" > "$note.new"
  mv -fT -- "$note.new" "$note"
}

# keep FINAL SIZE SHA256: a file that is there under its final name is hashed where it lies; a
# wrong one becomes the part that the transfer goes on from.
keep() {
  [ -f "$1" ] || return 1
  echo "verifying $1"
  sum=$(sha256sum < "$1")
  if [ "$(partial "$1")" = "$2" ] && [ "${sum%% *}" = "$3" ]; then record "$1" "$3"; return; fi
  echo "$1 is not what the lock file says, fetching it again" >&2
  mv -fT -- "$1" "$1.part"; return 1
}

fetch() {
  mkdir -p -- "$(dirname -- "$2")"
  if keep "$2" "$3" "$4"; then return; fi
  [ "$(partial "$2.part")" -le "$3" ] || rm -f -- "$2.part"
  had=$(partial "$2.part")
  transfer "$1" "$2.part" "$3" || return 1
  if accept "$2.part" "$2" "$3" "$4"; then return; fi
  # What lay there from before may have been wrong: once more, from the first byte.
  [ "$had" -gt 0 ] && transfer "$1" "$2.part" "$3" && accept "$2.part" "$2" "$3" "$4"
}

adopt() {
  mkdir -p -- "$(dirname -- "$2")"
  if keep "$2" "$3" "$4"; then rm -f -- "$1"; return; fi
  mv -fT -- "$1" "$2.part"; chown root:root -- "$2.part"
  accept "$2.part" "$2" "$3" "$4"
}
"""


def fetch_functions(authorised: bool = False) -> str:
    """Shell functions ``fetch URL FINAL SIZE SHA256`` and ``adopt UPLOAD FINAL SIZE SHA256``.

    + authorised: curl reads the job's secret ``curl`` (its ``header = ...`` lines) as well
    """
    config = "--config ./secret.curl" if authorised else ""
    return (
        _FETCH.replace("@RATE@", str(STALL_RATE))
        .replace("@STALL@", str(STALL_SECONDS))
        .replace("@RECORDS@", RECORDS)
        .replace("CURL_CONFIG", config)
    )


def fetch_lines(artifacts: Iterable[Artifact], directory: str, authorised: bool = False) -> str:
    """The script that brings artifacts into ``directory``: functions, then a call for each."""
    calls = [_call(artifact, f"{directory}/{artifact.name}") for artifact in artifacts]
    return fetch_functions(authorised) + "\n".join(calls) + "\n"


def _call(artifact: Artifact, final: str) -> str:
    rest = f"{operand(final)} {artifact.size} {operand(artifact.sha256)}"
    if artifact.url is not None:
        return f"fetch {operand(artifact.url)} {rest}"
    return f"adopt {operand(upload_path(artifact))} {rest}"


def upload_path(artifact: Artifact) -> str:
    """Where the bytes of an artifact from the controller lie until a job adopts them."""
    return f"{UPLOADS}/{artifact.sha256}"


def fetch_probe(artifacts: Sequence[Artifact], directory: str) -> str:
    """A job's probe: bytes that have arrived, and what the log says last."""
    names = [operand(f"{directory}/{artifact.name}") for artifact in artifacts]
    tests = "\n".join(
        f"stat -c %s -- {name} 2>/dev/null || stat -c %s -- {name}.part 2>/dev/null"
        for name in names
    )
    return f"{tests}\necho log; tail -n 1 log 2>/dev/null"


def fetch_progress(artifacts: Sequence[Artifact], lines: list[str]) -> Amount | None:
    """The lines of :func:`fetch_probe` as an amount of bytes."""
    if "log" not in lines:
        return None
    at = lines.index("log")
    done = sum(int(line) for line in lines[:at] if line.isdigit())
    last = lines[at + 1] if len(lines) > at + 1 else ""
    note = "verifying" if last.startswith("verifying ") else ""
    return Amount(done, sum(artifact.size for artifact in artifacts), "bytes", note)


@dataclass(frozen=True)
class Fetch:
    """A job that brings artifacts into a directory of the host.

    + name, title: as of a :class:`Job`
    + header: an HTTP header with a secret (``Authorization: Bearer ...``) for a gated hub
    """

    name: str
    title: str
    artifacts: tuple[Artifact, ...]
    directory: str
    header: str | None = None
    remedy: str = ""

    def job(self) -> Job:
        """The job; uploads must have happened before it starts."""
        secrets = {}
        if self.header is not None:
            secrets["curl"] = f"header = {json.dumps(self.header)}\n"
        return Job(
            name=self.name,
            title=self.title,
            script=fetch_lines(self.artifacts, self.directory, bool(secrets)),
            probe=fetch_probe(self.artifacts, self.directory),
            progress=lambda lines: fetch_progress(self.artifacts, lines),
            secrets=secrets,
            remedy=self.remedy,
        )


def fetch_artifacts(fetch: Fetch) -> Commands:
    """Commands that upload what comes from the controller and fetch the rest, verified."""
    yield from upload_artifacts(fetch.artifacts)
    yield from run_job(fetch.job())


def upload_artifacts(artifacts: Iterable[Artifact]) -> Commands:
    """Commands that upload those artifacts that come from the controller, resumed where cut.

    Refuses (HostError) a file that isn't there or has another size than the lock file says.
    """
    for artifact in artifacts:
        if artifact.path is None:
            continue
        check_source(artifact)
        yield _prepare_upload(artifact)
        yield FunctionCommand(_upload, (artifact,), {})


def check_source(artifact: Artifact) -> None:
    """HostError unless the controller's file is there and has the locked size."""
    path = Path(artifact.path or "")
    if not path.is_file():
        raise HostError(f"{path} is not on this machine: put it there, or lock again")
    if path.stat().st_size != artifact.size:
        raise HostError(
            f"{path} has {path.stat().st_size} bytes, the lock file says {artifact.size}: "
            "put the locked file back, or run llamaherd lock --update"
        )


def _prepare_upload(artifact: Artifact) -> StringCommand:
    # SFTP comes in as the SSH user, who may not be root: the file is theirs until it is adopted.
    script = (
        "set -eu; install -d -m 755 /var/lib/llamaherd; "
        f"install -d -m 711 {UPLOADS}; : >> {upload_path(artifact)}; "
        f'chown "${{SUDO_USER:-$(id -un)}}" {upload_path(artifact)}; '
        f"chmod 600 {upload_path(artifact)}"
    )
    return StringCommand(f"sh -c {script_word(script)}")


def _upload(state: State, host: Host, artifact: Artifact) -> bool:
    """Send the rest of a file over SFTP. Runs in the host's own greenlet."""
    path = Path(artifact.path or "")
    size = remote(state, host, StringCommand("stat", "-c", "%s", word(upload_path(artifact))))
    offset = int(size.stdout_lines[0])
    try:
        with path.open("rb") as source:
            _send(host, source, artifact, offset if offset <= artifact.size else 0)
        return True
    except (OSError, EOFError) as error:
        message = f"upload of {path.name} broke off ({error}): run again, it goes on where it was"
        record_failure(host.name, message)
        logger.error(f"{host.print_prefix}{message}")
        return False
    finally:
        DISPLAY.finish(host.name)


def _send(host: Host, source: BinaryIO, artifact: Artifact, offset: int) -> None:
    sftp: Any = host.connector.get_file_transfer_connection()  # type: ignore[attr-defined]
    track = Track()
    source.seek(offset)
    with sftp.open(upload_path(artifact), "r+b") as target:
        target.set_pipelined(True)
        target.truncate(offset)
        target.seek(offset)
        done = offset
        while chunk := source.read(CHUNK):
            target.write(chunk)
            done += len(chunk)
            amount = Amount(done, artifact.size, "bytes")
            tenth = done * 10 // max(1, artifact.size)
            DISPLAY.show(host.name, f"uploading {artifact.name}", track.describe(amount), tenth)
            gevent.sleep(0)
