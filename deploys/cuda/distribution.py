"""The ``distribution`` provider: the distribution's own ``nvidia-cuda-toolkit``.

Debian has it in non-free, Ubuntu in multiverse. Which archives a host takes is its administrator's
choice: one that isn't enabled is named, and never enabled here. The version is the distribution's.
"""

from __future__ import annotations

from collections.abc import Sequence

from deploys.common.apt import APT_FUNCTIONS
from deploys.common.jobs import Job
from deploys.common.operations import HostError
from deploys.cuda.repository import GOING_ON, progress

PACKAGE = "nvidia-cuda-toolkit"


def is_version(found: str, wanted: str) -> bool:
    """Whether nvcc's version (``11.8.89``) is the one that is wanted (``11.8``)."""
    return found == wanted or found.startswith(f"{wanted}.")


def version_problem(found: str, wanted: str | None) -> str:
    """Why the distribution's toolkit isn't the declared one; empty where it is, or none is."""
    if not wanted or is_version(found, wanted):
        return ""
    return (
        f"cuda: the distribution's toolkit is {found}, and cuda.version says "
        f"{wanted}: set cuda.version to what it is, or choose another cuda.provider"
    )


def unavailable(distribution: str, like: Sequence[str]) -> str:
    """Why a distribution can't bring a toolkit; empty where it can."""
    if "debian" in (distribution, *like):
        return ""
    return (
        f"cuda: {distribution or 'this system'} has no {PACKAGE} of its own: set cuda.provider "
        "to nvidia-repo or wheels for this host"
    )


def job(distribution: str, like: Sequence[str]) -> Job:
    """The job that installs the package; HostError for a distribution that has none."""
    problem = unavailable(distribution, like)
    if problem:
        raise HostError(problem)
    return Job(
        name="cuda-distribution",
        title="installing the distribution's CUDA toolkit",
        script=script(),
        probe="tail -n 1 apt-status 2>/dev/null",
        progress=progress,
        remedy="see docs/troubleshooting/cuda.md",
    )


def script() -> str:
    """The job's script."""
    return APT_FUNCTIONS + _SCRIPT.replace("@GOING_ON@", GOING_ON).replace("@PACKAGE@", PACKAGE)


# As apt's simulation prints them. The toolkit's headers need libcuda.so.1 of some driver, which is
# a library; a kernel module or a whole driver is another matter.
_SCRIPT = r"""
apt_update || @GOING_ON@
if ! apt-cache show @PACKAGE@ > /dev/null 2>&1; then
  echo "@PACKAGE@ isn't in this host's package sources: enable the component non-free" \
    "(Debian) or multiverse (Ubuntu), or choose another cuda.provider" >&2
  exit 1
fi
set -- --no-install-recommends --no-remove -- @PACKAGE@
apt_get --simulate install "$@" > plan 2>&1 || { cat plan; exit 1; }
driver=$(grep -oE '^Inst (cuda-drivers|nvidia-driver|nvidia-open|nvidia-kernel)[^ ]*' plan || :)
if [ -n "$driver" ]; then
  echo "this would bring a driver along ($driver), which is not ours to install" >&2
  exit 1
fi
apt_get install -o APT::Status-Fd=3 -o Dpkg::Options::=--force-confold "$@" 3> apt-status
nvcc --version
"""
