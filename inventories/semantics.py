"""The rules of a fleet file that a JSON Schema cannot say.

They run on the merged hosts, so that an incomplete section in a group is fine as long as every
host ends up whole. Hosts whose merged sections are the very same nodes form a *profile* and are
checked once; a problem that several hosts share is reported once, with the first host's name and
how many others there are. Values that the schema already refused have the kind ``invalid`` and are
passed over.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from inventories.addresses import is_loopback
from inventories.builds import build_of_ref, too_old
from inventories.catalogue import names as catalogue_names
from inventories.catalogue import unknown as unknown_in_catalogue
from inventories.catalogue import with_catalogue
from inventories.cmake import misspelt, setting_of
from inventories.merge import (
    empty_mapping,
    find_cycles,
    group_order,
    merge,
    own_build,
    own_toolkit,
)
from inventories.opencode_version import refusal
from inventories.references import (
    claude_code_server,
    find_provider,
    model_references,
    resolve_default,
    resolve_providers,
    split_model,
)
from inventories.server_rules import server_findings
from schemas.document import Document, Mark, Node, dotted, printable
from schemas.problems import Problem
from schemas.validate import did_you_mean

MINIMUM_OPENCODE_CONTEXT = 8192
"""Tokens: OpenCode's system prompt and tools alone fill about this much of a session."""

OPENCODE_WITHOUT_PATTERNS = ("todowrite", "question", "webfetch", "websearch", "doom_loop")
"""Tools whose permission is one word in OpenCode's own schema (1.18.33: PermissionConfig)."""

FIRST_BRANCH_WITH_OPEN_MODULES_ONLY = 620
"""NVIDIA's driver installation guide of that branch, "Proprietary Kernel Modules Removed"."""

SECTIONS = ("cuda", "driver", "llama_cpp", "servers", "opencode", "clients")
"""What a profile is made of; ``ssh`` differs from host to host."""


@dataclass(frozen=True)
class Draft:
    """A fleet file after merging, before its rules are checked.

    + models: the nodes by name, on top of the catalogue's where they name one
    + groups: the nodes as written, by name
    + written: the hosts as written, by name
    + marks: where the key of each host is
    + hosts: the merged settings of each host
    + host_groups: each host's groups in the order of merging
    """

    root: Node
    models: Mapping[str, Node]
    groups: Mapping[str, Node]
    written: Mapping[str, Node]
    marks: Mapping[str, Mark]
    hosts: Mapping[str, Node]
    host_groups: Mapping[str, tuple[str, ...]]


def draft_of(root: Node) -> Draft:
    """Merge every host. Whatever cannot be used (unknown groups, refused values) is left out."""
    groups, written = _entries(root, "groups"), _entries(root, "hosts")
    includes = {name: _group_names(node) for name, node in groups.items()}
    defaults = merge(empty_mapping((1, 1)), _settings(root.get("defaults")))
    bases: dict[tuple[str, ...], Node] = {(): defaults}
    orders: dict[tuple[str, ...], tuple[str, ...]] = {}
    hosts: dict[str, Node] = {}
    host_groups: dict[str, tuple[str, ...]] = {}
    for name, node in written.items():
        listed = _group_names(node)
        order = orders.get(listed)
        if order is None:
            order = orders[listed] = group_order(listed, includes)
            base = defaults
            for group in order:
                base = merge(base, _settings(groups[group]))
            bases[order] = base
        hosts[name] = merge(bases[order], _settings(node))
        host_groups[name] = order
    hosts_node = root.get("hosts")
    marks = hosts_node.keys if hosts_node is not None else {}
    models = {name: with_catalogue(node) for name, node in _entries(root, "models").items()}
    return Draft(root, models, groups, written, marks, hosts, host_groups)


def check_draft(draft: Draft, document: Document) -> list[Problem]:
    """Every problem that the rules find."""
    rules = _Rules(draft)
    rules.check()
    return [
        Problem(document.position(finding.mark), dotted(finding.path), printable(finding.text()))
        for finding in rules.findings.values()
    ]


@dataclass
class _Finding:
    """One problem and the hosts that have it; ``hosts`` is empty for the file's own problems."""

    mark: Mark
    path: tuple[str | int, ...]
    message: str
    hosts: dict[str, None] = field(default_factory=dict)

    def text(self) -> str:
        others = len(self.hosts) - 1
        if others < 1:
            return self.message
        return f"{self.message} (and on {others:,} more host{'s' if others > 1 else ''})"


@dataclass(frozen=True)
class _Profile:
    """Hosts that share every section but ``ssh``."""

    node: Node
    hosts: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.hosts[0]


class _Rules:
    """Runs every rule over a draft and gathers what they find."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.findings: dict[tuple[Any, ...], _Finding] = {}

    def check(self) -> None:
        self._groups()
        self._names()
        self._models()
        self._addresses()
        self._controllers()
        for profile in self._profiles():
            rules = (_host_toolkit, _driver, _host_build, _server_builds, _servers, *_CLIENTS)
            for rule in rules:
                rule(profile, self)

    def report(self, mark: Mark, path: tuple[str | int, ...], message: str) -> None:
        """A problem of the file, not of one merged host."""
        self.findings.setdefault((mark, path, message), _Finding(mark, path, message))

    def on_host(
        self, profile: _Profile, mark: Mark, path: tuple[str | int, ...], message: str
    ) -> None:
        """A problem of the merged hosts of a profile; one line, however many hosts have it."""
        first = _Finding(mark, ("hosts", profile.name, *path), message)
        finding = self.findings.setdefault((mark, path, message), first)
        finding.hosts.update(dict.fromkeys(profile.hosts))

    def _groups(self) -> None:
        groups = self.draft.groups
        for section, owners in (("groups", groups), ("hosts", self.draft.written)):
            for owner, node in owners.items():
                for index, item in enumerate(_group_items(node)):
                    if item.kind == "string" and item.value not in groups:
                        hint = did_you_mean(item.value, groups, known_as="groups of this file")
                        message = f"there is no group {item.value}{hint}"
                        self.report(item.mark, (section, owner, "groups", index), message)
        includes = {name: _group_names(node) for name, node in groups.items()}
        for cycle in find_cycles(includes):
            last, first = cycle[-1], cycle[0]
            index = includes[last].index(first)
            item = _group_items(groups[last])[index]
            shown = " -> ".join((*cycle, first))
            message = f"groups cannot include each other: {shown}"
            self.report(item.mark, ("groups", last, "groups", index), message)

    def _names(self) -> None:
        groups_node = self.draft.root.get("groups")
        for name in self.draft.groups:
            mark = groups_node.keys[name] if groups_node is not None else (1, 1)
            if keyword.iskeyword(name):
                self.report(mark, ("groups", name), f"{name} is a word of Python; use another name")
            if name in self.draft.hosts:
                message = (
                    f"a host has the name {name} as well, and `--limit {name}` could mean both"
                )
                self.report(mark, ("groups", name), message)

    def _models(self) -> None:
        for name, node in self.draft.models.items():
            digest, projector = node.get("sha256"), node.get("mmproj")
            if node.get("hub") is not None and digest is not None:
                message = "a hub's checksums are found by `llamaherd lock`; delete this"
                self.report(node.keys["sha256"], ("models", name, "sha256"), message)
            if projector is not None and projector.value is True and node.get("hub") is None:
                message = "only a hub's repository holds a projector; delete this"
                self.report(projector.mark, ("models", name, "mmproj"), message)
            if node.kind == "mapping":
                self._model_source(name, node)
            for adapter, place in _entries(node, "adapters").items():
                if place.kind == "mapping":
                    self._adapter(("models", name, "adapters", adapter), node, place)

    def _model_source(self, name: str, node: Node) -> None:
        """A model, its catalogue entry counted in, comes from exactly one place."""
        models, path = self.draft.root.get("models"), ("models", name)
        key = models.keys[name] if models is not None else node.mark
        named = node.get("catalogue")
        if named is not None and named.kind == "string" and named.value not in catalogue_names():
            self.report(named.mark, (*path, "catalogue"), unknown_in_catalogue(named.value))
            return
        _exactly_one(node, ("hub", "url", "path"), key, path, self)
        hub = node.get("hub")
        if hub is not None and hub.kind == "mapping":
            if "repo" not in hub.value:
                self.report(node.keys["hub"], (*path, "hub"), "repo is missing")
            _exactly_one(hub, ("quant", "file"), node.keys["hub"], (*path, "hub"), self)

    def _adapter(self, path: tuple[str, ...], model: Node, place: Node) -> None:
        """An adapter comes from exactly one place, too."""
        key = model.value["adapters"].keys[path[-1]]
        _exactly_one(place, ("hub", "url", "path"), key, path, self)
        if place.get("hub") is not None and place.get("sha256") is not None:
            message = "a hub's checksums are found by `llamaherd lock`; delete this"
            self.report(place.keys["sha256"], (*path, "sha256"), message)

    def _addresses(self) -> None:
        """Two hosts at one address and port are one machine with two opinions about it."""
        seen: dict[tuple[str, int], str] = {}
        for name, merged in self.draft.hosts.items():
            ssh = merged.get("ssh")
            hostname = ssh.get("hostname") if ssh is not None else None
            port = ssh.get("port") if ssh is not None else None
            if _refused(hostname) or _refused(port):
                continue
            where = str(hostname.value) if hostname is not None else name
            number = int(port.value) if port is not None else 22
            other = seen.setdefault((where.lower().rstrip("."), number), name)
            if other != name:
                mark = hostname.mark if hostname is not None else self.draft.marks[name]
                place = where if number == 22 else f"{where} port {number}"
                message = f"{place} is the host {other} already; a host has one entry"
                self.report(mark, ("hosts", name, "ssh", "hostname"), message)

    def _controllers(self) -> None:
        """One host checks the fleet: two would say everything twice."""
        first = ""
        for name, merged in self.draft.hosts.items():
            controller = merged.get("controller")
            if controller is None or controller.value is not True:
                continue
            if first:
                message = (
                    f"{first} is the controller already; a fleet has one: "
                    "set controller: true on that host alone"
                )
                self.report(controller.mark, ("hosts", name, "controller"), message)
            first = first or name

    def _profiles(self) -> Iterator[_Profile]:
        """Hosts grouped by the identity of their merged sections."""
        found: dict[tuple[int, ...], list[str]] = {}
        for name, merged in self.draft.hosts.items():
            if self.draft.written[name].kind == "invalid":
                continue
            entries = merged.value
            found.setdefault(tuple(id(entries.get(s)) for s in SECTIONS), []).append(name)
        for names in found.values():
            yield _Profile(self.draft.hosts[names[0]], tuple(names))


def _exactly_one(
    node: Node, names: tuple[str, ...], key: Mark, path: tuple[str, ...], rules: _Rules
) -> None:
    """Report a mapping that has none of these keys, or more than one."""
    present = [name for name in names if name in node.value]
    if not present:
        rules.report(key, path, f"needs exactly one of {', '.join(names[:-1])} and {names[-1]}")
    for name in present[1:]:
        message = f"{present[0]} and {name} exclude each other; keep one"
        rules.report(node.keys[name], path, message)


def _host_toolkit(profile: _Profile, rules: _Rules) -> None:
    cuda = profile.node.get("cuda")
    if cuda is not None and cuda.kind == "mapping":
        _cuda(profile, cuda, profile.node.keys["cuda"], (), rules)


def _driver(profile: _Profile, rules: _Rules) -> None:
    driver = profile.node.get("driver")
    if driver is None or driver.kind != "mapping":
        return
    branch, modules = _value(driver, "branch", 580), _value(driver, "modules", "open")
    if _value(driver, "manage", False) is not True or branch is None:
        return
    if modules == "proprietary" and branch >= FIRST_BRANCH_WITH_OPEN_MODULES_ONLY:
        message = f"driver {branch} has open kernel modules only: set this to open"
        rules.on_host(profile, driver.value["modules"].mark, ("driver", "modules"), message)


def _host_build(profile: _Profile, rules: _Rules) -> None:
    build = profile.node.get("llama_cpp")
    if build is not None and build.kind == "mapping":
        mark = profile.node.keys["llama_cpp"]
        _llama_cpp(profile, build, mark, profile.node.get("cuda"), (), rules)


def _server_builds(profile: _Profile, rules: _Rules) -> None:
    """Servers with a build or a toolkit of their own: each is checked as it comes out merged."""
    for name, server in _entries(profile.node, "servers").items():
        if server.kind != "mapping":
            continue
        where: tuple[str, ...] = ("servers", name)
        build, toolkit = own_build(server, profile.node), own_toolkit(server, profile.node)
        if toolkit is not None:
            _cuda(profile, toolkit, server.keys["cuda"], where, rules)
        effective = toolkit or profile.node.get("cuda")
        if build is not None:
            _llama_cpp(profile, build, server.keys["llama_cpp"], effective, where, rules)


def _cuda(profile: _Profile, cuda: Node, mark: Mark, where: tuple[str, ...], rules: _Rules) -> None:
    provider = _value(cuda, "provider", "nvidia-repo")
    needed = {"existing": "path", "nvidia-repo": "version", "wheels": "version"}.get(str(provider))
    if needed is not None and needed not in cuda.value:
        example = {"path": "/usr/local/cuda-13.0", "version": '"13.0"'}[needed]
        message = f"{needed} is missing: the provider {provider} needs it, such as {example}"
        if "provider" not in cuda.value:
            message += " (on a host without a GPU: provider: none)"
        rules.on_host(profile, mark, (*where, "cuda"), message)


def _llama_cpp(
    profile: _Profile,
    build: Node,
    mark: Mark,
    cuda: Node | None,
    where: tuple[str, ...],
    rules: _Rules,
) -> None:
    """A build of a host or, at ``where``, of one of its servers; ``mark`` is its section's."""
    path = (*where, "llama_cpp")
    ref, archive = build.get("ref"), build.get("archive")
    if ref is None and archive is None:
        message = "needs a source: ref (a tag such as b8146) or archive"
        rules.on_host(profile, mark, path, message)
    elif ref is not None and archive is not None:
        message = "ref and archive exclude each other; set the one you do not want to null"
        later = max(build.keys["ref"], build.keys["archive"])
        rules.on_host(profile, later, path, message)
    elif ref is not None:
        _only_with_archive(profile, build, path, rules)
    else:
        _archive(profile, build, path, rules)
    if cuda is None:
        message = (
            "cuda is missing on this host: say which toolkit builds llama.cpp, "
            "or cuda: {provider: none} on a host without a GPU"
        )
        rules.on_host(profile, mark, path, message)
    else:
        _backends(profile, build, cuda, path, rules)
    _definitions(profile, build, cuda, path, rules)


def _backends(
    profile: _Profile, build: Node, cuda: Node, path: tuple[str, ...], rules: _Rules
) -> None:
    """CUDA is for builds that have a toolkit, and its settings for builds that have CUDA."""
    written = build.get("backends")
    if _refused(written) or _refused(cuda.get("provider")):
        return
    toolkit = _value(cuda, "provider", "nvidia-repo") != "none"
    names = [item.value for item in written.value] if written is not None else []
    if written is not None and "cuda" in names and not toolkit:
        message = "cuda needs a toolkit, and cuda.provider is none: set that, or drop cuda here"
        rules.on_host(profile, written.mark, (*path, "backends"), message)
    if "cuda" in names or (toolkit and not names):
        return
    for key in ("flash_attention_quants", "static"):
        child = build.get(key)
        if child is not None and child.kind != "invalid" and child.value is not False:
            message = "only a build with the backend cuda has this; delete it"
            rules.on_host(profile, build.keys[key], (*path, key), message)


def _definitions(
    profile: _Profile, build: Node, cuda: Node | None, path: tuple[str, ...], rules: _Rules
) -> None:
    """Further CMake definitions may not contradict what llamaherd sets itself."""
    provider = _provider_of_cuda(build, cuda) if cuda is not None else None
    for name, value in _entries(build, "cmake").items():
        setting, right = setting_of(name, build.value, provider), misspelt(name)
        if setting is not None:
            message = f"llamaherd sets this itself; the setting for it is {setting}"
            rules.on_host(profile, value.mark, (*path, "cmake", name), message)
        elif right is not None:
            message = f"CMake would ignore this: it knows {right}"
            rules.on_host(profile, value.mark, (*path, "cmake", name), message)


def _provider_of_cuda(build: Node, cuda: Node) -> str | None:
    """Where a build that computes with CUDA has its toolkit from; None for any other build."""
    backends, provider = build.get("backends"), _value(cuda, "provider", "nvidia-repo")
    if backends is not None and backends.kind == "sequence":
        used = any(item.value == "cuda" for item in backends.value)
    else:
        used = backends is None
    return str(provider) if used and provider not in ("none", None) else None


def _only_with_archive(
    profile: _Profile, build: Node, path: tuple[str, ...], rules: _Rules
) -> None:
    for key in ("commit", "build_number"):
        if key in build.value:
            message = f"{key} goes with archive; `llamaherd lock` finds that of a ref. Delete this"
            rules.on_host(profile, build.keys[key], (*path, key), message)


def _archive(profile: _Profile, build: Node, above: tuple[str, ...], rules: _Rules) -> None:
    archive = build.value["archive"]
    for key in ("commit", "build_number"):
        if key not in build.value:
            message = f"archive needs {key} beside it: an archive does not say what it was made of"
            rules.on_host(profile, build.keys["archive"], above, message)
    if archive.kind != "mapping":
        return
    path, mark = (*above, "archive"), build.keys["archive"]
    sources = [key for key in ("url", "path") if key in archive.value]
    if not sources:
        rules.on_host(profile, mark, path, "needs exactly one of url and path")
    elif len(sources) == 2:
        later = max(archive.keys[key] for key in sources)
        message = "url and path exclude each other; set the one you do not want to null"
        rules.on_host(profile, later, path, message)
    if "sha256" not in archive.value:
        rules.on_host(profile, mark, path, "sha256 is missing: the archive is not used unverified")


def _servers(profile: _Profile, rules: _Rules) -> None:
    servers = _entries(profile.node, "servers")
    if not servers:
        return
    if profile.node.get("llama_cpp") is None and not all(_own_build(s) for s in servers.values()):
        message = (
            "llama_cpp is missing on this host: its servers need a build, such as {ref: b8146}"
        )
        rules.on_host(profile, profile.node.keys["servers"], ("servers",), message)
    keys = profile.node.value["servers"].keys
    ports: dict[int, tuple[str, Mark]] = {}
    for name, server in servers.items():
        if server.kind != "mapping":
            continue
        _server(profile, name, server, keys[name], rules)
        port = server.get("port")
        if port is None or port.kind != "integer":
            continue
        other, where = ports.setdefault(port.value, (name, port.mark))
        if other != name:
            message = f"port {port.value} is the server {other}'s (line {where[0]}); take another"
            rules.on_host(profile, port.mark, ("servers", name, "port"), message)


def _own_build(server: Node) -> bool:
    return server.kind != "mapping" or server.get("llama_cpp") is not None


def _server(profile: _Profile, name: str, server: Node, key: Mark, rules: _Rules) -> None:
    path = ("servers", name)
    for mark, below, message in server_findings(server, key, rules.draft.models):
        rules.on_host(profile, mark, (*path, *below), message)
    model = server.get("model")
    several = [model.value] if model is not None and model.kind == "string" else []
    for served in (*several, *_entries(server, "models")):
        if served in rules.draft.models:
            _build_of_model(profile, name, server, served, rules)
    _draft(profile, name, server, rules)
    host = _value(server, "host", "127.0.0.1")
    open_to_all = _value(server, "insecure", False)
    unprotected = "api_key" not in server.value and open_to_all is False
    if host is not None and unprotected and not is_loopback(str(host)):
        message = (
            f"{host} can be reached from other machines, and there is no api_key: "
            "set api_key: {env: NAME}, or insecure: true if that is meant"
        )
        rules.on_host(profile, server.value["host"].mark, (*path, "host"), message)


def _draft(profile: _Profile, name: str, server: Node, rules: _Rules) -> None:
    """A draft model is another model of the fleet."""
    draft = server.get("draft")
    if draft is None or draft.kind != "mapping":
        return
    path = ("servers", name, "draft")
    model = draft.get("model")
    if model is None:
        message = "model is missing: say which model drafts"
        rules.on_host(profile, server.keys["draft"], path, message)
    elif model.kind == "string" and model.value not in rules.draft.models:
        hint = did_you_mean(model.value, rules.draft.models, known_as="models of this file")
        message = f"there is no model {model.value}{hint}"
        rules.on_host(profile, model.mark, (*path, "model"), message)
    elif model.kind == "string" and model.value == _value(server, "model", ""):
        message = f"{model.value} can't draft for itself: name a smaller model of its family"
        rules.on_host(profile, model.mark, (*path, "model"), message)


def _build_of_model(profile: _Profile, name: str, server: Node, model: str, rules: _Rules) -> None:
    """A ref or archive that says its build must be new enough; the lock knows the others."""
    own = server.get("llama_cpp")
    section = own if own is not None else profile.node.get("llama_cpp")
    path = ("servers", name, "llama_cpp") if own is not None else ("llama_cpp",)
    lowest = rules.draft.models[model].get("llama_cpp_build")
    if section is None or section.kind != "mapping" or lowest is None or lowest.kind != "integer":
        return
    ref, number = section.get("ref"), section.get("build_number")
    if ref is not None and ref.kind == "string" and "repository" not in section.value:
        key, mark, build = "ref", ref.mark, build_of_ref(ref.value)
    elif "archive" in section.value and number is not None and number.kind == "integer":
        key, mark, build = "build_number", number.mark, number.value
    else:
        return
    message = too_old(build, lowest.value, model) if build is not None else ""
    if message:
        rules.on_host(profile, mark, (*path, key), message)


def _opencode(profile: _Profile, rules: _Rules) -> None:
    section = profile.node.get("opencode")
    if section is None or section.kind != "mapping":
        return
    key = profile.node.keys["opencode"]
    version = section.get("version")
    if version is not None and version.kind == "string" and (said := refusal(version.value)):
        rules.on_host(profile, version.mark, ("opencode", "version"), said)
    _permissions(profile, section, ("opencode",), rules)
    for name, agent in _entries(section, "agents").items():
        _permissions(profile, agent, ("opencode", "agents", name), rules)
    written = _entries(section, "providers")
    whole = True
    for name, provider in written.items():
        if provider.kind == "mapping" and "server" not in provider.value:
            mark = section.value["providers"].keys[name]
            path = ("opencode", "providers", name)
            message = "server is missing: SERVER of this host, or HOST/SERVER"
            rules.on_host(profile, mark, path, message)
        server = provider.get("server")
        whole = whole and server is not None and server.kind == "string"
    if not whole or _refused(section.get("providers")) or _refused(section.get("default")):
        return
    _references(profile, section, key, rules)


def _references(profile: _Profile, section: Node, key: Mark, rules: _Rules) -> None:
    plain = section.usable()
    servers = tuple(_entries(profile.node, "servers"))
    # "" stands for the host itself, whichever of the profile's hosts that is.
    providers = resolve_providers("", plain, servers)
    if not providers:
        message = (
            f"say which server OpenCode starts with: default: {' or '.join(servers)}"
            if servers
            else "OpenCode has no server to talk to: set default: HOST/SERVER"
        )
        rules.on_host(profile, key, ("opencode",), message)
        return
    references = model_references(plain)
    if plain.get("default"):
        references = {("default",): plain["default"], **references}
    for name, (host, server) in providers.items():
        provider = _entries(section, "providers").get(name)
        if provider is not None:
            mark = provider.value["server"].mark
            path: tuple[str, ...] = ("opencode", "providers", name, "server")
        else:
            below = next(
                (
                    where
                    for where, reference in references.items()
                    if find_provider("", split_model(reference)[0], providers) == name
                ),
                (),
            )
            path = ("opencode", *below)
            mark = _at(section, below).mark if below else key
        _target(profile, (host, server), mark, path, rules)
    for below, reference in model_references(plain).items():
        _model_of(profile, reference, providers, _at(section, below).mark, below, rules)
    if resolve_default("", plain, providers) is None:
        message = f"default is missing: say which provider comes first: {', '.join(providers)}"
        rules.on_host(profile, key, ("opencode",), message)


def _claude_code(profile: _Profile, rules: _Rules) -> None:
    clients = profile.node.get("clients")
    section = clients.get("claude_code") if clients is not None else None
    if clients is None or section is None or section.kind != "mapping":
        return
    server = section.get("server")
    if _refused(server):
        return
    path: tuple[str, ...] = ("clients", "claude_code")
    key = clients.keys["claude_code"]
    servers = tuple(_entries(profile.node, "servers"))
    target = claude_code_server("", section.usable(), servers)
    if target is None:
        message = (
            f"say which server Claude Code talks to: server: {' or '.join(servers)}"
            if servers
            else "Claude Code has no server to talk to: set server: HOST/SERVER"
        )
        rules.on_host(profile, key, path, message)
        return
    if server is None:
        _target(profile, target, key, path, rules, "Claude Code")
    else:
        _target(profile, target, server.mark, (*path, "server"), rules, "Claude Code")
    for name in ("model", "small_model"):
        model = section.get(name)
        if model is not None and model.kind == "string":
            message = _missing_model(profile, target, str(model.value), target[1], rules)
            if message:
                rules.on_host(profile, model.mark, (*path, name), message)


_CLIENTS = (_opencode, _claude_code)


def _at(node: Node, path: tuple[str, ...]) -> Node:
    for name in path:
        node = node.value[name]
    return node


def _model_of(
    profile: _Profile,
    reference: str,
    providers: Mapping[str, tuple[str, str]],
    mark: Mark,
    below: tuple[str, ...],
    rules: _Rules,
) -> None:
    """Check the model that ``SERVER:MODEL`` names: it must be one that the server has."""
    name, model = split_model(reference)
    provider = find_provider("", name, providers)
    if model is None or provider is None:
        return
    if message := _missing_model(profile, providers[provider], model, name, rules):
        rules.on_host(profile, mark, ("opencode", *below), message)


def _missing_model(
    profile: _Profile, target: tuple[str, str], model: str, name: str, rules: _Rules
) -> str:
    """Why a server can't be asked for a model; empty where it can, or where there is no server."""
    host, server = target
    merged = rules.draft.hosts.get(host or profile.name)
    node = _entries(merged, "servers").get(server) if merged is not None else None
    if node is None or node.kind != "mapping":
        return ""
    alone = node.get("model")
    models = [*_entries(node, "models"), *([str(alone.value)] if alone is not None else [])]
    if model in models:
        return ""
    return f"{name} has no model {model}{did_you_mean(model, models, known_as='models')}"


def _permissions(profile: _Profile, owner: Node, path: tuple[str, ...], rules: _Rules) -> None:
    """OpenCode takes patterns for most tools; for some only one word."""
    for tool, rule in _entries(owner, "permission").items():
        if tool in OPENCODE_WITHOUT_PATTERNS and rule.kind == "mapping":
            message = f"{tool} takes allow, ask or deny, and no patterns"
            rules.on_host(profile, rule.mark, (*path, "permission", tool), message)


def _target(
    profile: _Profile,
    target: tuple[str, str],
    mark: Mark,
    path: tuple[str, ...],
    rules: _Rules,
    client: str = "OpenCode",
) -> None:
    """Check the server that a client's reference means; host "" is the profile's own."""
    host, name = target[0] or profile.name, target[1]
    hosts = rules.draft.hosts
    if host not in hosts:
        message = f"there is no host {host}{did_you_mean(host, hosts, known_as='hosts')}"
        rules.on_host(profile, mark, path, message)
        return
    server = _entries(hosts[host], "servers").get(name)
    if server is None:
        where = host if target[0] else "this host"
        message = f"there is no server {name} on {where}{_server_hint(host, name, hosts)}"
        rules.on_host(profile, mark, path, message)
        return
    if server.kind != "mapping":
        return
    if _value(server, "unix_socket", False) is True:
        message = f"{host}/{name} listens on a unix socket, where {client} can't: give it a port"
        rules.on_host(profile, mark, path, message)
    _enough_context(host, name, server, client, rules)
    bound = _value(server, "host", "127.0.0.1")
    elsewhere = tuple(other for other in profile.hosts if target[0] and other != host)
    if elsewhere and "address" not in server.value and bound is not None and is_loopback(bound):
        message = (
            f"{host}/{name} listens on {bound}, out of reach from other hosts: "
            "give that server host: 0.0.0.0 and an api_key"
        )
        rules.on_host(_Profile(profile.node, elsewhere), mark, path, message)


def _server_hint(host: str, name: str, hosts: Mapping[str, Node]) -> str:
    """What to write instead of an unknown server: one of that host, or the same name elsewhere."""
    servers = _entries(hosts[host], "servers")
    if servers:
        return did_you_mean(name, servers, known_as="servers there")
    elsewhere = [other for other, node in hosts.items() if name in _entries(node, "servers")]
    return f", which has none; did you mean {elsewhere[0]}/{name}?" if elsewhere else ""


def _enough_context(host: str, name: str, server: Node, client: str, rules: _Rules) -> None:
    models = _entries(server, "models")
    owner = _Profile(rules.draft.hosts[host], (host,))
    for below, node in ((), server), *((("models", m), node) for m, node in models.items()):
        context = node.get("context") if node.kind == "mapping" else None
        if context is None or context.kind != "integer":
            continue
        if context.value >= MINIMUM_OPENCODE_CONTEXT:
            continue
        message = (
            f"{context.value} tokens are too few for {client}, which uses this server: "
            f"set at least {MINIMUM_OPENCODE_CONTEXT}"
        )
        path = ("servers", name, *below, "context")
        rules.on_host(owner, context.mark, path, message)


def _entries(node: Node, key: str) -> Mapping[str, Node]:
    """The entries of the mapping under ``key``; none when it is missing or something else."""
    section = node.get(key)
    if section is None or section.kind != "mapping":
        return {}
    entries: Mapping[str, Node] = section.value
    return entries


def _value(node: Node, key: str, default: str | int | bool) -> Any:
    """A scalar; ``default`` when it is missing, None when it was refused."""
    child = node.get(key)
    if child is None:
        return default
    return None if child.kind == "invalid" else child.value


def _refused(node: Node | None) -> bool:
    return node is not None and node.kind == "invalid"


def _group_items(node: Node) -> list[Node]:
    groups = node.get("groups")
    if groups is None or groups.kind != "sequence":
        return []
    items: list[Node] = groups.value
    return items


def _group_names(node: Node) -> tuple[str, ...]:
    return tuple(item.value for item in _group_items(node) if item.kind == "string")


def _settings(node: Node | None) -> Node:
    """What a host, a group or the defaults set: all but the list of groups."""
    if node is None or node.kind != "mapping":
        return empty_mapping(node.mark if node is not None else (1, 1))
    if "groups" not in node.value:
        return node
    settings = Node("mapping", {k: v for k, v in node.value.items() if k != "groups"}, node.mark)
    settings.keys = node.keys
    settings.nulls = node.nulls
    return settings
