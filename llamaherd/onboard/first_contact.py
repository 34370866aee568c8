"""The first contact with a box: its host key checked, our key left there, a deploy user made.

Each step is said before it is taken, together with how to take it back; ``--dry`` only says it. A
step that was taken already is left alone. A host key is never taken blind: either the user names
its fingerprint, or compares it on a terminal. A key that differs from the recorded one is never
replaced here.

Upstream behaviour relied on: sshd's ``authorized_keys`` (sshd(8)); a password field of ``*`` keeps
passwords out and lets keys in, with and without PAM (shadow(5), sshd(8)); sudo reads files of
``/etc/sudoers.d`` whose names hold no dot (sudoers(5)).
"""

from __future__ import annotations

# First of all: it patches the standard library for gevent.
from llamaherd.runner import RemoteError, run_on_hosts  # isort: skip

import getpass
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko

from inventories.secrets import Secret, SecretError, resolve_secret
from inventories.settings import SecretReference
from llamaherd.arguments import CommandError
from llamaherd.onboard.greeting import fingerprint, recorded_name, server_key
from llamaherd.onboard.probe import connection
from llamaherd.onboard.report import Contact, Step, Target
from llamaherd.onboard.target import identities, ssh_command
from llamaherd.tables import WIDTH

if TYPE_CHECKING:
    from pyinfra.api.host import Host

Say = Callable[[str], None]
Ask = Callable[[str], str]

STEP_SECONDS = 60
USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_PUBLIC = re.compile(
    r"(?P<key>(?:ssh|ecdsa|sk)-[\w@.-]+ [A-Za-z0-9+/]+={0,2})(?: (?P<comment>.*))?"
)


# The password


def password_of(reference: str, directory: Path) -> Secret:
    """The password for the first login.

    + reference: ``prompt`` (on a terminal only), ``env:NAME``, ``file:PATH``, ``command:WORDS``
    + directory: relative files count from there

    Raises :class:`CommandError`; its message never holds the password.
    """
    if reference == "prompt":
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise CommandError(
                "--password prompt: there is no terminal to ask on; "
                "give env:NAME, file:PATH or command:WORDS"
            )
        return Secret(getpass.getpass("Password for the first login: ", sys.stderr))
    kind, _, value = reference.partition(":")
    # A password written out would stand in the shell's history and in the list of processes.
    if kind not in ("env", "file", "command") or not value:
        raise CommandError(
            "--password takes where the password is, not the password: prompt, env:NAME, "
            "file:PATH or command:WORDS"
        )
    try:
        return resolve_secret(_reference(kind, value), directory)
    except (SecretError, ValueError) as error:
        raise CommandError(f"--password: {error}") from None


def _reference(kind: str, value: str) -> SecretReference:
    if kind == "command":
        return SecretReference(command=tuple(shlex.split(value)))
    return SecretReference(env=value) if kind == "env" else SecretReference(file=value)


# The host key


@dataclass(frozen=True)
class Trust:
    """How host keys become known.

    + fingerprints: those that the user named
    + ask: puts a question to a person; None without a terminal
    + dry: record nothing; a confirmed key counts for this run only
    """

    fingerprints: tuple[str, ...] = ()
    ask: Ask | None = None
    dry: bool = False


def trust_host_key(
    target: Target, contact: Contact, trust: Trust, say: Say
) -> tuple[Target, Contact, tuple[Step, ...]]:
    """The box's key becomes known, if the user says that it is the box's.

    Returns the target to look at (another known_hosts in a dry run), the contact with what became
    of its key, and the step, if there was one.
    """
    key = contact.host_key
    if key is None or key.state == "changed":
        return target, contact, ()
    if trust.fingerprints and key.fingerprint not in trust.fingerprints:
        return target, replace(contact, host_key=replace(key, state="refused")), ()
    if key.state == "known":
        return target, contact, ()
    if not trust.fingerprints and not _confirmed(target, key.kind, key.fingerprint, trust.ask):
        return target, contact, ()
    path = Path(target.known_hosts or "~/.ssh/known_hosts").expanduser()
    step = Step(
        f"record the host key {key.fingerprint} of {target.label} in {path}",
        f"ssh-keygen -R {shlex.quote(recorded_name(target))} -f {shlex.quote(str(path))}",
        done=not trust.dry,
    )
    _announce(step, trust.dry, say)
    try:
        found = server_key(target)
    except (OSError, paramiko.SSHException, EOFError) as error:
        return target, replace(contact, error=str(error)), ()
    if fingerprint(found) != key.fingerprint:
        # Two answers, two keys: more than one machine answers here.
        return target, replace(contact, host_key=replace(key, state="refused")), ()
    if trust.dry:
        path = _copy(path)
        target = replace(target, known_hosts=str(path))
    _append(path, f"{recorded_name(target)} {found.get_name()} {found.get_base64()}\n")
    return target, replace(contact, host_key=replace(key, state="known")), (step,)


def _confirmed(target: Target, kind: str, shown: str, ask: Ask | None) -> bool:
    if ask is None:
        return False
    answer = ask(
        f"{target.label} (port {target.port}) isn't in known_hosts. It shows\n"
        f"  {kind} {shown}\n"
        "Compare it with the box's own, on its console:\n"
        "  ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\n"
        "Is it the same? Type yes, or the fingerprint: "
    ).strip()
    return answer.lower() == "yes" or answer == shown


def ask_on_terminal() -> Ask | None:
    """A way to ask; None where nobody would answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(question: str) -> str:
        # Standard output may be a document that somebody reads.
        print(question, end="", file=sys.stderr, flush=True)
        return sys.stdin.readline()

    return ask


def _copy(path: Path) -> Path:
    """A copy for this run; it goes with the system's temporary files."""
    folder = Path(tempfile.mkdtemp(prefix="llamaherd-"))
    copy = folder / "known_hosts"
    copy.write_bytes(path.read_bytes() if path.is_file() else b"")
    return copy


def _append(path: Path, line: str) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = path.read_bytes() if path.exists() else b""
        with path.open("a", encoding="utf-8") as file:
            file.write(("\n" if before and not before.endswith(b"\n") else "") + line)
        if not before:
            path.chmod(0o600)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}; the host key can't be recorded") from None


# Our key, and the deploy user


@dataclass(frozen=True)
class Wishes:
    """What is to be left on the box; nothing by default."""

    install_key: bool = False
    create_user: str = ""

    @property
    def any(self) -> bool:
        """Whether there is something to do."""
        return self.install_key or bool(self.create_user)


def check_wishes(wishes: Wishes) -> None:
    """Raises :class:`CommandError` for a user name that Linux or sudo wouldn't take."""
    if wishes.create_user and not USER_NAME.fullmatch(wishes.create_user):
        raise CommandError(
            f"--create-user {wishes.create_user!r}: lower-case letters, digits, - and _ only, "
            "32 at most"
        )
    if wishes.create_user == "root":
        raise CommandError("--create-user root: root is there already")


def public_key(target: Target) -> str:
    """This machine's public key for the target: kind, key, comment.

    Raises :class:`CommandError` where there is none, or where it can't be read.
    """
    for private in identities(target):
        public = Path(f"{private}.pub")
        text = public.read_text("utf-8") if public.is_file() else _derived(private)
        if text and _PUBLIC.fullmatch(text.strip()):
            return text.strip()
    agent = _output(["ssh-add", "-L"]).splitlines()
    if agent and _PUBLIC.fullmatch(agent[0].strip()):
        return agent[0].strip()
    raise CommandError(
        "this machine has no public key to leave there: ssh-keygen -t ed25519 makes one, "
        "or name one with --key"
    )


def _derived(private: Path) -> str:
    return _output(["ssh-keygen", "-y", "-P", "", "-f", str(private)])


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


# $1: the key without its comment, $2: the whole line, $3: the folder of authorized_keys
_LEAVE_KEY = r"""
file=$3/authorized_keys
if [ -f "$file" ] && grep -qF -- "$1" "$file"; then echo present; exit 0; fi
umask 077; mkdir -p "$3"
# A last line without its end would swallow ours.
[ ! -s "$file" ] || [ -z "$(tail -c 1 "$file")" ] || echo >> "$file"
printf '%s\n' "$2" >> "$file" && echo installed
"""

# $1: key, $2: line, $3: user, $4: sudoers line
_CREATE_USER = rf"""
set -e
PATH=$PATH:/usr/sbin:/sbin
command -v visudo >/dev/null || {{ echo "sudo isn't installed: apt-get install sudo" >&2; exit 1; }}
rights=/etc/sudoers.d/llamaherd-$3
state=present
entry=$(getent passwd "$3") || {{
  useradd --create-home --shell /bin/bash --password '*' --comment llamaherd "$3"
  entry=$(getent passwd "$3"); state=installed
}}
case $(echo "$entry" | cut -d: -f5) in llamaherd*) ;; *)
  echo "a user $3 is there already and isn't llamaherd's: choose another name," \
    "or log in as $3 and use --install-key" >&2
  exit 1 ;;
esac
home=$(getent passwd "$3" | cut -d: -f6); group=$(id -gn "$3")
leave() {{ {_LEAVE_KEY.replace("exit 0", "return 0")} }}
[ "$(leave "$1" "$2" "$home/.ssh")" = present ] || state=installed
chown -h "$3:$group" "$home/.ssh" "$home/.ssh/authorized_keys"
if [ "$(cat "$rights" 2>/dev/null)" != "$4" ]; then
  umask 077; new=$(mktemp); printf '%s\n' "$4" > "$new"
  visudo -cqf "$new" && install -o root -g root -m 0440 "$new" "$rights"; rm -f "$new"
  state=installed
fi
echo "$state"
"""


def sudo_line(user: str) -> str:
    """The rights that converge needs: any command, as root and as nobody else, without a password.

    Not less: pyinfra runs a shell by sudo, and a right to run a shell is a right to run all.
    """
    return f"{user} ALL=(root) NOPASSWD: ALL"


def steps_of(target: Target, wishes: Wishes, key: str) -> tuple[Step, ...]:
    """What the wishes mean on this box, and how to take each step back."""
    match = _PUBLIC.fullmatch(key)
    blob = match["key"].split(" ")[1] if match else ""
    comment = (match and match["comment"]) or f"{blob[:16]}..."
    place = ssh_command(target)
    forget = (
        f"sed -i '\\|{blob}|d' .ssh/authorized_keys; find .ssh/authorized_keys -empty -delete; "
        "rmdir --ignore-fail-on-non-empty .ssh"
    )
    steps = []
    if wishes.install_key:
        steps.append(
            Step(
                f"add this machine's public key ({comment}) to {target.user}'s authorized_keys "
                f"on {target.label}",
                f'{place} "{forget}"',
            )
        )
    if wishes.create_user:
        user = wishes.create_user
        steps.append(
            Step(
                f"create the user {user} on {target.label}, without a password, with this "
                f"machine's public key ({comment}) and the sudo rights "
                f"`{sudo_line(user)}` (/etc/sudoers.d/llamaherd-{user})",
                f"on the box, as root: rm /etc/sudoers.d/llamaherd-{user}; userdel --remove {user}",
            )
        )
    return tuple(steps)


def carry_out(
    target: Target, wishes: Wishes, password: str | None, *, dry: bool, say: Say
) -> tuple[Target, tuple[Step, ...]]:
    """Take the steps on a box whose host key is known; say each beforehand.

    Returns the target (with the new user, if one was created) and the steps.
    Raises :class:`CommandError` when a step fails; those before it stay, and were said.
    """
    key = public_key(target)
    steps = []
    user = target.user
    for step in steps_of(target, wishes, key):
        _announce(step, dry, say)
        creates = step.what.startswith("create")
        state = "" if dry else _take(target, wishes.create_user if creates else "", key, password)
        if state == "present":
            say(f"  it is so already: {target.label}")
        steps.append(replace(step, done=state == "installed"))
        if creates and not dry:
            user = wishes.create_user
    return replace(target, user=user), tuple(steps)


def _announce(step: Step, dry: bool, say: Say) -> None:
    words = textwrap.fill(
        f"{'would' if dry else 'will'} {step.what}",
        WIDTH,
        subsequent_indent="  ",
        break_on_hyphens=False,
        break_long_words=False,
    )
    # The command stays on one line, however long: it is there to be copied.
    say(f"{words}\n  undo: {step.undo}")


def _take(target: Target, create: str, key: str, password: str | None) -> str:
    """One step, with a key if one is taken already, else with the password."""
    attempts = [None] if password is None else [None, password]
    error = ""
    for attempt in attempts:
        result = run_on_hosts(
            [(target.label, connection(target, attempt))],
            lambda host: _remote(host, target, create, key, password),
            seconds=lambda _: STEP_SECONDS,
        )[0]
        if result.value is not None:
            return result.value
        error = result.error
        if result.connected:
            break
    raise CommandError(f"{target.label}: {error}")


def _remote(host: Host, target: Target, create: str, key: str, password: str | None) -> str:
    match = _PUBLIC.fullmatch(key)
    bare = match["key"] if match else key
    if not create:
        # The login's own shell knows where its home is.
        script = shlex.join(["sh", "-c", _LEAVE_KEY, "onboard", bare, key]) + ' "$HOME/.ssh"'
        return _run(host, script, None)
    words = ["sh", "-c", _CREATE_USER, "onboard", bare, key, create, sudo_line(create)]
    if target.user == "root":
        return _run(host, shlex.join(words), None)
    if password is None:
        return _run(host, f"sudo -n {shlex.join(words)}", None)
    return _run(host, f"sudo -S -p '' {shlex.join(words)}", password)


def _run(host: Host, command: str, stdin: str | None) -> str:
    """The last word that a command prints; RemoteError with its complaint when it fails."""
    client: paramiko.SSHClient | None = getattr(host.connector, "client", None)
    if client is None:
        raise RemoteError("the connection is gone")
    # Nothing secret is in the command: a password goes in by standard input.
    writer, reader, complaints = client.exec_command(command, timeout=STEP_SECONDS)
    if stdin is not None:
        writer.write(stdin + "\n")
        writer.flush()
    writer.channel.shutdown_write()
    output = reader.read().decode(errors="replace").split()
    status = reader.channel.recv_exit_status()
    if status != 0 or not output:
        words = complaints.read().decode(errors="replace").strip().splitlines()
        raise RemoteError("; ".join(words[-2:]) or f"the step ended with {status}, without a word")
    return output[-1]
