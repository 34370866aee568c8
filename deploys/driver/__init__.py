"""NVIDIA's driver, where the fleet file says that llamaherd manages it; observed alone otherwise.

Owns the locked packages, ``/etc/apt/preferences.d/llamaherd-driver`` (with dnf,
``/etc/yum.repos.d/llamaherd-driver.repo``), ``/etc/modprobe.d/llamaherd-nouveau.conf`` and
``/var/lib/llamaherd/driver.json``. Refuses to reboot a host that isn't allowed to, and to reboot
one a second time for a driver that didn't run after the first.
"""

from __future__ import annotations

from pyinfra.api import FunctionCommand, deploy

from deploys.common.changes import Change, record
from deploys.common.downloads import upload_artifacts
from deploys.common.jobs import run_job
from deploys.common.operations import (
    Commands,
    HostError,
    current_host,
    host_operation,
    host_settings,
    read,
    system,
)
from deploys.cuda import repository
from deploys.cuda.toolkit import is_rpm, show_changes
from deploys.driver import install
from deploys.driver.reboot import IN_VAIN_REMEDY, in_vain, needed, settle
from facts.cuda import CudaState, CudaToolkits
from facts.driver import Driver, DriverState
from inventories.settings import DriverSettings

__all__ = ["driver"]

SUBJECT = "NVIDIA driver"


@deploy("NVIDIA driver")
def driver(settings: DriverSettings | None = None) -> None:
    """Have the declared driver installed, pinned and running; leaves it alone where none is.

    + settings: the host's own from the fleet file when left out
    """
    settings = settings or host_settings().driver
    if settings is not None:
        running(name=f"NVIDIA driver {settings.branch}", settings=settings)


@host_operation
def running(settings: DriverSettings) -> Commands:
    """Install the driver's locked packages where they differ, and see that the driver runs.

    + settings: branch, modules and what the lock file pinned

    A host in order costs two facts.
    """
    host = system()
    chosen = repository.choose(settings, host.platform, host.architecture)
    rpm, version = is_rpm(chosen), install.version_of(chosen)
    state: CudaState = read(
        CudaToolkits,
        roots=(),
        packages=tuple(install.by_name(chosen)),
        files=install.own_files(rpm),
        repository=chosen.url,
        rpm=rpm,
    )
    found: DriverState = read(Driver)
    differences = install.differences(chosen, state, rpm)
    allowed = settings.reboot == "allowed"
    if differences:
        show_changes(install.files(chosen, state, rpm), state, differences)
        if rpm or not repository.foreign_sources(state):
            yield from upload_artifacts((chosen.key,))
        yield from run_job(install.job(settings, chosen, state, rpm))
        yield FunctionCommand(settle, (version, allowed), {})
        return
    reason = needed(found, version)
    if not reason:
        current_host().noop(f"driver {version} runs, at the locked versions")
        return
    change = waiting(found, version, reason)
    if in_vain(found, version) or not allowed:
        raise HostError(f"{change.summary}: {change.remedy}", change)
    record(change)
    yield FunctionCommand(settle, (version, allowed), {})


def waiting(found: DriverState, version: str, reason: str) -> Change:
    """A driver that is installed and doesn't run, as a difference."""
    if in_vain(found, version):
        summary = f"driver {version} doesn't run ({found.error})"
        return Change("running", SUBJECT, summary, remedy=IN_VAIN_REMEDY)
    remedy = "reboot the host, or set driver.reboot to allowed"
    return Change("running", SUBJECT, reason, remedy=remedy)
