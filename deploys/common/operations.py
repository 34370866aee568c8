"""Operations that fail one host alone, and the one typed accessor to a host's settings.

pyinfra 3.10 ends the whole run for every host when a generator raises, and goes on with a fact's
default value when the fact failed (``pyinfra/api/operations.py``, ``api/facts.py``). The two
helpers here, :func:`host_operation` and :func:`read`, close those holes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

from pyinfra import logger
from pyinfra.api import FactBase, FunctionCommand, operation
from pyinfra.api.arguments_typed import PyinfraOperation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.exceptions import DeployError
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.context import ctx_host, ctx_state

from deploys.common.changes import Change, listened
from deploys.common.claims import ClaimError, OvertakenError, claim
from deploys.common.shell import WordError
from deploys.common.summary import record_failure
from facts.system import System, SystemState
from inventories.settings import HostSettings, ProxySettings, from_data

P = ParamSpec("P")
T = TypeVar("T")
Commands = Generator[PyinfraCommand | str, None, None]

_settings: WeakKeyDictionary[Host, HostSettings] = WeakKeyDictionary()
_readers: WeakKeyDictionary[Host, Callable[..., Any]] = WeakKeyDictionary()
_systems: WeakKeyDictionary[Host, SystemState] = WeakKeyDictionary()


class HostError(Exception):
    """This host can't go on. The message says what is wrong there and what mends it.

    + changes: the same as differences from what is declared, for a drift check; without any it
      takes the message
    """

    def __init__(self, message: str, *changes: Change) -> None:
        super().__init__(message)
        self.changes = changes


class UnknownStateError(HostError):
    """This host can't even be judged: a fact can't be read, a secret can't be had."""


def host_operation(
    function: Callable[P, Commands],
) -> PyinfraOperation[P]:
    """A pyinfra operation in which a raised :class:`HostError` fails this host and no other.

    So does a setting that can't be made a shell word (:class:`deploys.common.shell.WordError`).

    Before its first command runs, this run claims the host (:mod:`deploys.common.claims`).
    """

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> Commands:
        try:
            yield from _claimed(function, *args, **kwargs)
        except WordError as error:
            if listened():
                raise HostError(f"refused: {error}") from error
            yield from fail(f"refused: {error}")
        except HostError as error:
            if listened():
                raise
            yield from fail(*_texts(error))

    return operation()(guarded)


def _claimed(function: Callable[P, Commands], *args: P.args, **kwargs: P.kwargs) -> Commands:
    """The operation's commands, the host claimed before the first of them is carried out."""
    commands = function(*args, **kwargs)
    first = next(commands, None)
    if first is None:
        return
    if current_state().is_executing and not listened() and _claim():
        # Somebody else was at work here since the facts were read.
        commands.close()
        yield from function(*args, **kwargs)
        return
    yield first
    yield from commands


def _claim() -> bool:
    try:
        return claim(current_host())
    except OvertakenError as error:
        raise HostError(str(error)) from error
    except ClaimError as error:
        raise HostError(f"{error}: does the host have flock (util-linux)?") from error


def _texts(error: HostError) -> tuple[str, ...]:
    """What is told of an error: one by one where it knows of several."""
    texts = tuple(f"{change.summary}: {change.remedy}" for change in error.changes)
    return texts if "; ".join(texts) == str(error) else (str(error),)


def fail(*messages: str) -> Commands:
    """Commands that fail this host with these messages; a dry run shows them too."""
    host = current_host()
    if not current_state().is_executing:
        for message in messages:
            logger.error(f"{host.print_prefix}would fail: {message}")
    yield FunctionCommand(_fail, messages, {})


def _fail(state: State, host: Host, *messages: str) -> bool:
    record_failure(host.name, *messages)
    for message in messages:
        logger.error(f"{host.print_prefix}{message}")
    return False


def read(fact: type[FactBase[T]], *args: Any, **kwargs: Any) -> T:
    """The fact's value; HostError where pyinfra would go on with the default after a failure."""
    host = current_host()
    if host in _readers:
        return cast(T, _readers[host](fact, *args, **kwargs))
    value = host.get_fact(fact, *args, **kwargs)
    if host in current_state().failed_hosts:
        raise UnknownStateError(f"could not read {fact.__name__} (the error is above)")
    return value


def read_through(host: Host, reader: Callable[..., Any]) -> None:
    """Answer :func:`read` for this host by ``reader(fact, ...)``, which raises HostError itself."""
    _readers[host] = reader


def current_host() -> Host:
    """The host that is being worked on: the object itself, not pyinfra's proxy."""
    return cast(Host, ctx_host.get())


def current_state() -> State:
    """pyinfra's state of this run."""
    return cast(State, ctx_state.get())


def host_settings() -> HostSettings:
    """The current host's settings: the only reader of ``host.data``.

    Raises DeployError when the inventory brings none: pass settings to the component then.
    """
    host = current_host()
    if host not in _settings:
        data = host.data.get("fleet")
        if data is None:
            raise DeployError(
                f"{host.name} has no llamaherd settings: use llamaherd's inventory.py, "
                "or pass settings to the component, as in cuda(CudaSettings(...))"
            )
        _settings[host] = from_data(HostSettings, data)
    return _settings[host]


def host_proxy() -> ProxySettings | None:
    """The HTTP proxy of the current host; None where it has none, or no settings of ours."""
    known = current_host() in _settings or current_host().data.get("fleet") is not None
    return host_settings().proxy if known else None


def use_settings(host: Host, settings: HostSettings) -> None:
    """Give a host its settings without an inventory's data."""
    _settings[host] = settings


def forget_system(host: Host) -> None:
    """Have :func:`system` read again: the host was rebooted, or has another driver."""
    _systems.pop(host, None)


def system(**questions: Sequence[str]) -> SystemState:
    """What the current host is. Read once a run, and again after a reboot.

    + questions: the fact's arguments; heard where it is read for the first time (preflight)
    """
    host = current_host()
    if host not in _systems:
        _systems[host] = read(System, **questions)
    return _systems[host]
