"""As whom an operation acts: the one place that reads it off pyinfra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyinfra.api.arguments import auth_argument_meta, pop_global_arguments
from pyinfra.api.host import Host

_AS_WHOM = frozenset(auth_argument_meta) | {"_shell_executable"}


def as_running_operation(host: Host) -> dict[str, Any]:
    """The arguments that say as whom the running operation acts (sudo and the like).

    Outside of an operation they are the host's own.
    """
    given: Mapping[str, Any] | None = host.current_op_global_arguments
    if given is None:
        given, _ = pop_global_arguments(host.state, host, {})
    return {key: value for key, value in given.items() if key in _AS_WHOM}
