"""The program that the controller host runs: the very code that this converge runs.

A wheel is made of the files of the running project, without a build tool: a wheel is a zip archive
(the binary distribution format, version 1.0). The digest over those files names the installation,
so an unchanged project is never installed twice, and the check on the controller host compares
itself with itself. The dependencies get the versions that this machine runs with, as pip
constraints; they are not part of the digest, because another Python may need other ones.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import deploys
from deploys.common.jobs import Job
from deploys.common.progress import Amount
from deploys.common.shell import operand, script_word

ROOT = "/opt/llamaherd"
CURRENT = f"{ROOT}/current"
PYTHON = (3, 11)
PACKAGES = ("deploys", "facts", "inventories", "llamaherd", "schemas")
MODULES = ("deploy.py", "inventory.py")
# A checkout holds more than the program: fleet files, for one, which are nobody else's affair.
SUFFIXES = frozenset({".py", ".json", ".service", ".timer", ".sh", ".html", ".css", ".js"})
# So YAML goes along only from where all of it is ours: fleet files lie right above.
CATALOGUE = "inventories/catalogue"
# As in pyproject.toml.
REQUIREMENTS = (
    "pyinfra>=3.10,<3.11",
    "pyyaml>=6.0",
    "jsonschema>=4.21",
    "requests>=2.31",
    "packaging>=24.0",
)
# A wheel's own times: the earliest that a zip archive can say.
_EPOCH = (1980, 1, 1, 0, 0, 0)


class ProgramError(Exception):
    """The running project can't be packed; the message says what is missing."""


def source_files(root: Path | None = None) -> dict[str, bytes]:
    """The files of the running project by path, sorted.

    + root: where its packages lie; None for those that run

    Raises :class:`ProgramError` when one is missing.
    """
    root = root or Path(deploys.__file__).resolve().parents[1]
    files: dict[str, bytes] = {}
    for package in PACKAGES:
        found = {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in (root / package).rglob("*")
            if path.is_file() and _belongs(path.relative_to(root))
        }
        if not found:
            raise ProgramError(f"{root} lacks {package}: run from a whole copy of llamaherd")
        files |= found
    for module in MODULES:
        if (root / module).is_file():
            files[module] = (root / module).read_bytes()
    return dict(sorted(files.items()))


def _belongs(path: Path) -> bool:
    return path.suffix in SUFFIXES or (
        path.suffix == ".yaml" and path.parent.as_posix() == CATALOGUE
    )


def source_digest(files: Mapping[str, bytes]) -> str:
    """A short name for these files: the first hex digits of a SHA-256 over paths and contents."""
    digest = hashlib.sha256()
    for path, content in files.items():
        digest.update(f"{path}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def project_version(digest: str) -> str:
    """The installed project's version with the digest as its local part, as PEP 440 has it."""
    try:
        base = Version(metadata.version("llamaherd")).public
    except metadata.PackageNotFoundError:
        base = "0"
    return f"{base}+{digest}"


def wheel_name(version: str) -> str:
    """File name of the wheel, as pip wants it."""
    return f"llamaherd-{version}-py3-none-any.whl"


def build_wheel(files: Mapping[str, bytes], version: str) -> bytes:
    """The wheel; the same files always give the same bytes."""
    info = f"llamaherd-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {requirement}\n" for requirement in REQUIREMENTS)
    head = f"Metadata-Version: 2.1\nName: llamaherd\nVersion: {version}\n"
    python = ".".join(map(str, PYTHON))
    everything = {
        **files,
        f"{info}/METADATA": f"{head}Requires-Python: >={python}\n{requires}".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: llamaherd\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": b"[console_scripts]\nllamaherd = llamaherd.cli:main\n",
    }
    record = "".join(_record(path, content) for path, content in everything.items())
    everything[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, content in everything.items():
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, content)
    return archive.getvalue()


def _record(path: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(content)}\n"


def constraints() -> tuple[str, ...]:
    """``name==version`` of every package that this machine runs our requirements with, sorted."""
    versions: dict[str, str] = {}
    waiting = [Requirement(requirement) for requirement in REQUIREMENTS]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in versions or not _applies(requirement):
            continue
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        # The local part names somebody's own build, which no registry has.
        versions[name] = Version(found.version).public
        waiting += [Requirement(text) for text in found.requires or ()]
    return tuple(f"{name}=={version}" for name, version in sorted(versions.items()))


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def directory(digest: str) -> str:
    """Where the program of that digest lies on the host."""
    return f"{ROOT}/{digest}"


def marker(digest: str) -> str:
    """The file that an installation has once it is whole."""
    return f"{directory(digest)}/complete"


def link_command(digest: str) -> str:
    """One command that makes ``current`` lead to the program of that digest, atomically."""
    link = f"ln -sfn -- {operand(digest)} {CURRENT}.new && mv -fT -- {CURRENT}.new {CURRENT}"
    return f"sh -c {script_word(link)}"


def executable(digest: str) -> str:
    """The command."""
    return f"{directory(digest)}/bin/llamaherd"


_INSTALL = r"""umask 022
python3 -c 'import sys; sys.exit(sys.version_info < @VERSION@)'
mkdir -p @ROOT@
# Without its marker it is what an earlier run left when it was cut off.
rm -rf -- @TARGET@
echo "making the virtual environment"
python3 -m venv @TARGET@
base64 -d < ./secret.wheel > ./@WHEEL@
cat > ./constraints <<'end'
@CONSTRAINTS@
end
echo "installing llamaherd and its dependencies"
@TARGET@/bin/python -m pip install --no-input --no-cache-dir --disable-pip-version-check \
  --progress-bar off --constraint ./constraints ./@WHEEL@
@TARGET@/bin/llamaherd drift --help > /dev/null
@TARGET@/bin/python -m pip freeze --disable-pip-version-check > @TARGET@/installed
# On the disk before the marker is: a power cut may otherwise leave the marker of an empty venv.
sync -f @TARGET@
touch @TARGET@/complete
sync -f @TARGET@
# The one before stays: a check may be running from it.
ls -1td @ROOT@/*/ | grep -vxF @LINK@/ | tail -n +3 | while read -r old; do rm -rf -- "$old"; done
"""


def install_job(digest: str) -> Job:
    """The job that installs the running project on a host, with the host's own Python and pip."""
    version = project_version(digest)
    name = wheel_name(version)
    script = (
        _INSTALL.replace("@VERSION@", str(PYTHON))
        .replace("@ROOT@", ROOT)
        .replace("@TARGET@", operand(directory(digest)))
        .replace("@LINK@", CURRENT)
        .replace("@WHEEL@", name)
        .replace("@CONSTRAINTS@", "\n".join(constraints()))
    )
    wheel = base64.encodebytes(build_wheel(source_files(), version)).decode()
    return Job(
        name=f"drift-{digest}",
        title=f"installing llamaherd {version}",
        script=script,
        probe=f"grep -c -E {script_word('^(making|installing|Collecting|Successfully)')} log",
        progress=_progress,
        # Not secret, but this is how a job gets a file; it goes when the job ends.
        secrets={"wheel": wheel},
        remedy="can the host's pip reach a package index (its own is named in /etc/pip.conf)?",
    )


def _progress(lines: list[str]) -> Amount | None:
    counts = [int(line) for line in lines if line.isdigit()]
    # The environment, the packages, and the last word of pip.
    total = len(constraints()) + 4
    return Amount(min(counts[-1], total), total) if counts else None
