"""The CUDA toolkits that llama.cpp is built with: NVIDIA's packages, its wheels, or what is there.

Owns ``/opt/cuda/<version>`` (wheels), or three files below ``/etc/apt``, two below ``/etc`` with
dnf, and the locked packages (nvidia-repo). Refuses to install a driver, ever: that is
:mod:`deploys.driver`'s, where it is asked for.
"""

from __future__ import annotations

from pyinfra.api import deploy

from deploys.common.operations import host_settings
from deploys.cuda.toolkit import packaged_toolkits, toolkit
from inventories.settings import CudaSettings


@deploy("CUDA toolkit")
def cuda(settings: CudaSettings | None = None) -> None:
    """Bring the CUDA toolkits that builds need.

    + settings: provider and pins of one; the host's own from the fleet file when left out
    """
    toolkits = (settings,) if settings is not None else host_settings().toolkits
    # apt and dnf are told of all their packages at once: one repository, one set of pins.
    packaged = tuple(one for one in toolkits if one.provider == "nvidia-repo")
    if packaged:
        versions = " and ".join(str(one.version) for one in packaged)
        packaged_toolkits(name=f"CUDA {versions} (nvidia-repo)", settings=packaged)
    for one in toolkits:
        if one.provider not in ("none", "nvidia-repo"):
            name = f"CUDA {one.version or one.path or ''}".rstrip()
            toolkit(name=f"{name} ({one.provider})", settings=one)
