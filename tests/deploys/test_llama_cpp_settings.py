"""Each setting of a build, from the fleet file to what runs; old builds keep their keys."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from deploys.common.jobs import Job, start_command, through_proxy
from deploys.llama_cpp.build import (
    BuildError,
    Machine,
    build_script,
    cmake_definitions,
    plan_build,
)
from deploys.llama_server.errors import ServerError
from deploys.llama_server.files import account_file
from deploys.llama_server.instance import Instance
from deploys.llama_server.unit import render_unit
from deploys.packages import wanted
from inventories.fleet import fleet_of
from inventories.lock import Lock, SourcePin, requests_of
from inventories.resolve import resolve_host
from inventories.settings import (
    AptPackage,
    Artifact,
    CudaRepository,
    CudaSettings,
    GitSource,
    HostSettings,
    LlamaCppSettings,
    ModelSettings,
    ProxySettings,
    ServerSettings,
    SshSettings,
)
from schemas.document import parse_document
from schemas.problems import ProblemsError

COMMIT = "0c1e570" + "0" * 33
SETTINGS = LlamaCppSettings(GitSource("https://example.org/llama.cpp", COMMIT), 8146, COMMIT)
MACHINE = Machine("debian12", "x86_64", "AMD EPYC", ("89",))
CPU, CUDA = CudaSettings("none"), CudaSettings("wheels", "13.0.2")
KEY = Artifact("3bf863cc.pub", 1600, "c" * 64, url="https://cuda.invalid/k")
REPOSITORIES = tuple(
    CudaRepository(name, "u", KEY, (AptPackage("n", "1", digit * 64),))
    for name, digit in (("debian12", "a"), ("ubuntu2404", "b"))
)
MODEL = ModelSettings("glm", "GLM", "/models/glm", (Artifact("m.gguf", 1, "a" * 64, url="x"),))
SERVER = ServerSettings("coder", "glm", 8888, 8192)


@pytest.mark.parametrize(
    ("cuda", "key"),
    [
        (CPU, "420e999db815"),
        (CUDA, "c494466f578d"),
        (CudaSettings("existing", path="/usr/local/cuda-13.0"), "6803fa70d939"),
        (CudaSettings("nvidia-repo", "13.0", repositories=REPOSITORIES), "6adf5cdfdaf9"),
    ],
)
def test_a_build_of_before_these_settings_keeps_its_key(cuda: CudaSettings, key: str) -> None:
    """Another key here compiles every fleet in the field anew."""
    assert plan_build(SETTINGS, cuda, MACHINE).name == f"b8146-0c1e570-{key}"


def test_a_build_with_ccache_and_a_definition_of_its_own_keeps_its_key() -> None:
    cmake = {"GGML_CUDA_FA_ALL_QUANTS": "ON"}
    settings = replace(SETTINGS, compiler_cache="ccache", cmake=cmake)
    assert plan_build(settings, CUDA, MACHINE).name == "b8146-0c1e570-db3ea6466714"


@pytest.mark.parametrize(
    ("change", "definitions"),
    [
        ({"backends": ("vulkan",)}, {"GGML_VULKAN": "ON", "GGML_CUDA": "OFF"}),
        ({"backends": ("cuda", "vulkan")}, {"GGML_VULKAN": "ON", "GGML_CUDA": "ON"}),
        ({"backends": ("cpu",)}, {"GGML_CUDA": "OFF"}),
        ({"static": True}, {"GGML_STATIC": "ON"}),
        ({"rpc": True}, {"GGML_RPC": "ON"}),
        (
            {"flash_attention_quants": ("all",)},
            {"GGML_CUDA_FA_QUANTS": "all", "GGML_CUDA_FA_ALL_QUANTS": "ON"},
        ),
        (
            {"flash_attention_quants": ("q8_0-q8_0", "q8_0-q4_0")},
            {"GGML_CUDA_FA_QUANTS": "q8_0-q8_0,q8_0-q4_0"},
        ),
        ({"compiler_cache": "ccache"}, {"GGML_CCACHE": "ON"}),
        (
            {"compiler_cache": "sccache"},
            {"GGML_CCACHE": "OFF", "CMAKE_CUDA_COMPILER_LAUNCHER": "sccache"},
        ),
    ],
)
def test_each_setting_is_a_definition_of_cmakes(
    change: dict[str, object], definitions: dict[str, str]
) -> None:
    settings = replace(SETTINGS, **change)  # type: ignore[arg-type]
    found = cmake_definitions(settings, CUDA, MACHINE)
    assert definitions.items() <= found.items()
    assert plan_build(settings, CUDA, MACHINE).name != plan_build(SETTINGS, CUDA, MACHINE).name


def test_a_build_without_cuda_is_the_same_whatever_the_toolkit() -> None:
    settings = replace(SETTINGS, backends=("vulkan",))
    assert plan_build(settings, CUDA, MACHINE).name == plan_build(settings, CPU, MACHINE).name
    assert "CMAKE_CUDA_COMPILER" not in cmake_definitions(settings, CUDA, MACHINE)


def test_the_distributions_toolkit_is_left_where_cmake_finds_it() -> None:
    found = cmake_definitions(SETTINGS, CudaSettings("distribution"), MACHINE)
    assert found["CMAKE_CUDA_COMPILER"] == "/usr/bin/nvcc"
    assert not {"CUDAToolkit_ROOT", "CMAKE_BUILD_RPATH"} & set(found)


@pytest.mark.parametrize(
    ("change", "cuda", "message"),
    [
        ({"backends": ("cuda",)}, CPU, r"cuda\.provider is none: set cuda\.provider"),
        ({"static": True}, CPU, r"llama_cpp\.static needs the backend cuda"),
        (
            {"backends": ("vulkan",), "flash_attention_quants": ("all",)},
            CUDA,
            r"llama_cpp\.flash_attention_quants needs the backend cuda",
        ),
        ({"rpc": True, "cmake": {"GGML_RPC": "OFF"}}, CPU, "GGML_RPC, which llamaherd manages"),
    ],
)
def test_settings_that_contradict_each_other_make_no_build(
    change: dict[str, object], cuda: CudaSettings, message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        plan_build(replace(SETTINGS, **change), cuda, MACHINE)  # type: ignore[arg-type]


def script_of(**change: object) -> str:
    settings = replace(SETTINGS, **change)  # type: ignore[arg-type]
    script = build_script(plan_build(settings, CUDA, MACHINE), 2)
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    return script


def test_the_rpc_server_is_built_and_installed_where_the_source_has_it() -> None:
    script = script_of(rpc=True)
    assert "ninja" in script
    assert "llama-fit-params ggml-rpc-server\n" in script
    assert "tools/rpc/CMakeLists.txt" in script


def test_sccache_keeps_its_files_and_is_ended_in_order() -> None:
    script = script_of(compiler_cache="sccache")
    assert "SCCACHE_DIR=/var/cache/llamaherd/sccache" in script
    assert script.index("ninja -C") < script.index("sccache --stop-server")
    assert "sccache" not in script_of()


@pytest.mark.parametrize(("known", "status"), [("GGML_CUDA_FA_QUANTS", 0), ("OTHER", 1)])
def test_a_source_that_takes_no_list_of_pairs_is_refused_before_it_compiles(
    tmp_path: Path, known: str, status: int
) -> None:
    """CMake itself would pass over a definition that nobody reads."""
    (tmp_path / "source/ggml").mkdir(parents=True)
    (tmp_path / "source/ggml/CMakeLists.txt").write_text(f"set({known} x CACHE STRING y)\n")
    script = script_of(flash_attention_quants=("q8_0-q8_0",))
    head = script[: script.index("cmake -S")].replace("/run/llamaherd/build", str(tmp_path))
    done = subprocess.run(["sh", "-eu", "-c", head], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert ("set it to all" in done.stderr) == bool(status)


def host(*servers: ServerSettings, **more: object) -> HostSettings:
    return HostSettings(
        "gpu-01",
        SshSettings("gpu-01"),
        cuda=CUDA,
        llama_cpp=SETTINGS,
        models=(MODEL,),
        servers=servers,
        **more,  # type: ignore[arg-type]
    )


def test_a_build_brings_the_packages_that_it_needs() -> None:
    vulkan = replace(SETTINGS, backends=("vulkan",), compiler_cache="sccache")
    names = set(wanted(host(SERVER, replace(SERVER, name="b", port=1, llama_cpp=vulkan))))
    assert {"libvulkan-dev", "glslc", "spirv-headers", "sccache"} <= names
    assert not {"libvulkan-dev", "ccache", "sccache"} & set(wanted(host(SERVER)))


def test_a_host_compiles_each_of_its_servers_builds_once() -> None:
    other = replace(SETTINGS, backends=("cpu",))
    second, third = (replace(SERVER, name=name, llama_cpp=other) for name in ("b", "c"))
    settings = host(SERVER, second, third)
    assert settings.builds == ((SETTINGS, CUDA), (other, CUDA))
    assert settings.build_of(SERVER) == (SETTINGS, CUDA)
    assert settings.backends_of(second) == ("cpu",)
    twelve = CudaSettings("wheels", "12.9")
    assert host(SERVER, replace(SERVER, cuda=twelve)).toolkits == (CUDA, twelve)


def instance(**change: object) -> Instance:
    server = replace(SERVER, **change)  # type: ignore[arg-type]
    return Instance(server, MODEL, "/opt/x/bin/llama-server", frozenset(), False, vulkan=True)


def test_a_vulkan_server_reaches_render_nodes_and_nothing_of_cudas_is_set() -> None:
    unit = render_unit(instance(gpus=("0", "1")))
    assert "DeviceAllow=char-drm rw\nSupplementaryGroups=render\n" in unit
    assert "Environment=GGML_VK_VISIBLE_DEVICES=0,1\n" in unit
    assert "CUDA_" not in unit
    assert "PrivateDevices" not in unit
    assert "\ng render -\n" in account_file([instance()]).content
    assert "render" not in account_file().content


def test_a_vulkan_server_without_gpus_sees_none() -> None:
    assert "Environment=GGML_VK_VISIBLE_DEVICES=\n" in render_unit(instance(gpus=()))
    assert "GGML_VK_VISIBLE_DEVICES" not in render_unit(instance(gpus=None))


def test_vulkan_takes_no_uuid() -> None:
    with pytest.raises(ServerError, match=r"servers\.coder\.gpus: Vulkan knows GPUs by index"):
        render_unit(instance(gpus=("GPU-8f6f9d1c",)))


# The fleet file ---------------------------------------------------------------------------------

HEAD = """\
version: 1
models:
  glm: {hub: {repo: unsloth/GLM-4.7-Flash-GGUF, quant: Q4_K_M}}
defaults:
  cuda: {provider: existing, path: /usr/local/cuda-13.0}
  llama_cpp: {ref: b8146, ccache: true, cmake: {GGML_RPC: true}}
hosts:
"""


def problems(text: str) -> list[str]:
    try:
        fleet_of(parse_document((HEAD + text).encode(), "f.yaml"), Path("f.yaml"))
    except ProblemsError as error:
        return [problem.message for problem in error.problems]
    return []


def resolved(text: str) -> HostSettings:
    fleet = fleet_of(parse_document((HEAD + text).encode(), "f.yaml"), Path("f.yaml"))
    pins = {
        request.name: SourcePin(request.body, COMMIT, 8146)
        for request in requests_of(fleet)
        if request.kind == "llama_cpp"
    }
    return resolve_host(fleet, Lock(llama_cpp=pins), "a")


def test_every_setting_of_a_build_reaches_the_settings() -> None:
    build = resolved(
        "  a: {llama_cpp: {backends: [cuda, vulkan], static: true, compiler_cache: sccache,\n"
        "      flash_attention_quants: [q8_0-q8_0], rpc: true, cmake: {GGML_RPC: null}}}\n"
    ).llama_cpp
    assert build is not None
    assert (build.backends, build.static, build.rpc) == (("cuda", "vulkan"), True, True)
    assert (build.compiler_cache, build.flash_attention_quants) == ("sccache", ("q8_0-q8_0",))
    old = resolved("  a: {llama_cpp: {flash_attention_quants: all}}\n").llama_cpp
    assert old is not None
    assert (old.compiler_cache, old.flash_attention_quants) == ("ccache", ("all",))
    assert (old.backends, old.static, old.rpc) == ((), False, False)


def test_a_servers_own_build_and_toolkit_lie_over_the_hosts() -> None:
    text = (
        "  a:\n    servers:\n      s:\n        model: glm\n        port: 1\n"
        "        llama_cpp: {ref: b8200, backends: [cpu]}\n"
        "        cuda: {provider: none}\n"
    )
    fleet = fleet_of(parse_document((HEAD + text).encode(), "f.yaml"), Path("f.yaml"))
    values = fleet.hosts["a"].values
    own = values["servers"]["s"]["llama_cpp"]
    assert (own["ref"], own["ccache"], own["cmake"]) == ("b8200", True, {"GGML_RPC": "ON"})
    assert values["llama_cpp"]["ref"] == "b8146"
    assert values["servers"]["s"]["cuda"]["provider"] == "none"
    names = [request.name for request in requests_of(fleet) if request.kind == "llama_cpp"]
    assert names == ["b8146", "b8200"]


def test_a_server_with_an_archive_drops_the_hosts_ref() -> None:
    archive = '{archive: {url: "https://e.org/x.tgz", sha256: "' + "1" * 64 + '"}, commit: 0c1e570'
    server = f"{{model: glm, port: 1, llama_cpp: {archive}, build_number: 5}}}}"
    assert problems(f"  a: {{servers: {{s: {server}}}}}\n") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cuda: {provider: none}, llama_cpp: {backends: [cuda]}",
            "cuda needs a toolkit, and cuda.provider is none: set that, or drop cuda here",
        ),
        (
            "llama_cpp: {backends: [vulkan], static: true}",
            "only a build with the backend cuda has this; delete it",
        ),
        (
            "llama_cpp: {rpc: true}",
            "llamaherd sets this itself; the setting for it is llama_cpp.rpc",
        ),
        (
            "llama_cpp: {cmake: {GGML_CCACHE: false}}",
            "llamaherd sets this itself; the setting for it is llama_cpp.compiler_cache",
        ),
        (
            "servers: {s: {model: glm, port: 1, llama_cpp: {archive: {path: x}}}}",
            "sha256 is missing: the archive is not used unverified",
        ),
        (
            'proxy: {http: "http://u:secret@p:3128"}',
            "this is not the address of a proxy such as http://proxy.example.com:3128; "
            "a password is never written here",
        ),
    ],
)
def test_what_cannot_be_is_said_before_a_host_is_asked(text: str, message: str) -> None:
    assert message in problems(f"  a: {{{text}}}\n")


# The proxy --------------------------------------------------------------------------------------


def test_a_proxy_reaches_the_settings_and_every_job_by_its_script() -> None:
    settings = resolved('  a: {proxy: {http: "http://p:3128", no_proxy: [.lan]}}\n')
    assert settings.proxy == ProxySettings("http://p:3128", None, (".lan",))
    job = through_proxy(Job("x", "x", "echo\n"), settings.proxy)
    done = subprocess.run(
        ["sh", "-c", f"{job.script}env"], capture_output=True, text=True, check=True, env={}
    )
    seen = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert seen["http_proxy"] == seen["https_proxy"] == seen["HTTPS_PROXY"] == "http://p:3128"
    assert seen["no_proxy"] == "localhost,127.0.0.1,::1,.lan"
    assert "3128" not in str(start_command(job))


def test_without_a_proxy_a_job_is_left_alone() -> None:
    job = Job("x", "x", "echo\n")
    assert through_proxy(job, None) is job
