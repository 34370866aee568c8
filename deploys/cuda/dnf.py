"""The ``nvidia-repo`` provider on the RHEL family: exactly the locked packages, by dnf.

The repository is listed under a name of our own, and offers what is locked and nothing else:
``includepkgs`` names each package with its version, and a ``priority`` before dnf's usual 99 hides
other versions of the same packages in whatever else lists the vendor's repository. So no update
moves them (dnf.conf(5)). Packages are fetched first, held against the locked SHA-256, and then
installed from the files, their signatures checked by ``localpkg_gpgcheck``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from deploys.common.downloads import fetch_functions, upload_path
from deploys.common.files import ManagedFile
from deploys.common.jobs import Job
from deploys.common.shell import digest, operand, script_word, word, words
from deploys.cuda.shell import PUT_FUNCTION
from facts.cuda import CudaState
from inventories.settings import Artifact, CudaRepository

KEY = "/etc/pki/rpm-gpg/RPM-GPG-KEY-llamaherd-cuda"
PRIORITY = 50


def repository_file(component: str) -> str:
    """Where a component's (``cuda`` or ``driver``) entry for the repository lies."""
    return f"/etc/yum.repos.d/llamaherd-{component}.repo"


def own_files(component: str) -> tuple[str, ...]:
    """Every file that a component has on such a host."""
    return (repository_file(component), KEY)


def entry(component: str, repository: CudaRepository) -> ManagedFile:
    """The repository file: dnf.conf(5)."""
    name = f"llamaherd-{component}"
    packages = ",\n  ".join(f"{package.name}-{package.version}" for package in repository.packages)
    return ManagedFile(
        repository_file(component),
        f"[{name}]\n"
        f"name=NVIDIA's packages, as llamaherd locked them ({component})\n"
        f"baseurl={repository.url}\n"
        "enabled=1\n"
        "gpgcheck=1\n"
        f"gpgkey=file://{KEY}\n"
        f"priority={PRIORITY}\n"
        f"includepkgs={packages}\n",
    )


def differences(
    component: str, repository: CudaRepository, state: CudaState, programs: Iterable[str] = ()
) -> tuple[str, ...]:
    """What is not as it should be, for people; empty for a host in order.

    + programs: toolkit roots that must hold a working ``bin/nvcc``
    """
    file = entry(component, repository)
    wanted = {
        file.path: hashlib.sha256(file.content.encode()).hexdigest(),
        KEY: repository.key.sha256,
    }
    found = [path for path, sha256 in wanted.items() if state.files.get(path) != sha256]
    found += [
        f"{package.name} {state.packages.get(package.name, 'missing')} -> {package.version}"
        for package in repository.packages
        if state.packages.get(package.name) != package.version
    ]
    for root in programs:
        toolkit = state.toolkits.get(root)
        if toolkit is None or toolkit.version is None:
            found.append(f"{root}/bin/nvcc")
    return tuple(found)


def job(component: str, title: str, text: str) -> Job:
    """The job that lists the repository and installs; the key must have been uploaded before."""
    return Job(
        name=f"{component}-{digest(text)}",
        title=title,
        script=text,
        remedy=f"see docs/troubleshooting/{component}.md",
    )


def script(
    component: str,
    repository: CudaRepository,
    programs: Iterable[str] = (),
    *,
    module: str = "",
    driver: bool = False,
) -> str:
    """The job's script; a second run of it after a cut does what is left to do.

    + module: a module stream to enable first, such as ``nvidia-driver:580-open``
    + driver: whether a driver is what is wanted; else one that would come along is refused
    """
    file = entry(component, repository)
    specs = [f"{package.name}-{package.version}" for package in repository.packages]
    locked = "".join(f"{p.name} {p.version} {p.sha256}\n" for p in repository.packages)
    lines = [
        "export LC_ALL=C",
        fetch_functions(),
        PUT_FUNCTION,
        _KNOWN,
        _fetch_key(repository.key),
        f"put {KEY} < key.asc",
        f"printf %s {script_word(file.content)} | put {file.path}",
        f"rpmkeys --import {KEY}",
        f"printf %s {script_word(locked)} > locked",
        f"echo reading the package lists of {word(repository.url)}",
        f"dnf -q -y --disablerepo='*' --enablerepo=llamaherd-{component} --refresh makecache",
    ]
    if module:
        lines.append(f"dnf -q -y module reset {operand(module.partition(':')[0])}")
        lines.append(f"dnf -q -y module enable {operand(module)}")
    lines.append(_FETCH.replace("@PACKAGES@", words(specs)))
    if not driver:
        lines.append(_NO_DRIVER)
    lines += [_VERIFY, _INSTALL]
    for root in programs:
        lines.append(_PROGRAM.replace("@NVCC@", f"{operand(root)}/bin/nvcc"))
    lines.append("rm -rf ./rpms")
    return "\n".join(lines)


def _fetch_key(key: Artifact) -> str:
    rest = f"./key.asc {key.size} {operand(key.sha256)}"
    if key.url is None:
        return f"adopt {operand(upload_path(key))} {rest}"
    return f"fetch {operand(key.url)} {rest}"


_KNOWN = r"""# known FILE: name and version of a package file, as the lock file writes them.
known() { rpm -qp --nosignature --qf '%{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE}\n' "$1" |
  sed 's/ 0:/ /'; }
"""

_FETCH = r"""
rm -rf ./rpms; mkdir rpms
# What is installed already isn't fetched again; what its own dependencies need comes along.
if ! dnf -y --downloadonly --downloaddir="$PWD/rpms" install @PACKAGES@ > fetch.log 2>&1; then
  cat fetch.log
  if grep -qE 'No match for argument|Unable to find a match' fetch.log; then
    echo "the repository doesn't offer the locked versions (any more?):" \
      "run llamaherd lock --update cuda" >&2
  fi
  exit 1
fi
"""

# As the vendor names its drivers.
_NO_DRIVER = r"""
for file in rpms/*.rpm; do
  [ -e "$file" ] || continue
  case "$(known "$file")" in
  cuda-drivers*|nvidia-driver*|nvidia-open*|nvidia-kmod*|kmod-nvidia*|libnvidia-*)
    echo "these packages would bring a driver along ($(basename "$file"))," \
      "which is not ours to install" >&2
    exit 1;;
  esac
done
"""

_VERIFY = r"""
set --
for file in rpms/*.rpm; do
  [ -e "$file" ] || continue
  identity=$(known "$file")
  locked=$(grep -F -- "$identity " locked || :)
  [ -n "$locked" ] || continue
  sum=$(sha256sum < "$file"); sum=${sum%% *}
  if [ "$sum" != "${locked##* }" ]; then
    echo "$identity: the repository offers SHA-256 $sum and the lock file says ${locked##* }:" \
      "find out who changed it before you run llamaherd lock --update cuda" >&2
    exit 1
  fi
  set -- "$@" "./$file"
done
"""

_INSTALL = r"""
if [ $# -gt 0 ]; then
  echo installing
  dnf -y --setopt=localpkg_gpgcheck=1 install "$@"
fi
"""

_PROGRAM = r"""
if [ ! -x @NVCC@ ]; then
  # Every package is there and the program isn't: somebody removed the file.
  owner=$(rpm -qf --qf '%{NAME}\n' @NVCC@ 2>/dev/null || :)
  [ -z "$owner" ] || dnf -y reinstall "$owner"
fi
if [ ! -x @NVCC@ ]; then
  echo "the packages brought no "@NVCC@": do cuda.version and the locked packages fit?" >&2
  exit 1
fi
"""
