"""What makes a llama.cpp build: its key, its CMake definitions, its scripts. Pure.

Upstream behaviour relied on (llama.cpp's CMakeLists.txt and cmake/build-info.cmake): the build
number and commit come from git unless ``LLAMA_BUILD_NUMBER`` and ``LLAMA_BUILD_COMMIT`` are
passed; ``LLAMA_USE_PREBUILT_UI`` (default on) downloads the web UI; ninja prints ``[done/total]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploys.common.archives import ARCHIVE_FUNCTIONS
from deploys.common.downloads import STALL_RATE, STALL_SECONDS
from deploys.common.progress import Amount
from deploys.common.shell import digest, operand, word
from facts.llama_cpp import WORK_PREFIX
from facts.system import SystemState
from inventories.settings import (
    BUILDS_ROOT,
    ArchiveSource,
    CudaSettings,
    GitSource,
    LlamaCppSettings,
)

# What a compile job may take of memory at its worst: nvcc on the flash attention kernels, g++.
CUDA_JOB_BYTES = 4 * 1024**3
CPU_JOB_BYTES = 1024**3
# Where a job sees its work folder. One name for all builds: compilers put paths into what they
# make, so this keeps builds alike and lets ccache serve one build from another's.
WORK_MOUNT = "/run/llamaherd/build"
RPC_SERVER = "ggml-rpc-server"
CACHES = "/var/cache/llamaherd"


@dataclass(frozen=True)
class Machine:
    """What of a host shapes a build.

    + platform: such as ``debian12``: binaries link its libraries
    + architecture: as ``uname -m`` says it
    + cpu: model name; a native build is made for it
    + architectures: CUDA compute capabilities of its GPUs, such as ``("89",)``
    + amx: whether the processor has tiles (Intel's AMX)
    """

    platform: str
    architecture: str
    cpu: str
    architectures: tuple[str, ...] = ()
    amx: bool = False


def machine(facts: SystemState) -> Machine:
    """What of a host shapes its builds, from what it says it is."""
    found = {gpu.architecture for gpu in facts.gpus if gpu.architecture}
    return Machine(
        facts.platform, facts.architecture, facts.cpu, tuple(sorted(found)), amx=facts.amx
    )


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class BuildError(ValueError):
    """These settings make no build on this machine; the message names the setting to change."""


@dataclass(frozen=True)
class Build:
    """A build as it will be: where it goes, and everything that shapes it.

    + name: folder below ``/opt/llama.cpp``: number, commit, and the build key's hash
    + inputs: what the hash is made of; goes into the manifest
    + definitions: for CMake
    """

    name: str
    inputs: Mapping[str, Any]
    definitions: Mapping[str, str]
    targets: tuple[str, ...]

    @property
    def path(self) -> str:
        """Where the finished build lies."""
        return f"{BUILDS_ROOT}/{self.name}"

    @property
    def work(self) -> str:
        """Where it is made."""
        return f"{BUILDS_ROOT}/{WORK_PREFIX}{self.name}"

    @property
    def server(self) -> str:
        """The llama-server binary."""
        return f"{self.path}/bin/llama-server"


def plan_build(settings: LlamaCppSettings, cuda: CudaSettings, machine: Machine) -> Build:
    """The build that these settings make on that machine; BuildError when they make none."""
    # They become names of files.
    for setting, name in (("commit", settings.commit), *(("targets", t) for t in settings.targets)):
        if not _NAME.fullmatch(name):
            raise BuildError(f"llama_cpp.{setting}: {name!r} is no name: write letters and digits")
    definitions = cmake_definitions(settings, cuda, machine)
    targets = _targets(settings)
    inputs = {
        "source": _source(settings),
        "definitions": definitions,
        "targets": sorted(targets),
        "platform": machine.platform,
        "architecture": machine.architecture,
        "cpu": machine.cpu if settings.native else None,
        "cuda": _toolkit(cuda, machine.platform) if uses_cuda(settings, cuda) else None,
    }
    name = f"b{settings.build_number}-{settings.commit[:7]}-{digest(inputs)}"
    return Build(name, inputs, definitions, targets)


def uses_cuda(settings: LlamaCppSettings, cuda: CudaSettings) -> bool:
    """Whether a build has the CUDA backend."""
    return "cuda" in settings.computes_with(cuda)


def _targets(settings: LlamaCppSettings) -> tuple[str, ...]:
    if settings.rpc and RPC_SERVER not in settings.targets:
        return (*settings.targets, RPC_SERVER)
    return settings.targets


def _source(settings: LlamaCppSettings) -> Mapping[str, str]:
    if isinstance(settings.source, GitSource):
        return {"commit": settings.source.commit}
    return {
        "sha256": settings.source.artifact.sha256,
        "subdirectory": settings.source.subdirectory,
    }


# The distributions that were locked together by default when keys were first made: the pins of all
# of them are in a key, and must stay there, or every fleet compiles anew.
_TOGETHER = ("debian12", "debian13", "ubuntu2204", "ubuntu2404")


def _toolkit(cuda: CudaSettings, platform: str) -> Any:
    """What of the toolkit shapes a build: its pins, not where they were fetched from."""
    if cuda.provider == "none":
        return None
    among = _TOGETHER if platform in _TOGETHER else (platform,)
    pins = [wheel.sha256 for wheel in cuda.wheels]
    pins += [
        package.sha256
        for repository in cuda.repositories
        if repository.distribution in among
        for package in repository.packages
    ]
    return {"provider": cuda.provider, "root": cuda.root, "pins": sorted(pins)}


def cmake_definitions(
    settings: LlamaCppSettings, cuda: CudaSettings, machine: Machine
) -> dict[str, str]:
    """CMake definitions by name; BuildError where an extra one collides with one of ours."""
    managed = {
        "CMAKE_BUILD_TYPE": "Release",
        "BUILD_SHARED_LIBS": "OFF",
        "GGML_NATIVE": _switch(settings.native),
        "GGML_CCACHE": _switch(settings.compiler_cache == "ccache"),
        "GGML_CUDA": _switch(uses_cuda(settings, cuda)),
        "LLAMA_BUILD_TESTS": "OFF",
        "LLAMA_BUILD_EXAMPLES": "OFF",
        "LLAMA_USE_PREBUILT_UI": "OFF",
        "LLAMA_BUILD_NUMBER": str(settings.build_number),
        "LLAMA_BUILD_COMMIT": settings.commit[:7],
    }
    if uses_cuda(settings, cuda):
        managed |= _cuda_definitions(settings, cuda, machine)
    elif settings.flash_attention_quants or settings.static:
        setting = "static" if settings.static else "flash_attention_quants"
        raise BuildError(f"llama_cpp.{setting} needs the backend cuda: remove it")
    managed |= _chosen(settings, cuda)
    collisions = sorted(set(managed) & set(settings.cmake))
    if collisions:
        raise BuildError(
            f"llama_cpp.cmake sets {', '.join(collisions)}, which llamaherd manages: remove it"
        )
    return managed | dict(settings.cmake) | _without_tiles(settings, machine)


# gcc 12.2 takes the intrinsic that loads a tile's configuration for one that reads 8 bytes of it,
# and drops the rest: a native build's server ends by SIGSEGV in ggml_backend_amx_mul_mat as soon as
# a processor with tiles computes (*ran*, as llama.cpp's issue 20824 and its pull request 26954 have
# it). These distributions' compilers were seen to keep it; others go without tiles.
_KEEPS_TILES = frozenset({"debian13"})
NO_TILES = "-mno-amx-int8"


def _without_tiles(settings: LlamaCppSettings, machine: Machine) -> dict[str, str]:
    """What keeps ggml's code for AMX out of a build that its compiler would break."""
    if not (machine.amx and settings.native) or machine.platform in _KEEPS_TILES:
        return {}
    flags = ("CMAKE_C_FLAGS", "CMAKE_CXX_FLAGS")
    return {name: f"{settings.cmake.get(name, '')} {NO_TILES}".strip() for name in flags}


def _chosen(settings: LlamaCppSettings, cuda: CudaSettings) -> dict[str, str]:
    """Definitions of settings that most builds leave alone: unset, they aren't in the build key."""
    found = {}
    if "vulkan" in settings.backends:
        found["GGML_VULKAN"] = "ON"
    if settings.rpc:
        found["GGML_RPC"] = "ON"
    if settings.static:
        found["GGML_STATIC"] = "ON"
    if settings.compiler_cache == "sccache":
        # GGML_CCACHE would take ccache where both are installed.
        languages = ("C", "CXX", *(["CUDA"] if uses_cuda(settings, cuda) else []))
        found |= {f"CMAKE_{name}_COMPILER_LAUNCHER": "sccache" for name in languages}
    if settings.flash_attention_quants:
        found["GGML_CUDA_FA_QUANTS"] = ",".join(settings.flash_attention_quants)
    if settings.flash_attention_quants == ("all",):
        # The name before lists could be given; newer trees still take it.
        found["GGML_CUDA_FA_ALL_QUANTS"] = "ON"
    return found


def _cuda_definitions(
    settings: LlamaCppSettings, cuda: CudaSettings, machine: Machine
) -> dict[str, str]:
    root = cuda.root
    if root is None:
        raise BuildError(
            "llama_cpp.backends has cuda and cuda.provider is none: set cuda.provider, "
            "or drop cuda from llama_cpp.backends"
        )
    architectures = settings.architectures or machine.architectures
    if not architectures:
        raise BuildError(
            "no GPU was found and llama_cpp.architectures is not set: set it, such as "
            '["89"] for an RTX 4090, mend the driver, or use cuda: {provider: none}'
        )
    found = {
        "CMAKE_CUDA_COMPILER": f"{root}/bin/nvcc",
        "CMAKE_CUDA_ARCHITECTURES": ";".join(f"{name}-real" for name in sorted(set(architectures))),
    }
    if cuda.provider == "distribution":
        return found  # CMake and the loader know where a distribution keeps its libraries
    # The toolkit isn't in the loader's path: without the run path the server dies at its start.
    return found | {"CUDAToolkit_ROOT": root, "CMAKE_BUILD_RPATH": f"{root}/lib64"}


def _switch(on: bool) -> str:
    return "ON" if on else "OFF"


def job_count(settings: LlamaCppSettings, cores: int, memory: int, cuda: bool) -> int:
    """How many compile jobs at once: by cores, by ``memory`` (bytes available), by the setting."""
    by_memory = memory // (CUDA_JOB_BYTES if cuda else CPU_JOB_BYTES)
    bounds = [cores, by_memory] + ([settings.jobs] if settings.jobs else [])
    return max(1, min(bounds))


CPU_CORE_SECONDS = 1050
CUDA_CORE_SECONDS = 2700
"""What one core takes for the default targets, and for the kernels of one GPU architecture more.

Measured on two cores of an AMD EPYC with nothing cached: 521 s for the CPU's part, 31 minutes with
one architecture of CUDA 13.0.
"""


def compile_seconds(build: Build, jobs: int) -> int:
    """About how long a build takes with so many compile jobs; a cache makes it shorter."""
    architectures = build.definitions.get("CMAKE_CUDA_ARCHITECTURES", "")
    kernels = len(architectures.split(";")) if architectures else 0
    return (CPU_CORE_SECONDS + kernels * CUDA_CORE_SECONDS) // jobs


def source_script(settings: LlamaCppSettings, build: Build) -> str:
    """The script that leaves the source unpacked at ``<work>/source``, whole or not at all.

    For an archive, the fetch of it to ``<work>/source.tar`` must have been put before.
    """
    work = operand(build.work)
    head = f"mkdir -p {work}\nrm -rf {work}/source.new {work}/build\n"
    if isinstance(settings.source, ArchiveSource):
        body = unpack_lines(settings.source, work)
    else:
        body = _clone(settings.source, work)
    return f"{head}{body}mv -T {work}/source.new {work}/source\nrm -f {work}/source.tar\n"


def unpack_lines(source: ArchiveSource, work: str) -> str:
    """Shell lines that leave the archive's source in ``<work>/source.new``, or refuse it."""
    member = source.subdirectory.strip("/")
    depth = len(member.split("/")) if member else 0
    return (
        f"{ARCHIVE_FUNCTIONS}"
        f"mkdir {work}/source.new\n"
        f"echo unpacking\n"
        f"tar_inside {work}/source.tar\n"
        f"tar --extract --file {work}/source.tar --directory {work}/source.new "
        f"--no-same-owner --no-same-permissions --strip-components={depth} "
        f"{operand(member) if member else ''}\n"
        f"tree_inside {work}/source.new\n"
        f"[ -f {work}/source.new/CMakeLists.txt ] || "
        f"{{ echo 'no CMakeLists.txt there: check llama_cpp.archive.subdirectory' >&2; exit 1; }}\n"
    )


_FETCH = r"""
# fetched ARGUMENTS: three tries. Git alone makes one, and waits for ever where nothing comes.
fetched() {
  for try in 1 2 3; do
    [ $try = 1 ] || sleep $((try * 5))
    git -C @SOURCE@ -c http.lowSpeedLimit=@RATE@ -c http.lowSpeedTime=@STALL@ fetch "$@" && return
  done
  return 1
}
"""


def _clone(source: GitSource, work: str) -> str:
    repository, commit = operand(source.repository), operand(source.commit)
    git = f"git -C {work}/source.new"
    functions = (
        _FETCH.replace("@SOURCE@", f"{work}/source.new")
        .replace("@RATE@", str(STALL_RATE))
        .replace("@STALL@", str(STALL_SECONDS))
    )
    # Not every server gives out a bare commit: then the whole history is fetched.
    return (
        f"{functions}git init --quiet {work}/source.new\n"
        f"fetched --depth 1 --no-tags {repository} {commit} || "
        f"fetched --tags {repository} '+refs/heads/*:refs/remotes/origin/*'\n"
        f"{git} -c advice.detachedHead=false checkout --quiet {commit}\n"
        f'[ "$({git} rev-parse HEAD)" = {commit} ]\n'
    )


def build_script(build: Build, jobs: int) -> str:
    """The script that configures, compiles, checks and installs a build from its source."""
    definitions = " ".join(word(f"-D{key}={value}") for key, value in build.definitions.items())
    targets = " ".join(map(operand, build.targets))
    checks, ending = _checks(build), ""
    if build.definitions.get("CMAKE_CXX_COMPILER_LAUNCHER") == "sccache":
        checks += f"export SCCACHE_DIR={CACHES}/sccache SCCACHE_IDLE_TIMEOUT=0\n"
        # Its server outlives the compilers, and would be killed in the middle of a write.
        ending = "sccache --stop-server > /dev/null 2>&1 || :\n"
    manifest = json.dumps({"name": build.name, **build.inputs}, sort_keys=True)
    number = build.definitions["LLAMA_BUILD_NUMBER"]
    commit = build.definitions["LLAMA_BUILD_COMMIT"]
    return f"""work={WORK_MOUNT}
export CCACHE_DIR={CACHES}/ccache CCACHE_BASEDIR=$work CCACHE_NOHASHDIR=1
export CCACHE_COMPILERCHECK=content
started=$(date +%s)
{checks}cmake -S "$work/source" -B "$work/build" -G Ninja {definitions}
ninja -C "$work/build" -j {jobs} {targets}
{ending}rm -rf -- "$work/install"
mkdir -p "$work/install/bin"
for target in {targets}; do cp -- "$work/build/bin/$target" "$work/install/bin/"; done
cd "$work/install"
if [ -x bin/llama-server ] && ldd bin/llama-server | grep -q 'not found'; then
  # Without a driver a CUDA build can't start here; with one it must.
  ldd bin/llama-server | grep 'not found' | grep -v 'libcuda\\.so\\.1' && exit 1
elif [ -x bin/llama-server ]; then
  bin/llama-server --version 2>&1 | grep -F {word(f"(build {number}, commit {commit})")} ||
    bin/llama-server --version 2>&1 | grep -F {word(f"{number} ({commit}")}
  bin/llama-server --help > help.txt 2>&1
fi
options=$(grep -oE -e '--[a-z][a-z0-9-]+' help.txt 2>/dev/null | sort -u | tr '\\n' ' ' || :)
rm -f help.txt
# So that a file that was put in a binary's place is seen.
binaries=$(for target in {targets}; do
  sum=$(sha256sum < "bin/$target")
  printf ', "%s": "%s %s"' "$target" "$(stat -c '%s %Y' "bin/$target")" "${{sum%% *}}"
done)
printf '%s\\n' {word(manifest)} |
  sed "s|}}\\$|, \\"seconds\\": $(($(date +%s) - started)), \\"options\\": \\"$options\\", \\
\\"binaries\\": {{${{binaries#, }}}}}}|" > manifest.json
chmod -R a-w .
cd /
# A rename must not cross the mount: from here on by the folder's real name.
work={operand(build.work)} final={operand(build.path)}
if [ -e "$final" ]; then chmod -R u+w "$final"; rm -rf -- "$final"; fi
chmod u+w "$work/install"
sync -f "$work/install"
mv -T "$work/install" "$final"
rm -rf -- "$work"
"""


def _checks(build: Build) -> str:
    """Shell that refuses what this source doesn't know; CMake would pass over it in silence."""
    found = ""
    if "GGML_CUDA_FA_QUANTS" in build.definitions and "GGML_CUDA_FA_ALL_QUANTS" not in (
        build.definitions
    ):
        found += _known(
            "ggml/CMakeLists.txt",
            "GGML_CUDA_FA_QUANTS",
            "flash_attention_quants takes no list with this llama.cpp: set it to all, "
            "or take a newer llama_cpp.ref",
        )
    if RPC_SERVER in build.targets:
        found += _known(
            "tools/rpc/CMakeLists.txt",
            RPC_SERVER,
            "this llama.cpp has no ggml-rpc-server: take a newer llama_cpp.ref, or set "
            "llama_cpp.cmake.GGML_RPC and name its RPC server in llama_cpp.targets",
        )
    return found


def _known(file: str, text: str, otherwise: str) -> str:
    return (
        f'grep -q {word(text)} "$work/source/{file}" || {{ echo {word(otherwise)} >&2; exit 1; }}\n'
    )


_STEP = re.compile(r"\[(\d+)/(\d+)\]")

BUILD_PROBE = r"tail -c 20000 log 2>/dev/null | grep -o '^\[[0-9]*/[0-9]*\]' | tail -n 1"


def build_progress(lines: list[str]) -> Amount | None:
    """Ninja's own count, as :data:`BUILD_PROBE` prints it."""
    match = _STEP.search(" ".join(lines))
    return Amount(int(match[1]), int(match[2])) if match else None
