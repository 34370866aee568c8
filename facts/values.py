"""What facts answer with: frozen dataclasses that pyinfra's command line can print."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


class FactValue:
    """Base of the dataclasses that facts return.

    ``pyinfra HOST fact facts.gpu.Gpus`` prints JSON, and asks whatever isn't JSON for ``to_json``
    (``pyinfra_cli/util.py``, ``json_encode``).
    """

    def to_json(self) -> dict[str, Any]:
        """The fields by name; nested values are asked in their turn."""
        if not dataclasses.is_dataclass(self):
            raise TypeError(f"{type(self).__name__} is no dataclass")
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}


def _plain(value: Any) -> Any:
    """Sets and bytes as JSON has them; everything else as it is."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def listed(value: str | Sequence[str]) -> list[str]:
    """A fact's list argument; pyinfra's command line passes a single one as plain text."""
    return [value] if isinstance(value, str) else list(value)
