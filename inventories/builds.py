"""Whether a llama.cpp build is new enough for a model. Pure.

A model may say the lowest build that runs it right (``llama_cpp_build``; the catalogue's entries
do). Validation compares it with a ref that names its build, the lock with the build that a ref
resolved to, preflight with what a host is told. All say the same words, from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TAG = re.compile(r"b([1-9][0-9]{0,8})")


def build_of_ref(ref: str) -> int | None:
    """The build that a release tag names (``b8146``); None for any other ref."""
    found = _TAG.fullmatch(ref)
    return int(found[1]) if found else None


def served_models(server: Mapping[str, Any]) -> tuple[str, ...]:
    """The fleet's models that a server of a fleet file serves: its own, or a router's."""
    return tuple(server.get("models") or (server["model"],))


def too_old(build: int, lowest: int | None, model: str) -> str:
    """What is wrong with serving ``model`` with ``build``, and the remedy; "" for nothing."""
    if lowest is None or build >= lowest:
        return ""
    return (
        f"build {build} is too old for the model {model}, which needs b{lowest} or newer "
        f"(models.{model}.llama_cpp_build): set llama_cpp to a newer build"
    )
