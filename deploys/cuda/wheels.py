"""The ``wheels`` provider: NVIDIA's Python wheels made into a toolkit that CMake takes.

No Python is needed on the host: a wheel is a zip archive. What the wheels of toolkit 13.0.2 hold
was looked at (``nvidia/cu13/{bin,include,lib,nvvm}``), and five mends are needed before
FindCUDAToolkit and nvcc (``bin/nvcc.profile``) accept it:

- the folders move up to the toolkit's root, where ``bin/nvcc.profile`` finds them as ``..``;
- ``lib64`` links to ``lib``: the profile names ``lib64`` for the linker;
- each ``libX.so.N`` gets the link ``libX.so`` that a linker looks for;
- ``lib64/stubs/libcuda.so`` is made from the names in ``cuda.h``: the driver's library may be
  missing where a build happens, and each function of the stub answers 34, which is
  ``CUDA_ERROR_STUB_LIBRARY``. It never gets the name that the loader looks for;
- executables are made executable by everyone (in the wheels they are so for their owner alone).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from deploys.common.apt import APT_FUNCTIONS
from deploys.common.archives import ARCHIVE_FUNCTIONS
from deploys.common.downloads import (
    fetch_functions,
    fetch_probe,
    fetch_progress,
    upload_path,
)
from deploys.common.jobs import Job
from deploys.common.operations import HostError
from deploys.common.progress import Amount
from deploys.common.shell import digest, operand, words
from deploys.cuda.shell import TOOL_FUNCTIONS
from inventories.settings import CUDA_ROOT, Artifact, CudaSettings

# Counts what the mends below make of the same wheels: a change in them makes hosts install anew.
LAYOUT = 1

# Unpacked, the wheels of 13.0.2 take 1.64 times their size; both lie there for a moment.
DISK_FACTOR = 3


def manifest(settings: CudaSettings) -> dict[str, Any]:
    """What the toolkit is made of; a directory that carries it is whole."""
    return {
        "layout": LAYOUT,
        "version": settings.version,
        "wheels": {wheel.name: wheel.sha256 for wheel in settings.wheels},
    }


def is_current(settings: CudaSettings, found: Mapping[str, Any] | None) -> bool:
    """Whether the host's manifest is that of these settings."""
    return found == manifest(settings)


def staging(settings: CudaSettings) -> str:
    """Where the toolkit is put together: on the file system where it will lie."""
    return f"{CUDA_ROOT}/.staging-{settings.version}"


def check_wheels(settings: CudaSettings, architecture: str, disk_free: int) -> None:
    """HostError when these wheels can't become a toolkit on this host.

    + architecture: of the host, as ``uname -m`` says it
    + disk_free: bytes below CUDA_ROOT
    """
    if not settings.wheels or not settings.version:
        raise HostError(
            "cuda: the provider wheels has no wheels: run llamaherd lock, or set cuda.provider"
        )
    problem = architecture_problem(settings, architecture)
    if problem:
        raise HostError(problem)
    needed = DISK_FACTOR * sum(wheel.size for wheel in settings.wheels)
    if disk_free < needed:
        raise HostError(
            f"cuda: {CUDA_ROOT} has {disk_free / 2**30:.1f} GiB free and the toolkit needs "
            f"{needed / 2**30:.1f} GiB while it is put together: free some space there"
        )


def architecture_problem(settings: CudaSettings, architecture: str) -> str:
    """Why these wheels aren't for a machine, as ``uname -m`` names it; empty where they are."""
    for wheel in settings.wheels:
        if not wheel.name.endswith((f"_{architecture}.whl", "-any.whl")):
            return (
                f"cuda: {wheel.name} is not for {architecture}: lock wheels for this machine, "
                "or set cuda.provider to existing or nvidia-repo for this host"
            )
    return ""


def job(settings: CudaSettings) -> Job:
    """The job that fetches, unpacks, mends and renames; uploads must have happened before."""
    downloads = f"{staging(settings)}/wheels"
    return Job(
        name=f"cuda-{settings.version}-{digest(manifest(settings))}",
        title=f"installing CUDA {settings.version}",
        script=script(settings),
        probe=fetch_probe(settings.wheels, downloads),
        progress=lambda lines: progress(settings.wheels, lines),
        remedy="see docs/troubleshooting/cuda.md",
    )


def progress(wheels: tuple[Artifact, ...], lines: list[str]) -> Amount | None:
    """Bytes of the wheels, and what is done with them."""
    amount = fetch_progress(wheels, lines)
    if amount is None:
        return None
    last = lines[-1] if lines[-1] != "log" else ""
    doing = last.split(" ")[0]
    note = doing if doing in ("installing", "unpacking", "mending") else amount.note
    return Amount(amount.done, amount.total, amount.unit, note)


def script(settings: CudaSettings) -> str:
    """The job's script. Whatever it is cut off at, a second run of it ends with a whole toolkit."""
    calls = "\n".join(
        _fetch_call(wheel, f"{staging(settings)}/wheels/{wheel.name}") for wheel in settings.wheels
    )
    uploads = [upload_path(wheel) for wheel in settings.wheels if wheel.url is None]
    return (
        APT_FUNCTIONS
        + TOOL_FUNCTIONS
        + ARCHIVE_FUNCTIONS
        + fetch_functions()
        + _SCRIPT.replace("@ROOT@", operand(settings.root))
        .replace("@PARENT@", CUDA_ROOT)
        .replace("@STAGING@", operand(staging(settings)))
        .replace("@FETCH@", calls)
        .replace("@UPLOADS@", words(uploads))
        .replace("@MANIFEST@", json.dumps(manifest(settings), indent=2, sort_keys=True))
    )


def _fetch_call(wheel: Artifact, final: str) -> str:
    """Fetch or adopt one wheel, unless an earlier run that was cut off left it verified."""
    rest = f"{operand(final)} {wheel.size} {operand(wheel.sha256)}"
    source = f"fetch {operand(wheel.url)}" if wheel.url else f"adopt {operand(upload_path(wheel))}"
    return f"have {operand(final)} {operand(wheel.sha256)} || {source} {rest}"


# All wheels of ``$staging/wheels`` into ``$staging/unpacked``, or refused.
UNPACK = r"""
rm -rf -- "$staging/unpacked" "$staging/root"
mkdir -- "$staging/unpacked" "$staging/root"
for wheel in "$staging"/wheels/*.whl; do
  zip_inside "$wheel"
  unzip -q -o "$wheel" -d "$staging/unpacked"
  # Before the next one: unzip would write through a link that this one left.
  no_links "$staging/unpacked"
done
tree_inside "$staging/unpacked"
"""

_SCRIPT = (
    r"""
have() { [ -f "$1" ] && printf '%s  %s\n' "$2" "$1" | sha256sum --check --status; }

root=@ROOT@ staging=@STAGING@
mkdir -p @PARENT@ "$staging/wheels"
mkdir -p /run/llamaherd
exec 9> /run/llamaherd/cuda.lock
flock 9

# gcc makes the stub below, and is nvcc's own host compiler.
need curl unzip gcc
@FETCH@

echo "unpacking the wheels"
"""
    + UNPACK
    + r"""
echo "mending the layout"
new=$staging/root
for part in "$staging"/unpacked/nvidia/*/; do
  for folder in bin include lib nvvm; do
    [ -d "$part$folder" ] || continue
    mkdir -p "$new/$folder"
    cp -alf -- "$part$folder/." "$new/$folder/"
  done
done
mkdir "$new/licences"
for info in "$staging"/unpacked/*.dist-info; do
  [ -d "$info/licenses" ] || continue
  cp -al -- "$info/licenses" "$new/licences/$(basename "$info" .dist-info)"
done
if [ ! -f "$new/bin/nvcc" ]; then
  echo "these wheels hold no nvcc: NVIDIA publishes it as a wheel from CUDA 13.0 on;" \
    "set cuda.version to 13.0 or newer, or cuda.provider to nvidia-repo" >&2
  exit 1
fi
chmod -R u=rwX,go=rX -- "$new"
ln -s lib "$new/lib64"
for library in "$new"/lib/*.so.*; do
  link=${library%%.so.*}.so
  [ -e "$link" ] || ln -s "$(basename "$library")" "$link"
done

header=$new/include/cuda.h
if [ -f "$header" ]; then
  mkdir -p "$new/lib/stubs"
  { tr '\n' ' ' < "$header" | grep -oE 'CUDAAPI +cu[A-Z][A-Za-z0-9_]* *\(' | grep -oE 'cu[A-Z]\w*'
    grep -oE '\bcu[A-Z][A-Za-z0-9]*_v[0-9]+\b' "$header"
  } | sort -u | sed 's/.*/int &(void) { return 34; }/' > "$staging/stub.c"
  gcc -shared -fPIC -nostdlib -Wl,-soname,libcuda.so.1 -o "$new/lib/stubs/libcuda.so" \
    "$staging/stub.c"
fi
"$new/bin/nvcc" --version | grep release

cat > "$new/manifest.json" <<'END OF MANIFEST'
@MANIFEST@
END OF MANIFEST
sync -f "$new/manifest.json"
rm -rf -- "$staging/old"
[ ! -e "$root" ] || mv -T -- "$root" "$staging/old"
mv -T -- "$new" "$root"
rm -rf -- "$staging" @UPLOADS@
"""
)
