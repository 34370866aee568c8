"""Which llama.cpp builds a host has, and which sources lie ready to be built."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.sections import SECTION, split_sections
from facts.values import FactValue

BUILDS = "/opt/llama.cpp"
WORK_PREFIX = ".work-"


@dataclass(frozen=True)
class LlamaCppState(FactValue):
    """What lies below ``/opt/llama.cpp``.

    + builds: manifest by build name; only finished builds have one
    + damaged: paths of binaries that aren't what was built, by build name
    + prepared: names of builds whose source lies unpacked, not yet built
    """

    builds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prepared: frozenset[str] = frozenset()
    damaged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_SCRIPT = f"""
for manifest in {BUILDS}/*/manifest.json; do
  [ -f "$manifest" ] || continue
  folder=$(dirname "$manifest")
  echo "{SECTION}build $(basename "$folder")"; cat "$manifest"
  echo "{SECTION}binaries $(basename "$folder")"
  stat -c '%n %s %Y' -- "$folder"/bin/* 2>/dev/null
done
for source in {BUILDS}/{WORK_PREFIX}*/source; do
  [ -d "$source" ] && echo "{SECTION}prepared $(basename "$(dirname "$source")")"
done
true
"""


class LlamaCppBuilds(FactBase[LlamaCppState]):
    """Finished builds with their manifests, and prepared sources."""

    def command(self) -> str:
        return f"sh -c {shlex.quote(_SCRIPT)}"

    @staticmethod
    def default() -> LlamaCppState:
        return LlamaCppState()

    def process(self, output: list[str]) -> LlamaCppState:
        return parse_builds(output)


def parse_builds(output: list[str]) -> LlamaCppState:
    """The command's lines as a value; FactProcessError for a manifest that isn't JSON."""
    builds: dict[str, Mapping[str, Any]] = {}
    binaries: dict[str, dict[str, str]] = {}
    prepared = set()
    for title, lines in split_sections(output).items():
        kind, _, name = title.partition(" ")
        if kind == "prepared":
            prepared.add(name.removeprefix(WORK_PREFIX))
            continue
        if kind == "binaries":
            rows = (line.rpartition("/")[2].split(" ", 1) for line in lines)
            binaries[name] = dict(row for row in rows if len(row) == 2)
            continue
        try:
            builds[name] = _manifest("\n".join(lines))
        except ValueError as error:
            raise FactProcessError(
                f"{BUILDS}/{name}/manifest.json is damaged ({error}): remove that folder"
            ) from error
    damaged = {
        name: found
        for name, manifest in builds.items()
        if name in binaries and (found := _damaged(name, manifest, binaries[name]))
    }
    return LlamaCppState(builds, frozenset(prepared), damaged)


def _manifest(text: str) -> Mapping[str, Any]:
    manifest = json.loads(text)
    if not isinstance(manifest, dict):
        raise ValueError("it holds no mapping")
    return manifest


def _damaged(name: str, manifest: Mapping[str, Any], seen: Mapping[str, str]) -> tuple[str, ...]:
    """Binaries whose size or time isn't the recorded one; a build without records is trusted."""
    records = manifest.get("binaries")
    if not isinstance(records, dict):
        return ()
    return tuple(
        f"{BUILDS}/{name}/bin/{binary}"
        for binary, record in records.items()
        if seen.get(binary) != str(record).rpartition(" ")[0]
    )
