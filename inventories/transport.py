"""How hosts are reached: SSH without Nagle's algorithm, and sudo's password on standard input.

paramiko (4.0, ``transport.py``) leaves the algorithm on. Each remote command is a handful of small
packets, and the last of them waits until the other side's delayed acknowledgement comes, 40 ms
later: longer than most of our facts take in all.

pyinfra (3.10, ``connectors/util.py``) hands sudo's password over as ``env PYINFRA_SUDO_PASSWORD=..
sudo -A``, which every user of the host can read off the process list while it starts. So pyinfra is
told a placeholder, and what opens a channel puts the password on the command's standard input
instead, from where a shell takes it into its environment, which is its user's and root's alone.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

from inventories.secrets import Secret

# What pyinfra takes for the password.
ON_STANDARD_INPUT = "on-standard-input"
_VARIABLE = "PYINFRA_SUDO_PASSWORD"
_ASKS = "env SUDO_ASKPASS="
_GIVEN = f"{_VARIABLE}={ON_STANDARD_INPUT} "
# `read` takes no byte of what follows its line: that is the command's own standard input.
_TAKE = f'IFS= read -r {_VARIABLE} && export {_VARIABLE} && exec "$@"'


SILENCE = 60
"""Seconds after which a host that doesn't even acknowledge counts as gone.

TCP alone waits a quarter of an hour for it, and for good where there is nothing to send. Then the
connection is made anew where that can help (:mod:`deploys.common.jobs`), or the host has failed.
"""

_OPTIONS = (
    (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", SILENCE // 3),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", SILENCE // 6),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", SILENCE * 1000),
)


def prompt_transport(sock: Any, **options: Any) -> Any:
    """A ``transport_factory`` for paramiko's ``SSHClient.connect``: small packets go at once, and
    a host that is gone is noticed after SILENCE seconds.

    + sock: a socket; through a jump host or a proxy command it is something without such an option
    """
    from paramiko import Transport

    for level, name, value in _OPTIONS:
        # Some are Linux's alone.
        with contextlib.suppress(AttributeError, OSError):
            sock.setsockopt(level, getattr(socket, name), value)
    return Transport(sock, **options)


def takes_password(command: str) -> str | None:
    """A command of pyinfra's that reads sudo's password first; None for one without sudo's."""
    before, given, after = command.partition(_GIVEN)
    if not given or not before.startswith(_ASKS):
        return None
    return f"sh -c '{_TAKE}' sh {before}{after}"


def sudo_transport(password: Secret) -> Callable[..., Any]:
    """The same for a host whose sudo asks for a password.

    + password: given to each command of pyinfra's whose ``_sudo_password`` is the placeholder

    A function, because pyinfra's ``debug-inventory`` can print no other kind of callable.
    """

    def password_transport(sock: Any, **options: Any) -> Any:
        transport = prompt_transport(sock, **options)
        opened = transport.open_session

        def open_session(*args: Any, **kwargs: Any) -> Any:
            return _giving(opened(*args, **kwargs), password)

        transport.open_session = open_session
        return transport

    return password_transport


def _giving(channel: Any, password: Secret) -> Any:
    execute = channel.exec_command

    def exec_command(command: str) -> None:
        taking = takes_password(command)
        execute(taking or command)
        if taking is not None:
            channel.sendall(f"{password}\n".encode())

    channel.exec_command = exec_command
    return channel
