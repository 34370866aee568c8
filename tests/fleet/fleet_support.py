"""What the tests of the fleet file share."""

from __future__ import annotations

from pathlib import Path

from inventories.fleet import Fleet, fleet_of
from schemas.document import parse_document
from schemas.problems import ProblemsError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = (ROOT / "inventories/example.yaml", ROOT / "inventories/demo.yaml")

BUILD = """\
version: 1
models:
  glm: {hub: {repo: unsloth/GLM-4.7-Flash-GGUF, quant: Q4_K_M}}
  tiny: {hub: {repo: unsloth/GLM-4.7-Flash-GGUF, quant: Q2_K}}
defaults:
  cuda: {provider: none}
  llama_cpp: {ref: b8146}
"""


def fleet_from(text: str | bytes) -> Fleet:
    """The fleet that a text describes."""
    content = text if isinstance(text, bytes) else text.encode()
    return fleet_of(parse_document(content, "fleet.yaml"), Path("fleet.yaml"))


def problems_of(text: str | bytes) -> list[str]:
    """What is wrong with a text, a line each; empty for a valid fleet."""
    try:
        fleet_from(text)
    except ProblemsError as error:
        return [str(problem) for problem in error.problems]
    return []
