"""How hosts are reached: SSH without Nagle's algorithm.

paramiko (4.0, ``transport.py``) leaves it on. Each remote command is a handful of small packets,
and the last of them waits until the other side's delayed acknowledgement comes, 40 ms later:
longer than most of our facts take in all.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any


def prompt_transport(sock: Any, **options: Any) -> Any:
    """A ``transport_factory`` for paramiko's ``SSHClient.connect``: small packets go at once.

    + sock: a socket; through a jump host or a proxy command it is something without such an option
    """
    from paramiko import Transport

    with contextlib.suppress(AttributeError, OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Transport(sock, **options)
