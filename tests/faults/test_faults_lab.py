"""Every fault, on a real host: it heals, or says in one line what a person must do."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from fault import Fault
from fault_bed import Bed, run_fault
from fault_list import FAULTS

pytestmark = pytest.mark.lab


def _marked(fault: Fault) -> object:
    marks = [] if fault.quick else [pytest.mark.faults]
    if fault.known:
        marks.append(pytest.mark.xfail(strict=True, reason=fault.known))
    return pytest.param(fault, id=fault.identifier, marks=marks)


@pytest.mark.parametrize("fault", [_marked(fault) for fault in FAULTS])
def test_fault(
    bed_of: Callable[[], Bed], fault: Fault, record_property: Callable[[str, object], None]
) -> None:
    bed = bed_of()
    began = time.monotonic()
    try:
        run_fault(bed, fault)
    finally:
        record_property("seconds", time.monotonic() - began)
