"""What a box's entry in the fleet file would be. Pure: a report and a fleet in, a proposal out.

A group suits where what a host gets from it (defaults < groups) can work on this box: a toolkit
where there are GPUs and none where there aren't, architectures and GPU numbers that the box has,
and models that fit as far as the report has sized them. Where none suits, a new group with one
server for the recommended model is proposed.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deploys.preflight.memory import declared_as
from inventories import catalogue
from inventories.effective import Filler, host_values
from inventories.fleet import Fleet
from inventories.semantics import MINIMUM_OPENCODE_CONTEXT, draft_of
from llamaherd.onboard.report import Report, Serves, Target
from schemas.document import Document, Node, parse_document

PORT = 8888
SERVER = "coder"
CONTEXT = 65536
"""Tokens of a session in a new group, where as many fit: what the schema defaults to."""


@dataclass(frozen=True)
class Proposal:
    """What would go into the fleet file.

    + name, entry: the host
    + groups: of the host, as in ``entry``
    + new_group, group_entry: a group made for it; empty where an existing one suits
    + new_model, model_entry: a model that the new group's server needs; empty where it is there
    + existing: the host of the fleet that this box is already; then nothing is proposed
    + notes: why, and what is not known
    """

    name: str
    entry: Mapping[str, Any] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    new_group: str = ""
    group_entry: Mapping[str, Any] = field(default_factory=dict)
    new_model: str = ""
    model_entry: Mapping[str, Any] = field(default_factory=dict)
    existing: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Verdict:
    """Whether groups suit, and what to say about it; ``rank`` sorts, the least first."""

    groups: tuple[str, ...]
    refused: str
    notes: tuple[str, ...] = ()
    rank: tuple[int, ...] = ()


def propose_entry(report: Report, fleet: Fleet, document: Document) -> Proposal:
    """The entry of a box that was looked at.

    + report: with a probe; see ``Report.reached``
    + fleet, document: the fleet that it would join, and the file that this was read from
    """
    target = report.target
    existing = _existing(target, fleet)
    if existing:
        note = f"{target.label} is the host {existing} of {fleet.path} already; nothing to write"
        return Proposal(existing, existing=existing, notes=(note,))
    name = host_name(report, {*fleet.hosts, *fleet.groups})
    trial = _Trial(document, name)
    base = trial.values(())
    ssh = _ssh(target, base["ssh"], fleet)
    notes = _contact_notes(report)
    verdicts = [_judge(report, fleet, trial.values(groups), groups) for groups in _choices(trial)]
    suiting = sorted((v for v in verdicts if not v.refused), key=lambda v: v.rank)
    if suiting:
        best = suiting[0]
        said = (f"group {', '.join(best.groups)} suits", *best.notes)
        gpus = _gpus(report, trial.values(best.groups))
        entry = {"ssh": ssh, "groups": list(best.groups), **gpus}
        return Proposal(name, entry, best.groups, notes=(*notes, *said))
    notes += tuple(f"group {', '.join(v.groups)}: {v.refused}" for v in verdicts)
    return _with_new_group(report, fleet, name, ssh, base, notes)


# Who it is --------------------------------------------------------------------------------------


def _existing(target: Target, fleet: Fleet) -> str:
    """The host with the target's address or name; empty when there is none."""
    given = target.given.rpartition("@")[2]
    for name, host in fleet.hosts.items():
        ssh = host.values["ssh"]
        address = str(ssh["hostname"]).lower().rstrip(".")
        port = ssh.get("port") or 22
        if address == target.hostname.lower().rstrip(".") and port == target.port:
            return name
        if target.alias and address == target.alias.lower():
            return name
        # A fleet's own name for it counts only where nothing else says which box that is.
        if given == name and address in (name.lower(), target.hostname.lower()):
            return name
    return ""


_NAMELESS = frozenset({"", "localhost", "localhost.localdomain", "debian", "ubuntu", "host"})


def host_name(report: Report, taken: Iterable[str]) -> str:
    """A valid name that nobody has: the alias, the box's own name, or one made of its address."""
    machine = report.probe.machine.hostname if report.probe else ""
    short = machine.lower().split(".")[0]
    if report.target.alias:
        name = report.target.alias
    elif short not in _NAMELESS:
        name = short
    else:
        name = f"host-{report.target.hostname.lower()}".replace(".", "-").replace(":", "-")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:100] or "host"
    return _unique(name, taken, "-")


def _unique(name: str, taken: Iterable[str], separator: str) -> str:
    known = {other.lower() for other in taken}
    number = 2
    unique = name
    while unique.lower() in known:
        unique = f"{name}{separator}{number}"
        number += 1
    return unique


def _ssh(target: Target, given: Mapping[str, Any], fleet: Fleet) -> dict[str, Any]:
    """How the box is reached, as far as defaults don't say it."""
    ssh: dict[str, Any] = {"hostname": target.alias or target.hostname}
    if target.user != given.get("user"):
        ssh["user"] = target.user
    # An alias stands for its port, too; a default would hide both.
    if target.port != (given.get("port") or 22) and not (target.alias and not given.get("port")):
        ssh["port"] = target.port
    folder = fleet.path.absolute().parent
    if target.key:
        ssh["key"] = _place(target.key, folder)
    if target.config_file:
        ssh["config_file"] = _place(target.config_file, folder)
    own = str(Path("~/.ssh/known_hosts").expanduser())
    if target.known_hosts not in (None, own) and not target.alias:
        ssh["known_hosts"] = _place(str(target.known_hosts), folder)
    return {
        key: value
        for key, value in ssh.items()
        if key == "hostname" or _resolved(given.get(key), folder) != _resolved(value, folder)
    }


def _resolved(path: Any, folder: Path) -> Any:
    return os.path.normpath(folder / Path(path).expanduser()) if isinstance(path, str) else path


def _place(path: str, folder: Path) -> str:
    """A path as a fleet file writes it: from its own folder, or from the user's home."""
    for root, prefix in ((folder, ""), (Path.home(), "~/")):
        if Path(path).is_relative_to(root):
            return f"{prefix}{Path(path).relative_to(root)}"
    return path


def _contact_notes(report: Report) -> tuple[str, ...]:
    notes = [f"{finding.message} ({finding.id})" for finding in report.blockers]
    if report.contact.login == "password":
        notes.append("the login was by password: converge needs a key, or ssh.password")
    if report.probe is not None and report.probe.access.sudo == "password":
        notes.append("sudo asks for a password: set ssh.sudo_password, or allow it without")
    return tuple(notes)


# Which groups suit ------------------------------------------------------------------------------


class _Trial:
    """The fleet file with one host, to see what groups would give it."""

    def __init__(self, document: Document, name: str) -> None:
        if document.root is None:
            raise ValueError("a document without a root holds no groups")
        self.root = document.root
        self.name = name
        self.filler = Filler()

    def values(self, groups: Sequence[str]) -> dict[str, Any]:
        """The effective values of a host that is in these groups and says nothing itself."""
        host = parse_document(yaml.safe_dump({self.name: {"groups": list(groups)}}).encode(), "")
        root = Node("mapping", {**self.root.value, "hosts": host.root}, self.root.mark)
        root.keys = self.root.keys
        draft = draft_of(root)
        return host_values(draft.hosts[self.name], self.name, self.filler)

    def names(self, section: str) -> tuple[str, ...]:
        """The names in a section of the file."""
        node = self.root.get(section)
        return tuple(node.value) if node is not None and node.kind == "mapping" else ()


def _choices(trial: _Trial) -> list[tuple[str, ...]]:
    """Groups to choose from: as hosts have them together, the most common first; then each."""
    hosts = trial.root.get("hosts")
    lists: Counter[tuple[str, ...]] = Counter()
    for host in hosts.value.values() if hosts is not None and hosts.kind == "mapping" else ():
        groups = host.get("groups")
        if groups is not None and groups.kind == "sequence" and groups.value:
            lists[tuple(item.value for item in groups.value)] += 1
    together = [groups for groups, _ in lists.most_common()]
    single = [(group,) for group in trial.names("groups")]
    return [*together, *(groups for groups in single if groups not in lists)]


def _judge(
    report: Report, fleet: Fleet, values: Mapping[str, Any], groups: tuple[str, ...]
) -> _Verdict:
    refused = _refusal(report, values)
    if refused:
        return _Verdict(groups, refused)
    fits, notes = _fit(report, fleet, values["servers"])
    if fits is False:
        return _Verdict(groups, notes[0])
    members = [host for host in fleet.hosts.values() if set(groups) <= set(host.groups)]
    same = sum(bool(_same_class(report, host.values)) for host in members)
    rank = (0 if fits else 1, -same, -len(members))
    return _Verdict(groups, "", tuple(notes), rank)


def _refusal(report: Report, values: Mapping[str, Any]) -> str:
    """Why a host with these values can't be this box; empty when it can."""
    if not values["servers"]:
        return "it has no server"
    assert report.probe is not None
    count = len(report.probe.gpus) or len(report.probe.pci)
    provider = (values.get("cuda") or {}).get("provider")
    if provider in (None, "none") and count:
        return "it is for hosts without GPUs (cuda.provider none)"
    if provider not in (None, "none") and not count:
        return "it is for hosts with GPUs, and this box has none"
    wanted = set((values.get("llama_cpp") or {}).get("architectures") or ())
    missing = _architectures(report) - {a.rstrip("af") for a in wanted}
    if wanted and missing:
        return f"it is built for {', '.join(sorted(wanted))}, not {', '.join(sorted(missing))}"
    uuids = {gpu.uuid for gpu in report.probe.gpus}
    for server, settings in values["servers"].items():
        gpus = settings.get("gpus", "all")
        beyond = [] if gpus == "all" else [g for g in gpus if not _has_gpu(g, count, uuids)]
        if beyond:
            return f"its server {server} wants GPU {', '.join(beyond)}, and there are {count}"
    return ""


def _has_gpu(gpu: str, count: int, uuids: set[str]) -> bool:
    return int(gpu) < count if gpu.isdecimal() else gpu in uuids


def _architectures(report: Report) -> set[str]:
    probe = report.probe
    return {gpu.architecture for gpu in probe.gpus if gpu.architecture} if probe else set()


def _same_class(report: Report, values: Mapping[str, Any]) -> bool:
    """Whether a host's entry names the architectures that this box has."""
    named = (values.get("llama_cpp") or {}).get("architectures") or ()
    return bool(named) and {str(a).rstrip("af") for a in named} == _architectures(report)


def _fit(
    report: Report, fleet: Fleet, servers: Mapping[str, Mapping[str, Any]]
) -> tuple[bool | None, list[str]]:
    """Whether the servers fit: None where nobody knows."""
    known = True
    notes: list[str] = []
    for name, model, server in _each_model(servers):
        wanted = int(server["context"]) * int(server["parallel"])
        sized = [s for s in report.serves if s.model == model and _same_quant(s, fleet)]
        largest = max((s.context for s in sized), default=None)
        if largest is not None and largest < wanted:
            said = f"its server {name} wants {wanted:,} tokens of context, and {largest:,} fit"
            return False, [said]
        if not any(_same_cache(s, server) for s in sized):
            known = False
            notes.append(f"whether {model} with {wanted:,} tokens of context fits is not known")
    if known and len(servers) > 1:
        notes.append("each server fits by itself; whether all do at once is not known")
    return known or None, notes


def _each_model(
    servers: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Each server's name with a model of it, and the settings that hold for that model."""
    for name, server in servers.items():
        several = server.get("models")
        for model, own in several.items() if several else [(str(server.get("model")), {})]:
            yield name, model, {**server, **(own or {})}


def _same_cache(serves: Serves, server: Mapping[str, Any]) -> bool:
    """Whether the server's cache is no larger than the one that was sized."""
    types = (server.get("cache_type_k"), *server.get("extra_args", ()))
    return serves.kv in ("", "f16") or serves.kv in types


def _same_quant(serves: Serves, fleet: Fleet) -> bool:
    written = fleet.models.get(serves.model, {}).get("hub", {}).get("quant")
    return written is None or not serves.quant or written.lower() == serves.quant.lower()


# A new group ------------------------------------------------------------------------------------


def _with_new_group(
    report: Report,
    fleet: Fleet,
    name: str,
    ssh: Mapping[str, Any],
    base: Mapping[str, Any],
    notes: tuple[str, ...],
) -> Proposal:
    for serves in report.serves:
        model = _model(serves, fleet)
        if model is None or serves.context < MINIMUM_OPENCODE_CONTEXT:
            continue
        taken = {*fleet.groups, *fleet.hosts, name}
        group = _unique(_group_name(serves.model), taken, "_")
        why = f": {serves.reason}" if serves.reason else ""
        notes = (*notes, f"no group suits; a new one, {group}, serves {serves.model}{why}")
        return Proposal(
            name,
            {"ssh": ssh, "groups": [group], **_gpus(report, base)},
            (group,),
            new_group=group,
            group_entry=_group(report, fleet, serves, base),
            new_model="" if serves.model in fleet.models else serves.model,
            model_entry=model,
            notes=notes,
        )
    why = report.serves_note or "no model of the fleet or the catalogue is known to fit"
    return Proposal(name, {"ssh": ssh}, notes=(*notes, f"no group suits, and none is made: {why}"))


def _model(serves: Serves, fleet: Fleet) -> Mapping[str, Any] | None:
    """What ``models:`` needs for it: nothing where the fleet has it; None if nothing would do."""
    if serves.model in fleet.models:
        return {}
    if serves.model not in catalogue.names():
        return None
    quant = catalogue.entry(serves.model).quant
    other = {"hub": {"quant": serves.quant}} if serves.quant not in ("", quant) else {}
    return {"catalogue": serves.model, **other}


def _group_name(model: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_]+", "_", model).strip("_").lower()
    return name if name[:1].isalpha() else f"models_{name}"


def _group(report: Report, fleet: Fleet, serves: Serves, base: Mapping[str, Any]) -> dict[str, Any]:
    """One server for the model, what builds it where defaults don't say, and OpenCode."""
    parallel = 2 if serves.context >= 2 * CONTEXT else 1
    context = min(CONTEXT, serves.context // parallel)
    server: dict[str, Any] = {
        "model": serves.model,
        "port": PORT,
        "context": max(MINIMUM_OPENCODE_CONTEXT, context - context % 1024),
        "parallel": parallel,
    }
    if serves.kv not in ("", "f16"):
        server |= {"cache_type_k": serves.kv, "cache_type_v": serves.kv}
    group: dict[str, Any] = {}
    cuda = _cuda(report, base)
    if cuda:
        group["cuda"] = cuda
    builds = [h.values["llama_cpp"] for h in fleet.hosts.values() if h.values.get("llama_cpp")]
    if not base.get("llama_cpp") and builds:
        keys = ("repository", "ref", "archive", "commit", "build_number")
        group["llama_cpp"] = {key: builds[0][key] for key in keys if builds[0].get(key)}
    group["servers"] = {SERVER: server}
    group["opencode"] = {"users": [report.target.user]}
    return group


def _gpus(report: Report, values: Mapping[str, Any]) -> dict[str, Any]:
    """The box's cards: with them ``llamaherd validate`` knows what fits."""
    found = declared_as(report.probe.gpus) if report.probe is not None else []
    return {"gpus": found} if found and found != values.get("gpus") else {}


def _cuda(report: Report, base: Mapping[str, Any]) -> dict[str, str]:
    """What the group has to say of CUDA; nothing where the defaults are right for the box."""
    written = (base.get("cuda") or {}).get("provider")
    suits = cuda_for(report)
    if suits["provider"] == "none":
        return {} if written == "none" else suits
    return {} if written not in (None, "none") else suits


def cuda_for(report: Report) -> dict[str, str]:
    """The toolkit that a box's driver runs; none where it has no GPU."""
    assert report.probe is not None
    if not (report.probe.gpus or report.probe.pci):
        return {"provider": "none"}
    highest = report.probe.driver.cuda.partition(".")[0]
    newest = not highest.isdecimal() or int(highest) >= 13
    return {"provider": "nvidia-repo", "version": "13.0" if newest else "12.8"}
