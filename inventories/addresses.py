"""Addresses that servers bind, and under which they are reached. Pure."""

from __future__ import annotations

import ipaddress

_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}
EVERYWHERE = frozenset(_LOOPBACK_OF)
"""What binds every address of a host."""


def is_loopback(host: str) -> bool:
    """Whether an address that a server binds is within reach of its own host alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def own_address(host: str) -> str:
    """The address under which the host itself reaches a server that binds ``host``."""
    return _LOOPBACK_OF.get(host, host)


def with_port(address: str, port: int) -> str:
    """An address with its port, unless it names one; an IPv6 one gets its brackets."""
    if address.startswith("["):
        return address if "]:" in address else f"{address}:{port}"
    if address.count(":") > 1:
        return f"[{address}]:{port}"
    return address if ":" in address else f"{address}:{port}"
