"""What operations would change, told to whoever wants to know: a drift check.

An operation records each difference it finds, with its plane, before it yields the commands that
would mend it. Outside a drift check nobody listens and recording costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

from pyinfra.api.host import Host
from pyinfra.context import ctx_host

Plane = Literal["declared", "running"]


@dataclass(frozen=True)
class Change:
    """One difference between a host and what is declared for it.

    + plane: ``declared`` for what lies on the host, ``running`` for what its processes are
    + subject: a path, a unit, a package, a model
    + summary: how it differs, in a few words
    + diff: unified diff, line by line; never a secret
    + remedy: what a person must do; empty where the next converge mends it
    + component: where it is another one's than the deploy's that found it
    + fetch: bytes that a converge brings to the host for it
    + compile_seconds: about how long a converge compiles for it
    """

    plane: Plane
    subject: str
    summary: str
    diff: tuple[str, ...] = ()
    remedy: str = ""
    component: str = ""
    fetch: int = 0
    compile_seconds: int = 0


def refusal(message: str, subject: str) -> Change:
    """A message that names place and remedy (``what is wrong: what mends it``) as a difference."""
    text = message.removeprefix("cuda: ")
    places = [match.start() for match in _COLON.finditer(text) if _outside(text[: match.start()])]
    if not places:
        return Change("declared", subject, text, remedy="mend it by hand")
    return Change("declared", subject, text[: places[-1]], remedy=text[places[-1] + 2 :])


def _outside(before: str) -> bool:
    """Whether what follows stands in no brackets, as a setting such as {provider: none} does."""
    return all(before.count(a) == before.count(b) for a, b in ("{}", "()", "[]"))


# A setting's own colon (cuda: {provider: none}) parts nothing.
_COLON = re.compile(r": (?!\{)")

Listener = Callable[[Change], None]
_listeners: WeakKeyDictionary[Host, Listener] = WeakKeyDictionary()


def listen(host: Host, listener: Listener) -> None:
    """Call ``listener`` with every change that operations record for this host from now on."""
    _listeners[host] = listener


def listened() -> bool:
    """Whether somebody listens for the current host: then operations may ask for more."""
    return ctx_host.get() in _listeners


def record(change: Change) -> None:
    """Tell the current host's listener, if there is one."""
    listener = _listeners.get(ctx_host.get())
    if listener is not None:
        listener(change)
