"""Looking for known secrets, in clear and in base64, wherever they could have been left."""

from __future__ import annotations

import base64
import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SAMPLER = """patterns=$(cat)
while :; do
  # printf is the shell's own: no process has the patterns for an argument.
  printf '%s\\n' "$patterns" | grep -asoFf - /proc/[0-9]*/cmdline
  echo round
done"""


def forms(secret: str) -> tuple[str, ...]:
    """A secret as it stands, and what base64 makes of it wherever it lies in a text."""
    found = [secret]
    for before in range(3):
        text = base64.b64encode(b"\0" * before + secret.encode()).decode().rstrip("=")
        # The first and the last characters hold bits of what is around it.
        found.append(text[-(-before * 8 // 6) : -1])
    return tuple(found)


@dataclass(frozen=True)
class Hunt:
    """Known secrets by what they are for."""

    secrets: Mapping[str, str]

    @property
    def patterns(self) -> str:
        """Every form of every secret, one a line, as ``grep -Ff`` takes them."""
        return "".join(f"{form}\n" for secret in self.secrets.values() for form in forms(secret))

    def within(self, text: str) -> set[str]:
        """Which secrets a text holds, in whatever form."""
        return {
            name
            for name, secret in self.secrets.items()
            if any(form in text for form in forms(secret))
        }

    def in_files(self, folder: Path) -> set[tuple[str, str]]:
        """Secret and path of every file below a folder that holds one."""
        found = set()
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                if path.is_file():
                    text = path.read_bytes().decode("latin-1")
                    found |= {(name, str(path)) for name in self.within(text)}
        return found


@dataclass
class Seen:
    """What a sampler saw.

    + rounds: how often it looked at all processes
    """

    secrets: set[str] = field(default_factory=set)
    rounds: int = 0


@contextlib.contextmanager
def processes_here(hunt: Hunt) -> Iterator[Seen]:
    """Look at the arguments of all processes of this machine, over and over, while a block runs."""
    seen = Seen()
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            # Not glob: it asks each path whether it is there, and one that ends meanwhile ends it.
            for process in Path("/proc").iterdir():
                if not process.name.isdecimal():
                    continue
                with contextlib.suppress(OSError):
                    arguments = (process / "cmdline").read_bytes()
                    seen.secrets |= hunt.within(arguments.decode("latin-1"))
            seen.rounds += 1
            time.sleep(0.005)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def processes_there(hunt: Hunt, ssh: Callable[..., list[str]]) -> Iterator[Seen]:
    """The same on a host. What it saw is there when the block ends."""
    seen = Seen()
    with subprocess.Popen(
        [*ssh(), SAMPLER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sampler:
        assert sampler.stdin is not None
        sampler.stdin.write(hunt.patterns)
        sampler.stdin.close()
        sampler.stdin = None
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(sampler.stdout or ()))
        reader.start()
        try:
            yield seen
        finally:
            sampler.terminate()
            reader.join()
            seen.secrets = hunt.within("".join(lines))
            seen.rounds = lines.count("round\n")
