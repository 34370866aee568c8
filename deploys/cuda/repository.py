"""The ``nvidia-repo`` provider: exactly the locked packages of the vendor's apt repository.

The repository is made known to apt under names of our own, bound to the locked key by
``signed-by``. Two pins (apt_preferences(5)) keep it in its place: each locked package at its
version with priority 1001, so that no upgrade moves it; everything else of the repository with
priority 1, which is used for nothing that is installed already. So the driver stays where it is.

Where the host's administrator has listed the repository already, that entry is used as it is:
apt refuses two entries for one address with different keys, for every package of the host.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from deploys.common.apt import APT_FUNCTIONS
from deploys.common.downloads import fetch_functions, upload_path
from deploys.common.files import ManagedFile
from deploys.common.jobs import Job
from deploys.common.operations import HostError
from deploys.common.progress import Amount
from deploys.common.shell import digest, operand, script_word, word, words
from deploys.cuda.shell import PUT_FUNCTION, TOOL_FUNCTIONS
from facts.cuda import CudaState
from inventories.settings import (
    AptPackage,
    Artifact,
    CudaRepository,
    CudaSettings,
    DriverSettings,
)

KEY = "/etc/apt/keyrings/llamaherd-cuda.asc"
LIST = "/etc/apt/sources.list.d/llamaherd-cuda.list"
PINS = "/etc/apt/preferences.d/llamaherd-cuda"
OWN_FILES = (KEY, LIST, PINS)

# The vendor's names of machine architectures, in its repositories' addresses.
_ARCHITECTURES = {"x86_64": "x86_64", "sbsa": "aarch64", "arm64": "aarch64"}


def choose(
    settings: CudaSettings | DriverSettings, platform: str, architecture: str
) -> CudaRepository:
    """The locked repository for this host; HostError, naming what there is, when there is none.

    + platform: distribution as vendors name it, such as ``debian12``
    + architecture: as ``uname -m`` says it
    """
    for repository in settings.repositories:
        if repository.distribution == platform and _fits(repository, architecture):
            return repository
    locked = ", ".join(repository.distribution for repository in settings.repositories)
    driver = isinstance(settings, DriverSettings)
    instead = "set driver.manage to false" if driver else "set cuda.provider to wheels or existing"
    raise HostError(
        f"{'driver' if driver else 'cuda'}: this host is {platform} ({architecture}), and the lock "
        f"file has NVIDIA's repository for {locked or 'no distribution'}: lock it for this one "
        f"(llamaherd lock --update {'driver' if driver else 'cuda'}), or {instead} for this host"
    )


def combined(repositories: Sequence[CudaRepository]) -> CudaRepository:
    """Several toolkits' packages as one repository's; HostError where they don't go together."""
    first = repositories[0]
    packages: dict[str, AptPackage] = {}
    for repository in repositories:
        if repository.url != first.url:
            raise HostError(
                f"cuda: one host's toolkits come from {first.url} and {repository.url}: "
                "give all of them the same cuda.repository"
            )
        for package in repository.packages:
            other = packages.setdefault(package.name, package)
            if other.version != package.version:
                raise HostError(
                    f"cuda: one toolkit was locked with {package.name} {other.version} and another "
                    f"with {package.version}: run llamaherd lock --update cuda"
                )
    ordered = tuple(packages[name] for name in sorted(packages))
    return replace(first, packages=ordered)


def _fits(repository: CudaRepository, architecture: str) -> bool:
    last = repository.url.rstrip("/").rpartition("/")[2]
    return _ARCHITECTURES.get(last, architecture) == architecture


def foreign_sources(state: CudaState) -> tuple[str, ...]:
    """Source files of the administrator's that name the repository."""
    return tuple(path for path in state.sources if path != LIST)


def files(repository: CudaRepository, state: CudaState) -> tuple[ManagedFile, ...]:
    """The files with text that should be there, given what the administrator has listed."""
    foreign = foreign_sources(state)
    found = [ManagedFile(PINS, pins(repository, everything=not foreign))]
    if not foreign:
        found.append(ManagedFile(LIST, source_line(repository)))
    return tuple(found)


def source_line(repository: CudaRepository) -> str:
    """The content of LIST: a flat repository, as the vendor's is."""
    return f"deb [signed-by={KEY}] {repository.url} /\n"


def pins(repository: CudaRepository, everything: bool) -> str:
    """The content of PINS.

    + everything: hold back all other packages of the repository too (it is listed by us alone)
    """
    blocks = [
        f"Package: {package.name}\nPin: version {package.version}\nPin-Priority: 1001\n"
        for package in repository.packages
    ]
    if everything:
        origin = urlsplit(repository.url).hostname or ""
        blocks.append(f'Package: *\nPin: origin "{origin}"\nPin-Priority: 1\n')
    return "\n".join(blocks)


def differences(repository: CudaRepository, state: CudaState, *roots: str) -> tuple[str, ...]:
    """What is not as it should be, for people; empty for a host in order.

    + roots: toolkits that the packages bring
    """
    wanted: dict[str, str] = {
        file.path: hashlib.sha256(file.content.encode()).hexdigest()
        for file in files(repository, state)
    }
    if LIST in wanted:
        wanted[KEY] = repository.key.sha256
    found = [path for path in OWN_FILES if state.files.get(path) != wanted.get(path)]
    found += wrong_packages(repository, state.packages)
    for root in roots:
        toolkit = state.toolkits.get(root)
        if toolkit is None or toolkit.version is None:
            found.append(f"{root}/bin/nvcc")
    return tuple(found)


def wrong_packages(repository: CudaRepository, installed: Mapping[str, str]) -> list[str]:
    """Packages that aren't there at the locked version, with both versions."""
    return [
        f"{package.name} {installed.get(package.name, 'missing')} -> {package.version}"
        for package in repository.packages
        if installed.get(package.name) != package.version
    ]


def job(versions: str, roots: Sequence[str], repository: CudaRepository, state: CudaState) -> Job:
    """The job that lists the repository and installs; the key must have been uploaded before.

    + versions: of the toolkits, for people
    """
    text = script(roots, repository, state)
    return Job(
        name=f"cuda-{versions.replace(' and ', '-')}-{digest(text)}",
        title=f"installing CUDA {versions} from NVIDIA's repository",
        script=text,
        probe="tail -n 1 apt-status 2>/dev/null",
        progress=progress,
        remedy="see docs/troubleshooting/cuda.md",
    )


def progress(lines: list[str]) -> Amount | None:
    """apt's own percentage (``APT::Status-Fd``: ``dlstatus`` while it fetches, ``pmstatus``)."""
    if not lines or lines[-1].count(":") < 3:
        return None
    kind, _, percent, _ = lines[-1].split(":", 3)
    notes = {"dlstatus": "downloading", "pmstatus": "installing"}
    try:
        return Amount(int(float(percent)), 100, note=notes[kind])
    except (KeyError, ValueError, OverflowError):
        return None


def script(roots: Sequence[str], repository: CudaRepository, state: CudaState) -> str:
    """The job's script; a second run of it after a cut does what is left to do."""
    lines = lay_down(repository, state, files(repository, state))
    lines.append(
        _INSTALL.replace("@PACKAGES@", exact(repository))
        .replace("@NVCCS@", words(f"{root}/bin/nvcc" for root in roots))
        .replace("@GOING_ON@", GOING_ON)
        .replace("@DRIVER@", _DRIVER)
    )
    return "\n".join(lines)


def exact(repository: CudaRepository) -> str:
    """The locked packages as apt-get's words."""
    return words(f"{package.name}={package.version}" for package in repository.packages)


def lay_down(
    repository: CudaRepository, state: CudaState, managed: Sequence[ManagedFile]
) -> list[str]:
    """Shell that puts key and files into place, and holds the offer against the lock file."""
    foreign = foreign_sources(state)
    lines = [APT_FUNCTIONS, TOOL_FUNCTIONS, fetch_functions(), PUT_FUNCTION, _CHECK]
    if foreign:
        lines.append(f"rm -f -- {KEY} {LIST}")
    else:
        lines += [_fetch_key(repository.key), f"put {KEY} < key.asc"]
    lines += [f"printf %s {script_word(file.content)} | put {file.path}" for file in managed]
    packages = repository.packages
    update = f"apt_update || {GOING_ON}" if foreign else f"apt_update {_ONLY_OURS}"
    return [
        *lines,
        f"echo reading the package lists of {word(repository.url)}",
        update,
        *(f"check {operand(p.name)} {operand(p.version)} {operand(p.sha256)}" for p in packages),
    ]


def _fetch_key(key: Artifact) -> str:
    rest = f"./key.asc {key.size} {operand(key.sha256)}"
    if key.url is None:
        return f"adopt {operand(upload_path(key))} {rest}"
    return f"need curl\nfetch {operand(key.url)} {rest}"


_ONLY_OURS = (
    f"-o Dir::Etc::sourcelist={LIST} -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=false"
)

# Where the administrator listed the repository, another list of theirs may fail; `check` decides.
GOING_ON = 'echo "some package lists could not be fetched, going on" >&2'

_CHECK = r"""# check NAME VERSION SHA256: what the repository offers is what the lock file says.
check() {
  offered=$(apt-cache show -- "$1=$2" 2>/dev/null | sed -n 's/^SHA256: //p' | sort -u)
  if [ -z "$offered" ]; then
    echo "the repository doesn't offer $1 $2 (any more?): run llamaherd lock --update cuda" >&2
    exit 1
  fi
  if [ "$offered" != "$3" ]; then
    echo "$1 $2: the repository offers SHA-256" $offered "and the lock file says $3:" \
      "find out who changed it before you run llamaherd lock --update cuda" >&2
    exit 1
  fi
}
"""

# As apt's simulation prints them; the vendor names its drivers so.
_DRIVER = "^Inst (cuda-drivers|nvidia-driver|nvidia-open|nvidia-kernel|libnvidia-)[^ ]*"

_INSTALL = r"""
set -- --no-install-recommends --no-remove --allow-downgrades
for nvcc in @NVCCS@; do [ -x "$nvcc" ] || set -- "$@" --reinstall; done
set -- "$@" -- @PACKAGES@
# The first try asks the lists that are there; the second one fetches those of the distribution,
# where dependencies (a compiler, libc's headers) come from.
if ! apt_get --simulate install "$@" > plan 2>&1; then
  apt_update || @GOING_ON@
  apt_get --simulate install "$@" > plan 2>&1 || { cat plan; exit 1; }
fi
driver=$(grep -oE '@DRIVER@' plan || :)
if [ -n "$driver" ]; then
  echo "these packages would bring a driver along ($driver), which is not ours to install" >&2
  exit 1
fi
apt_get install -o APT::Status-Fd=3 -o Dpkg::Options::=--force-confold "$@" 3> apt-status
for nvcc in @NVCCS@; do
  [ -x "$nvcc" ] && continue
  echo "the packages brought no $nvcc: do cuda.version and the locked packages fit?" >&2
  exit 1
done
"""
