"""Which CUDA toolkits a host has, and what of the vendor's repository is set up. One command.

A toolkit is a directory that holds ``bin/nvcc``. Those that the ``wheels`` provider installed
carry ``manifest.json``, which says what they were made of.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api.exceptions import FactProcessError
from pyinfra.api.facts import FactBase

from facts.sections import SECTION, split_sections
from facts.values import FactValue

# The vendor's packages and runfiles, our wheels, the distribution's nvidia-cuda-toolkit.
DEFAULT_ROOTS = ("/usr/local/cuda*", "/opt/cuda/*", "/usr")
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Toolkit(FactValue):
    """A CUDA toolkit on the host.

    + root: directory that holds ``bin/nvcc``
    + version: of nvcc, such as ``13.0.88``; None when nvcc doesn't run
    + manifest: what :mod:`deploys.cuda` noted when it installed it; None when it didn't
    """

    root: str
    version: str | None
    manifest: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class CudaState(FactValue):
    """What a host has of CUDA.

    + toolkits: by root
    + packages: installed versions by package name, of those asked for
    + files: SHA-256 by path, of those asked for that exist
    + sources: source files of apt and dnf that name the repository that was asked for
    """

    toolkits: Mapping[str, Toolkit] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


_LOOK = f"""
look() {{
  [ -x "$1/bin/nvcc" ] || return 0
  version=$("$1/bin/nvcc" --version 2>/dev/null | sed -n 's/.*release .*, V//p')
  manifest=-
  [ ! -f "$1/{MANIFEST}" ] || manifest=$(tr -d '\\n' < "$1/{MANIFEST}")
  echo "${{version:--}} $1"
  echo "$manifest"
}}
seen='|'
once() {{
  nvcc=$(readlink -f -- "$1/bin/nvcc") || return 0
  case $seen in *"|$nvcc|"*) return 0 ;; esac
  seen="$seen$nvcc|"
  look "$1"
}}
"""


class CudaToolkits(FactBase[CudaState]):
    """The CUDA toolkits of a host; nothing is found on a host without any.

    + roots: toolkit roots, shell patterns allowed. With a pattern among them it is a search: each
      toolkit is told once, under its own name rather than a link's
    + packages: names of Debian packages whose installed version is wanted
    + files: absolute paths whose SHA-256 is wanted
    + repository: base address; which source files of apt or dnf name it?
    + rpm: whether packages are asked of RPM's database instead of dpkg's

    .. code:: shell

        pyinfra HOST fact facts.cuda.CudaToolkits
    """

    def command(
        self,
        roots: Sequence[str] = DEFAULT_ROOTS,
        packages: Sequence[str] = (),
        files: Sequence[str] = (),
        repository: str = "",
        rpm: bool = False,
    ) -> str:
        """One script; it needs no root, and exits 0 whatever is missing."""
        script = [_LOOK, f"echo {SECTION}toolkits"]
        script += _search(roots) if any("*" in root for root in roots) else _each(roots)
        if packages:
            names = " ".join(map(shlex.quote, packages))
            form = shlex.quote("${db:Status-Status} ${Package} ${Version}\\n")
            ask = f"dpkg-query -W -f {form} {names} 2>/dev/null"
            if rpm:
                form = shlex.quote("installed %{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE}\\n")
                only = r"s/^\(installed [^ ]*\) 0:/\1 /; /^installed /p"
                ask = f"rpm -q --qf {form} {names} | sed -n '{only}'"
            script.append(f"echo {SECTION}packages; {ask}")
        if files:
            names = " ".join(map(shlex.quote, files))
            script.append(f"echo {SECTION}files; sha256sum -- {names} 2>/dev/null")
        if repository:
            wanted = shlex.quote(f"^[^#]*{_literal(repository.rstrip('/'))}")
            script.append(
                f"echo {SECTION}sources; "
                f"grep -lE -- {wanted} /etc/apt/sources.list /etc/apt/sources.list.d/* "
                "/etc/yum.repos.d/* 2>/dev/null"
            )
        return f"sh -c {shlex.quote(chr(10).join([*script, 'true']))}"

    @staticmethod
    def default() -> CudaState:
        """A host without any."""
        return CudaState()

    def process(self, output: list[str]) -> CudaState:
        """See :func:`parse_cuda`."""
        return parse_cuda(output)


def _each(roots: Sequence[str]) -> list[str]:
    """Lines that look at each of these roots, whatever leads there."""
    return [f"look {shlex.quote(root)}" for root in roots]


def _search(roots: Sequence[str]) -> list[str]:
    """Lines that find each toolkit once: /usr/local/cuda is a link to the one that is chosen."""
    places = " ".join(map(_pattern, roots))
    tests = ('[ -L "$root" ] ||', '[ ! -L "$root" ] ||')
    return [f'for root in {places}; do {test} once "$root"; done' for test in tests]


def _pattern(root: str) -> str:
    # Quoted but for the star, which the host's shell expands; no match stays a word without nvcc.
    return "*".join(shlex.quote(part) if part else "" for part in root.split("*"))


def _literal(text: str) -> str:
    """``text`` as an extended regular expression that matches it alone."""
    return "".join(f"\\{c}" if c in r"\.[]{}()*+?^$|" else c for c in text)


def parse_cuda(output: Sequence[str]) -> CudaState:
    """The command's lines as a value; FactProcessError for output that makes no sense."""
    sections = split_sections(output)
    try:
        return CudaState(
            toolkits={toolkit.root: toolkit for toolkit in _toolkits(sections.get("toolkits", []))},
            packages=_packages(sections.get("packages", [])),
            files=_files(sections.get("files", [])),
            sources=tuple(sections.get("sources", [])),
        )
    except ValueError as error:
        raise FactProcessError(f"cannot read the host's CUDA toolkits: {error}") from error


def _toolkits(lines: Sequence[str]) -> list[Toolkit]:
    found = []
    for place, manifest in zip(lines[::2], lines[1::2], strict=True):
        version, _, root = place.partition(" ")
        if not root.startswith("/"):
            raise ValueError(f"{place!r} names no toolkit")
        found.append(Toolkit(root, None if version == "-" else version, _manifest(manifest)))
    return found


def _manifest(text: str) -> Mapping[str, Any] | None:
    """None for a manifest that is missing or damaged: what it stands for isn't trusted then."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _packages(lines: Sequence[str]) -> dict[str, str]:
    rows = [line.split(" ", 2) for line in lines]
    return {name: version for status, name, version in rows if status == "installed"}


def _files(lines: Sequence[str]) -> dict[str, str]:
    rows = [line.split("  ", 1) for line in lines]
    return {path: sha256 for sha256, path in rows}
