"""How a driver gets onto a host: files, scripts, differences. Pure.

The vendor's repository is the toolkits' as well, so on apt's hosts key and list are the same files;
the pins are a file of their own. What follows from NVIDIA's driver installation guide: the
metapackages ``nvidia-open`` and ``cuda-drivers``; kernel headers of the running kernel beside DKMS;
on RHEL 9 the module stream of the branch (``nvidia-driver:580-open``, ``:580-dkms``), on RHEL 10
none; nouveau kept from loading, in the initial RAM disk as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from deploys.common.files import ManagedFile
from deploys.common.jobs import Job
from deploys.common.shell import digest, script_word, word
from deploys.cuda import dnf, repository
from facts.cuda import CudaState
from facts.driver import NOTE
from inventories.settings import CudaRepository, DriverSettings

PINS = "/etc/apt/preferences.d/llamaherd-driver"
NOUVEAU = ManagedFile(
    "/etc/modprobe.d/llamaherd-nouveau.conf",
    "# llamaherd: NVIDIA's driver runs the GPUs of this host\n"
    "blacklist nouveau\n"
    "options nouveau modeset=0\n",
)


def version_of(chosen: CudaRepository) -> str:
    """The locked driver's version, as ``nvidia-smi`` says it."""
    for package in chosen.packages:
        if package.name.startswith(("nvidia-open", "cuda-drivers")):
            return package.version.rpartition(":")[2].partition("-")[0]
    return ""


def own_files(rpm: bool) -> tuple[str, ...]:
    """Every file that the component has on a host."""
    return (*(dnf.own_files("driver") if rpm else (*repository.OWN_FILES[:2], PINS)), NOUVEAU.path)


def files(chosen: CudaRepository, state: CudaState, rpm: bool) -> tuple[ManagedFile, ...]:
    """The files with text that should be there."""
    if rpm:
        return (dnf.entry("driver", chosen), NOUVEAU)
    foreign = repository.foreign_sources(state)
    found = [ManagedFile(PINS, repository.pins(chosen, everything=not foreign)), NOUVEAU]
    if not foreign:
        found.append(ManagedFile(repository.LIST, repository.source_line(chosen)))
    return tuple(found)


def differences(chosen: CudaRepository, state: CudaState, rpm: bool) -> tuple[str, ...]:
    """What is not as it should be, for people; empty for a host in order."""
    wanted = _hashes(files(chosen, state, rpm))
    key = dnf.KEY if rpm else repository.KEY
    if rpm or not repository.foreign_sources(state):
        wanted[key] = chosen.key.sha256
    found = [path for path in wanted if state.files.get(path) != wanted[path]]
    return (*found, *repository.wrong_packages(chosen, state.packages))


def _hashes(managed: tuple[ManagedFile, ...]) -> dict[str, str]:
    return {file.path: hashlib.sha256(file.content.encode()).hexdigest() for file in managed}


def module_stream(settings: DriverSettings, distribution: str) -> str:
    """The module stream that RHEL 9 keeps a branch in; RHEL 10 has no modules."""
    if distribution != "rhel9":
        return ""
    return f"nvidia-driver:{settings.branch}-{'open' if settings.modules == 'open' else 'dkms'}"


def job(settings: DriverSettings, chosen: CudaRepository, state: CudaState, rpm: bool) -> Job:
    """The job that installs the driver and notes it; it never reboots."""
    text = script(settings, chosen, state, rpm)
    return Job(
        name=f"driver-{version_of(chosen)}-{digest(text)}",
        title=f"installing NVIDIA driver {version_of(chosen)}",
        script=text,
        probe="" if rpm else "tail -n 1 apt-status 2>/dev/null",
        progress=None if rpm else repository.progress,
        remedy="see docs/troubleshooting/driver.md",
    )


def script(settings: DriverSettings, chosen: CudaRepository, state: CudaState, rpm: bool) -> str:
    """The job's script; a second run of it after a cut does what is left to do."""
    note = _NOTE.replace("@VERSION@", word(version_of(chosen))).replace("@NOTE@", NOTE)
    nouveau = f"printf %s {script_word(NOUVEAU.content)} | put {NOUVEAU.path}\n{_INITRAMFS}"
    if rpm:
        stream = module_stream(settings, chosen.distribution)
        installation = dnf.script("driver", chosen, module=stream, driver=True)
        return _own("\n".join([_HEADERS_DNF, installation, nouveau, note]))
    managed = [file for file in files(chosen, state, rpm) if file != NOUVEAU]
    lines = repository.lay_down(chosen, state, managed)
    installation = _INSTALL.replace("@PACKAGES@", repository.exact(chosen)).replace(
        "@DRIVERS@", _DRIVERS
    )
    lines += [_HEADERS_APT, installation, nouveau, note]
    return _own("\n".join(lines).replace("@GOING_ON@", repository.GOING_ON))


def _own(text: str) -> str:
    """What the toolkits' installers say of their pins, said of the driver's."""
    return text.replace("llamaherd lock --update cuda", "llamaherd lock --update driver")


_HEADERS_APT = r"""
# DKMS builds the module for the running kernel.
kernel=$(uname -r)
if [ ! -e "/lib/modules/$kernel/build" ]; then
  apt_get install --no-install-recommends "linux-headers-$kernel" || {
    apt_update || @GOING_ON@
    apt_get install --no-install-recommends "linux-headers-$kernel" || {
      echo "there are no headers of the running kernel $kernel: upgrade the kernel, reboot, and" \
        "run again" >&2
      exit 1
    }
  }
fi
"""

_HEADERS_DNF = r"""
# DKMS builds the module for the running kernel.
kernel=$(uname -r)
[ -e "/lib/modules/$kernel/build" ] || dnf -y install "kernel-devel-$kernel" || {
  echo "there are no headers of the running kernel $kernel: upgrade the kernel, reboot, and" \
    "run again" >&2
  exit 1
}
"""

# What belongs to a driver, by the vendor's names and the distributions'.
_DRIVERS = (
    "^(nvidia-|libnvidia-|lib[a-z0-9]*-nvidia|cuda-drivers|libcuda1|libnvcuvid1|"
    "xserver-xorg-video-nvidia|firmware-nvidia)"
)

_INSTALL = r"""
set -- --no-install-recommends --allow-downgrades -- @PACKAGES@
if ! apt_get --simulate install "$@" > plan 2>&1; then
  apt_update || @GOING_ON@
  apt_get --simulate install "$@" > plan 2>&1 || { cat plan; exit 1; }
fi
# Another driver has to give way; nothing else has.
removed=$(sed -n 's/^Remv \([^ ]*\).*/\1/p' plan | grep -vE '@DRIVERS@' || :)
if [ -n "$removed" ]; then
  echo "this driver would remove" $removed": do that yourself," \
    "or set driver.manage to false" >&2
  exit 1
fi
apt_get install -o APT::Status-Fd=3 -o Dpkg::Options::=--force-confold "$@" 3> apt-status
"""

_INITRAMFS = r"""
# nouveau is in the initial RAM disk of many hosts, and would be loaded from there.
if command -v update-initramfs > /dev/null; then update-initramfs -u
elif command -v dracut > /dev/null; then dracut --force; fi
"""

_NOTE = r"""
printf '{"version": "%s", "boot": "%s"}\n' @VERSION@ "$(cat /proc/sys/kernel/random/boot_id)" \
  > @NOTE@.new
sync @NOTE@.new
mv -fT @NOTE@.new @NOTE@
"""


def by_name(chosen: CudaRepository) -> Mapping[str, str]:
    """Locked versions by package, for messages and tests."""
    return {package.name: package.version for package in chosen.packages}
