"""File names that come from outside."""

from __future__ import annotations

from inventories.pinning.web import PinError


def check_file_name(name: str) -> str:
    """The name, if it is safe as a relative path on a host; else :class:`PinError`.

    Refused: absolute, ``.`` and ``..`` parts, control characters, backslashes, and a part with a
    leading dash (a tool would take it for an option).
    """
    parts = name.split("/")
    unsafe = (
        any(part in ("", ".", "..") or part.startswith("-") for part in parts)
        or any(ord(character) < 32 or ord(character) == 127 for character in name)
        or "\\" in name
    )
    if unsafe:
        raise PinError(f"file name {name!r} is not safe on a host; it will not be used")
    return name
