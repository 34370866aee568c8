"""The troubleshooting page and the code name the same findings."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/troubleshooting/onboarding.md"
MADE = re.compile(
    r'(?:blocker|warning|info|_Reason|Finding|_with)\((?:report, )?\s*"([a-z]+\.[a-z0-9-]+)"'
)


def test_every_finding_is_on_the_page_and_nothing_else() -> None:
    code = "\n".join(p.read_text("utf-8") for p in (ROOT / "llamaherd/onboard").glob("*.py"))
    made = set(MADE.findall(code))
    assert len(made) > 40
    rows = re.findall(r"^\| (`[^|]+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`([a-z]+\.[a-z0-9-]+)`", row)}
    assert made == documented
