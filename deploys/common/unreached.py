"""The summary of a run that reached no host: pyinfra ends it before it loads deploy.py.

What deploy.py registers for the end of a run (:mod:`deploys.common.summary`) is not there yet
then; this is registered by the inventory, which is read before the first connection.
"""

from __future__ import annotations

import atexit
import sys

import pyinfra
from pyinfra.api.state import State, StateStage
from pyinfra.context import ctx_state

from deploys.common.summary import Failure, render, unreachable


def summarise_unreached() -> None:
    """Print the summary when this run of pyinfra's command line ends without any host."""
    if pyinfra.is_cli and ctx_state.isset():
        atexit.register(_print, ctx_state.get())


def unreached(state: State) -> tuple[Failure, ...]:
    """Every host of a run that got no further than connecting, in the inventory's order."""
    if not state.initialised or state.current_stage is not StateStage.Connect:
        return ()
    return tuple(
        Failure(host.name, "connect", unreachable(host))
        for host in state.inventory
        if host in state.failed_hosts
    )


def _print(state: State) -> None:
    text = render(failed := unreached(state), len(failed))
    if text:
        print(text, file=sys.stderr)
