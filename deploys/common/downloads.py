"""Pinned files brought to a host: fetched by the host, or uploaded from the controller.

Either way the bytes land under a temporary name beside the final one, an interrupted transfer
goes on where it stopped, and a file gets its final name only after its SHA-256 was right. What
was verified is recorded beside it (size, mtime, inode), so that later runs only stat.

The hash is made while the bytes arrive, on another core: of what is read back from the file, its
first byte included after an interruption, never of what came over the line. So a wrong or lost
write is seen as far as the kernel's cache shows it, which is as far as hashing right afterwards
would. ``sync`` before the rename brings the disk's own errors to light, and `llamaherd drift
--deep` reads again later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gevent
from paramiko import SSHException
from pyinfra.api import FunctionCommand, StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.api.state import State

from deploys.common.claims import OvertakenError
from deploys.common.jobs import REASON_FUNCTION, Job, give_up, remote, run_job
from deploys.common.operations import Commands, HostError
from deploys.common.progress import DISPLAY, Amount, Track
from deploys.common.shell import operand, script_word, word
from inventories.settings import Artifact

UPLOADS = "/var/lib/llamaherd/uploads"
RECORDS = ".verified"
CHUNK = 1024 * 1024

# Below this many bytes a second for this many seconds a transfer counts as stalled.
STALL_RATE = 1024
STALL_SECONDS = 60

# So many attempts in a row may bring less than this many bytes.
ATTEMPTS = 8
PROGRESS = 1024 * 1024

_FETCH = r"""
partial() { stat -c %s -- "$1" 2>/dev/null || echo 0; }

# sum: the SHA-256 of standard input. OpenSSL is several times as fast, where it is and works.
sum() { sha256sum | cut -d ' ' -f 1; }
if [ "$(openssl dgst -sha256 -r </dev/null 2>/dev/null)" = "@EMPTY@ *stdin" ]; then
  sum() { openssl dgst -sha256 -r | cut -d ' ' -f 1; }
fi

# follow PART: hash PART from its first byte on while it grows, in the background. What is hashed is
# read back from the file; `hashed PART` ends it, and $found is the SHA-256 of all that is there.
follow() {
  rm -f -- ./sum ./sum.end
  : >> "$1"; exec 3< "$1"
  following=$(stat -c %i -- "$1")
  # cat goes on where the one before stopped: they share the place in the open file.
  while :; do
    last=no; [ ! -e ./sum.end ] || last=yes
    cat <&3
    [ $last = no ] && kill -0 $$ 2>/dev/null || break
    sleep 0.1
  done | sum > ./sum &
  follower=$!
  exec 3<&-
  # Written to the disk meanwhile, too: else all of it would be waited for in the end.
  while sleep 1 && kill -0 $$; do sync --data -- "$1" || break; done >/dev/null 2>&1 &
  flusher=$!
}
hashed() {
  : > ./sum.end; wait $follower || :
  kill $flusher 2>/dev/null || :
  # Nothing but what was followed counts, and only when it is there still.
  found=none
  [ "$(stat -c %i -- "$1" 2>/dev/null)" != "$following" ] || found=$(cat ./sum)
  rm -f -- ./sum ./sum.end
}

@REASON@left() { df -h --output=avail -- "$(dirname -- "$1")" | tail -n 1 | tr -d ' '; }

# transfer URL PART SIZE: bring PART, which is followed, to SIZE bytes, going on where it stopped.
transfer() {
  stuck=0 said='' furthest=$(partial "$2")
  while [ "$(partial "$2")" -lt "$3" ]; do
    stuck=$((stuck + 1))
    if [ $stuck -gt @ATTEMPTS@ ]; then
      reason "gave up on $1 after @ATTEMPTS@ attempts that brought less than @PROGRESS@ bytes" \
        "each ($said): check the host's way there; the next run goes on at byte $(partial "$2")"
      return 1
    fi
    [ $stuck = 1 ] || sleep $((stuck < 6 ? stuck * 2 : 15))
    status=0
    # Root's own .curlrc isn't for these; and [] or {} in a mirror's path is no pattern.
    said=$(curl --disable --globoff --fail --location --silent --show-error --max-redirs 10 \
      --connect-timeout 30 --speed-limit @RATE@ --speed-time @STALL@ --continue-at - CURL_CONFIG \
      --write-out '\n%{http_code}\n' --output "$2" -- "$1" 2>&1) || status=$?
    code=$(printf '%s\n' "$said" | grep -x '[0-9][0-9][0-9]' | tail -n 1)
    said=$(printf '%s\n' "$said" | grep '^curl: ' | tail -n 1)
    now=$(partial "$2")
    if [ $status = 0 ] && [ "$now" -lt "$3" ]; then
      reason "$1 holds $now bytes, the lock file says $3: find out why, then" \
        "run llamaherd lock --update"
      restart "$2"; return 1
    fi
    [ $status != 0 ] || continue
    echo "$said" >&2
    case $status in
    # The disk is full, or gone.
    23) reason "can't write $2 ($(left "$2") free there): make room; the next run goes on"
      return 1 ;;
    # The server knows no ranges, or not this one: what there is can't be gone on with.
    33) restart "$2" ;;
    22) [ "$code" != 416 ] || { restart "$2"; continue; }
      [ $stuck -lt 3 ] || { refused "$1" "$code"; return 1; } ;;
    47) [ $stuck -lt 3 ] || { refused "$1" loop; return 1; } ;;
    51 | 60) refused "$1" certificate; return 1 ;;
    *) echo "curl exited $status, going on at $now" >&2 ;;
    esac
    # A line that breaks again and again still brings a big file, piece by piece; one that always
    # begins anew doesn't.
    [ $((now - furthest)) -lt @PROGRESS@ ] || { stuck=0 furthest=$now; }
  done
}
# refused URL ANSWER: why this source gives nothing, and what mends it.
refused() {
  case $2 in
  401 | 403) reason "$1 answers $2: check the token that the fleet file names for it, and that" \
    "its account may read this" ;;
  404 | 410) reason "$1 answers $2, it isn't there any more: run llamaherd lock --update" ;;
  loop) reason "$1 redirects in a circle: check the address, and whether a proxy wants a login" ;;
  certificate) reason "$1 is not trusted ($said) by this host, whose clock says" \
    "$(date -u +%Y-%m-%d): set the clock (timedatectl set-ntp true), or install the site's CA" ;;
  *) reason "$1 answers $2, three times: it is in trouble, or a proxy before it is:" \
    "run again later; the next run goes on" ;;
  esac
}
restart() { hashed "$1"; rm -f -- "$1"; follow "$1"; }

# accept PART FINAL SIZE SHA256: rename PART, which was followed, if it is what it should be. 1 for
# wrong bytes, which are removed; 2 when it can't be written.
accept() {
  if [ "$(partial "$1")" != "$3" ]; then
    reason "$2: $(partial "$1") bytes came, the lock file says $3: find out why, then" \
      "run llamaherd lock --update"
    hashed "$1"; rm -f -- "$1"; return 1
  fi
  echo "verifying $2"
  hashed "$1"
  if [ "$found" != "$4" ]; then
    reason "$2: its SHA-256 is $found, the lock file says $4: look at the mirror or the proxy" \
      "between; if the source itself has changed, run llamaherd lock --update"
    rm -f -- "$1"; return 1
  fi
  # A file that has another name too isn't ours to change.
  [ "$(stat -c %h -- "$1")" -gt 1 ] || chmod 644 -- "$1" || return 1
  if sync -- "$1" && mv -fT -- "$1" "$2" && record "$2" "$4"; then return 0; fi
  reason "can't write $2 ($(left "$2") free there): make room; the next run goes on"
  return 2
}

# record FINAL SHA256: note what was verified, and which bytes on disk that were.
record() {
  notes=$(dirname -- "$1")/@RECORDS@; note=$notes/$(basename -- "$1").json
  mkdir -p -- "$notes" &&
    printf '{"sha256": "%s", "stat": "%s"}\n' "$2" "$(stat -c '%s %Y %i' -- "$1")" > "$note.new" &&
    mv -fT -- "$note.new" "$note"
}

# keep FINAL SIZE SHA256: a file that is there under its final name is hashed where it lies; a
# wrong one becomes the part that the transfer goes on from.
keep() {
  [ -f "$1" ] || return 1
  echo "verifying $1"
  found=$(sum < "$1")
  if [ "$(partial "$1")" = "$2" ] && [ "$found" = "$3" ]; then record "$1" "$3"; return; fi
  echo "$1 is not what the lock file says, fetching it again" >&2
  mv -fT -- "$1" "$1.part"; return 1
}

# own PART SIZE: remove a part that can't be gone on with: too big, or another file's name as well.
own() {
  [ "$(partial "$1")" -le "$2" ] && [ "$(stat -c %h -- "$1" 2>/dev/null)" = 1 ] || rm -f -- "$1"
}

# elsewhere FINAL SIZE SHA256: take the file over from somewhere on this host; 1 when it isn't here.
elsewhere() { return 1; }
@ELSEWHERE@
fetch() {
  mkdir -p -- "$(dirname -- "$2")"
  if keep "$2" "$3" "$4" || elsewhere "$2" "$3" "$4"; then return; fi
  own "$2.part" "$3"
  had=$(partial "$2.part")
  outcome=0; bring "$@" || outcome=$?
  # What lay there from before may have been wrong: once more, from the first byte.
  if [ $outcome = 1 ] && [ "$had" -gt 0 ]; then bring "$@"; else return $outcome; fi
}
# bring URL FINAL SIZE SHA256: 1 for wrong bytes; 2 for a transfer that broke off, whose part is
# left for the next run, or a disk that takes no more.
bring() {
  follow "$2.part"
  echo "fetching $2"
  if transfer "$1" "$2.part" "$3"; then
    accept "$2.part" "$2" "$3" "$4"
    return
  fi
  hashed "$2.part"
  [ "$(partial "$2.part")" -gt 0 ] || rm -f -- "$2.part"
  return 2
}

adopt() {
  mkdir -p -- "$(dirname -- "$2")"
  if keep "$2" "$3" "$4"; then rm -f -- "$1"; return; fi
  mv -fT -- "$1" "$2.part"; chown root:root -- "$2.part"
  follow "$2.part"; accept "$2.part" "$2" "$3" "$4"
}
"""


def fetch_functions(authorised: bool = False, elsewhere: str = "") -> str:
    """Shell functions ``fetch URL FINAL SIZE SHA256`` and ``adopt UPLOAD FINAL SIZE SHA256``.

    They keep notes in the folder they run in, which must be the job's own, and ``fetch`` leaves
    these functions to others: ``sum`` (the SHA-256 of standard input), ``partial FILE`` (its size),
    ``follow``, ``hashed``, ``accept`` and ``reason`` (see :data:`deploys.common.jobs.REASON`).

    + authorised: curl reads the job's secret ``curl`` (its ``header = ...`` lines) as well
    + elsewhere: shell that defines ``elsewhere FINAL SIZE SHA256``, which ``fetch`` tries first
    """
    config = "--config ./secret.curl" if authorised else ""
    return (
        _FETCH.replace("@RATE@", str(STALL_RATE))
        .replace("@STALL@", str(STALL_SECONDS))
        .replace("@ATTEMPTS@", str(ATTEMPTS))
        .replace("@PROGRESS@", str(PROGRESS))
        .replace("@RECORDS@", RECORDS)
        .replace("@REASON@", REASON_FUNCTION)
        .replace("@EMPTY@", hashlib.sha256().hexdigest())
        .replace("@ELSEWHERE@", elsewhere)
        .replace("CURL_CONFIG", config)
    )


def fetch_lines(
    artifacts: Iterable[Artifact], directory: str, authorised: bool = False, elsewhere: str = ""
) -> str:
    """The script that brings artifacts into ``directory``: functions, then a call for each.

    + authorised, elsewhere: as of :func:`fetch_functions`
    """
    calls = [_call(artifact, f"{directory}/{artifact.name}") for artifact in artifacts]
    return fetch_functions(authorised, elsewhere) + "\n".join(calls) + "\n"


def _call(artifact: Artifact, final: str) -> str:
    rest = f"{operand(final)} {artifact.size} {operand(artifact.sha256)}"
    if artifact.url is not None:
        return f"fetch {operand(artifact.url)} {rest}"
    return f"adopt {operand(upload_path(artifact))} {rest}"


def upload_path(artifact: Artifact) -> str:
    """Where the bytes of an artifact from the controller lie until a job adopts them."""
    return f"{UPLOADS}/{artifact.sha256}"


def fetch_probe(artifacts: Sequence[Artifact], directory: str) -> str:
    """A job's probe: bytes that have arrived, and what the log says of whole files."""
    names = [operand(f"{directory}/{artifact.name}") for artifact in artifacts]
    tests = "\n".join(
        f"stat -c %s -- {name} 2>/dev/null || stat -c %s -- {name}.part 2>/dev/null"
        for name in names
    )
    log = "cat log 2>/dev/null | grep -E '^(fetching|verifying|found in|took) ' | tail -n 50"
    return f"{tests}\necho log; {log}"


def fetch_progress(artifacts: Sequence[Artifact], lines: list[str]) -> Amount | None:
    """The lines of :func:`fetch_probe` as an amount of bytes."""
    if "log" not in lines:
        return None
    at = lines.index("log")
    done = sum(int(line) for line in lines[:at] if line.isdigit())
    last = lines[-1] if len(lines) > at + 1 else ""
    note = last.partition(":")[0] if last.startswith("found in ") else ""
    note = "verifying" if last.startswith("verifying ") else note
    return Amount(done, sum(artifact.size for artifact in artifacts), "bytes", note)


def fetch_report(lines: list[str]) -> list[str]:
    """The lines of :func:`fetch_probe` that a person should read when all is done."""
    return [line for line in lines if line.startswith("took ")]


@dataclass(frozen=True)
class Fetch:
    """A job that brings artifacts into a directory of the host.

    + name, title: as of a :class:`Job`
    + header: an HTTP header with a secret (``Authorization: Bearer ...``) for a gated hub; curl
      sends it to the address's own host only, redirects included (since 7.58, and 7.83 for ports)
    + elsewhere: as of :func:`fetch_functions`
    """

    name: str
    title: str
    artifacts: tuple[Artifact, ...]
    directory: str
    header: str | None = None
    elsewhere: str = ""
    remedy: str = ""

    def job(self) -> Job:
        """The job; uploads must have happened before it starts."""
        secrets = {}
        if self.header is not None:
            secrets["curl"] = f"header = {json.dumps(self.header)}\n"
        return Job(
            name=self.name,
            title=self.title,
            script=fetch_lines(self.artifacts, self.directory, bool(secrets), self.elsewhere),
            probe=fetch_probe(self.artifacts, self.directory),
            progress=lambda lines: fetch_progress(self.artifacts, lines),
            report=fetch_report,
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
    try:
        size = remote(state, host, StringCommand("stat", "-c", "%s", word(upload_path(artifact))))
        offset = int(size.stdout_lines[0])
        with path.open("rb") as source:
            _send(host, source, artifact, offset if offset <= artifact.size else 0)
        return True
    except OvertakenError as error:
        return give_up(host, str(error))
    except (SSHException, OSError, EOFError, ConnectError) as error:
        said = f"upload of {path.name} broke off ({error}): run again, it goes on where it was"
        return give_up(host, said)
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
