"""Which versions of OpenCode are supported, as data, and what is said of the others."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet
from packaging.version import Version

SUPPORTED = SpecifierSet(">=1.18,<2")
"""What its configuration and command line are known of."""

TESTED = "1.18.33"
"""The version that every claim about OpenCode's behaviour was checked with."""


def refusal(version: str) -> str | None:
    """Why a version can't be had, and what to take instead; None for a supported one."""
    if SUPPORTED.contains(version, prereleases=True):
        return None
    if Version(version) < Version("1.18"):
        return (
            f"OpenCode {version} is not supported: its configuration is not known from before "
            f"1.18; take {TESTED}, or another 1.18"
        )
    return (
        f"OpenCode {version} is not supported: 2.x (npm's @opencode/cli) is another generation "
        f"under the same command name, with another configuration; take {TESTED}, or another 1.18"
    )
