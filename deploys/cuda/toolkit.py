"""The operation that brings a CUDA toolkit to a host, by whatever provider the settings name."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra import logger

from deploys.common.changes import Change, listened, record
from deploys.common.downloads import upload_artifacts
from deploys.common.files import ManagedFile, is_current, log_diff, read_states, record_change
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
from deploys.cuda import distribution, dnf, repository, wheels
from facts.cuda import CudaState, CudaToolkits
from inventories.settings import CudaRepository, CudaSettings


@host_operation
def toolkit(settings: CudaSettings) -> Commands:
    """Bring one CUDA toolkit that builds need; never the driver.

    + settings: provider, version and what the lock file pinned

    A host in order costs one fact. What takes minutes runs as a job of the host's own.
    """
    providers = {"existing": _existing, "wheels": _wheels, "distribution": _distribution}
    if settings.provider == "none":
        current_host().noop("a CPU host needs no CUDA toolkit")
        return
    if settings.provider == "nvidia-repo":
        yield from _nvidia_repo((settings,))
        return
    yield from providers[settings.provider](settings)


@host_operation
def packaged_toolkits(settings: Sequence[CudaSettings]) -> Commands:
    """Bring toolkits from the vendor's repository, several versions side by side.

    + settings: of each, all with the provider ``nvidia-repo``
    """
    yield from _nvidia_repo(tuple(settings))


def _root(settings: CudaSettings) -> str:
    if not settings.root:
        raise HostError(f"cuda: provider {settings.provider} needs cuda.path to be set")
    return settings.root


def _existing(settings: CudaSettings) -> Commands:
    root = _root(settings)
    found = read(CudaToolkits, roots=(root,)).toolkits.get(root)
    problem = existing_problem(root, found is not None, found.version if found else None)
    if problem or found is None:
        raise HostError(problem)
    current_host().noop(f"CUDA {found.version} is in {root}")
    yield from ()


def existing_problem(root: str, there: bool, version: str | None) -> str:
    """Why a toolkit that the host should have can't be used; empty where it can.

    + there: whether it holds a ``bin/nvcc``
    + version: what that says; None or empty where it doesn't run
    """
    if not there:
        return (
            f"cuda: there is no {root}/bin/nvcc on this host: set cuda.path to where the toolkit "
            "is (pyinfra HOST fact facts.cuda.CudaToolkits lists them), or choose another "
            "cuda.provider"
        )
    return "" if version else f"cuda: {root}/bin/nvcc does not run on this host: mend cuda.path"


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


def _distribution(settings: CudaSettings) -> Commands:
    root = _root(settings)
    found = read(CudaToolkits, roots=(root,)).toolkits.get(root)
    if found is None or found.version is None:
        record(Change("declared", distribution.PACKAGE, "not installed"))
        host = system()
        yield from run_job(distribution.job(host.distribution, host.like))
        return
    problem = distribution.version_problem(found.version, settings.version)
    if problem:
        raise HostError(problem)
    current_host().noop(f"CUDA {found.version} is the distribution's own")


def _nvidia_repo(settings: Sequence[CudaSettings]) -> Commands:
    roots = tuple(_root(one) for one in settings)
    versions = " and ".join(str(one.version) for one in settings)
    host = system()
    chosen = repository.combined(
        [repository.choose(one, host.platform, host.architecture) for one in settings]
    )
    rpm = is_rpm(chosen)
    state: CudaState = read(
        CudaToolkits,
        roots=roots,
        packages=tuple(package.name for package in chosen.packages),
        files=dnf.own_files("cuda") if rpm else repository.OWN_FILES,
        repository=chosen.url,
        rpm=rpm,
    )
    if rpm:
        yield from _by_dnf(versions, roots, chosen, state)
        return
    differences = repository.differences(chosen, state, *roots)
    if not differences:
        current_host().noop(f"CUDA {versions} is in {roots[0]}, at the locked versions")
        return
    show_changes(repository.files(chosen, state), state, differences)
    if not repository.foreign_sources(state):
        yield from upload_artifacts((chosen.key,))
    yield from run_job(repository.job(versions, roots, chosen, state))


def is_rpm(chosen: CudaRepository) -> bool:
    """Whether a repository is dnf's."""
    return chosen.distribution.startswith("rhel")


def _by_dnf(
    versions: str, roots: Sequence[str], chosen: CudaRepository, state: CudaState
) -> Commands:
    differences = dnf.differences("cuda", chosen, state, roots)
    if not differences:
        current_host().noop(f"CUDA {versions} is in {roots[0]}, at the locked versions")
        return
    show_changes((dnf.entry("cuda", chosen),), state, differences)
    yield from upload_artifacts((chosen.key,))
    title = f"installing CUDA {versions} from NVIDIA's repository"
    yield from run_job(dnf.job("cuda", title, dnf.script("cuda", chosen, roots)))


def show_changes(
    files: Sequence[ManagedFile], state: CudaState, differences: Sequence[str]
) -> None:
    """What ``--diff`` shows: the files' diffs, and the packages that move."""
    if not current_state().config.DIFF and not listened():
        return
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
        if not difference.startswith("/etc/"):
            logger.info(f"{current_host().print_prefix}{difference}")


def _how(path: str, state: CudaState) -> str:
    return "differs, or must not be there any more" if path in state.files else "missing"
