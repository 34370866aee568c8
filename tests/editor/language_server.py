"""The YAML language server that editors run, and what it says about a fleet file.

Owns one session over standard input and output (the Language Server Protocol 3.17) and the part of
``docs/editor.md`` between its markers, which ``make editor`` writes and a test compares. The server
is the npm package ``yaml-language-server``, the one inside VS Code's YAML extension, at a fixed
version, kept in the lab's cache. It gets the schema by the first line of the file, as a user's
editor does, and no other configuration.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "editor.md"
VERSION = "1.19.2"
BEGIN, END = "<!-- made by make editor -->\n", "<!-- end -->\n"
CURSOR = "█"
SHOWN = 18
"""How many completions the page shows; an editor scrolls."""

MODELINE = "# yaml-language-server: $schema=../schemas/fleet.schema.json\n"
BODY = """\
version: 1
models:
  glm-4.7-flash:
    catalogue: glm-4.7-flash
hosts:
  gpu-01:
    servers:
      coder:
        model: glm-4.7-flash
"""


@dataclass(frozen=True)
class Question:
    """What a person does in the editor.

    + title: the words over the answer
    + typed: the lines at the end of the file, with CURSOR where the cursor stands
    + ask: ``completion``, ``values`` (a completion of values), ``hover`` or ``diagnostics``
    """

    title: str
    typed: str
    ask: str


QUESTIONS = (
    Question("A new line in a server: the keys that it takes", f"        {CURSOR}", "completion"),
    Question("`load_mode:` and a space", f"        load_mode: {CURSOR}", "values"),
    Question("The mouse over `context`", f"        con{CURSOR}text: 65536", "hover"),
    Question("Two slips", f"        prot: 8888\n        parallel: two\n{CURSOR}", "diagnostics"),
)


class LanguageServer:
    """A running server; ask it, then :meth:`close` it. Raises RuntimeError for an error answer."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._number = 0
        self._notes: list[dict[str, Any]] = []
        self._ask(
            "initialize",
            {
                "processId": os.getpid(),
                "rootUri": folder.as_uri(),
                "capabilities": {
                    "textDocument": {
                        "completion": {
                            "completionItem": {"documentationFormat": ["markdown"]},
                        },
                        "hover": {"contentFormat": ["markdown"]},
                    }
                },
            },
        )
        self._tell("initialized", {})

    def open(self, path: Path, text: str) -> None:
        """Show it a file, as an editor that opens it does."""
        document = {"uri": path.as_uri(), "languageId": "yaml", "version": 1, "text": text}
        self._tell("textDocument/didOpen", {"textDocument": document})

    def at(self, method: str, path: Path, line: int, column: int) -> Any:
        """The answer to ``textDocument/<method>`` at a place, counted from 0."""
        place = {"line": line, "character": column}
        document = {"uri": path.as_uri()}
        return self._ask(f"textDocument/{method}", {"textDocument": document, "position": place})

    def diagnostics(self, path: Path) -> list[dict[str, Any]]:
        """What it says is wrong with an open file; waits until it has looked."""
        while True:
            for note in self._notes:
                about = note.get("params", {})
                if note["method"].endswith("publishDiagnostics") and about["uri"] == path.as_uri():
                    return list(about["diagnostics"])
            self._read()

    def close(self) -> None:
        """End it in order."""
        self._ask("shutdown", None)
        self._tell("exit", None)
        self._process.wait(30)

    def _tell(self, method: str, parameters: Any, number: int | None = None) -> None:
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": parameters}
        self._send(message if number is None else {**message, "id": number})

    def _send(self, message: Mapping[str, Any]) -> None:
        body = json.dumps(message).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self._process.stdin.flush()

    def _ask(self, method: str, parameters: Any) -> Any:
        self._number += 1
        self._tell(method, parameters, self._number)
        while True:
            message = self._read()
            if message.get("id") == self._number and "method" not in message:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message.get("result")

    def _read(self) -> dict[str, Any]:
        stream = self._process.stdout
        assert stream is not None
        length = 0
        while line := stream.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if not length:
            raise RuntimeError("the language server ended")
        message: dict[str, Any] = json.loads(stream.read(length))
        if "method" in message and "id" in message:
            # It asks for the editor's settings: there are none.
            wanted = message["params"].get("items", []) if message.get("params") else []
            self._send({"jsonrpc": "2.0", "id": message["id"], "result": [None] * len(wanted)})
        elif "method" in message:
            self._notes.append(message)
        return message


def installed(cache: Path) -> list[str]:
    """The command that starts the server; fetches its npm package once. Needs ``npm``."""
    folder = cache / f"yaml-language-server-{VERSION}"
    program = folder / "node_modules/.bin/yaml-language-server"
    if not program.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError("npm is needed: `make lab-tools` installs it")
        folder.mkdir(parents=True, exist_ok=True)
        package = f"yaml-language-server@{VERSION}"
        subprocess.run([npm, "install", "--silent", "--prefix", folder, package], check=True)
    return [str(program), "--stdio"]


@contextlib.contextmanager
def running(cache: Path, folder: Path) -> Iterator[LanguageServer]:
    """A server for the length of a block."""
    server = LanguageServer(installed(cache), folder)
    try:
        yield server
    finally:
        server.close()


def session(server: LanguageServer, folder: Path) -> str:
    """What a person sees at each of QUESTIONS, as Markdown.

    + folder: gets the files; ``../schemas`` of it must be ours, as the file's first line says
    """
    parts = []
    for number, question in enumerate(QUESTIONS):
        path = folder / f"fleet-{number}.yaml"
        before, _, after = f"{MODELINE}{BODY}{question.typed}".partition(CURSOR)
        text = f"{before}{after}"
        path.write_text(text)
        server.open(path, text)
        line, column = before.count("\n"), len(before) - before.rfind("\n") - 1
        typed = question.typed.replace(CURSOR, "" if question.ask == "diagnostics" else CURSOR)
        answer = _answer(server, question, path, (line, column))
        shown = f"{BODY.splitlines()[-1]}\n{typed.rstrip()}"
        parts.append(f"{question.title}:\n\n```text\n{shown}\n\n{answer}\n```\n")
    return "\n".join(parts)


def _answer(server: LanguageServer, question: Question, path: Path, place: tuple[int, int]) -> str:
    if question.ask == "diagnostics":
        found = server.diagnostics(path)
        return "\n".join(
            f"{each['range']['start']['line'] + 1}:{each['range']['start']['character'] + 1}: "
            f"{each['message']}"
            for each in found
        )
    if question.ask == "hover":
        return _plain(server.at("hover", path, *place)["contents"]["value"])
    items = server.at("completion", path, *place)["items"]
    if question.ask == "values":
        return "  " + "  ".join(item["label"] for item in items)
    lines = [_completion(item) for item in items[:SHOWN]]
    return "\n".join([*lines, *(["  ..."] if len(items) > SHOWN else [])])


def _plain(markdown: str) -> str:
    """Markdown as an editor shows it, near enough: no fences, no escapes, links by their words."""
    text = re.sub(r"^```.*\n?", "", markdown, flags=re.M)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\\(\W)", r"\1", text).replace("#### ", "").strip()


def _completion(item: Mapping[str, Any]) -> str:
    words = item.get("documentation") or ""
    words = words["value"] if isinstance(words, Mapping) else words
    return f"  {item['label']:14}  {' '.join(words.split())}".rstrip()


def page(text: str, captured: str) -> str:
    """The page with the captured session between its markers."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}{captured}{END}{tail}"


def main() -> int:
    """Write the page's captured part."""
    import tempfile

    sys.path.insert(0, str(ROOT / "molecule" / "lab"))
    from roots import cache_directory

    with tempfile.TemporaryDirectory() as name:
        folder = workplace(Path(name))
        with running(cache_directory(), folder) as server:
            captured = session(server, folder)
    PAGE.write_text(page(PAGE.read_text("utf-8"), captured), "utf-8")
    return 0


def workplace(directory: Path) -> Path:
    """A folder for fleet files, beside our schemas."""
    folder = directory / "inventories"
    folder.mkdir()
    (directory / "schemas").symlink_to(ROOT / "schemas")
    return folder


if __name__ == "__main__":
    sys.exit(main())
