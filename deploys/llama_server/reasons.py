"""Why a server must be (re)started, as values; worded in one place. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from facts.servers import ServerState


class Cause(Enum):
    """What of a server isn't as declared; the text is completed by what was seen."""

    NOT_ACTIVE = "it is {}"
    CONFIGURATION = "its process was started with another configuration"
    PROGRAM = "its process runs {}"
    ARGUMENTS = "its process was started with other arguments ({})"
    API_KEY = "its process was started with another API key"
    CERTIFICATE = "its process was started with another {}"
    MODEL_FILE = "its model file was replaced or removed after its start"
    LIBRARY = "its process runs with {} of before an upgrade"
    UNIT = "its unit or a drop-in changed after its start"
    DROP_IN = "{} is newer than its process"


@dataclass(frozen=True)
class Reason:
    """One cause, and what was seen of it."""

    cause: Cause
    seen: str = ""

    def __str__(self) -> str:
        return self.cause.value.format(self.seen)


def reason_to_restart(
    state: ServerState,
    *,
    config: str,
    binary: str,
    arguments: Sequence[str],
    key_differs: bool,
    driver_runs: bool = True,
) -> Reason | None:
    """The first of a process's differences that a restart mends; None when it runs as declared.

    + config, binary, arguments: what the process should have been started with
    + key_differs: the API key's file isn't what it should be
    + driver_runs: False where the driver's library doesn't go with the loaded kernel module: a
      process that still runs with the old library goes on, one that is started anew finds no GPU
    """
    if state.active != "active" and not is_loading(state, config=config, binary=binary):
        return Reason(Cause.NOT_ACTIVE, state.active)
    if state.config != config:
        return Reason(Cause.CONFIGURATION)
    if state.executable != binary:
        return other_program(state)
    # A drop-in may change the arguments: that is its administrator's business.
    if not state.drop_ins and state.arguments not in ((), tuple(arguments)):
        return Reason(Cause.ARGUMENTS, _difference(state.arguments, arguments))
    if not state.key_current or key_differs:
        return Reason(Cause.API_KEY)
    if state.stale_credentials:
        return Reason(Cause.CERTIFICATE, ", ".join(state.stale_credentials))
    if not state.model_current:
        # Its pages are those of a file that nobody watches over any more, truncated perhaps.
        return Reason(Cause.MODEL_FILE)
    if state.replaced_libraries and driver_runs:
        return Reason(Cause.LIBRARY, ", ".join(state.replaced_libraries))
    if state.needs_reload:
        return Reason(Cause.UNIT)
    if state.newer_drop_ins:
        return Reason(Cause.DROP_IN, ", ".join(state.newer_drop_ins))
    return None


def is_loading(state: ServerState, *, config: str, binary: str) -> bool:
    """Whether a process as declared is there and doesn't answer yet: to start it anew would throw
    away what it has loaded, and converges in a row would never let it get ready."""
    return state.active == "activating" and state.config == config and state.executable == binary


def other_program(state: ServerState) -> Reason:
    """A process of another program, or of one that is gone."""
    return Reason(Cause.PROGRAM, state.executable or "an unknown program")


def _difference(seen: Sequence[str], wanted: Sequence[str]) -> str:
    """The arguments in which two command lines differ, in their order."""
    more = " ".join(part for part in seen if part not in wanted) or "fewer"
    less = " ".join(part for part in wanted if part not in seen) or "none of them"
    return f"{more} instead of {less}"
