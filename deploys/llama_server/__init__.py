"""llama-server: one systemd service a server, kept only when it answers as declared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pyinfra import logger
from pyinfra.api import deploy

from deploys.common.changes import Change, listened, record
from deploys.common.files import (
    ManagedFile,
    is_current,
    log_diff,
    read_states,
    record_change,
    remove_files,
    write_files,
)
from deploys.common.jobs import run_job
from deploys.common.operations import (
    Commands,
    HostError,
    UnknownStateError,
    current_host,
    current_state,
    host_operation,
    host_settings,
    read,
    system,
)
from deploys.common.secrets import secret
from deploys.common.shell import WordError, operand
from deploys.llama_cpp import host_build
from deploys.llama_cpp.build import Build
from deploys.llama_server.arguments import process_arguments
from deploys.llama_server.errors import ServerError
from deploys.llama_server.files import account_file, obsolete_files, server_files
from deploys.llama_server.instance import ACCOUNT, SETTINGS, STATE, Instance
from deploys.llama_server.reasons import Cause, Reason, is_loading, other_program, reason_to_restart
from deploys.llama_server.release import guard_name, release_job, release_of
from deploys.llama_server.unit import tls_credentials
from facts.files import FileState
from facts.gpu import MISMATCH_REMEDY
from facts.servers import RELEASES, UNITS, LlamaServers, ServersState, ServerState, unit_name
from facts.system import Listener
from inventories.settings import CudaSettings, HostSettings, LlamaCppSettings, ServerSettings


@deploy("llama-server")
def llama_server(settings: HostSettings | None = None) -> None:
    """Have exactly the declared servers running, as declared.

    + settings: default to the host's own; a server needs the host's llama_cpp and models too
    """
    settings = settings or host_settings()
    if settings.llama_cpp is not None or settings.servers:
        servers(name="Run the servers", settings=settings)


@host_operation
def servers(settings: HostSettings) -> Commands:
    """Lay down units, keys and account; start what doesn't run as declared; stop what isn't ours
    to run any more (a unit that carries our mark and is declared no longer).

    + settings: of the whole host
    """
    builds = _builds(settings)
    paths = sorted({build.path for build in builds.values()})
    state = read(
        LlamaServers,
        names=[server.name for server in settings.servers],
        builds=paths,
        credentials={server.name: tls_credentials(server) for server in settings.servers},
    )
    instances = [
        _instance(settings, server, builds[server.name], state) for server in settings.servers
    ]
    files = wanted_files(instances)
    if listened() and any(path not in state.options for path in paths):
        # Without its build nobody knows what the unit will say; a converge builds before.
        yield from _judge_processes(instances, state)
        return
    yield from converge(instances, files, state)


def _judge_processes(instances: Sequence[Instance], state: ServersState) -> Commands:
    """What a drift check can tell of servers whose build is missing."""
    for instance in instances:
        server = state.servers[instance.server.name]
        if server.active != "active":
            _record_reasons(instance, server, (Reason(Cause.NOT_ACTIVE, server.active),))
        elif server.executable != instance.binary:
            _record_reasons(instance, server, (other_program(server),))
    yield from ()


def _builds(settings: HostSettings) -> dict[str, Build]:
    """Builds by server: its own, else the host's; each is worked out once."""
    found: dict[str, Build] = {}
    known: list[tuple[tuple[LlamaCppSettings, CudaSettings], Build]] = []
    for server in settings.servers:
        pair = settings.build_of(server)
        if pair is None:
            raise HostError("a server needs llama_cpp and cuda on its host: declare both")
        build = next((build for other, build in known if other == pair), None)
        if build is None:
            build = host_build(*pair)
            known.append((pair, build))
        found[server.name] = build
    return found


def _instance(
    settings: HostSettings, server: ServerSettings, build: Build, state: ServersState
) -> Instance:
    backends = settings.backends_of(server)
    return Instance(
        server=server,
        model=settings.model(server.model),
        binary=build.server,
        options=state.options.get(build.path, frozenset()),
        gpu="cuda" in backends,
        vulkan="vulkan" in backends,
        api_key=None if server.api_key is None else secret(server.api_key),
        draft=None if server.draft is None else settings.model(server.draft.model),
        chat_template=chat_template(server),
        models=tuple(settings.model(served.model) for served in server.models),
    )


def chat_template(server: ServerSettings) -> str | None:
    """The text of a server's own template, read here; UnknownStateError when that can't be."""
    if server.chat_template_file is None:
        return None
    try:
        return Path(server.chat_template_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnknownStateError(
            f"servers.{server.name}.chat_template_file: {server.chat_template_file} can't be read "
            f"on this machine: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}"
        ) from error


def wanted_files(instances: Sequence[Instance]) -> dict[str, tuple[ManagedFile, ...]]:
    """Files by server name, the account's under the empty name; HostError for bad settings."""
    try:
        files = {instance.server.name: server_files(instance) for instance in instances}
    except (ServerError, WordError) as error:
        raise HostError(str(error)) from error
    return {"": (account_file(instances),), **files} if files else {}


def converge(
    instances: Sequence[Instance],
    files: Mapping[str, tuple[ManagedFile, ...]],
    state: ServersState,
) -> Commands:
    """Commands from the state of the host to the declared servers."""
    flat = [file for group in files.values() for file in group]
    obsolete = obsolete_files(instances)
    states = read_states(flat, also=obsolete)
    needs = {
        instance.server.name: reasons(instance, state.servers[instance.server.name], files, states)
        for instance in instances
    }
    for file in flat:
        if not is_current(file, states.get(file.path)):
            record_change(file, states.get(file.path))
    for instance in instances:
        _record_server(instance, state.servers[instance.server.name], needs, files, states)
    for name in state.others:
        record(Change("declared", unit_name(name), "declared no longer"))
    require_startable(instances, needs, state)
    releases = [
        i for i in instances if needs[i.server.name] or _loading(i, state) or not _kept(i, state)
    ]
    settled = [instance for instance in instances if instance not in releases]
    yield from _remove_undeclared(state.others)
    yield from write_files(files.get("", ()), states)
    yield from _mend(settled, files, state, states)
    if instances and (not state.account or _stale_account(files, states)):
        if not state.account:
            record(Change("declared", ACCOUNT, "the servers' system account is missing"))
        yield "systemd-sysusers /etc/sysusers.d/llama-server.conf"
    for instance in settled:
        current_host().noop(f"{unit_name(instance.server.name)} runs as declared")
    for instance in in_turn(releases, system().listeners):
        yield from _release(instance, files, states, needs[instance.server.name])


def _kept(instance: Instance, state: ServersState) -> bool:
    """Whether the release that is declared has answered as declared, and was kept."""
    return state.servers[instance.server.name].release == release_of(instance)


def _loading(instance: Instance, state: ServersState) -> bool:
    """Whether its process is as declared and has yet to answer: that is waited for."""
    server = state.servers[instance.server.name]
    return is_loading(server, config=release_of(instance), binary=instance.binary)


def in_turn(releases: Sequence[Instance], listeners: Iterable[Listener]) -> list[Instance]:
    """Releases in the order in which they find their ports free: who leaves one goes first.

    HostError where each waits for another: none of them could be tried without stopping one that
    serves, and a release that fails must be able to go back.
    """
    holders = {each.port: each.unit for each in listeners}
    waiting = {unit_name(each.server.name): each for each in releases}
    found: list[Instance] = []
    while waiting:
        free = [
            unit
            for unit, instance in waiting.items()
            if holders.get(instance.server.port) in (None, unit)
            or holders[instance.server.port] not in waiting
        ]
        if not free:
            names = ", ".join(sorted(each.server.name for each in waiting.values()))
            raise HostError(
                f"the servers {names} wait for each other's ports: give one of them a port that is "
                "free, converge, and then the one that it shall have"
            )
        found += [waiting.pop(unit) for unit in free]
    return found


def _mend(
    settled: Sequence[Instance],
    files: Mapping[str, tuple[ManagedFile, ...]],
    state: ServersState,
    states: Mapping[str, FileState],
) -> Commands:
    """What of servers that run as declared can be mended beside them."""
    for instance in settled:
        yield from write_files(files[instance.server.name], states)
    yield from remove_files(obsolete_files(settled), states)
    if any(_stale_unit(instance, state, files, states) for instance in settled):
        yield "systemctl daemon-reload"
    yield from _enable(settled, state)


def _release(
    instance: Instance,
    files: Mapping[str, tuple[ManagedFile, ...]],
    states: Mapping[str, FileState],
    needs: Sequence[Reason],
) -> Commands:
    """Put a release in force; the job on the host keeps it, or goes back to the one before."""
    name = instance.server.name
    for file in files[name]:
        if not is_current(file, states.get(file.path)):
            log_diff(file, states.get(file.path))
    if current_state().is_executing and needs:
        logger.info(
            f"{current_host().print_prefix}starting {unit_name(name)}: {_worded(needs)}",
        )
    yield from run_job(release_job(instance, files[name], restart=bool(needs)))


def _stale_account(
    files: Mapping[str, tuple[ManagedFile, ...]], states: Mapping[str, FileState]
) -> bool:
    """Whether the account's declaration is about to change: it may need another group now."""
    return any(not is_current(file, states.get(file.path)) for file in files.get("", ()))


def _stale_unit(
    instance: Instance,
    state: ServersState,
    files: Mapping[str, tuple[ManagedFile, ...]],
    states: Mapping[str, FileState],
) -> bool:
    name = instance.server.name
    unit = files[name][0]
    return state.servers[name].needs_reload or not is_current(unit, states.get(unit.path))


def reasons(
    instance: Instance,
    state: ServerState,
    files: Mapping[str, tuple[ManagedFile, ...]],
    states: Mapping[str, FileState],
) -> tuple[Reason, ...]:
    """Why a server must be (re)started, from what its process really is; empty when it needn't."""
    found = reason_to_restart(
        state,
        config=release_of(instance),
        binary=instance.binary,
        arguments=process_arguments(instance),
        key_differs=_key_differs(instance, files, states),
        driver_runs=not system().gpu_error,
    )
    return () if found is None else (found,)


def _record_server(
    instance: Instance,
    state: ServerState,
    needs: Mapping[str, tuple[Reason, ...]],
    files: Mapping[str, tuple[ManagedFile, ...]],
    states: Mapping[str, FileState],
) -> None:
    """Tell a drift check about a server's process, but not what its files tell already."""
    name = instance.server.name
    unit = files[name][0]
    found = needs[name]
    if not found and state.active != "active":
        found = (Reason(Cause.NOT_ACTIVE, state.active),)
    if not is_current(unit, states.get(unit.path)) and _only_the_unit_moved(state, found):
        found = ()
    if _key_differs(instance, files, states) and state.key_current:
        found = tuple(reason for reason in found if reason.cause != Cause.API_KEY)
    _record_reasons(instance, state, found)
    if not needs[name] and state.release != release_of(instance):
        record(Change("running", unit_name(name), _not_kept(state)))
    for missing in _missing_files(instance.server, state):
        record(missing)
    if state.replaced_libraries and system().gpu_error:
        summary = str(Reason(Cause.LIBRARY, ", ".join(state.replaced_libraries)))
        record(Change("running", unit_name(name), summary, remedy=MISMATCH_REMEDY))
    if state.enabled != "enabled" and state.load not in ("not-found", "masked"):
        summary = f"{state.enabled or 'not enabled'}: it won't start at boot"
        record(Change("running", unit_name(name), summary))


def _not_kept(state: ServerState) -> str:
    """A server that runs as declared, and whose answers no converge has seen to the end."""
    before = f"; release {state.release} was" if state.release else ""
    return f"runs as declared, but no converge has checked its answers{before}"


def _only_the_unit_moved(state: ServerState, found: Sequence[Reason]) -> bool:
    """Whether a restart is due for nothing but the unit's file having been written."""
    return [reason.cause for reason in found] == [Cause.UNIT] and not state.newer_drop_ins


def _record_reasons(instance: Instance, state: ServerState, found: Sequence[Reason]) -> None:
    if not found:
        return
    name = unit_name(instance.server.name)
    dropped = f" (drop-ins: {', '.join(state.drop_ins)})" if state.drop_ins else ""
    record(Change("running", name, f"{_worded(found)}{dropped}"))


def _worded(found: Sequence[Reason]) -> str:
    return "; ".join(map(str, found))


def taken_port(server: ServerSettings, stranger: Listener) -> Change:
    """A port that a stranger has, as a difference."""
    who = stranger.process or stranger.unit or "another process"
    return Change(
        "running",
        f"port {server.port}",
        f"port {server.port} of server {server.name} is taken by {who}",
        remedy=f"stop that, or set servers.{server.name}.port",
        component="llama_server",
    )


def _key_differs(
    instance: Instance,
    files: Mapping[str, tuple[ManagedFile, ...]],
    states: Mapping[str, FileState],
) -> bool:
    keys = [file for file in files[instance.server.name] if file.secret]
    return any(not is_current(key, states.get(key.path)) for key in keys)


def require_startable(
    instances: Iterable[Instance], needs: Mapping[str, Sequence[Reason]], state: ServersState
) -> None:
    """HostError when a start that is due would fail for reasons that are already known."""
    found = [
        change
        for instance in instances
        if needs[instance.server.name]
        for change in _obstacles(instance.server, state.servers[instance.server.name])
    ]
    if found:
        raise HostError("; ".join(f"{each.summary}: {each.remedy}" for each in found), *found)


def _obstacles(server: ServerSettings, state: ServerState) -> Iterator[Change]:
    if state.load == "masked":
        yield masked_unit(server)
    yield from _missing_files(server, state)
    stranger = stranger_on_port(server, system().listeners)
    if stranger is not None:
        yield taken_port(server, stranger)


def masked_unit(server: ServerSettings) -> Change:
    """A unit that somebody has masked, as a difference."""
    unit = unit_name(server.name)
    return Change(
        "running", unit, f"{unit} is masked", remedy=f"run systemctl unmask {operand(unit)}"
    )


def _missing_files(server: ServerSettings, state: ServerState) -> Iterator[Change]:
    for path in state.missing_credentials:
        yield missing_file(server, path)


def missing_file(server: ServerSettings, path: str) -> Change:
    """A certificate or key that isn't on the host, as a difference."""
    remedy = f"put it there, or change servers.{server.name}.tls"
    return Change("declared", path, f"{path} is missing", remedy=remedy)


def stranger_on_port(server: ServerSettings, listeners: Iterable[Listener]) -> Listener | None:
    """Who listens on a server's port and isn't one of our servers."""
    for listener in listeners:
        ours = listener.unit.startswith("llama-server@")
        if listener.port == server.port and not ours:
            return listener
    return None


def _remove_undeclared(names: Iterable[str]) -> Commands:
    for name in names:
        unit = unit_name(name)
        logger.info(f"{current_host().print_prefix}{unit} is declared no longer: removing it")
        yield f"systemctl disable --now -- {operand(unit)}"
        # The unit last: by it a run that comes after a cut finds what is left.
        state = f"{STATE}/{name}"
        folders = (f"{SETTINGS}/{name}", f"{RELEASES}/{name}", f"{state}/slots", f"{state}/cuda")
        yield f"rm -rf -- {' '.join(map(operand, folders))}"
        yield f"rmdir --ignore-fail-on-non-empty -- {operand(state)} 2>/dev/null || :"
        units = (f"{UNITS}/{guard_name(name)}", f"{UNITS}/{unit}")
        yield f"rm -f -- {' '.join(map(operand, units))}"
        yield "systemctl daemon-reload"


def _enable(instances: Sequence[Instance], state: ServersState) -> Commands:
    for instance in instances:
        name = instance.server.name
        if state.servers[name].enabled != "enabled":
            yield f"systemctl enable --quiet -- {operand(unit_name(name))}"
