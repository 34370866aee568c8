"""What facts answer with: frozen dataclasses that pyinfra's command line can print."""

from __future__ import annotations

import dataclasses
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
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
