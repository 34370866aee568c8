"""Settings of the CUDA component as tests use them: small stand-ins of what a lock file says."""

from __future__ import annotations

import dataclasses

from inventories.settings import AptPackage, Artifact, CudaRepository, CudaSettings

WHEELS = CudaSettings(
    "wheels",
    "13.0.2",
    wheels=tuple(
        Artifact(
            f"nvidia_{name}-13.0.88-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            256 * 2**20,
            digit * 64,
            url=f"https://wheels.invalid/{name}.whl",
        )
        for name, digit in (("cuda_nvcc", "a"), ("cublas", "b"))
    ),
)

KEY = Artifact("3bf863cc.pub", 1600, "c" * 64, url="https://cuda.invalid/3bf863cc.pub")

REPOSITORY = CudaRepository(
    "debian12",
    "https://cuda.invalid/repos/debian12/x86_64/",
    KEY,
    (
        AptPackage("cuda-nvcc-13-0", "13.0.88-1", "d" * 64),
        AptPackage("libcublas-dev-13-0", "13.1.0.3-1", "e" * 64),
    ),
)

NVIDIA_REPO = CudaSettings("nvidia-repo", "13.0", repositories=(REPOSITORY,))

EXISTING = CudaSettings("existing", path="/usr/local/cuda-12.8")


def as_installed(settings: CudaSettings) -> CudaSettings:
    """The same wheels, from the controller's own disk."""
    wheels = tuple(
        dataclasses.replace(wheel, url=None, path=f"/srv/{wheel.name}") for wheel in settings.wheels
    )
    return dataclasses.replace(settings, wheels=wheels)
