"""How fast a box reads from the model hub: one question of a few seconds, and its pure parser.

Upstream behaviour relied on: curl's ``--write-out`` variables (curl(1)).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from pyinfra.api import FactBase

from facts.onboarding_values import HubAnswer
from facts.sections import SECTION, split_sections

BANDWIDTH_BYTES = 8 * 1024**2
BANDWIDTH_SECONDS = 3


class Bandwidth(FactBase[HubAnswer]):
    """How fast the box reads from the model hub: a few MB, a few seconds, thrown away."""

    def command(self, endpoint: str, url: str) -> str:
        """Needs curl on the box; says so where there is none.

        + endpoint: what is reported; ``url``: a large file behind it
        """
        form = "%{http_code} %{size_download} %{time_total} %{time_starttransfer}"
        options = (
            f"--disable -sSL -o /dev/null --connect-timeout {BANDWIDTH_SECONDS} "
            f"--max-time {2 * BANDWIDTH_SECONDS} -r 0-{BANDWIDTH_BYTES - 1}"
        )
        script = (
            f"echo {SECTION}hub; echo {shlex.quote(endpoint)}; "
            "command -v curl >/dev/null || { echo no-curl; exit 0; }; "
            f"curl {options} -w {shlex.quote(form)} {shlex.quote(url)} 2>&1; true"
        )
        return f"sh -c {shlex.quote(script)}"

    def process(self, output: list[str]) -> HubAnswer:
        """See :func:`parse_bandwidth`."""
        return parse_bandwidth(output)


_CURL = re.compile(r"(\d{3}) (\d+) ([\d.]+) ([\d.]+)$")


def parse_bandwidth(output: Sequence[str]) -> HubAnswer:
    """What :class:`Bandwidth` printed; a hub that doesn't answer is an answer, not an error."""
    endpoint, *lines = split_sections(output).get("hub") or [""]
    text = "\n".join(lines)
    if "no-curl" in lines:
        return HubAnswer(endpoint, error="there is no curl on the box to ask it with")
    match = _CURL.search(text)
    if match is None:
        return HubAnswer(endpoint, error=_curl_words(text) or "no answer")
    status, size = match[1], int(match[2])
    seconds = float(match[3]) - float(match[4])
    if status not in ("200", "206"):
        words = _curl_words(text[: match.start()]) or f"it answered {status}"
        return HubAnswer(endpoint, reached=status != "000", error=words)
    # A file shorter than a packet or two says nothing about the line.
    speed = int(size / seconds) if size >= 65536 and seconds > 0 else None
    return HubAnswer(endpoint, reached=True, bytes_per_second=speed)


def _curl_words(text: str) -> str:
    found = re.findall(r"curl: \(\d+\) (.+)", text)
    return found[-1].strip() if found else ""
