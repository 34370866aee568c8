"""Where other programs keep model files on a host: the one list, for onboarding and for adoption.

What is looked at are the homes of local accounts (``/etc/passwd``, and whatever lies in ``/home``),
and the folders that variables of ``/etc/environment`` and of Ollama's service name. Accounts of a
directory service are not asked for: that could mount a thousand homes.

Upstream behaviour relied on: llama.cpp's ``common/hf-cache.cpp`` at 0c1e570 (it keeps files in the
hub's layout now, in ``LLAMA_CACHE``, ``HF_HUB_CACHE``, ``HUGGINGFACE_HUB_CACHE``, ``HF_HOME/hub``,
else ``~/.cache/huggingface/hub``; blobs are named by the file's object id, a large file's SHA-256)
and ``common/common.cpp`` (before: plain files in ``~/.cache/llama.cpp``); huggingface_hub's
"Understand caching"; Ollama's ``manifest/paths.go`` (``blobs/sha256-HEX``) and its FAQ on
``OLLAMA_MODELS`` (its service runs as the account ``ollama``, at home in ``/usr/share/ollama``);
LM Studio's documentation (``~/.lmstudio/models``, earlier ``~/.cache/lm-studio/models``).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelCache:
    """A place below a home in which a program keeps model files.

    + source: short name of the program, as reports have it
    + title: for people
    + folder: below the home
    + depth: how far down files lie, as find's ``-maxdepth`` counts
    + blobs: shell pattern below the folder of a file of known SHA-256 (``$sha256``); empty where
      files have names of their own
    """

    source: str
    title: str
    folder: str
    depth: int
    blobs: str = ""


MODEL_CACHES = (
    ModelCache("llama.cpp", "llama.cpp's cache", ".cache/llama.cpp", 4, "models--*/blobs/$sha256"),
    ModelCache("hub", "the hub's cache", ".cache/huggingface/hub", 6, "models--*/blobs/$sha256"),
    ModelCache("ollama", "Ollama's store", ".ollama/models", 2, "blobs/sha256-$sha256"),
    ModelCache("lm-studio", "LM Studio's models", ".lmstudio/models", 4),
    ModelCache("lm-studio", "LM Studio's models", ".cache/lm-studio/models", 4),
)

CACHE_VARIABLES = {
    "LLAMA_CACHE": ("llama.cpp", ""),
    "HF_HUB_CACHE": ("hub", ""),
    "HUGGINGFACE_HUB_CACHE": ("hub", ""),
    "HF_HOME": ("hub", "/hub"),
    "OLLAMA_MODELS": ("ollama", ""),
}
"""Source and folder below the value of each variable that moves a cache."""

_HOMES = r"""
model_homes() {
  { cut -d : -f 6 < @ROOT@/etc/passwd 2>/dev/null; echo /root
    for home in @ROOT@/home/*; do printf '%s\n' "${home#@ROOT@}"; done
  } | sort -u | while IFS= read -r home; do
    case $home in /?*) [ ! -d @ROOT@"$home" ] || printf '%s\n' @ROOT@"$home" ;; esac
  done
}
cache_variables() {
  { cat @ROOT@/etc/environment
    systemctl show -P Environment ollama.service | tr ' ' '\n'
  } 2>/dev/null | sed -e 's/^export  *//' -e "s/[\"']//g"
}
"""


def cache_functions(root: str = "") -> str:
    """Shell functions ``model_homes`` and ``model_caches``.

    ``model_homes`` prints the homes that are there, a line each. ``model_caches`` prints the caches
    that are there: source, a tab, folder. Both print nothing else and need no rights of their own;
    with root's they see everybody's.

    + root: of a file system that isn't the host's own, for tests
    """
    places = "\n".join(
        f"    printf '%s\\t%s\\n' {cache.source} \"$home\"/{cache.folder}" for cache in MODEL_CACHES
    )
    moved = "\n".join(
        f"      {name}=/*) printf '%s\\t%s\\n' {source} @ROOT@\"${{line#*=}}\"{below} ;;"
        for name, (source, below) in CACHE_VARIABLES.items()
    )
    script = f"""{_HOMES}
model_caches() {{
  {{ model_homes | while IFS= read -r home; do
{places}
  done
  cache_variables | while IFS= read -r line; do
    case $line in
{moved}
    esac
  done; }} | sort -u | while IFS="$(printf '\\t')" read -r source folder; do
    [ ! -d "$folder" ] || printf '%s\\t%s\\n' "$source" "$folder"
  done
}}
"""
    return script.replace("@ROOT@", shlex.quote(root) if root else "")


def cache_title(source: str) -> str:
    """A source's name for people; KeyError for one that isn't in the list."""
    return {cache.source: cache.title for cache in MODEL_CACHES}[source]
