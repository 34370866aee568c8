"""CMake definitions that llamaherd sets itself: ``llama_cpp.cmake`` can't set them again. Pure.

deploys/llama_cpp gives them their values; a test holds both to the same names.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

_NOTHING = "nothing: "
ALWAYS: Mapping[str, str] = {
    "CMAKE_CUDA_ARCHITECTURES": "llama_cpp.architectures",
    "GGML_NATIVE": "llama_cpp.native",
    "GGML_CUDA": "llama_cpp.backends",
    "GGML_CCACHE": "llama_cpp.compiler_cache",
    "CMAKE_BUILD_TYPE": f"{_NOTHING}builds are Release",
    "BUILD_SHARED_LIBS": f"{_NOTHING}the libraries of llama.cpp are linked in",
    "LLAMA_BUILD_TESTS": "llama_cpp.targets",
    "LLAMA_BUILD_EXAMPLES": "llama_cpp.targets",
    "LLAMA_USE_PREBUILT_UI": f"{_NOTHING}a build downloads nothing",
    "LLAMA_BUILD_NUMBER": "llama_cpp.build_number",
    "LLAMA_BUILD_COMMIT": "llama_cpp.commit",
    "CMAKE_INSTALL_PREFIX": f"{_NOTHING}builds lie below /opt/llama.cpp",
}
"""By name, the setting that stands for it."""

_TOOLKIT = "cuda.path, with cuda.provider existing"
WITH_CUDA: Mapping[str, str] = {
    "CMAKE_CUDA_COMPILER": _TOOLKIT,
    "CUDAToolkit_ROOT": _TOOLKIT,
    "CMAKE_BUILD_RPATH": f"{_NOTHING}it is the toolkit's lib64",
}
"""The same, of builds with the backend cuda."""

FOUND_BY_CMAKE = frozenset({"CUDAToolkit_ROOT", "CMAKE_BUILD_RPATH"})
"""Those of :data:`WITH_CUDA` that are left to CMake where the toolkit is the distribution's."""

BESIDE: Mapping[str, str] = {
    "GGML_VULKAN": "backends",
    "GGML_STATIC": "static",
    "GGML_RPC": "rpc",
    "GGML_CUDA_FA_QUANTS": "flash_attention_quants",
    "GGML_CUDA_FA_ALL_QUANTS": "flash_attention_quants",
    "CMAKE_C_COMPILER_LAUNCHER": "compiler_cache",
    "CMAKE_CXX_COMPILER_LAUNCHER": "compiler_cache",
    "CMAKE_CUDA_COMPILER_LAUNCHER": "compiler_cache",
}
"""Definitions that are free until the setting of ``llama_cpp`` for them is used."""


def setting_of(name: str, used: Container[str], provider: str | None) -> str | None:
    """The setting that stands for a definition; None for one that is free.

    + used: the settings of ``llama_cpp`` that are written
    + provider: where the toolkit of a build with the backend cuda comes from; None without it
    """
    if name in ALWAYS:
        return ALWAYS[name]
    left = FOUND_BY_CMAKE if provider == "distribution" else ()
    if provider is not None and name in WITH_CUDA and name not in left:
        return WITH_CUDA[name]
    beside = BESIDE.get(name)
    return f"llama_cpp.{beside}" if beside is not None and beside in used else None


def misspelt(name: str) -> str | None:
    """How a definition is written that CMake would ignore for its case; None for a good one.

    Options of llama.cpp and ggml are in capitals. CMake's own begin so, and may go on in another
    case (``CMAKE_DISABLE_FIND_PACKAGE_OpenMP``), as those of what it looks for
    (``Vulkan_GLSLC_EXECUTABLE``).
    """
    capitals = name.upper()
    if capitals.startswith(("GGML_", "LLAMA_")):
        return capitals if name != capitals else None
    return capitals if capitals.startswith("CMAKE_") and not name.startswith("CMAKE_") else None
