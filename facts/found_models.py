"""Model files that other software left on a host: where they lie, and what they are.

Caches are :mod:`facts.model_caches`'s to know; folders of people's own stand here. Nothing is read
but names, sizes, links and Ollama's manifests: no file is hashed.

Upstream behaviour relied on: Ollama's ``manifests``/``blobs`` layout (its ``docs/import.md`` and
``server/manifest.go``); the hub cache's ``models--*/snapshots`` layout (``huggingface_hub``'s
"Understand caching").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facts.model_caches import MODEL_CACHES, cache_functions
from facts.sections import SECTION
from facts.values import FactValue

MODEL_LIMIT = 200
"""Model files that are reported of a place at most; a box with more is somebody's archive."""
DEPTH = max(cache.depth for cache in MODEL_CACHES)
"""How far below a folder files are looked for."""

_FOLDERS = "/models /srv/models /opt/models /data/models"
"""Where people put model files of their own, beside ``~/models``."""

FOUND_SCRIPT = f"""
{cache_functions()}
tab=$(printf '\\t')
echo {SECTION}ollama
model_caches | while IFS=$tab read -r source store; do
  [ "$source" = ollama ] && [ -d "$store/manifests" ] || continue
  find "$store/manifests" -type f 2>/dev/null | head -n {MODEL_LIMIT} | while read -r manifest; do
    echo "$store"; echo "${{manifest#$store/manifests/}}"; tr -d '\\n' < "$manifest"; echo
  done
done
echo {SECTION}models
list() {{ # source, folder
  [ -d "$2" ] || return 0
  timeout 10 find "$2" -maxdepth {DEPTH} -name '*.gguf' 2>/dev/null | head -n {MODEL_LIMIT} |
    while read -r file; do
      size=$(stat -L -c %s "$file" 2>/dev/null) || continue
      echo "$1|$size|$2|$file|$(readlink "$file")"
    done
}}
model_caches | while IFS=$tab read -r source folder; do
  [ "$source" = ollama ] || list "$source" "$folder"
done
model_homes | while IFS= read -r home; do list file "$home/models"; done
for folder in {_FOLDERS}; do list file "$folder"; done
list llamaherd /var/lib/llamaherd/models
"""
"""A part of a POSIX shell script; it prints the sections that :func:`parse_found` reads."""


@dataclass(frozen=True)
class FoundModel(FactValue):
    """A model file that could be adopted instead of downloaded.

    + source: ``ollama``, ``llama.cpp``, ``hub``, ``lm-studio``, ``llamaherd`` or ``file``
    + name: what that software calls it
    + path: the file itself; for ollama the blob that holds the GGUF
    + size: bytes
    + sha256: where it is known without reading the file (ollama and hub caches name blobs by it)
    """

    source: str
    name: str
    path: str
    size: int
    sha256: str = ""


def parse_found(sections: Mapping[str, list[str]]) -> tuple[FoundModel, ...]:
    """The files of :data:`FOUND_SCRIPT`'s sections, by source and name, each once."""
    found = [*_ollama(sections.get("ollama", [])), *_files(sections.get("models", []))]
    unique = {model.path + model.name: model for model in found}
    return tuple(sorted(unique.values(), key=lambda model: (model.source, model.name)))


def _ollama(lines: Sequence[str]) -> Iterator[FoundModel]:
    for store, manifest, text in zip(lines[::3], lines[1::3], lines[2::3], strict=False):
        for layer in _layers(text):
            digest = str(layer.get("digest", "")).removeprefix("sha256:")
            if layer.get("mediaType") != "application/vnd.ollama.image.model" or not digest:
                continue
            name = manifest.split("/", 1)[-1].removeprefix("library/")
            name = ":".join(name.rsplit("/", 1))
            path = f"{store}/blobs/sha256-{digest}"
            yield FoundModel("ollama", name, path, int(layer.get("size", 0)), digest)


def _layers(text: str) -> list[dict[str, Any]]:
    """A manifest's layers; none where it is damaged, which is Ollama's to complain about."""
    try:
        layers = json.loads(text)["layers"]
        return [layer for layer in layers if isinstance(layer, dict)]
    except (ValueError, KeyError, TypeError):
        return []


_SHA256 = re.compile(r"[0-9a-f]{64}")


def _files(lines: Iterable[str]) -> Iterator[FoundModel]:
    for line in lines:
        source, size, folder, path, link = [*line.split("|"), ""][:5]
        name = path.removeprefix(folder).lstrip("/")
        repository, _, rest = name.partition("/snapshots/")
        if rest and repository.startswith("models--"):
            # models--OWNER--NAME/snapshots/COMMIT/FILE; llama.cpp's cache has this layout, too
            file = rest.partition("/")[2]
            name = repository.removeprefix("models--").replace("--", "/", 1) + "/" + file
        elif source == "hub":
            continue
        blob = link.rsplit("/", 1)[-1]
        sha256 = blob if _SHA256.fullmatch(blob) else ""
        yield FoundModel(source, name, path, int(size), sha256)
