"""Every case of the harness, in the order in which they run and are shown."""

from __future__ import annotations

import clock_faults
import controller_faults
import disk_faults
import git_faults
import hub_faults
import model_faults
import network_faults
import opencode_faults
import package_faults
import port_faults
import power_faults
import server_faults
import two_faults
from fault import Fault

FAULTS: tuple[Fault, ...] = (
    *controller_faults.FAULTS,
    *power_faults.FAULTS,
    *network_faults.FAULTS,
    *two_faults.FAULTS,
    *hub_faults.FAULTS,
    *git_faults.FAULTS,
    *disk_faults.FAULTS,
    *clock_faults.FAULTS,
    *port_faults.FAULTS,
    *server_faults.FAULTS,
    *model_faults.FAULTS,
    *opencode_faults.FAULTS,
    *package_faults.FAULTS,
)
