"""Hostile strings, and a real shell that notes which words it hands to which program.

The shell's programs are stand-ins: they note their arguments, and standard input where they read
it, and do nothing else. So a command may be carried out as it stands, on any machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from urllib.parse import quote

from hypothesis import strategies as st

MARK = "mqz"
CANARY = "canary-of-test"
# What reads, cuts and compares text, and does no harm to a machine.
REAL = (
    *("cat", "cut", "tr", "grep", "sed", "head", "tail", "sort", "uniq", "wc", "base64", "od"),
    *("dirname", "basename", "stat", "readlink", "realpath", "seq", "date", "find", "ls", "df"),
)
# What other distributions have.
ELSEWHERE = ("rpm", "dnf", "dpkg-query", "apt-get", "nvidia-smi", "getenforce")
# Those that run another program: what is left of their arguments is carried out.
RUNNERS = {
    "runuser": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    "timeout": 'shift; exec "$@"',
    "nice": 'shift 2; exec "$@"',
    "ionice": 'shift 2; exec "$@"',
    "unshare": "exit 1",
    "env": (
        'while :; do case $1 in -i) ;; PATH=*) ;; *=*) export "$1";; *) break;; esac; shift; done; '
        'exec "$@"'
    ),
    "getent": "echo someone:x:1:1::/nonexistent:/bin/sh",
    "curl": "cat >> {log}; printf '\\0\\036' >> {log}; printf '\\n@@status 200\\n@@exit 0\\n'",
    "systemctl": "echo 1",
}

_PIECES = st.sampled_from(
    [
        *(
            "'",
            '"',
            "\\",
            "$",
            "`",
            ";",
            "|",
            "&",
            "(",
            ")",
            "<",
            ">",
            "*",
            "?",
            "#",
            "~",
            "!",
            "%",
        ),
        *("=", "-", "/", ".", " ", "  ", "ü", "\u202e", "{", "}", "[", "]", "a", "0", "@", ","),
        *(f"$({CANARY})", f"`{CANARY}`", f"; {CANARY} ;", f"'; {CANARY}; '", f'"; {CANARY}; "'),
        *(f"' $({CANARY}) '", f"|| {CANARY} ||", f"&& {CANARY} #", "${IFS}", "../..", "/../", "--"),
    ]
)
_LINES = st.sampled_from(["\n", f"\n{CANARY}\n", "\t", "\r", "\x1b[31m", "\x7f", f"'\n{CANARY}\n'"])


def hostile(pieces: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Strings of these pieces around a mark that tells them from all else."""
    side = st.lists(pieces, max_size=4).map("".join)
    return st.builds(lambda before, after: f"{before}{MARK}{after}", side, side)


# One line of text each, and text with whatever no name holds.
LINES = hostile(_PIECES)
TEXTS = hostile(st.one_of(_PIECES, _PIECES, _LINES))


_PATTERN = re.compile(r"[][\\.*^$+?(){}|]")


def path_parts(text: str) -> tuple[str, ...]:
    """A path's folders, as dirname tells them one after the other, and its name."""
    folders = accumulate(text.split("/")[:-1], lambda folder, name: f"{folder}/{name}")
    return (*folders, text.rpartition("/")[2])


def spellings(text: str) -> tuple[str, ...]:
    """A string as it may stand within a word: itself, or as JSON, curl, grep and URLs have it."""
    inside = text.replace("\\", "\\\\").replace('"', '\\"')
    return (
        text,
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        inside,
        _PATTERN.sub(r"\\\g<0>", text),
        *(part for part in path_parts(text) if MARK in part),
        quote(text),
        quote(text, safe=""),
        # In a script that is a word itself.
        shlex.quote(text)[1:-1],
    )


@dataclass(frozen=True)
class Ran:
    """What became of a command.

    + words: arguments of all programs, and what they read
    + output: its own standard output and error
    + status: exit status
    """

    words: tuple[str, ...]
    output: str
    status: int

    @property
    def canary(self) -> bool:
        """Whether text of a string was run."""
        return any(Path(word).name == CANARY for word in self.words)

    def torn(self, text: str) -> list[str]:
        """Words that hold a part of the string and not the whole of it."""
        whole = spellings(text)
        return [
            word
            for word in self.words
            # A script is a word, too: its own words are seen when its shell runs.
            if MARK in word and "\n" not in word.replace(text, "")
            if not any(spelling in word for spelling in whole)
        ]

    def whole(self, text: str) -> bool:
        """Whether the string got through as it was."""
        return any(spelling in word for spelling in spellings(text) for word in self.words)


class Shell:
    """A real ``sh`` with stand-ins for every program of this machine."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "words"
        self._programs = folder / "programs"
        self._programs.mkdir()
        self._parsed: dict[str, bool] = {}
        for place in os.get_exec_path():
            for path in Path(place).glob("*"):
                self._stand_in(path.name)
        for name in (CANARY, *ELSEWHERE):
            self._stand_in(name)
        for name, body in RUNNERS.items():
            self._stand_in(name, body)
        for name in REAL:
            self._stand_in(name, f'exec {shutil.which(name)} "$@"')
        self._stand_in("sh", 'exec /bin/sh ${TRACE:+-x} "$@"')

    def _stand_in(self, name: str, body: str = "exit 0") -> None:
        path = self._programs / name
        log = shlex.quote(str(self._log))
        path.unlink(missing_ok=True)
        path.write_text(
            f"#!/bin/sh\nprintf '%s\\0' \"$0\" \"$@\" >> {log}\nprintf '\\036' >> {log}\n"
            f"{body.replace('{log}', log)}\n"
        )
        path.chmod(0o755)

    def parses(self, command: str) -> bool:
        """Whether a real shell finds no fault with it. Asked once a command."""
        if command not in self._parsed:
            done = subprocess.run(
                ["/bin/sh", "-n"], input=command.encode(), capture_output=True, check=False
            )
            self._parsed[command] = done.returncode == 0
        return self._parsed[command]

    def run(self, command: str, text: str = "", *, trace: bool = False) -> Ran:
        """The command as a host's shell carries it out.

        + trace: have the output tell what the shell's own commands got, too
        """
        self._log.write_bytes(b"")
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            input=text.encode(),
            env={"PATH": str(self._programs)} | ({"TRACE": "1"} if trace else {}),
            capture_output=True,
            timeout=60,
            check=False,
        )
        words = self._log.read_bytes().decode(errors="replace").replace("\x1e", "").split("\0")
        output = (done.stdout + done.stderr).decode(errors="replace")
        return Ran(tuple(words), output, done.returncode)
