"""The CUDA toolkit that llama.cpp is built with: NVIDIA's packages, its wheels, or what is there.

Owns ``/opt/cuda/<version>`` (wheels), or three files below ``/etc/apt`` and the locked packages
(nvidia-repo). Refuses to install a driver, ever.
"""

from __future__ import annotations

from pyinfra.api import deploy

from deploys.common.operations import host_settings
from deploys.cuda.toolkit import toolkit
from inventories.settings import CudaSettings


@deploy("CUDA toolkit")
def cuda(settings: CudaSettings | None = None) -> None:
    """Bring the CUDA toolkit that builds need.

    + settings: provider and pins; the host's own from the fleet file when left out
    """
    settings = settings or host_settings().cuda
    if settings is None or settings.provider == "none":
        return
    toolkit(
        name=f"CUDA {settings.version or settings.path} ({settings.provider})", settings=settings
    )
