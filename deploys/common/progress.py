"""Progress of long work: one line that moves on a terminal, a line now and then in a pipe."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TextIO

Unit = Literal["bytes", "steps"]

# A pipe (a log, a CI run) gets a line at each tenth of the work, and at least this often (seconds).
PIPE_INTERVAL = 30.0


@dataclass(frozen=True)
class Amount:
    """How far work is: ``done`` of ``total`` bytes or steps; ``note`` says what it is at."""

    done: int
    total: int
    unit: Unit = "steps"
    note: str = ""


def human_bytes(count: float) -> str:
    """``count`` bytes for people, in binary units: ``17.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def human_seconds(seconds: float) -> str:
    """A duration for people: ``45 s``, ``12 min``, ``1 h 05 min``."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


@dataclass
class Track:
    """The pace of one piece of work, measured from where it was first seen."""

    clock: Callable[[], float] = time.monotonic
    _start: tuple[float, int] | None = None

    def describe(self, amount: Amount) -> str:
        """Percent, amount, rate and time left, as far as they can be known."""
        now = self.clock()
        if self._start is None or amount.done < self._start[1]:
            self._start = (now, amount.done)
        elapsed = now - self._start[0]
        rate = (amount.done - self._start[1]) / elapsed if elapsed > 0 else 0.0
        parts = [_portion(amount)]
        if amount.unit == "bytes" and rate > 0:
            parts.append(f"{human_bytes(rate)}/s")
        if rate > 0 and amount.total > amount.done:
            parts.append(f"{human_seconds((amount.total - amount.done) / rate)} left")
        if amount.note:
            parts.append(amount.note)
        return ", ".join(parts)


def _portion(amount: Amount) -> str:
    if amount.total <= 0:
        return human_bytes(amount.done) if amount.unit == "bytes" else f"{amount.done} steps"
    percent = min(100, amount.done * 100 // amount.total)
    if amount.unit == "bytes":
        return f"{percent:3}% {human_bytes(amount.done)} of {human_bytes(amount.total)}"
    return f"{percent:3}% step {amount.done} of {amount.total}"


@dataclass
class Display:
    """Where progress of all hosts is shown: standard error."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    _live: dict[str, str] = field(default_factory=dict)
    _printed: dict[str, tuple[float, int]] = field(default_factory=dict)

    def show(self, host: str, title: str, text: str, tenth: int = -1) -> None:
        """Show where a host's work is; ``tenth`` (0..10) paces the lines of a pipe."""
        self._live[host] = f"[{host}] {title}: {text}"
        if self.stream.isatty():
            self._rewrite()
            return
        last, last_tenth = self._printed.get(host, (float("-inf"), -1))
        now = self.clock()
        if tenth > last_tenth or now - last >= PIPE_INTERVAL:
            self._printed[host] = (now, max(tenth, last_tenth))
            print(f"    {self._live[host]}", file=self.stream, flush=True)

    def finish(self, host: str) -> None:
        """The host's work is over: its line goes away."""
        self._live.pop(host, None)
        self._printed.pop(host, None)
        if self.stream.isatty():
            self._rewrite()

    def _rewrite(self) -> None:
        width = max(20, _columns(self.stream) - 1)
        lines = list(self._live.values())
        text = "    " + (lines[0] if lines else "")
        if len(lines) > 1:
            rest = f" (+{len(lines) - 1} hosts)"
            text = text[: width - len(rest)] + rest
        self.stream.write("\r\033[K" + (text[:width] if lines else ""))
        self.stream.flush()


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 80


DISPLAY = Display()
