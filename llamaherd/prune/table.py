"""What nothing needs, as text for a person at a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from deploys.common.progress import human_bytes
from deploys.prune.unused import Kept
from llamaherd.drift.table import wrap
from llamaherd.drift.text import count_of, printable
from llamaherd.prune.report import HostPrune, Prune

_NOUNS = {
    "build": "build",
    "model": "model file",
    "opencode": "OpenCode version",
    "work": "cut-off build",
    "download": "cut-off download",
}
_STATES = {
    "in order": "nothing is unused",
    "unused": "unused",
    "pruned": "removed",
    "partly": "removed in part",
    "refused": "nothing removed",
    "unreachable": "unreachable",
    "error": "not judged",
}
_SUMMED = _STATES | {
    "in order": "with nothing unused",
    "unused": "with something unused",
    "pruned": "pruned",
    "partly": "pruned in part",
    "refused": "not pruned",
}


def render_prune(prune: Prune, *, width: int = 80) -> str:
    """The report as text of at most ``width`` columns, without a newline at the end.

    Each host with what is unused there, what stays though nothing needs it, and the sums.
    """
    width = max(width, 60)
    sections = [_host(host, width) for host in prune.hosts]
    sections.append("\n".join(wrap(_summary(prune), width)))
    return "\n\n".join(sections)


def _host(host: HostPrune, width: int) -> str:
    total = f" ({human_bytes(host.size)})" if host.size else ""
    lines = [f"{printable(host.name)}: {_STATES[host.state]}{total}"]
    for item in host.unused:
        lines += _put(item.path, width, f"  {human_bytes(item.size):>10}  ")
        left = host.left.get(item.path)
        lines += _put(f"left: {left}" if left else item.why, width, " " * 14)
    for stays in host.kept:
        if not stays.ours:
            lines += _put(f"left alone: {stays.path}: {stays.why}", width)
    for message in filter(None, (host.error, host.refusal)):
        lines += _put(message, width)
    if host.kept:
        lines += _put(f"{_kept(host.kept)} stay ({human_bytes(host.kept_size)})", width)
    return "\n".join(lines)


def _kept(kept: Sequence[Kept]) -> str:
    counted = Counter(item.kind for item in kept)
    return ", ".join(count_of(number, _NOUNS[kind]) for kind, number in counted.items())


def _put(text: str, width: int, head: str = "  ") -> list[str]:
    """A text behind its head, going on under itself."""
    pieces = wrap(printable(text), width - len(head))
    return [(" " * len(head) if number else head) + piece for number, piece in enumerate(pieces)]


def _summary(prune: Prune) -> str:
    counted = Counter(host.state for host in prune.hosts)
    states = ", ".join(f"{number:,} {_SUMMED[state]}" for state, number in counted.items())
    freed = sum(host.size for host in prune.hosts if host.removed)
    unused = sum(host.size for host in prune.hosts if host.state == "unused")
    said = f"; {human_bytes(freed)} freed" if freed else ""
    said += f"; --yes frees {human_bytes(unused)}" if unused else ""
    return f"{count_of(len(prune.hosts), 'host')}: {states}{said}"
