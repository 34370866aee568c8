"""Work that takes minutes: a named transient systemd unit on the host, watched over SSH.

A closed laptop doesn't end it, and the next run finds it by its name and attaches instead of
starting a second one. What a job leaves is its folder below JOBS: its script, its log, its exit
status. Secrets that it needs lie below SECRETS as root-only files while it runs, with links to them
in its folder, and are removed by it; that place is memory, so that a host which loses its power
keeps none of them.

Upstream behaviour relied on: systemd-run(1) (a transient service goes away when it ends; with
``--collect`` also when it fails: else each release that was refused would leave the host
"degraded" until its next boot. How a job ended stands in its folder, so nobody asks the unit).
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import gevent
from paramiko import SSHException
from pyinfra import logger
from pyinfra.api import FunctionCommand, StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.connectors.util import CommandOutput

from deploys.common.claims import ClaimError, OvertakenError, keep_claim
from deploys.common.operations import Commands, host_proxy
from deploys.common.progress import DISPLAY, Amount, Track, human_bytes, human_seconds
from deploys.common.rights import as_running_operation
from deploys.common.shell import operand, script_word, word
from deploys.common.summary import record_failure
from facts.sections import SECTION, split_sections
from inventories.settings import ProxySettings

JOBS = "/var/lib/llamaherd/jobs"
SECRETS = "/run/llamaherd/secrets"
LOG_LINES = 20

REASON = "llamaherd: "
"""How the line of a job's log begins that says why it failed and what mends it; the last counts."""

REASON_FUNCTION = f'''reason() {{ echo "{REASON}$*" >&2; }}
'''
"""Shell function ``reason WHY``: writes such a line."""

# Where jobs write; what is nearly full of it is named when one failed for want of space.
_PLACES = (
    *("/opt", "/opt/llama.cpp", "/opt/opencode", "/opt/cuda", "/usr", "/var", "/var/cache"),
    *("/var/lib", "/var/lib/llamaherd", "/var/lib/llamaherd/models", JOBS, "/tmp"),
    *("/etc", "/etc/systemd/system", "/etc/llama-server"),
)
_NEARLY_FULL = 16 * 1024**2
RECONNECTS = 10

KEPT_SECRETS = 60
"""Minutes after which the secrets of a job that was killed are removed, by the next job's start."""
KEPT_JOBS = 30 * 24 * 60
"""Minutes for which the folder of a job that ended is kept: people read its log."""


@dataclass(frozen=True)
class Job:
    """Work for one host.

    + name: names the unit; the same work must get the same name, other work another one
    + title: for people, such as ``building llama.cpp b8146``
    + script: POSIX shell, run by root with ``set -eu``, in the job's own folder
    + probe: shell that prints what ``progress`` reads; runs every second or so, also before the
      job's first output
    + progress: the lines of the probe as an Amount; None when they don't say
    + report: those of the probe's lines that a person is told when the job ended well
    + secrets: file name to content; ``secret.NAME`` in the folder, of mode 600, while the job runs
    + network: False cuts the job off from every network
    + binds: folders of the host under other names inside the job, by the name inside
    + remedy: what a person should look at when it fails and its log gives no :data:`REASON`; a
      script that leaves a file ``message`` in its folder has said everything itself
    """

    name: str
    title: str
    script: str
    probe: str = ""
    progress: Callable[[list[str]], Amount | None] | None = None
    report: Callable[[list[str]], list[str]] | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    network: bool = True
    binds: Mapping[str, str] = field(default_factory=dict)
    remedy: str = ""

    @property
    def unit(self) -> str:
        """Name of the transient unit, without ``.service``."""
        return f"llamaherd-{self.name}"

    @property
    def folder(self) -> str:
        """Where the job keeps script, log and status."""
        return f"{JOBS}/{self.name}"


def run_job(job: Job) -> Commands:
    """Commands that start the job, or attach to it where it runs, and wait for its end.

    A job with a network goes through the host's proxy, where its settings name one.
    """
    yield start_command(through_proxy(job, host_proxy()) if job.network else job)
    yield FunctionCommand(_watch, (job,), {})


def through_proxy(job: Job, proxy: ProxySettings | None) -> Job:
    """The job with the proxy's variables, in its script: arguments are anybody's to read."""
    if proxy is None:
        return job
    lines = [f"export {name}={word(value)}\n" for name, value in proxy.environment().items()]
    return replace(job, script="".join(lines) + job.script)


# An answer that doesn't come says nothing of the job: its folder must stay as it is.
_START = """set -eu
state=$(systemctl show -P ActiveState {unit}.service) || state=unknown
case $state in
active|activating|deactivating|reloading) echo attached; cat >/dev/null; exit 0;;
inactive|failed) ;;
*) cat >/dev/null
  echo "systemd doesn't say whether {unit} runs: see systemctl status, then run again" >&2
  exit 1;;
esac
# ended FOLDER MINUTES: remove what jobs below it left that don't run and are older than that.
ended() {{
  find "$1" -mindepth 1 -maxdepth 1 -type d -mmin +"$2" 2>/dev/null | while IFS= read -r old; do
    state=$(systemctl show -P ActiveState "llamaherd-${{old##*/}}.service" </dev/null) || continue
    case $state in inactive|failed) rm -rf -- "$old";; esac
  done
}}
ended {secrets} {kept_secrets}
ended {jobs} {kept_jobs}
systemctl reset-failed {unit}.service 2>/dev/null || :
install -d -m 755 /var/lib/llamaherd
install -d -m 700 {jobs} {folder}
cd {folder}
rm -rf -- ./* {hidden}
umask 077
{hide}while IFS=' ' read -r name content && [ "$name" != . ]; do
  place={folder}/$name
  case $name in secret.*) place={hidden}/$name; ln -s -- "$place" "$name";; esac
  why=$(printf %s "$content" | base64 -d | {{ LC_ALL=C cat > "$place"; }} 2>&1) || {{
    echo "can't write ${{place%/*}}: ${{why##*: }}: make room there, then run again" >&2; exit 1
  }}
done
[ "$name" = . ] || {{ echo "the connection broke off: run again" >&2; exit 1; }}
systemd-run --quiet --unit={unit} --collect --description={title} --property=Type=exec \
--property=KillMode=control-group --property=OOMPolicy=continue --nice=5 \
--property=StandardOutput=append:{folder}/log --property=StandardError=append:{folder}/log \
--property=WorkingDirectory={folder} {properties} /bin/sh ./run"""

# The wrapper notes the exit status and removes the secrets whatever the script does. Scripts read
# what programs say (stat's "regular file", apt's and df's words): in English, whatever the host
# speaks to its people, which systemd hands to every service.
_RUN = """export LC_ALL=C
script_status=0
sh -eu ./script || script_status=$?
rm -rf -- {hidden} {secrets} ./script
echo $script_status > status.new
mv -f status.new status
exit $script_status
"""


def start_command(job: Job) -> StringCommand:
    """One command: start or attach. Script and secrets travel on standard input."""
    secrets = {f"secret.{name}": content for name, content in job.secrets.items()}
    hidden = operand(f"{SECRETS}/{job.name}")
    hide = f"install -d -m 755 /run/llamaherd\ninstall -d -m 700 {SECRETS} {hidden}\n"
    files = {
        "run": _RUN.format(hidden=hidden, secrets=" ".join(map(operand, secrets))),
        "script": job.script,
        **secrets,
    }
    properties = [f"--setenv={name}={value}" for name, value in job.environment.items()]
    properties += [f"--property=BindPaths={outer}:{inner}" for inner, outer in job.binds.items()]
    if not job.network:
        properties.append("--property=PrivateNetwork=yes")
    script = _START.format(
        unit=operand(job.unit),
        jobs=JOBS,
        secrets=SECRETS,
        kept_jobs=KEPT_JOBS,
        kept_secrets=KEPT_SECRETS,
        folder=operand(job.folder),
        hidden=hidden,
        hide=hide if secrets else "",
        title=word(f"llamaherd: {job.title}"),
        properties=" ".join(map(word, properties)),
    )
    stdin = [f"{name} {base64.b64encode(text.encode()).decode()}" for name, text in files.items()]
    # A connection that breaks ends the input where it is: half a script must never run.
    stdin.append(".")
    return StringCommand(f"sh -c {script_word(script)}", _stdin=stdin)


def look_command(job: Job) -> StringCommand:
    """One command that tells the unit's state, the exit status, and what the probe prints."""
    script = (
        f"cd {operand(job.folder)} 2>/dev/null || exit 0\n"
        f"echo {SECTION}state\n"
        # Unanswered it must not look like the job's end.
        f"systemctl show -P ActiveState {operand(job.unit)}.service || exit 1\n"
        f"echo {SECTION}status; cat status 2>/dev/null\n"
        f"echo {SECTION}probe\n{job.probe}\ntrue"
    )
    return StringCommand(f"sh -c {script_word(script)}")


@dataclass(frozen=True)
class Look:
    """One look at a job: does it run, its exit status once it ended, the probe's lines."""

    running: bool
    status: int | None
    probe: list[str]


def parse_look(lines: list[str]) -> Look:
    """The output of :func:`look_command`."""
    sections = split_sections(lines)
    state = "".join(sections.get("state", [])).strip()
    status = "".join(sections.get("status", [])).strip()
    return Look(
        running=state in ("active", "activating", "deactivating", "reloading"),
        status=int(status) if status.isdigit() else None,
        probe=sections.get("probe", []),
    )


@dataclass(frozen=True)
class Ended:
    """The end of a job, or of watching it.

    + message: why it isn't well, for people; empty where it is
    + lines: what people are told besides: the job's report, or the last lines of its log
    """

    ok: bool
    message: str = ""
    lines: tuple[str, ...] = ()


def carry_out(state: State, host: Host, job: Job) -> Ended:
    """Start a job, or attach to it, and wait for its end: for whoever is no operation."""
    start = start_command(job)
    arguments = as_running_operation(host) | dict(start.connector_arguments)
    started, output = host.run_shell_command(start, print_output=False, **arguments)
    if not started:
        said = " ".join(output.stderr_lines[-3:])
        return Ended(False, f"{job.title}: could not be started: {said or 'no word why'}")
    return follow(state, host, job)


def _watch(state: State, host: Host, job: Job) -> bool:
    """Wait for the job's end and tell of it; True when it ended well."""
    ended = follow(state, host, job)
    for line in ended.lines:
        if ended.ok:
            logger.info(f"{host.print_prefix}{line}")
        else:
            logger.error(f"{host.print_prefix}  {line}")
    return ended.ok or give_up(host, ended.message)


def follow(state: State, host: Host, job: Job) -> Ended:
    """Wait for the end of a job that was started. Runs in the host's own greenlet."""
    track = Track()
    started = track.clock()
    try:
        while True:
            look = parse_look(remote(state, host, look_command(job)).stdout_lines)
            if not look.running:
                return _ended(state, host, job, look)
            _show(host, job, look, track, track.clock() - started)
            gevent.sleep(1 if DISPLAY.stream.isatty() else 2)
    except OvertakenError as error:
        return Ended(False, f"{job.title}: {error}")
    except (SSHException, OSError, EOFError, ConnectError) as error:
        return Ended(
            False,
            f"{job.title}: lost the connection ({error}); the job goes on on the host, "
            "the next run attaches to it",
        )
    finally:
        DISPLAY.finish(host.name)


def _show(host: Host, job: Job, look: Look, track: Track, elapsed: float) -> None:
    amount = job.progress(look.probe) if job.progress else None
    if amount is None:
        DISPLAY.show(host.name, job.title, human_seconds(elapsed))
        return
    tenth = amount.done * 10 // amount.total if amount.total > 0 else 0
    DISPLAY.show(host.name, job.title, track.describe(amount), tenth)


def _ended(state: State, host: Host, job: Job, look: Look) -> Ended:
    if look.status == 0:
        return Ended(True, lines=tuple(job.report(look.probe)) if job.report else ())
    words = parse_words(remote(state, host, last_words_command(job)).stdout_lines)
    return Ended(False, failure(job, look, words), words.log)


@dataclass(frozen=True)
class Words:
    """What a job that failed leaves to tell.

    + log: its last lines
    + reason: why, in its own words; empty where it gave none
    + full: file systems with no room left, each with what is free
    + message: all that people need to be told; empty where the script left none
    """

    log: tuple[str, ...] = ()
    reason: str = ""
    full: tuple[str, ...] = ()
    message: str = ""


def last_words_command(job: Job) -> StringCommand:
    """One command that prints what :func:`parse_words` reads; it succeeds on any host."""
    places = " ".join(_PLACES)
    script = (
        f"cd {operand(job.folder)} 2>/dev/null || exit 0\n"
        f"echo {SECTION}log; tail -n {LOG_LINES} log 2>/dev/null\n"
        f"echo {SECTION}message; cat message 2>/dev/null\n"
        f"echo {SECTION}reason; grep -a '^{REASON}' log 2>/dev/null | tail -n 1\n"
        # Asked whatever the log says: a full disk keeps even that from being written, and not every
        # program names it (ar: "unable to copy file ...; reason: Success").
        f"echo {SECTION}full\n"
        f"df -B1 --output=avail,iavail,target -- {places} 2>/dev/null | grep '^ *[0-9]'\n"
        "true"
    )
    return StringCommand(f"sh -c {script_word(script)}")


def parse_words(lines: list[str]) -> Words:
    """The output of :func:`last_words_command`."""
    sections = split_sections(lines)
    full = {}
    for line in sections.get("full", []):
        free, inodes, mount = line.split(None, 2)
        if int(free) < _NEARLY_FULL:
            full[mount] = f"{mount} ({human_bytes(int(free))} free)"
        elif inodes == "0":
            full[mount] = f"{mount} (no inode free)"
    reason = "".join(sections.get("reason", [])).removeprefix(REASON)
    message = " ".join(sections.get("message", [])).strip()
    return Words(tuple(sections.get("log", [])), reason, tuple(full.values()), message)


def failure(job: Job, look: Look, words: Words) -> str:
    """One line: that the job failed, why, and what to do."""
    log = f"{job.folder}/log on the host"
    if words.message:
        return words.message
    if words.reason:
        return f"{job.title} failed: {words.reason} (see {log})"
    if words.full:
        where = ", ".join(words.full)
        return f"{job.title} failed: no space left on {where}: make room, then run again"
    how = "was killed" if look.status is None else f"failed with status {look.status}"
    remedy = f"; {job.remedy}" if job.remedy else ""
    return f"{job.title} {how}: see {log}{remedy}"


def give_up(host: Host, message: str) -> bool:
    """Tell people, now and in the summary, why this host fails; False, for whoever returns it."""
    record_failure(host.name, message)
    logger.error(f"{host.print_prefix}{message}")
    return False


def remote(state: State, host: Host, command: StringCommand) -> CommandOutput:
    """Run a command as the running operation would; connects again when the line broke.

    Such a command must succeed on a host that answers: a failure is taken for a broken line,
    because that is how pyinfra tells of one in the middle of a command (exit status -1). Done
    twice it must do no harm, and where this run holds the host's claim it is only done with it.
    Raises ConnectError after RECONNECTS attempts, and its child
    :class:`deploys.common.claims.OvertakenError` where somebody else was there meanwhile.
    """
    arguments = as_running_operation(host) | dict(command.connector_arguments)  # standard input
    for attempt in range(RECONNECTS):
        try:
            keep_claim(host)
            answered, output = host.run_shell_command(command, **arguments)
            if answered:
                return output
        except (SSHException, OSError, EOFError, ClaimError):
            pass
        gevent.sleep(min(30, 2**attempt))
        _reconnect(host)
    raise ConnectError("no connection")


def _reconnect(host: Host) -> None:
    host.disconnect()
    with contextlib.suppress(ConnectError):
        host.connect(show_errors=False, raise_exceptions=True)
