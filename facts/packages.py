"""Which packages of the distribution are installed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from pyinfra.api import FactBase

from facts.values import listed


class DebPackages(FactBase[Mapping[str, str]]):
    """Versions of the given Debian packages by name; those not installed are absent.

    + names: binary packages
    """

    def command(self, names: Sequence[str]) -> str:
        wanted = " ".join(map(shlex.quote, listed(names)))
        # dpkg-query exits 1 for an unknown name and still prints the others.
        return (
            "dpkg-query -W -f='${db:Status-Status} ${Package} ${Version}\\n' -- "
            f"{wanted} 2>/dev/null || true"
        )

    @staticmethod
    def default() -> Mapping[str, str]:
        return {}

    def process(self, output: list[str]) -> Mapping[str, str]:
        return parse_packages(output)


class RpmPackages(FactBase[Mapping[str, str]]):
    """Which of the given RPM packages are installed; a path asks for whatever provides it.

    + names: packages, or absolute paths
    """

    def command(self, names: Sequence[str]) -> str:
        wanted = " ".join(map(shlex.quote, listed(names)))
        return (
            f'for name in {wanted}; do rpm -q --whatprovides -- "$name" > /dev/null 2>&1 && '
            'echo "installed $name -"; done; true'
        )

    @staticmethod
    def default() -> Mapping[str, str]:
        return {}

    def process(self, output: list[str]) -> Mapping[str, str]:
        return parse_packages(output)


def parse_packages(output: list[str]) -> Mapping[str, str]:
    """The command's lines as versions by name."""
    rows = (line.split(" ") for line in output)
    return {row[1]: row[2] for row in rows if len(row) == 3 and row[0] == "installed"}
