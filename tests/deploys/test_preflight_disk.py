"""What a converge will bring is counted beforehand, by file system, less what lies there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deploys.common.downloads import upload_path
from deploys.llama_cpp.build import machine, plan_build
from deploys.preflight.disk import (
    BUILD_TOOLS,
    MARGIN,
    OPENCODE_FACTOR,
    TOOLKIT,
    WORK_BYTES,
    disk_findings,
    needs,
)
from facts.system import DISKS, SystemState
from inventories.settings import (
    ArchiveSource,
    Artifact,
    CudaSettings,
    GitSource,
    HostSettings,
    LlamaCppSettings,
    ModelSettings,
    OpenCodeSettings,
    SshSettings,
)

GIB = 1024**3
MODELS = "/var/lib/llamaherd/models"
WEIGHTS = Artifact("m.gguf", 20 * GIB, "a" * 64, url="https://example.org/m")
MODEL = ModelSettings("glm", "GLM", f"{MODELS}/glm", (WEIGHTS,))
BUILD = LlamaCppSettings(GitSource("https://example.org/llama.cpp", "0" * 40), 8146, "0" * 40)
OPENCODE = OpenCodeSettings(
    "1.18.33",
    {"x86_64": Artifact("o.tgz", 60_000_000, "c" * 64, url="https://example.org/o")},
    ("dev",),
    (),
    "x",
)
HOST = HostSettings("gpu-01", SshSettings("10.0.0.11"), cuda=CudaSettings("none"))


def state(
    free: int = 500 * GIB, models: int | None = None, there: dict[str, int] | None = None
) -> SystemState:
    """One file system, and another one for models where ``models`` says what is free there."""
    mounts = dict.fromkeys(DISKS, "/")
    disk = dict.fromkeys(DISKS, free)
    if models is not None:
        mounts[MODELS], disk[MODELS] = MODELS, models
    return SystemState(
        distribution="debian",
        version_id="12",
        architecture="x86_64",
        compiler="12.2.0",
        disk_free=disk,
        mounts=mounts,
        there=there or {},
    )


def told(settings: HostSettings, facts: SystemState) -> list[str]:
    return [f"{found.summary}: {found.remedy}" for found in disk_findings(settings, facts)]


def test_nothing_to_bring_needs_the_margin_alone_and_only_where_it_always_does() -> None:
    assert told(HOST, state(MARGIN)) == []
    assert told(HOST, state(MARGIN - 1)) == [
        "/ has 1024.0 MiB left, at least 1.0 GiB are needed: make room there "
        "(llamaherd prune shows what nothing needs any more)"
    ]
    assert told(HOST, state(models=0)) == []


def test_models_count_on_the_file_system_that_they_go_to() -> None:
    settings = replace(HOST, models=(MODEL,))

    assert told(settings, state(models=21 * GIB)) == []
    assert told(settings, state(free=2 * GIB, models=21 * GIB)) == []
    assert told(settings, state(models=21 * GIB - 1)) == [
        f"20.0 GiB are to come to {MODELS} (models 20.0 GiB) and 1.0 GiB must stay free, "
        "it has 21.0 GiB: make room there (llamaherd prune shows what nothing needs any more), "
        "or choose a smaller quant"
    ]


@pytest.mark.parametrize("name", ["m.gguf", "m.gguf.part"])
def test_what_has_arrived_of_a_model_is_not_to_come_again(name: str) -> None:
    settings = replace(HOST, models=(MODEL, replace(MODEL, name="the same files")))

    (need,) = needs(settings, state(there={f"{MODEL.directory}/{name}": 15 * GIB}))
    assert need.size == 5 * GIB
    assert needs(settings, state(there={f"{MODEL.directory}/{name}": 20 * GIB})) == ()


def test_everything_that_goes_to_one_file_system_is_summed_up_and_told_apart() -> None:
    source = ArchiveSource(Artifact("source.tar", GIB, "f" * 64, url="https://example.org/s"))
    settings = replace(
        HOST,
        models=(MODEL,),
        llama_cpp=replace(BUILD, source=source),
        opencode=OPENCODE,
    )
    facts = replace(state(free=25 * GIB), compiler="")
    total = 20 * GIB + WORK_BYTES + GIB + OPENCODE_FACTOR * 60_000_000 + sum(BUILD_TOOLS.values())

    assert sum(need.size for need in needs(settings, facts)) == total
    (found,) = told(settings, facts)
    assert found.startswith("24.9 GiB are to come to / (models 20.0 GiB, building llama.cpp 4.0 G")
    assert "OpenCode 286.1 MiB, compiler and CMake 672.0 MiB) and 1.0 GiB must" in found


def test_a_host_that_has_it_all_needs_nothing() -> None:
    settings = replace(HOST, models=(MODEL,), llama_cpp=BUILD, opencode=OPENCODE)
    build = plan_build(BUILD, CudaSettings("none"), machine(state()))
    there = {
        MODEL.path: 20 * GIB,
        f"{build.path}/manifest.json": 900,
        "/opt/opencode/1.18.33/manifest.json": 300,
    }

    assert needs(settings, state(there=there)) == ()
    assert len(needs(settings, state())) == 3


def test_a_build_that_was_cut_off_goes_on_in_the_room_that_it_has() -> None:
    build = plan_build(BUILD, CudaSettings("none"), machine(state()))

    (need,) = needs(replace(HOST, llama_cpp=BUILD), state(there={build.work: 2 * GIB}))
    assert (need.path, need.size) == (build.work, WORK_BYTES - 2 * GIB)


def test_a_file_of_the_controllers_counts_twice_where_uploads_lie_elsewhere() -> None:
    file = replace(WEIGHTS, url=None, path="/models/m.gguf")
    settings = replace(HOST, models=(replace(MODEL, files=(file,)),))

    (together,) = needs(settings, state(there={upload_path(file): 4 * GIB}))
    assert (together.what, together.size) == ("models", 16 * GIB)
    apart = needs(settings, state(models=30 * GIB, there={upload_path(file): 4 * GIB}))
    assert {need.what: need.size for need in apart} == {"models": 20 * GIB, "uploads": 16 * GIB}


WHEEL = Artifact("nvcc.whl", GIB, "b" * 64, url="https://example.org/w")


@pytest.mark.parametrize(
    ("toolkit", "there", "size"),
    [
        (CudaSettings("wheels", "13.0.2", wheels=(WHEEL,)), "", 3 * GIB),
        (
            CudaSettings("wheels", "13.0.2", wheels=(WHEEL,)),
            "/opt/cuda/13.0.2/manifest.json",
            0,
        ),
        (CudaSettings("distribution", "11.8"), "", sum(TOOLKIT["distribution"].values())),
        (CudaSettings("distribution", "11.8"), "/usr/bin/nvcc", 0),
        (CudaSettings("nvidia-repo", "13.0"), "", sum(TOOLKIT["nvidia-repo"].values())),
        (CudaSettings("nvidia-repo", "13.0"), "/usr/local/cuda-13.0/bin/nvcc", 0),
        (CudaSettings("existing", path="/usr/local/cuda-13.0"), "", 0),
    ],
)
def test_a_toolkit_that_is_missing_needs_its_room(
    toolkit: CudaSettings, there: str, size: int
) -> None:
    settings = replace(HOST, cuda=toolkit)
    found = needs(settings, state(there={there: 100} if there else {}))
    assert sum(need.size for need in found) == size


def test_a_host_that_doesnt_tell_of_a_file_system_is_not_refused_for_it() -> None:
    settings = replace(HOST, models=(MODEL,))
    assert told(settings, replace(state(), disk_free={}, mounts={})) == []
