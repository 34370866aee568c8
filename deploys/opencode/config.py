"""OpenCode's configuration as text: pure, no I/O, no pyinfra.

Owns the whole of ``/etc/opencode/opencode.json`` and, in each named user's ``opencode.json``,
only these values: ``$schema`` (where absent), ``model``, and inside ``provider.<id>`` of a
declared provider ``npm``, ``name``, ``options.baseURL``, ``options.apiKey`` and ``models``. Every
other byte of a user's file is left as it is: values are replaced in the text.

Refuses to edit what is not plain JSON (:class:`ConfigError` names file, line and column). A
provider that left the fleet stays in users' files: nothing in the entry proves that it was ours,
and ``enabled_providers`` in the system file switches it off.

Upstream behaviour relied on, seen with OpenCode 1.18.33: ``/etc/opencode/opencode.json`` wins over
every file of a user, arrays replaced and not joined; a file without ``$schema`` is rewritten by
OpenCode; ``{file:~/...}`` is read relative to the user's home, and is fatal where missing;
``npm: @ai-sdk/openai-compatible`` is inside the binary; ``limit`` needs ``context`` and ``output``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from inventories.settings import OpenCodeModel, OpenCodeProvider, OpenCodeSettings

SCHEMA = "https://opencode.ai/config.json"
NPM = "@ai-sdk/openai-compatible"
SYSTEM_CONFIG = "/etc/opencode/opencode.json"
USER_CONFIG = ".config/opencode/opencode.json"
KEY_DIRECTORY = ".config/opencode/llamaherd"

_SPACE = re.compile(r"[ \t\r\n]*")
_SECRET_NAME = re.compile(r"key|token|secret|password|authorization|headers|environment", re.I)
_REFERENCE = re.compile(r"\{(env|file):[^}]*\}")


class ConfigError(Exception):
    """A user's configuration can't be edited. The message names file, place and remedy."""


def key_path(provider_id: str) -> str:
    """Where a user's copy of a provider's API key lies, relative to the home."""
    return f"{KEY_DIRECTORY}/{provider_id}.key"


def key_reference(provider_id: str) -> str:
    """What stands for that key in the configuration."""
    return f"{{file:~/{key_path(provider_id)}}}"


def system_config(settings: OpenCodeSettings) -> str:
    """The text of ``/etc/opencode/opencode.json``: only our providers, nothing shared.

    ``small_model`` is the default model too, so that titles are not asked of a cloud.
    """
    document = {
        "$schema": SCHEMA,
        "enabled_providers": [provider.id for provider in settings.providers],
        "share": "disabled",
        "autoupdate": False,
        "model": settings.default_model,
        "small_model": settings.default_model,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def model_entry(model: OpenCodeModel) -> dict[str, Any]:
    """``models.<id>`` of a provider."""
    entry: dict[str, Any] = {
        "name": model.name,
        "limit": {"context": model.context, "output": model.output},
        "modalities": {"input": ["text"], "output": ["text"]},
    }
    if model.reasoning:
        # Without `interleaved` OpenCode drops the thoughts, and the server its prompt cache.
        entry |= {"reasoning": True, "interleaved": {"field": "reasoning_content"}}
    return entry


def provider_entry(provider: OpenCodeProvider) -> dict[str, Any]:
    """``provider.<id>`` as a new file gets it."""
    options = {"baseURL": provider.base_url}
    if provider.api_key is not None:
        options["apiKey"] = key_reference(provider.id)
    return {
        "npm": NPM,
        "name": provider.name,
        "options": options,
        "models": {model.id: model_entry(model) for model in provider.models},
    }


def user_config(text: str, settings: OpenCodeSettings, place: str) -> str:
    """``text`` of a user's ``opencode.json`` with our values in it; the same text when they are.

    + text: may be empty or blank, for a file that is absent or empty
    + place: the file, for messages
    """
    if not text.strip():
        text = "{\n}\n"
    _refuse_other_than_json(text, place)
    editor = _Editor(text, place)
    for provider in settings.providers:
        # Refuses what leads there and is no object, while positions are still those of the file.
        editor.has(("provider", provider.id, "options", "baseURL"))
    if "$schema" not in editor.members(()):
        editor.insert((), "$schema", SCHEMA, first=True)
    editor.set(("model",), settings.default_model)
    for provider in settings.providers:
        _edit_provider(editor, provider)
    return editor.text


def _edit_provider(editor: _Editor, provider: OpenCodeProvider) -> None:
    entry = provider_entry(provider)
    at = ("provider", provider.id)
    if not editor.has(at):
        editor.set(at, entry)
        return
    editor.set((*at, "npm"), entry["npm"])
    editor.set((*at, "name"), entry["name"])
    for name, value in entry["options"].items():
        editor.set((*at, "options", name), value)
    if provider.api_key is None and editor.value((*at, "options", "apiKey")) == key_reference(
        provider.id
    ):
        editor.remove((*at, "options"), "apiKey")
    editor.set((*at, "models"), entry["models"])


def holds_secret(text: str) -> bool:
    """Whether a configuration holds a secret in the open, so that no diff of it may be shown.

    True too for what can't be read: better no diff than a leaked key.
    """
    try:
        return _holds_secret(json.loads(text or "{}"), False)
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


def _refuse_other_than_json(text: str, place: str) -> None:
    try:
        document = _decoder(text, place).decode(text)
    except json.JSONDecodeError as error:
        if _is_jsonc(text, error.pos):
            raise ConfigError(
                f"{place}:{error.lineno}:{error.colno}: comments and trailing commas can't be kept "
                "by an edit: rename the file to opencode.jsonc (OpenCode reads it beside "
                "opencode.json), or take them out; then run again"
            ) from None
        raise ConfigError(
            f"{place}:{error.lineno}:{error.colno}: not JSON: {error.msg}: mend the file or move "
            "it away, then run again"
        ) from None
    except RecursionError:
        raise ConfigError(
            f"{place}:1:1: nested too deeply to be read: mend the file or move it away"
        ) from None
    if not isinstance(document, dict):
        index = _skip(text, 0)
        raise ConfigError(
            f"{place}:{_position(text, index)}: the configuration must be an object ({{...}}): "
            "mend the file or move it away, then run again"
        )


def _decoder(text: str, place: str = "") -> json.JSONDecoder:
    def refuse(constant: str) -> None:
        where = _position(text, text.find(constant))
        raise ConfigError(f"{place}:{where}: {constant} is not JSON: take it out, then run again")

    # Numbers stay text: a huge one must neither overflow nor stop the edit.
    return json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=refuse)


def _is_jsonc(text: str, position: int) -> bool:
    """Whether JSON stopped at a comment or at a comma before a closing bracket."""
    rest = text[position:].lstrip()
    if rest.startswith(("//", "/*")):
        return True
    if rest.startswith(","):
        return rest[1:].lstrip().startswith(("}", "]"))
    return rest.startswith(("}", "]")) and text[:position].rstrip().endswith(",")


def _position(text: str, index: int) -> str:
    line = text.count("\n", 0, index) + 1
    return f"{line}:{index - text.rfind(chr(10), 0, index)}"


def _skip(text: str, index: int) -> int:
    match = _SPACE.match(text, index)
    return match.end() if match else index


@dataclass(frozen=True)
class _Member:
    """Where one member of an object lies in the text: key, then value, both end-exclusive."""

    key_start: int
    value_start: int
    value_end: int


class _Editor:
    """Sets and removes values in JSON text, and leaves every other byte alone.

    The text must be valid JSON with an object at its root. Of a key written twice the last one
    counts, as it does for every reader.
    """

    def __init__(self, text: str, place: str) -> None:
        self.text = text
        self.place = place
        self._scanned: dict[int, dict[str, _Member]] = {}
        self._newline = "\r\n" if "\r\n" in text else "\n"
        self._unit = self._member_indent(_skip(text, 0)) or "  "

    def members(self, path: Sequence[str]) -> dict[str, _Member]:
        """The members of the object at ``path``, in order."""
        return self._scan(self._object(path))

    def has(self, path: Sequence[str]) -> bool:
        """Whether there is a value at ``path``."""
        return self._find(path) is not None

    def value(self, path: Sequence[str]) -> Any:
        """The value at ``path``; None where there is none, or none that Python can hold."""
        member = self._find(path)
        if member is None:
            return None
        try:
            return json.loads(self.text[member.value_start : member.value_end])
        except (ValueError, RecursionError):
            return None

    def set(self, path: Sequence[str], value: Any) -> None:
        """Make ``value`` stand at ``path``, with the objects that lead there."""
        for depth in range(1, len(path)):
            if not self.has(path[:depth]):
                for name in reversed(path[depth:]):
                    value = {name: value}
                path = path[:depth]
                break
        if not self.has(path):
            self.insert(path[:-1], path[-1], value)
        elif _canonical(self.value(path)) != _canonical(value):
            self._replace(path, value)

    def insert(self, path: Sequence[str], name: str, value: Any, *, first: bool = False) -> None:
        """Add a member to the object at ``path``, at its end or as its ``first``."""
        start = self._object(path)
        members = list(self._scan(start).values())
        inside = start + 1
        close = _skip(self.text, members[-1].value_end if members else inside)
        indent = self._member_indent(start)
        if not members and "\n" in self.text.strip() + self._newline * (not path):
            indent = self._unit * (len(path) + 1)
        lead = " " if indent is None else self._newline + indent
        member = json.dumps(name, ensure_ascii=False) + ": " + self._dump(value, indent)
        if not members:
            if indent is None:
                self._splice(inside, close, member)
            else:
                self._splice(inside, close, lead + member + self._newline + self._unit * len(path))
        elif first:
            key = members[0].key_start
            self._splice(key, key, member + "," + lead)
        else:
            end = members[-1].value_end
            self._splice(end, end, "," + lead + member)

    def remove(self, path: Sequence[str], name: str) -> None:
        """Take a member out of the object at ``path``, with the comma that it needs no more."""
        start = self._object(path)
        members = self._scan(start)
        names = list(members)
        index = names.index(name)
        if index > 0:
            self._splice(members[names[index - 1]].value_end, members[name].value_end, "")
        elif len(names) > 1:
            self._splice(members[name].key_start, members[names[1]].key_start, "")
        else:
            self._splice(start + 1, _skip(self.text, members[name].value_end), "")

    def _replace(self, path: Sequence[str], value: Any) -> None:
        member = self.members(path[:-1])[path[-1]]
        indent = self._member_indent(self._object(path[:-1]))
        self._splice(member.value_start, member.value_end, self._dump(value, indent))

    def _splice(self, start: int, end: int, text: str) -> None:
        self._scanned.clear()
        self.text = self.text[:start] + text + self.text[end:]

    def _find(self, path: Sequence[str]) -> _Member | None:
        for depth in range(1, len(path)):
            if path[depth - 1] not in self.members(path[: depth - 1]):
                return None
        return self.members(path[:-1]).get(path[-1])

    def _object(self, path: Sequence[str]) -> int:
        """Index of the brace that opens the object at ``path``, which must be there."""
        start = _skip(self.text, 0)
        for depth, name in enumerate(path, 1):
            start = self._scan(start)[name].value_start
            if self.text[start] != "{":
                raise ConfigError(
                    f"{self.place}:{_position(self.text, start)}: {'.'.join(path[:depth])} must "
                    "be an object ({...}): mend it, then run again"
                )
        return start

    def _scan(self, start: int) -> dict[str, _Member]:
        """The members of the object whose brace is at ``start``; read once between edits."""
        if start not in self._scanned:
            self._scanned[start] = self._read(start)
        return self._scanned[start]

    def _read(self, start: int) -> dict[str, _Member]:
        decoder = _decoder(self.text)
        members: dict[str, _Member] = {}
        index = _skip(self.text, start + 1)
        while self.text[index] != "}":
            key_start = index
            key, index = scanstring(self.text, key_start + 1)
            value_start = _skip(self.text, _skip(self.text, index) + 1)
            _, value_end = decoder.raw_decode(self.text, value_start)
            members.pop(key, None)  # a repeated key counts where it stands last
            members[key] = _Member(key_start, value_start, value_end)
            index = _skip(self.text, value_end)
            if self.text[index] == ",":
                index = _skip(self.text, index + 1)
        return members

    def _member_indent(self, start: int) -> str | None:
        """The white space before an object's first member; None when it is on the brace's line."""
        first = _skip(self.text, start + 1)
        space = self.text[start + 1 : first]
        if self.text[first] == "}" or "\n" not in space:
            return None
        return space.rpartition("\n")[2]

    def _dump(self, value: Any, indent: str | None) -> str:
        if indent is None:
            return json.dumps(value, ensure_ascii=False)
        text = json.dumps(value, indent=self._unit, ensure_ascii=False)
        return text.replace("\n", self._newline + indent)


def _canonical(value: Any) -> str:
    """A text that two values share only when JSON readers can't tell them apart."""
    return json.dumps(value, sort_keys=True)
