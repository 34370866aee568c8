"""Every case of the harness, in the order in which they run and are shown."""

from __future__ import annotations

import controller_faults
import network_faults
import power_faults
import two_faults
from fault import Fault

FAULTS: tuple[Fault, ...] = (
    *controller_faults.FAULTS,
    *power_faults.FAULTS,
    *network_faults.FAULTS,
    *two_faults.FAULTS,
)
