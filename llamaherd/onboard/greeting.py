"""Says hello to a box: its host key, and the ways to log in that it offers. Logs in nowhere.

One connection a box, through its jump host where it has one: there ``ssh -W`` makes the way, with
the keys and the known_hosts that ssh has for that host.
"""

from __future__ import annotations

# First of all: it patches the standard library for gevent, which paramiko then uses.
from llamaherd.runner import CONNECT_SECONDS  # isort: skip

import base64
import contextlib
import hashlib
import logging
import shlex
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import paramiko
from gevent.pool import Pool

from inventories.transport import prompt_transport
from llamaherd.onboard.report import BY_WAY_OF, Contact, HostKey, Target
from llamaherd.onboard.target import KNOWN_HOSTS

_GREETERS = 20
# A box's bad manners are its report's business, not a traceback on somebody's terminal.
_LOG = logging.getLogger("llamaherd.onboard.greeting")
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False


def greet(target: Target) -> Contact:
    """Host key and offered ways to log in, without logging in. Never raises for the box's sake."""
    try:
        with _hello(target) as transport:
            key = transport.get_remote_server_key()
            methods = _methods(transport, target.user)
            return Contact(host_key=_judge(key, _recorded(target)), methods=methods)
    except (paramiko.SSHException, OSError, EOFError) as error:
        return Contact(error=_words(error))


def greet_all(targets: Sequence[Target]) -> list[Contact]:
    """:func:`greet` for several boxes at once, in their order."""
    return list(Pool(_GREETERS).map(greet, targets))


def server_key(target: Target) -> paramiko.PKey:
    """The box's host key itself; raises OSError or SSHException."""
    with _hello(target) as transport:
        return transport.get_remote_server_key()


@contextlib.contextmanager
def _hello(target: Target) -> Iterator[paramiko.Transport]:
    """A transport on which keys are exchanged; raises OSError, EOFError or SSHException."""
    connection = _connect(target)
    transport: paramiko.Transport = prompt_transport(connection)
    try:
        transport.set_log_channel(_LOG.name)
        transport.banner_timeout = CONNECT_SECONDS
        _prefer(transport, list(_recorded(target)))
        transport.start_client(timeout=CONNECT_SECONDS)
        yield transport
    except (paramiko.SSHException, OSError, EOFError) as error:
        said = _complaints(connection) if isinstance(connection, paramiko.ProxyCommand) else ""
        if said:
            raise paramiko.SSHException(f"{BY_WAY_OF} {target.proxy}: {said}") from error
        raise
    finally:
        transport.close()


def _connect(target: Target) -> socket.socket | paramiko.ProxyCommand:
    if not target.proxy:
        return socket.create_connection((target.hostname, target.port), CONNECT_SECONDS)
    if " " in target.proxy:
        # A proxy command; ssh -G has left its placeholders in.
        command = target.proxy.replace("%h", target.hostname).replace("%p", str(target.port))
        return paramiko.ProxyCommand(command)
    *before, last = target.proxy.split(",")
    words = ["ssh", *(["-F", target.config_file] if target.config_file else [])]
    words += ["-J", ",".join(before)] if before else []
    words += ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}"]
    words += ["-W", f"[{target.hostname}]:{target.port}", f"ssh://{last.removeprefix('ssh://')}"]
    return paramiko.ProxyCommand(shlex.join(words))


# What ssh adds to each failure, and what says nothing.
_EMPTY_WORDS = ("Connection closed by UNKNOWN", "kex_exchange_identification", "stdio forwarding")


def _complaints(proxy: paramiko.ProxyCommand) -> str:
    """What a proxy command said before it gave up."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        proxy.process.terminate()
        said = proxy.process.communicate(timeout=2)[1] or b""
        lines = [line.strip() for line in said.decode(errors="replace").splitlines()]
        return "; ".join(
            line.rstrip(".") for line in lines if line and not line.startswith(_EMPTY_WORDS)
        )
    return ""


def fingerprint(key: paramiko.PKey) -> str:
    """As ``ssh-keygen -l`` prints it."""
    digest = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def recorded_name(target: Target) -> str:
    """The box's name in a known_hosts file."""
    return target.hostname if target.port == 22 else f"[{target.hostname}]:{target.port}"


def _recorded(target: Target) -> Mapping[str, paramiko.PKey]:
    """Keys that known_hosts has for the box, by their kind."""
    keys = paramiko.HostKeys()
    path = Path(target.known_hosts or KNOWN_HOSTS).expanduser()
    if path.is_file():
        keys.load(str(path))
    return dict(keys.lookup(recorded_name(target)) or {})


def _prefer(transport: paramiko.Transport, kinds: Sequence[str]) -> None:
    """Ask for the kind of key that is recorded: else a box with several looks changed."""
    options = transport.get_security_options()
    wanted = list(kinds) or ["ssh-ed25519"]
    first = [kind for kind in options.key_types if any(kind == name for name in wanted)]
    options.key_types = (*first, *(kind for kind in options.key_types if kind not in first))


def _judge(key: paramiko.PKey, known: Mapping[str, paramiko.PKey]) -> HostKey:
    recorded = known.get(key.get_name())
    if recorded is None:
        # Another kind of key is on record: the box lost that one, or somebody else answers.
        state = "changed" if known else "unknown"
    else:
        state = "known" if recorded == key else "changed"
    return HostKey(key.get_name(), fingerprint(key), state)  # type: ignore[arg-type]


def _methods(transport: paramiko.Transport, user: str) -> tuple[str, ...]:
    try:
        transport.auth_none(user)
    except paramiko.BadAuthenticationType as error:
        return tuple(error.allowed_types)
    except paramiko.SSHException:
        return ()
    return ("none",)


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS} s"
    if isinstance(error, socket.gaierror):
        return f"the name does not resolve ({error.strerror})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
