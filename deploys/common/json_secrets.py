"""Whether a configuration of somebody else's holds a secret in the open. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from deploys.common.json_text import blank_comments, comments_of

_SECRET_NAME = re.compile(r"key|token|secret|password|authorization|headers|environment", re.I)
_REFERENCE = re.compile(r"\{(env|file):[^}]*\}")


def holds_secret(text: str) -> bool:
    """Whether a configuration holds a secret in the open, so that no diff of it may be shown.

    True too for what can't be read, and for a comment that speaks of one: better no diff than a
    leaked key.
    """
    if any(_SECRET_NAME.search(comment) for comment in comments_of(text)):
        return True
    try:
        return _holds_secret(json.loads(blank_comments(text) or "{}"), False)
    except (ValueError, RecursionError):
        return True


def _holds_secret(value: Any, named: bool) -> bool:
    if isinstance(value, Mapping):
        return any(
            _holds_secret(item, named or bool(_SECRET_NAME.search(name)))
            for name, item in value.items()
        )
    if isinstance(value, list):
        return any(_holds_secret(item, named) for item in value)
    if not isinstance(value, str):
        return False
    return named and bool(_REFERENCE.sub("", value).replace("Bearer", "").strip())
