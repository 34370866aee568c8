"""llama.cpp, as it was built on a lab host, says what was recorded and what we say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "molecule" / "lab"))

from downloads import MODEL, ensure  # noqa: E402

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    """What benchmarks/fit.py defines."""
    return runpy.run_path(str(ROOT / "benchmarks" / "fit.py"))


def test_llama_cpp_agrees_with_us_on_every_family(
    tmp_path: Path, bench: dict[str, Any], llama_programs: dict[str, str]
) -> None:
    pairs = list(bench["measured"](llama_programs["llama-fit-params"], tmp_path))
    names = [name for name, _ in bench["families"]()]
    assert len(pairs) == sum(len(list(bench["loads_of"](name))) for name in names)
    for case, ours in pairs:
        assert abs(ours.difference(case)) < 0.05, case
        assert ours.cache == pytest.approx(case.cache, abs=1.5), case


def test_a_llama_server_allocates_what_we_say_for_a_real_model(
    bench: dict[str, Any], llama_programs: dict[str, str]
) -> None:
    path = ensure(MODEL)
    header = bench["read_file_header"](path)
    for load in bench["SERVED"]:
        weights, cache = bench["serve"](llama_programs["llama-server"], path, load)
        ours = bench["ours"](header, load)
        assert ours.weights == pytest.approx(weights, abs=0.1), load
        assert ours.cache == pytest.approx(cache, abs=0.1), load


def test_a_llama_server_loads_a_header_only_file_and_allocates_what_we_say(
    tmp_path: Path, bench: dict[str, Any], llama_programs: dict[str, str]
) -> None:
    """Mamba-2: no attention, the smallest file of all families."""
    model = dict(bench["families"]())["mamba2-2.7b"]
    path = tmp_path / "mamba2.gguf"
    model.write(path)
    load = bench["SERVED"][0]
    weights, cache = bench["serve"](llama_programs["llama-server"], path, load)
    ours = bench["ours"](bench["read_file_header"](path), load)
    assert ours.weights == pytest.approx(weights, abs=0.1)
    assert ours.cache == pytest.approx(cache, abs=0.1)
