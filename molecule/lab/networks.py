"""The network of a lab host: a bridge with a free /24, and a way out through this machine.

Owns, for the lab with identity ``<id>``: the interface ``br-lab-<id>``, the nftables table
``ip lab-<id>``, and a mark in ``/run/llamaherd-lab``. IPv4 forwarding is turned on when it is
off, and off again with the last lab, never when it was on before or something else of this
machine's nftables forwards. Needs root, ``ip`` and ``nft``.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from roots import LabError, locked

# A range of private addresses that few networks use; the third byte is the lab's.
RANGE = ipaddress.IPv4Network("10.213.0.0/16")
MARKS = Path("/run/llamaherd-lab")
FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


@dataclass(frozen=True)
class Network:
    """A lab's /24: ``gateway`` is this machine on the bridge, ``address`` is the host.

    + subnet: empty as long as none was chosen; enough to destroy what may be there
    """

    identity: str
    subnet: str = ""

    @property
    def bridge(self) -> str:
        """Name of the bridge (15 characters, the kernel's limit)."""
        return f"br-lab-{self.identity}"

    @property
    def table(self) -> str:
        """Name of the nftables table."""
        return f"lab-{self.identity}"

    @property
    def gateway(self) -> str:
        """This machine's address on the bridge."""
        return str(ipaddress.ip_network(self.subnet)[1])

    @property
    def address(self) -> str:
        """The lab host's address."""
        return str(ipaddress.ip_network(self.subnet)[2])


def free_subnet(used: list[ipaddress.IPv4Network], start: int) -> str:
    """The first /24 of RANGE, counted from number ``start`` round, that overlaps none of ``used``.

    Raises LabError when all 256 are taken.
    """
    subnets = list(RANGE.subnets(new_prefix=24))
    for offset in range(len(subnets)):
        candidate = subnets[(start + offset) % len(subnets)]
        if not any(candidate.overlaps(other) for other in used):
            return str(candidate)
    raise LabError(f"every /24 of {RANGE} is in use: destroy a lab (lab.py list)")


def create_network(identity: str) -> Network:
    """Make the bridge and the way out. Undo it with :func:`destroy_network`."""
    with locked("network"):
        network = Network(identity, free_subnet(_used_subnets(), int(identity, 16) % 256))
        try:
            _run("ip", "link", "add", network.bridge, "type", "bridge")
            _run("ip", "address", "add", f"{network.gateway}/24", "dev", network.bridge)
            _run("ip", "link", "set", network.bridge, "up")
            _run("nft", "-f", "-", text=_ruleset(network))
            _forward_on(identity)
        except BaseException:
            _destroy(network)
            raise
    return network


def destroy_network(network: Network) -> None:
    """Remove what :func:`create_network` made; whatever is already gone is no error."""
    with locked("network"):
        _destroy(network)


def _destroy(network: Network) -> None:
    _run("ip", "link", "delete", network.bridge, check=False)
    _run("nft", "delete", "table", "ip", network.table, check=False)
    _forward_off(network.identity)


def _ruleset(network: Network) -> str:
    # Between labs no address is rewritten: they reach each other as hosts of one site do.
    return f"""
table ip {network.table} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        ip saddr {network.subnet} ip daddr != {RANGE} masquerade
    }}
}}
"""


def _used_subnets() -> list[ipaddress.IPv4Network]:
    """Every network that this machine has an address or a route in, the default route aside."""
    found = []
    for line in _run("ip", "-4", "route", "show", "table", "all").splitlines():
        words = [word for word in line.split() if word[0].isdigit()]
        with contextlib.suppress(ValueError, IndexError):
            found.append(ipaddress.ip_network(words[0], strict=False))
    return [network for network in found if isinstance(network, ipaddress.IPv4Network)]


def _forward_on(identity: str) -> None:
    MARKS.mkdir(exist_ok=True)
    before = FORWARD.read_text().strip()
    if before == "0":
        (MARKS / "ip_forward").write_text(before)
        FORWARD.write_text("1")
    (MARKS / f"lab-{identity}").touch()


def _forward_off(identity: str) -> None:
    (MARKS / f"lab-{identity}").unlink(missing_ok=True)
    if not MARKS.exists() or any(MARKS.glob("lab-*")):
        return
    changed = (MARKS / "ip_forward").exists()
    (MARKS / "ip_forward").unlink(missing_ok=True)
    MARKS.rmdir()
    if changed and not _others_forward():
        FORWARD.write_text("0")


def _others_forward() -> bool:
    """Does someone else's nftables chain hook into forwarding or rewrite sources by now?"""
    listing = json.loads(_run("nft", "--json", "list", "chains") or "{}")
    chains = [item["chain"] for item in listing.get("nftables", []) if "chain" in item]
    return any(
        chain.get("hook") in ("forward", "postrouting") and not chain["table"].startswith("lab-")
        for chain in chains
    )


def _run(*command: str, text: str | None = None, check: bool = True) -> str:
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if check and result.returncode != 0:
        raise LabError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout
