"""The keys of the fleet's hosts, as the machine of this converge knows them. Pure but for reading.

The format is that of sshd(8), ``SSH_KNOWN_HOSTS FILE FORMAT``: names may be hashed. Patterns and
the markers ``@cert-authority`` and ``@revoked`` are passed over.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

DEFAULT_PORT = 22


def host_name(hostname: str, port: int | None) -> str:
    """A host's name in known_hosts."""
    return hostname if port in (None, DEFAULT_PORT) else f"[{hostname}]:{port}"


@dataclass
class KnownHosts:
    """Keys (``TYPE BASE64``) by name; of hashed names only those that are asked for are found."""

    plain: dict[str, set[str]] = field(default_factory=dict)
    hashed: list[tuple[bytes, bytes, str]] = field(default_factory=list)

    def keys(self, name: str) -> frozenset[str]:
        """Every key of a host, by its :func:`host_name`."""
        found = set(self.plain.get(name, ()))
        for salt, digest, key in self.hashed:
            if hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest):
                found.add(key)
        return frozenset(found)


def parse_known_hosts(text: str) -> KnownHosts:
    """The content of a known_hosts file; lines that make no sense are passed over."""
    known = KnownHosts()
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 3 or fields[0].startswith(("#", "@")):
            continue
        names, key = fields[0], f"{fields[1]} {fields[2]}"
        if names.startswith("|1|"):
            known.hashed += _hashed(names, key)
            continue
        for name in names.split(","):
            known.plain.setdefault(name, set()).add(key)
    return known


def _hashed(name: str, key: str) -> list[tuple[bytes, bytes, str]]:
    try:
        salt, digest = (base64.b64decode(part) for part in name.split("|")[2:4])
    except (ValueError, binascii.Error):
        return []
    return [(salt, digest, key)]


def merged(text: str, wanted: Mapping[str, frozenset[str]]) -> str:
    """A known_hosts file in which each wanted host can be recognised.

    + text: the file as it is
    + wanted: keys by name

    A host that has one of its wanted keys is left as it is: two people may know different keys of
    one host, and both are right. One that has others only gets the wanted ones instead.
    """
    known = parse_known_hosts(text)
    mend = {
        name: keys
        for name, keys in sorted(wanted.items())
        if keys and not keys & known.plain.get(name, set())
    }
    if not mend:
        return text
    kept = [line for line in text.splitlines() if line.split(" ", 1)[0] not in mend]
    added = [f"{name} {key}" for name, keys in mend.items() for key in sorted(keys)]
    return "\n".join([*kept, *added]) + "\n"
