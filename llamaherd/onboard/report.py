"""The report of ``llamaherd onboard``: frozen values, and the document that ``--json`` prints.

Pure data. :mod:`facts.onboarding_values` says what a box is; here stand who was asked, what
follows from it (:class:`Finding`), what it can serve, and what was written.
``schemas/onboard.report.schema.json`` describes :meth:`Report.to_document`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from facts.onboarding_values import Probe
from llamaherd.fit import row_document
from llamaherd.fit_answers import Answer

Severity = Literal["blocker", "warning", "info"]
BY_WAY_OF = "by way of"
"""Begins the error of a contact that ended at the jump host."""


@dataclass(frozen=True)
class Target:
    """A box as the user named it, and as the ssh configuration resolves that.

    + given: the words of the command line
    + hostname, user, port: what ssh would use
    + alias: the given host, when the ssh configuration turns it into something else; else empty
    + config_file: the ssh configuration given on the command line, absolute; else None
    + known_hosts: where the host key is looked up, absolute
    + key: private key given on the command line, absolute; else None
    + proxy: the jump host or proxy command on the way, in words; empty without one
    """

    given: str
    hostname: str
    user: str
    port: int = 22
    alias: str = ""
    config_file: str | None = None
    known_hosts: str | None = None
    key: str | None = None
    proxy: str = ""

    @property
    def label(self) -> str:
        """A name for people, without the user: the alias, else the address."""
        return self.alias or self.hostname


@dataclass(frozen=True)
class HostKey:
    """The box's host key.

    + kind: such as ``ssh-ed25519``; ``fingerprint`` as ssh prints it, ``SHA256:...``
    + state: ``known`` (known_hosts has it), ``unknown``, ``changed`` (another one is recorded),
      ``refused`` (it isn't the one that the user named)
    """

    kind: str
    fingerprint: str
    state: Literal["known", "unknown", "changed", "refused"]


@dataclass(frozen=True)
class Contact:
    """How the first contact went.

    + host_key: None when the box gave none (not reached, or behind a proxy)
    + methods: ways to log in that the box offers the user, such as publickey, password; empty
      when it wasn't asked
    + login: how we got in: ``key``, ``password`` or empty when we didn't
    + error: why we didn't; empty when we did
    """

    host_key: HostKey | None = None
    methods: tuple[str, ...] = ()
    login: Literal["key", "password", ""] = ""
    error: str = ""


@dataclass(frozen=True)
class Step:
    """Something done at the first contact, on the box or in known_hosts.

    + what: in words, beginning with a verb
    + undo: the command that takes it back
    + done: whether this run did it; False in a dry run, and where it was so already
    """

    what: str
    undo: str
    done: bool = False


@dataclass(frozen=True)
class Finding:
    """Something that follows from the look at a box.

    + id: stable, such as ``gpu.nouveau``
    + severity: a ``blocker`` keeps the box from serving, a ``warning`` spoils it, ``info`` tells
    + message: what is; ``remedy``: what would mend it, empty where nothing needs to
    """

    id: str
    severity: Severity
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Adoptable:
    """A file on the box that could stand for a model, and need not be downloaded.

    + model: of the fleet, else of the catalogue
    + certain: whether its SHA-256 says so; else its size and name do
    """

    model: str
    path: str
    certain: bool


@dataclass(frozen=True)
class Serves:
    """A model that the box can hold.

    + model, quant: as the catalogue or the fleet names them
    + context: the largest context, in tokens, that fits with ``kv``
    + weights, cache, compute: bytes; ``margin`` is left free besides, on all GPUs together
    + gpus: the GPUs it would lie on, by index
    + reason: why this one, or why the numbers are what they are
    """

    model: str
    quant: str
    context: int
    kv: str
    weights: int
    cache: int
    compute: int
    gpus: tuple[int, ...] = ()
    reason: str = ""
    margin: int = 0


@dataclass(frozen=True)
class Report:
    """One box.

    + steps: what the first contact took, in order
    + probe: None when it wasn't reached
    + serves: the recommended one first; ``serves_note`` says why there is none, or what isn't sized
    + fits: every model at each quantisation and K/V type, on each card, each pair, and all
    + adoptable: files that lie on the box already and could stand for a model
    + written: what ``--write`` did (:meth:`llamaherd.onboard.write.Written.document`); else None
    """

    target: Target
    contact: Contact = field(default_factory=Contact)
    probe: Probe | None = None
    steps: tuple[Step, ...] = ()
    findings: tuple[Finding, ...] = ()
    serves: tuple[Serves, ...] = ()
    serves_note: str = ""
    fits: tuple[Answer, ...] = ()
    adoptable: tuple[Adoptable, ...] = ()
    written: Mapping[str, Any] | None = None

    @property
    def reached(self) -> bool:
        """Whether the box answered the questions."""
        return self.probe is not None

    @property
    def blockers(self) -> tuple[Finding, ...]:
        """The findings that keep it from serving."""
        return tuple(finding for finding in self.findings if finding.severity == "blocker")

    @property
    def ok(self) -> bool:
        """Whether it was reached and nothing blocks."""
        return self.reached and not self.blockers

    def to_document(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {
            "ok": self.ok,
            "reached": self.reached,
            "target": dataclasses.asdict(self.target),
            "contact": _plain(self.contact),
            "probe": None if self.probe is None else _plain(self.probe),
            "steps": [dataclasses.asdict(step) for step in self.steps],
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "serves": [_plain(model) for model in self.serves],
            "serves_note": self.serves_note,
            "fits": [
                {"model": answer.model.name, **row_document(row)}
                for answer in self.fits
                for row in (*answer.rows, *answer.outside)
            ],
            "adoptable": [dataclasses.asdict(file) for file in self.adoptable],
            "written": None if self.written is None else dict(self.written),
        }


def document(reports: tuple[Report, ...]) -> dict[str, Any]:
    """What ``llamaherd onboard --json`` prints: every target, in the order given."""
    return {
        "ok": bool(reports) and all(report.ok for report in reports),
        "targets": [report.to_document() for report in reports],
    }


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, tuples as lists, all the way down."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: _plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value
