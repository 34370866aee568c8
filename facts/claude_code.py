"""What Claude Code's users have in their settings. One remote command.

Files are read with the user's rights, as in :mod:`facts.opencode`. Of the key only the hash leaves
the host.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.files import LOOK, WRITABLE, FileState, parse_file
from facts.sections import SECTION, split_sections
from facts.values import FactValue

SETTINGS = ".claude/settings.json"
KEY = ".claude/llamaherd.key"


@dataclass(frozen=True)
class ClaudeCodeUser(FactValue):
    """One account as the host knows it.

    + path: the settings file, links in its path followed
    + settings, key: what is there, None where nothing is
    + closed: those of the two in whose folder the user may not write
    + outside: those of the two that a link leads to, out of the home
    """

    name: str
    home: str
    home_exists: bool
    path: str
    settings: FileState | None = None
    key: FileState | None = None
    closed: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()


_AS_USER = f"""{LOOK}{WRITABLE}
home=$1
[ -d "$home" ] && echo home
cd / || exit 0
settings=$(resolved "$home/{SETTINGS}"); echo "settings $settings"
look "$settings" 0; closed "$settings"
look "$home/{KEY}" 1; closed "$home/{KEY}"
true"""


class ClaudeCode(FactBase[Mapping[str, ClaudeCodeUser]]):
    """The settings and the key of each user, by name; an account that isn't there is absent.

    + users: account names
    """

    def command(self, users: Sequence[str]) -> str:
        script = (
            f"for user in {shlex.join(users)}; do\n"
            'passwd=$(getent passwd -- "$user") || continue\n'
            f'echo "{SECTION}user $user"; printf "%s\\n" "$passwd"\n'
            'home=$(printf %s "$passwd" | cut -d : -f 6)\n'
            f'runuser -u "$user" -- sh -c {shlex.quote(_AS_USER)} sh "$home"\n'
            "done\ntrue"
        )
        return f"sh -c {shlex.quote(script)}"

    @staticmethod
    def default() -> Mapping[str, ClaudeCodeUser]:
        return {}

    def process(self, output: list[str]) -> Mapping[str, ClaudeCodeUser]:
        users = [_parse_user(lines) for lines in split_sections(output).values()]
        return {user.name: user for user in users}


def _parse_user(lines: Sequence[str]) -> ClaudeCodeUser:
    """One section of the command; FactProcessError when it makes no sense."""
    try:
        name, _, _, _, _, home, _ = lines[0].split(":", 6)
        (path,) = _named(lines, "settings")
    except (IndexError, ValueError) as error:
        raise FactProcessError(f"cannot make sense of Claude Code's users: {error}") from error
    said = {f"{word} {each}" for word in _WORDS for each in _named(lines, word)}
    states = {s.path: s for s in (parse_file(x) for x in lines[1:] if " /" in x and x not in said)}
    return ClaudeCodeUser(
        name=name,
        home=home,
        home_exists="home" in lines[1:],
        path=path,
        settings=states.get(path),
        key=states.get(f"{home}/{KEY}"),
        closed=_named(lines, "closed"),
        outside=_named(lines, "outside"),
    )


_WORDS = ("settings", "closed", "outside")


def _named(lines: Sequence[str], key: str) -> tuple[str, ...]:
    return tuple(x.removeprefix(f"{key} ") for x in lines if x.startswith(f"{key} /"))
