"""What real hosts printed, a file a case; and damaged output, which fails one host alone."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyinfra.api.exceptions import FactProcessError
from recorded_cases import case_paths, fact_classes, plain, read

FACTS = fact_classes()
# Cards are recorded in a form of their own (test_gpus.py), and by far more than three hosts.
CASES = [path for path in case_paths() if path.parts[-3] in FACTS]
HOSTS_AT_LEAST = 3


def case_name(path: Path) -> str:
    return f"{path.parts[-3]}-{path.stem}"


def answer(path: Path, output: list[str]) -> Any:
    """What pyinfra makes of a command's lines: without any it doesn't ask the parser."""
    fact = FACTS[path.parts[-3]]
    return plain(fact().process(output) if output else fact.default())


@pytest.mark.parametrize("path", CASES, ids=case_name)
def test_recorded_output_gives_the_recorded_value(path: Path) -> None:
    case = read(path)
    if "error" in case:
        with pytest.raises(FactProcessError, match=case["error"]):
            answer(path, case["output"])
        return
    assert answer(path, case["output"]) == case["value"]


@pytest.mark.parametrize("folder", sorted(FACTS.keys() - {"gpus"}))
def test_every_fact_has_cases_of_three_hosts(folder: str) -> None:
    hosts = {read(path)["host"] for path in CASES if path.parts[-3] == folder}
    assert len(hosts) >= HOSTS_AT_LEAST, hosts


def test_every_folder_of_cases_is_a_facts() -> None:
    assert {path.parts[-3] for path in case_paths()} - FACTS.keys() == {"gpu"}


@given(st.data())
def test_damaged_output_gives_a_value_or_fails_this_host_alone(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([path for path in CASES if read(path)["output"]]))
    output = read(path)["output"]
    line = data.draw(st.integers(0, len(output) - 1))
    at = data.draw(st.integers(0, len(output[line])))
    rest = data.draw(st.sampled_from([[], output[line + 1 :]]))
    garbage = data.draw(st.text(max_size=12).filter(lambda text: len(text.splitlines()) < 2))
    try:
        answer(path, [*output[:line], output[line][:at] + garbage, *rest])
    except FactProcessError:
        return


@pytest.mark.parametrize(
    ("folder", "output"),
    [
        ("bandwidth", ["@@llamaherd:hub"]),
        ("llama_cpp_builds", ["@@llamaherd:build b1", "null"]),
        ("live_server", ["@@llamaherd:health", "\x80"]),
        ("system", ["@@llamaherd:machine", "x86_64", "2", "0", "@@llamaherd:systemd", "systemd"]),
        ("system", ["@@llamaherd:machine", "x86_64", "2", "0", "@@llamaherd:memory", "MemTotal:"]),
        ("running", ["@@llamaherd:computing", "\u00b2", "answered"]),
    ],
)
def test_damage_that_once_ended_the_run_of_every_host(folder: str, output: list[str]) -> None:
    with contextlib.suppress(FactProcessError):
        assert FACTS[folder]().process(output) is not None
