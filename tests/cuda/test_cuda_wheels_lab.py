"""The ``wheels`` provider on a real host: first with small stand-ins, then NVIDIA's own wheels.

With NVIDIA's, a real CUDA source file of llama.cpp is compiled, and CMake takes the toolkit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import subprocess
import tarfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cuda_dummies import NVCC
from cuda_support import Converge, Outcome

from inventories.pinning.cuda_wheels import pin_toolkit
from inventories.pinning.web import World
from inventories.settings import Artifact, CudaSettings

pytestmark = pytest.mark.lab

VENDORED = "llama_cpp_python-0.3.36/vendor/llama.cpp/ggml"
CUDA_H = "CUresult CUDAAPI cuInit(unsigned int Flags);\n#define cuMemAlloc cuMemAlloc_v2\n"

PROBE = """
cmake_minimum_required(VERSION 3.18)
project(probe LANGUAGES CXX)
find_package(CUDAToolkit REQUIRED)
enable_language(CUDA)
add_executable(probe probe.cu)
target_link_libraries(probe PRIVATE CUDA::cudart CUDA::cublas CUDA::cuda_driver)
"""

PROBE_CU = """
#include <cublas_v2.h>
#include <cuda.h>
__global__ void add(float * x) { x[threadIdx.x] += 1.0f; }
int main() {
    cublasHandle_t handle;
    cublasCreate(&handle);
    CUmemAllocationProp properties = {};
    size_t granularity;
    cuMemGetAllocationGranularity(&granularity, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    add<<<1, 32>>>(nullptr);
}
"""


def wheel(folder: Path, name: str, contents: dict[str, str]) -> Artifact:
    """A small wheel on the controller, its executables executable for their owner alone."""
    path = folder / f"{name}-py3-none-manylinux2014_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in contents.items():
            info = zipfile.ZipInfo(f"nvidia/cu13/{member}")
            info.external_attr = (0o100744 if "/bin/" in info.filename else 0o100644) << 16
            archive.writestr(info, content)
    data = path.read_bytes()
    return Artifact(path.name, len(data), hashlib.sha256(data).hexdigest(), path=str(path))


def small(folder: Path, version: str = "13.0.88") -> CudaSettings:
    """A toolkit of two small wheels."""
    nvcc = wheel(folder, f"nvcc-{version}", {"bin/nvcc": NVCC.format(version=version)})
    runtime = {"include/cuda.h": CUDA_H, "lib/libcudart.so.13": "not a library"}
    wheels = (nvcc, wheel(folder, f"runtime-{version}", runtime))
    return CudaSettings("wheels", "13.0", wheels=wheels)


def leftovers(host: Any, version: str = "13.0") -> str:
    """What an install of that version left besides the toolkit."""
    look = f"ls -d /opt/cuda/.staging-{version} /var/lib/llamaherd/uploads/* 2>/dev/null || :"
    return str(host.run(look).stdout)


def test_wheels_from_the_controller_become_a_toolkit(
    host: Any, converge: Converge, tmp_path: Path
) -> None:
    settings = small(tmp_path)
    outcome = converge(settings, "ops")
    assert outcome.status == 0, outcome.output
    assert "13.0.88" in host.run("/opt/cuda/13.0/bin/nvcc --version", user="dev").stdout
    assert host.run("readlink /opt/cuda/13.0/lib64").stdout == "lib\n"
    assert host.run("readlink /opt/cuda/13.0/lib64/libcudart.so").stdout == "libcudart.so.13\n"
    assert leftovers(host) == ""
    assert converge(settings, "ops").changed == ()


def test_the_stub_answers_for_every_function_that_the_header_names(host: Any) -> None:
    stub = Path(host.directory) / "upper/opt/cuda/13.0/lib/stubs/libcuda.so"
    listed = subprocess.run(["readelf", "-Wsd", stub], capture_output=True, text=True, check=True)
    assert "soname: [libcuda.so.1]" in listed.stdout
    assert " cuInit\n" in listed.stdout
    assert " cuMemAlloc_v2\n" in listed.stdout


def test_a_wheel_with_another_hash_is_refused_and_the_old_toolkit_stays(
    host: Any, converge: Converge, tmp_path: Path
) -> None:
    good = small(tmp_path, "13.0.99")
    bad = dataclasses.replace(good.wheels[0], sha256="0" * 64)
    outcome = converge(dataclasses.replace(good, wheels=(bad, good.wheels[1])))
    assert outcome.status != 0
    assert "the lock file says 0000" in outcome.output
    assert "13.0.88" in host.run("/opt/cuda/13.0/bin/nvcc --version").stdout


def test_a_moved_lock_replaces_the_toolkit(host: Any, converge: Converge, tmp_path: Path) -> None:
    outcome = converge(small(tmp_path, "13.0.99"))
    assert outcome.status == 0, outcome.output
    assert "13.0.99" in host.run("/opt/cuda/13.0/bin/nvcc --version").stdout
    assert leftovers(host) == ""


def test_a_damaged_toolkit_is_put_together_again(
    host: Any, converge: Converge, tmp_path: Path
) -> None:
    settings = small(tmp_path, "13.0.99")
    assert converge(settings).changed == ()
    host.run("rm /opt/cuda/13.0/bin/nvcc")
    assert converge(settings).changed
    assert converge(settings).changed == ()


def test_wheels_without_a_compiler_are_refused_with_what_to_set(
    converge: Converge, tmp_path: Path
) -> None:
    runtime = wheel(tmp_path, "runtime", {"lib/libcudart.so.12": "not a library"})
    outcome = converge(CudaSettings("wheels", "12.8", wheels=(runtime,)))
    assert outcome.status != 0
    assert "these wheels hold no nvcc" in outcome.output
    assert "cuda.provider to nvidia-repo" in outcome.output


@pytest.fixture(scope="module")
def nvidia(tmp_path_factory: pytest.TempPathFactory) -> CudaSettings:
    """NVIDIA's wheels of 13.0.2, locked as ``llamaherd lock`` does it."""
    request = {"provider": "wheels", "version": "13.0.2"}
    pin = pin_toolkit(request, World(tmp_path_factory.mktemp("lock")))
    return CudaSettings("wheels", "13.0.2", wheels=pin.wheels)


def test_an_install_that_is_killed_leaves_nothing_under_the_final_name(
    host: Any, converge: Converge, nvidia: CudaSettings
) -> None:
    outcomes: list[Outcome] = []
    run = threading.Thread(target=lambda: outcomes.append(converge(nvidia)))
    run.start()
    wait = "until ls /opt/cuda/.staging-13.0.2/wheels/*.whl >/dev/null 2>&1; do sleep 0.2; done"
    host.run(wait, timeout=300)
    host.run("systemctl kill --signal=KILL 'llamaherd-cuda-13.0.2-*.service'")
    run.join(timeout=120)
    assert outcomes[0].status != 0
    assert "was killed" in outcomes[0].output
    assert host.run("test -e /opt/cuda/13.0.2", check=False).returncode != 0


def test_nvidias_wheels_are_installed_with_what_was_fetched_before(
    host: Any, converge: Converge, nvidia: CudaSettings
) -> None:
    kept = host.run("stat -c '%n %Y' /opt/cuda/.staging-13.0.2/wheels/*.whl").stdout
    assert kept
    outcome = converge(nvidia)
    assert outcome.status == 0, outcome.output
    assert "V13.0.88" in host.run("/opt/cuda/13.0.2/bin/nvcc --version", user="dev").stdout
    assert leftovers(host, "13.0.2") == ""


def test_nothing_is_left_to_do_and_it_is_seen_at_once(
    converge: Converge, nvidia: CudaSettings
) -> None:
    began = time.monotonic()
    assert converge(nvidia).changed == ()
    assert time.monotonic() - began < 30


def test_cmake_takes_the_toolkit_and_links_against_the_drivers_stub(
    host: Any, nvidia: CudaSettings
) -> None:
    host.run("apt-get -q update && apt-get -y -q install --no-install-recommends g++ cmake make")
    files = {"probe/CMakeLists.txt": PROBE.encode(), "probe/probe.cu": PROBE_CU.encode()}
    unpack(host, files)
    host.run(
        "cmake -S /root/probe -B /root/probe/build -DCMAKE_CUDA_ARCHITECTURES=89-real "
        f"-DCMAKE_CUDA_COMPILER={nvidia.root}/bin/nvcc -DCUDAToolkit_ROOT={nvidia.root} "
        f"-DCMAKE_BUILD_RPATH={nvidia.root}/lib && cmake --build /root/probe/build",
        timeout=600,
    )
    needed = host.run("ldd /root/probe/build/probe").stdout
    assert f"libcublas.so.13 => {nvidia.root}/lib/libcublas.so.13" in needed
    assert "libcuda.so.1 => not found" in needed


def test_a_cuda_source_file_of_llama_cpp_compiles(host: Any, nvidia: CudaSettings) -> None:
    from downloads import SOURCE, ensure

    unpack(host, headers_and(ensure(SOURCE), "clamp.cu"))
    host.run(
        f"cd /root/ggml && {nvidia.root}/bin/nvcc -std=c++17 "
        "-gencode arch=compute_89,code=sm_89 -I include -I src "
        "-c src/ggml-cuda/clamp.cu -o clamp.o",
        timeout=600,
    )
    assert "sm_89" in host.run("strings -a /root/ggml/clamp.o | grep -m 1 sm_89").stdout


def headers_and(source: Path, name: str) -> dict[str, bytes]:
    """That CUDA source file of llama.cpp's tree, and the headers it may include."""
    found = {}
    with tarfile.open(source) as archive:
        for member in archive:
            _, inside, path = member.name.partition(f"{VENDORED}/")
            if not inside or not path.endswith((".h", ".cuh", f"ggml-cuda/{name}")):
                continue
            if content := archive.extractfile(member):
                found[f"ggml/{path}"] = content.read()
    return found


def unpack(host: Any, files: dict[str, bytes]) -> None:
    """Lay files down below /root on the host."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    subprocess.run([*host.ssh(), "tar -x -C /root"], input=packed.getvalue(), check=True)
