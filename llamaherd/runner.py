"""Connects hosts through pyinfra's API and runs a function for each, in greenlets.

One host's trouble stays that host's: whatever goes wrong there becomes its result. Nothing is
printed, nothing ever prompts, and no host can hold up the others beyond its own time limit.

Upstream behaviour relied on (pyinfra 3.10): ``pyinfra_cli`` patches the standard library for
gevent when it is imported; ``Host.connect(raise_exceptions=True)`` raises ConnectError;
``pop_global_arguments`` adds ``_sudo`` and the like from host data. ``tests/verify`` holds them.
"""

from __future__ import annotations

# First of all: it patches the standard library for gevent.
import pyinfra_cli  # type: ignore[import-untyped]  # noqa: F401  # isort: skip

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar, cast

import gevent
import pyinfra.api.arguments
import pyinfra.api.inventory
import pyinfra.connectors.sshuserclient.client
import pyinfra.connectors.util
from gevent.hub import Hub
from gevent.pool import Pool
from pyinfra.api import Config, Inventory, State, StringCommand
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.facts import FactBase
from pyinfra.api.host import Host
from pyinfra.context import ctx_config, ctx_host, ctx_state

# An interrupt is no error to print: it reaches the main greenlet all the same (gevent/hub.py,
# handle_error), and the command line says it once.
Hub.NOT_ERROR = (*Hub.NOT_ERROR, KeyboardInterrupt)

# Both answer the same at each call, and are called for each host and operation: the first reads
# type hints anew, the second the entry points of all packages.
for _module, _name in (
    (pyinfra.api.arguments, "all_global_arguments"),
    (pyinfra.api.inventory, "get_all_connectors"),
):
    setattr(_module, _name, cache(getattr(_module, _name)))

T = TypeVar("T")

CONNECT_SECONDS = 10
PARALLEL = 50
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class RemoteError(Exception):
    """A command on a host failed; the message holds its last words."""


@dataclass(frozen=True)
class Result(Generic[T]):
    """What became of one host.

    + value: what the function returned; None where it didn't
    + error: why not, for people; empty where it did
    + connected: whether the host was reached at all
    """

    host: str
    value: T | None
    error: str = ""
    connected: bool = True


def run_on_hosts(
    hosts: Sequence[tuple[str, Mapping[str, Any]]],
    function: Callable[[Host], T],
    *,
    seconds: Callable[[str], float],
    done: Callable[[Result[T]], None] = lambda _: None,
    state_class: type[State] = State,
) -> list[Result[T]]:
    """Connect to every host, call ``function`` with it, disconnect; results in the given order.

    + hosts: names with pyinfra's host data, as :func:`inventories.groups.host_data` makes it
    + function: runs in the host's own greenlet and context: :func:`ask` works in it, and so do
      pyinfra's own calls
    + seconds: time limit of a host by its name, connecting included
    + done: called with each result as it comes
    + state_class: pyinfra's, or a child of it
    """
    state = state_class(
        Inventory(([(name, dict(data)) for name, data in hosts], {})),
        Config(CONNECT_TIMEOUT=CONNECT_SECONDS),
        check_for_changes=False,
    )

    def one(host: Host) -> Result[T]:
        with ctx_config.use(state.config), ctx_host.use(host):
            result = _guarded(host, function, seconds(host.name))
        done(result)
        return result

    pool = Pool(PARALLEL)
    # pyinfra's context holds one state a process: the first host to end would take it away.
    with _quiet(), ctx_state.use(state):
        return list(pool.map(one, list(state.inventory)))


def _guarded(host: Host, function: Callable[[Host], T], seconds: float) -> Result[T]:
    connected = False
    limit = gevent.Timeout(seconds)
    limit.start()
    try:
        host.connect(show_errors=False, raise_exceptions=True)
        connected = True
        host.state.activate_host(host)
        return Result(host.name, function(host))
    except gevent.Timeout as timeout:
        if timeout is not limit:
            raise
        return Result(host.name, None, f"no answer within {seconds:.0f} s", connected)
    except ConnectError as error:
        return Result(host.name, None, f"cannot connect: {_plain(error)}", False)
    except Exception as error:  # one host's trouble, whatever it is, must not end the others'
        return Result(host.name, None, _plain(error), connected)
    finally:
        limit.close()
        _disconnect(host)


def _plain(error: Exception) -> str:
    text = _COLOUR.sub("", str(error.args[0] if error.args else error)).strip()
    return text or type(error).__name__


def _disconnect(host: Host) -> None:
    # A connection that is broken already may complain once more; there is nothing left to lose.
    with contextlib.suppress(Exception, gevent.Timeout), gevent.Timeout(5):
        host.disconnect()


def ask(host: Host, fact: type[FactBase[T]], **arguments: Any) -> T:
    """A fact's value from a connected host, by one remote command with the host's own rights.

    Unlike ``Host.get_fact`` it prints nothing and marks no host as failed. Raises
    :class:`RemoteError`, and the fact's own error for output that makes no sense.
    """
    question = fact()
    # Facts type `command` as they like; the base class doesn't declare it.
    command: Callable[..., str] = cast(Any, question).command
    rights, _ = pop_global_arguments(host.state, host, {})
    succeeded, output = host.run_shell_command(
        StringCommand(command(**arguments)),
        print_output=False,
        print_input=False,
        **{key: value for key, value in rights.items() if key in CONNECTOR_ARGUMENT_KEYS},
    )
    if not succeeded:
        last = [line for line in output.stderr_lines if line.strip()][-3:]
        raise RemoteError("; ".join(last) or f"{fact.__name__}: the command failed without a word")
    return question.process(list(output.stdout_lines))


def _refuse_prompt(*_: object) -> str:
    raise RemoteError(
        "sudo wants a password: set ssh.sudo_password, or allow the user sudo without one"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' logs off the terminal: results say what they say, and name the host.

    And keep pyinfra from asking a person for sudo's password or about a jump host's key, which
    would hold up every host: it asks about a hop whatever the host's own setting says.
    """
    loggers = [logging.getLogger(name) for name in ("pyinfra", "paramiko")]
    before = [(logger, logger.propagate, list(logger.handlers)) for logger in loggers]
    for logger in loggers:
        logger.propagate, logger.handlers = False, [logging.NullHandler()]
    connectors: Any = pyinfra.connectors.util
    ask_person, connectors.getpass = connectors.getpass, _refuse_prompt
    client: Any = pyinfra.connectors.sshuserclient.client
    ask_policy, client.AskPolicy = client.AskPolicy, client.StrictPolicy
    try:
        yield
    finally:
        connectors.getpass = ask_person
        client.AskPolicy = ask_policy
        for logger, propagate, handlers in before:
            logger.propagate, logger.handlers = propagate, handlers
