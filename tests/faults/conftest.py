"""One lab host for all cases, thrown away where it doesn't come back to order."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from converge_support import LAB

if LAB not in sys.path:
    sys.path.insert(0, LAB)

from fault_bed import Bed, made_bed
from fault_list import FAULTS
from fault_table import Result, terminal, write

_results: dict[str, Result] = {}


@pytest.fixture(scope="session")
def bed_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Bed]]:
    """Gives a bed in order: the same one each time, or a new one after one that stayed broken."""
    with contextlib.ExitStack() as stack:
        beds: list[Bed] = []

        def bed() -> Bed:
            if beds and not beds[-1].in_order:
                # Whatever a case left that failed must not fail the next one as well.
                stack.pop_all().close()
            elif beds:
                try:
                    beds[-1].restore()
                    return beds[-1]
                except Exception:
                    stack.pop_all().close()
            beds.append(stack.enter_context(made_bed(tmp_path_factory.mktemp("fault"))))
            return beds[-1]

        yield bed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    """Note how each case went."""
    report = yield
    fault = getattr(item, "callspec", None) and item.callspec.params.get("fault")  # type: ignore[attr-defined]
    if fault is not None and (report.when == "call" or report.failed):
        # The case's own: without the making of a host, where one had to be made.
        seconds = dict(item.user_properties).get("seconds", report.duration)
        _results[fault.identifier] = Result(float(seconds), report.passed)
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table; write the page where that was asked for."""
    if not _results:
        return
    terminalreporter.section("faults")
    for line in terminal(FAULTS, _results):
        terminalreporter.write_line(line)
    if config.getoption("--write-faults"):
        write(FAULTS, _results)
