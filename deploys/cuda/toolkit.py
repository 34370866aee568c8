"""The operation that brings a CUDA toolkit to a host, by whatever provider the settings name."""

from __future__ import annotations

from pyinfra import logger

from deploys.common.changes import Change, listened, record
from deploys.common.downloads import upload_artifacts
from deploys.common.files import is_current, log_diff, read_states, record_change
from deploys.common.jobs import run_job
from deploys.common.operations import (
    Commands,
    HostError,
    current_host,
    current_state,
    host_operation,
    read,
    system,
)
from deploys.cuda import repository, wheels
from facts.cuda import CudaState, CudaToolkits
from inventories.settings import CudaRepository, CudaSettings


@host_operation
def toolkit(settings: CudaSettings) -> Commands:
    """Bring the CUDA toolkit that builds need; never the driver.

    + settings: provider, version and what the lock file pinned

    A host in order costs one fact. What takes minutes runs as a job of the host's own.
    """
    providers = {
        "existing": _existing,
        "wheels": _wheels,
        "nvidia-repo": _nvidia_repo,
    }
    if settings.provider == "none":
        current_host().noop("a CPU host needs no CUDA toolkit")
        return
    yield from providers[settings.provider](settings)


def _root(settings: CudaSettings) -> str:
    if not settings.root:
        raise HostError(f"cuda: provider {settings.provider} needs cuda.path to be set")
    return settings.root


def _existing(settings: CudaSettings) -> Commands:
    root = _root(settings)
    found = read(CudaToolkits, roots=(root,)).toolkits.get(root)
    if found is None:
        raise HostError(
            f"cuda: there is no {root}/bin/nvcc on this host: set cuda.path to where the toolkit "
            "is (pyinfra HOST fact facts.cuda.CudaToolkits lists them), or choose another "
            "cuda.provider"
        )
    if found.version is None:
        raise HostError(f"cuda: {root}/bin/nvcc does not run on this host: mend cuda.path")
    current_host().noop(f"CUDA {found.version} is in {root}")
    yield from ()


def _wheels(settings: CudaSettings) -> Commands:
    root = _root(settings)
    found = read(CudaToolkits, roots=(root,)).toolkits.get(root)
    if found and found.version and wheels.is_current(settings, found.manifest):
        current_host().noop(f"CUDA {found.version} is in {root}, made of the locked wheels")
        return
    size = sum(wheel.size for wheel in settings.wheels)
    record(Change("declared", root, "not the toolkit of the locked wheels", fetch=size))
    state = system()
    wheels.check_wheels(settings, state.architecture, state.disk_free.get("/opt", 0))
    yield from upload_artifacts(settings.wheels)
    yield from run_job(wheels.job(settings))


def _nvidia_repo(settings: CudaSettings) -> Commands:
    root = _root(settings)
    host = system()
    chosen = repository.choose(settings, host.platform, host.architecture)
    state: CudaState = read(
        CudaToolkits,
        roots=(root,),
        packages=tuple(package.name for package in chosen.packages),
        files=repository.OWN_FILES,
        repository=chosen.url,
    )
    differences = repository.differences(chosen, state, root)
    if not differences:
        current_host().noop(f"CUDA {settings.version} is in {root}, at the locked versions")
        return
    _show_changes(chosen, state, differences)
    if not repository.foreign_sources(state):
        yield from upload_artifacts((chosen.key,))
    yield from run_job(repository.job(settings, chosen, state))


def _show_changes(chosen: CudaRepository, state: CudaState, differences: tuple[str, ...]) -> None:
    """What ``--diff`` shows: the files' diffs, and the packages that move."""
    if not current_state().config.DIFF and not listened():
        return
    files = repository.files(chosen, state)
    states = read_states(files)
    for file in files:
        if not is_current(file, states.get(file.path)):
            log_diff(file, states.get(file.path))
            record_change(file, states.get(file.path))
    shown = {file.path for file in files}
    for difference in differences:
        if difference not in shown:
            name, _, rest = difference.partition(" ")
            record(Change("declared", name, rest or _how(name, state)))
        if difference not in repository.OWN_FILES:
            logger.info(f"{current_host().print_prefix}{difference}")


def _how(path: str, state: CudaState) -> str:
    return "differs, or must not be there any more" if path in state.files else "missing"
