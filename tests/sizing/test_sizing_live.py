"""llama-fit-params, as it was built on a lab host, says what was recorded."""

from __future__ import annotations

import os
import runpy
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.lab


def binary() -> str | None:
    """The program: $LLAMA_FIT_PARAMS, the path's, or one that a lab host has built."""
    named = os.environ.get("LLAMA_FIT_PARAMS") or shutil.which("llama-fit-params")
    built = ROOT.glob(".lab/*/upper/opt/llama.cpp/*/bin/llama-fit-params")
    return named or next((str(path) for path in sorted(built)), None)


def test_llama_cpp_agrees_with_us_on_every_family(tmp_path: Path) -> None:
    bench = runpy.run_path(str(ROOT / "benchmarks" / "fit.py"))
    program = binary()
    if program is None:
        pytest.skip("no llama-fit-params: set LLAMA_FIT_PARAMS, or converge a lab host first")
    pairs = list(bench["measured"](program, tmp_path))
    assert len(pairs) == len(bench["LOADS"]) * len(list(bench["families"]()))
    for case, ours in pairs:
        assert abs(ours.difference(case)) < 0.05, case
        assert ours.cache == pytest.approx(case.cache, abs=1.5), case
