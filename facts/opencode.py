"""What OpenCode a host has, and what its users' configurations hold. One remote command.

A user's files are read with that user's rights: a link in a home can't make root read what the
user may not. Of key files only the hash leaves the host.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.files import LOOK, WRITABLE, FileState, parse_file
from facts.sections import SECTION, split_sections
from facts.values import FactValue

ROOT = "/opt/opencode"
COMMAND = "/usr/local/bin/opencode"
SYSTEM_CONFIG = "/etc/opencode/opencode.json"
SYSTEM_OVERRIDE = "/etc/opencode/opencode.jsonc"
USER_CONFIG = ".config/opencode/opencode.json"
ACCEPTED = "/var/lib/llamaherd/opencode"
"""A file for each user, of root's, that tells which configuration OpenCode took last."""


@dataclass(frozen=True)
class OpenCodeUser(FactValue):
    """One account as the host knows it.

    + config_path: ``opencode.json``, links in its path followed
    + config: its state, None where there is none yet
    + jsonc_path, jsonc: the same of ``opencode.jsonc``, which wins; none where both are one file
    + secrets: state of the asked-for files, by their path relative to the home
    + closed: files of these in whose folder the user may not write
    + outside: files of these that a link leads to, out of the home
    + accepted: what llamaherd noted of the configuration that OpenCode took last; empty for nothing
    """

    name: str
    uid: int
    gid: int
    home: str
    home_exists: bool
    config_path: str
    config: FileState | None = None
    jsonc_path: str = ""
    jsonc: FileState | None = None
    secrets: Mapping[str, FileState] = field(default_factory=dict)
    closed: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    accepted: str = ""


@dataclass(frozen=True)
class OpenCodeState(FactValue):
    """OpenCode on a host; everything empty where there is none.

    + link: where COMMAND points, None where there is no such file, "" where it is no link
    + manifest: of the version asked for, empty where there is none
    + binary_size: bytes of that version's binary, 0 where it is absent or not executable
    + binary_mtime: when it was written, seconds since 1970
    + run: SHA-256 of the script that starts it, "" where it is absent, None where unknown
    + system_config: ``/etc/opencode/opencode.json``
    + system_override: ``/etc/opencode/opencode.jsonc``, which wins over it and is none of ours
    + users: by name; an account that the host doesn't have is absent
    """

    link: str | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    binary_size: int = 0
    binary_mtime: int = 0
    run: str | None = None
    system_config: FileState | None = None
    system_override: FileState | None = None
    users: Mapping[str, OpenCodeUser] = field(default_factory=dict)


# $1 is the home, the rest are files in it of which only the hash is told.
_AS_USER = f"""{LOOK}{WRITABLE}
home=$1; shift
[ -d "$home" ] && echo home
cd / || exit 0
config=$(resolved "$home/{USER_CONFIG}"); echo "config $config"; look "$config" 0
closed "$config"
jsonc=$(resolved "$home/{USER_CONFIG}c")
if [ -e "$jsonc" ] && [ "$jsonc" != "$config" ]; then
  echo "jsonc $jsonc"; look "$jsonc" 0; closed "$jsonc"
fi
for name; do look "$home/$name" 1; closed "$home/$name"; done
true"""

_SCRIPT = f"""{LOOK}
echo {SECTION}link
if [ -L {COMMAND} ]; then readlink {COMMAND}; elif [ -e {COMMAND} ]; then echo; fi
echo {SECTION}manifest; cat {ROOT}/VERSION/manifest.json 2>/dev/null; echo
echo {SECTION}binary; [ ! -x {ROOT}/VERSION/opencode ] || stat -c '%s %Y' {ROOT}/VERSION/opencode
echo {SECTION}run
if [ -x {ROOT}/VERSION/run ]; then sha256sum < {ROOT}/VERSION/run; else echo -; fi
echo {SECTION}system; look {SYSTEM_CONFIG} 0; look {SYSTEM_OVERRIDE} 0
for user in USERS; do
  passwd=$(getent passwd -- "$user") || continue
  echo "{SECTION}user $user"; printf '%s\\n' "$passwd"
  echo "accepted $(cat "{ACCEPTED}/$user" 2>/dev/null)"
  home=$(printf %s "$passwd" | cut -d : -f 6)
  runuser -u "$user" -- sh -c {shlex.quote(_AS_USER)} sh "$home" SECRETS
done
true"""


class OpenCode(FactBase[OpenCodeState]):
    """OpenCode's installation of one version, its system configuration, and users' own.

    + version: such as ``1.18.33``
    + users: account names
    + secrets: files in each home, relative to it, of which the hash is wanted
    """

    def command(self, version: str, users: Sequence[str] = (), secrets: Sequence[str] = ()) -> str:
        words = {"VERSION": [version], "USERS": users, "SECRETS": secrets}
        script = re.sub("VERSION|USERS|SECRETS", lambda match: shlex.join(words[match[0]]), _SCRIPT)
        return f"sh -c {shlex.quote(script)}"

    @staticmethod
    def default() -> OpenCodeState:
        return OpenCodeState()

    def process(self, output: list[str]) -> OpenCodeState:
        return parse_opencode(output)


def parse_opencode(output: list[str]) -> OpenCodeState:
    """The command's lines as a value; FactProcessError for output that makes no sense."""
    sections = split_sections(output)
    try:
        binary = (*next(iter(sections["binary"]), "0 0").split(), "0")
        system = {state.path: state for state in map(parse_file, sections["system"])}
        users = [_parse_user(lines) for name, lines in sections.items() if name.startswith("user ")]
        return OpenCodeState(
            link=next(iter(sections["link"]), None),
            manifest=_parse_manifest(sections["manifest"]),
            binary_size=int(binary[0]),
            binary_mtime=int(binary[1]),
            run=_run(sections.get("run", [])),
            system_config=system.get(SYSTEM_CONFIG),
            system_override=system.get(SYSTEM_OVERRIDE),
            users={user.name: user for user in users},
        )
    except (KeyError, ValueError, IndexError) as error:
        raise FactProcessError(f"cannot make sense of what OpenCode is there: {error}") from error


def _run(lines: list[str]) -> str | None:
    return lines[0].split()[0].strip("-") if lines else None


def _parse_manifest(lines: list[str]) -> Mapping[str, Any]:
    """A manifest that can't be read counts as none: the installation is then done again."""
    try:
        manifest = json.loads("\n".join(lines))
    except ValueError:
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _parse_user(lines: list[str]) -> OpenCodeUser:
    name, _, uid, gid, _, home, _ = lines[0].split(":", 6)
    rest = lines[1:]
    # Said by root, before the first word that the user could have a hand in.
    accepted = rest.pop(0).removeprefix(_NOTED) if rest and rest[0].startswith(_NOTED) else ""
    paths = {key: value for key in _PATHS if (value := _named(rest, key))}
    config_path, jsonc_path = paths["config"][0], paths.get("jsonc", ("",))[0]
    said = {f"{key} {value}" for key, values in paths.items() for value in values}
    states = {s.path: s for s in (parse_file(x) for x in rest if " /" in x and x not in said)}
    return OpenCodeUser(
        name=name,
        uid=int(uid),
        gid=int(gid),
        home=home,
        home_exists="home" in rest,
        config_path=config_path,
        config=states.pop(config_path, None),
        jsonc_path=jsonc_path,
        jsonc=states.pop(jsonc_path, None),
        secrets={path.removeprefix(home).lstrip("/"): state for path, state in states.items()},
        closed=paths.get("closed", ()),
        outside=paths.get("outside", ()),
        accepted=accepted,
    )


_NOTED = "accepted "
_PATHS = ("config", "jsonc", "closed", "outside")


def _named(lines: Sequence[str], key: str) -> tuple[str, ...]:
    return tuple(x.removeprefix(f"{key} ") for x in lines if x.startswith(f"{key} /"))
