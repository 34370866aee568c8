"""The same inputs make the same build, other inputs another; nothing collides in silence."""

import http.server
import json
import subprocess
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from pyinfra.api.exceptions import FactProcessError

from deploys.llama_cpp.build import (
    BUILD_PROBE,
    BuildError,
    Machine,
    build_progress,
    build_script,
    cmake_definitions,
    job_count,
    plan_build,
    source_script,
)
from facts.llama_cpp import LlamaCppState, parse_builds
from inventories import cmake
from inventories.settings import (
    ArchiveSource,
    Artifact,
    CudaSettings,
    GitSource,
    LlamaCppSettings,
)

COMMIT = "0c1e570" + "0" * 33
SETTINGS = LlamaCppSettings(GitSource("https://example.org/llama.cpp", COMMIT), 8146, COMMIT)
ARCHIVE = ArchiveSource(Artifact("x.tar.gz", 5, "c" * 64, path="/x.tar.gz"), "top/llama.cpp")
CPU = CudaSettings("none")
CUDA = CudaSettings("wheels", "13.0.2")
MACHINE = Machine("debian12", "x86_64", "AMD EPYC", ("89",))


def test_the_name_tells_number_and_commit() -> None:
    build = plan_build(SETTINGS, CPU, MACHINE)
    assert build.name.startswith("b8146-0c1e570-")
    assert build.path == f"/opt/llama.cpp/{build.name}"
    assert build.server == f"{build.path}/bin/llama-server"


def test_the_same_inputs_never_make_two_builds() -> None:
    again = replace(
        SETTINGS, jobs=1, compiler_cache="none", targets=tuple(reversed(SETTINGS.targets))
    )
    assert plan_build(SETTINGS, CUDA, MACHINE).name == plan_build(again, CUDA, MACHINE).name


@pytest.mark.parametrize(
    "settings",
    [
        replace(SETTINGS, source=ARCHIVE),
        replace(SETTINGS, targets=("llama-server",)),
        replace(SETTINGS, native=False),
        replace(SETTINGS, cmake={"GGML_RPC": "ON"}),
        replace(SETTINGS, architectures=("120",)),
        replace(SETTINGS, build_number=8147),
    ],
)
def test_each_input_makes_another_build(settings: LlamaCppSettings) -> None:
    assert plan_build(settings, CUDA, MACHINE).name != plan_build(SETTINGS, CUDA, MACHINE).name


def test_the_toolkit_and_the_host_make_another_build() -> None:
    names = {
        plan_build(SETTINGS, cuda, machine).name
        for cuda in (CPU, CUDA, CudaSettings("existing", path="/usr/local/cuda"))
        for machine in (MACHINE, replace(MACHINE, platform="debian13"))
    }
    assert len(names) == 6


def test_a_build_that_is_not_native_does_not_ask_for_the_cpu() -> None:
    settings = replace(SETTINGS, native=False)
    other = replace(MACHINE, cpu="Intel Xeon")
    assert plan_build(settings, CPU, MACHINE).name == plan_build(settings, CPU, other).name
    assert plan_build(SETTINGS, CPU, MACHINE).name != plan_build(SETTINGS, CPU, other).name


def test_a_compiler_that_breaks_tiles_is_not_asked_for_them() -> None:
    tiles = replace(MACHINE, amx=True)
    found = cmake_definitions(SETTINGS, CPU, tiles)
    assert found["CMAKE_C_FLAGS"] == found["CMAKE_CXX_FLAGS"] == "-mno-amx-int8"
    # It is another build: one that was made with them can't be mended by a restart.
    assert plan_build(SETTINGS, CPU, tiles).name != plan_build(SETTINGS, CPU, MACHINE).name
    own = replace(SETTINGS, cmake={"CMAKE_CXX_FLAGS": "-g"})
    assert cmake_definitions(own, CPU, tiles)["CMAKE_CXX_FLAGS"] == "-g -mno-amx-int8"


@pytest.mark.parametrize(
    ("settings", "machine"),
    [
        (SETTINGS, MACHINE),
        (replace(SETTINGS, native=False), replace(MACHINE, amx=True)),
        (SETTINGS, replace(MACHINE, amx=True, platform="debian13")),
    ],
)
def test_other_builds_keep_their_compilers_flags(
    settings: LlamaCppSettings, machine: Machine
) -> None:
    assert "CMAKE_CXX_FLAGS" not in cmake_definitions(settings, CPU, machine)


def test_architectures_come_from_the_gpus_unless_declared() -> None:
    found = cmake_definitions(SETTINGS, CUDA, replace(MACHINE, architectures=("86", "120")))
    assert found["CMAKE_CUDA_ARCHITECTURES"] == "120-real;86-real"
    declared = cmake_definitions(replace(SETTINGS, architectures=("89",)), CUDA, MACHINE)
    assert declared["CMAKE_CUDA_ARCHITECTURES"] == "89-real"


def test_without_gpus_and_architectures_there_is_no_cuda_build() -> None:
    with pytest.raises(BuildError, match=r"llama_cpp\.architectures is not set"):
        plan_build(SETTINGS, CUDA, replace(MACHINE, architectures=()))


def test_number_and_commit_are_always_passed_and_nothing_is_downloaded() -> None:
    for cuda in (CPU, CUDA):
        definitions = cmake_definitions(SETTINGS, cuda, MACHINE)
        assert definitions["LLAMA_BUILD_NUMBER"] == "8146"
        assert definitions["LLAMA_BUILD_COMMIT"] == "0c1e570"
        assert definitions["LLAMA_USE_PREBUILT_UI"] == "OFF"
    assert cmake_definitions(SETTINGS, CPU, MACHINE)["GGML_CUDA"] == "OFF"
    assert cmake_definitions(SETTINGS, CUDA, MACHINE)["CMAKE_CUDA_COMPILER"] == (
        "/opt/cuda/13.0.2/bin/nvcc"
    )


def test_an_extra_definition_that_collides_is_named() -> None:
    with pytest.raises(BuildError, match="GGML_CUDA, which llamaherd manages"):
        cmake_definitions(replace(SETTINGS, cmake={"GGML_CUDA": "OFF"}), CUDA, MACHINE)


@pytest.mark.parametrize(
    ("cores", "gib", "setting", "cuda", "jobs"),
    [
        (2, 24, None, False, 2),
        (32, 24, None, True, 6),
        (32, 24, None, False, 24),
        (32, 24, 4, True, 4),
        (8, 2, None, True, 1),
    ],
)
def test_jobs_are_bounded_by_cores_memory_and_the_setting(
    cores: int, gib: int, setting: int | None, cuda: bool, jobs: int
) -> None:
    assert job_count(replace(SETTINGS, jobs=setting), cores, gib * 1024**3, cuda) == jobs


@pytest.mark.parametrize("source", [SETTINGS.source, ARCHIVE])
def test_the_scripts_are_sound_shell(source: GitSource | ArchiveSource) -> None:
    settings = replace(SETTINGS, source=source, cmake={"CMAKE_CXX_FLAGS": "-O2 -g $x 'y'"})
    build = plan_build(settings, CUDA, MACHINE)
    for script in (source_script(settings, build), build_script(build, 4)):
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_an_archive_is_unpacked_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploys.llama_cpp.build.BUILDS_ROOT", str(tmp_path))
    settings = replace(SETTINGS, source=ARCHIVE)
    build = plan_build(settings, CPU, MACHINE)
    work = Path(build.work)
    tree = tmp_path / "top" / "llama.cpp"
    tree.mkdir(parents=True)
    (tree / "CMakeLists.txt").write_text("project(x)\n")
    work.mkdir()
    subprocess.run(
        ["tar", "-czf", str(work / "source.tar"), "-C", str(tmp_path), "top"], check=True
    )
    subprocess.run(["sh", "-eu", "-c", source_script(settings, build)], check=True)
    assert [path.name for path in (work / "source").iterdir()] == ["CMakeLists.txt"]
    assert not (work / "source.tar").exists()


def test_a_wrong_subdirectory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploys.llama_cpp.build.BUILDS_ROOT", str(tmp_path))
    settings = replace(SETTINGS, source=replace(ARCHIVE, subdirectory="top"))
    build = plan_build(settings, CPU, MACHINE)
    (tmp_path / "top" / "llama.cpp").mkdir(parents=True)
    Path(build.work).mkdir()
    subprocess.run(
        ["tar", "-czf", f"{build.work}/source.tar", "-C", str(tmp_path), "top"], check=True
    )
    result = subprocess.run(
        ["sh", "-eu", "-c", source_script(settings, build)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "llama_cpp.archive.subdirectory" in result.stderr
    assert not (Path(build.work) / "source").exists()


def repository(origin: Path) -> str:
    """A repository of two commits, which any web server can give out; the first one's name."""
    origin.mkdir()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(origin), "-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet")
    for number in (1, 2):
        (origin / "CMakeLists.txt").write_text(f"# {number}\n")
        git("add", ".")
        git("commit", "--quiet", "-m", f"{number}")
    git("update-server-info")
    return git("rev-parse", "HEAD~1")


class Stalling(http.server.SimpleHTTPRequestHandler):
    """Never answers the first request; knows nothing of git, so it can't give out one commit."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[str]] = []
    end: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if len(self.asked) == 1:
            self.end.wait(60)
            self.close_connection = True
            return
        super().do_GET()

    def log_message(self, *args: object) -> None: ...


def test_a_fetch_that_stalls_is_given_up_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploys.llama_cpp.build.BUILDS_ROOT", str(tmp_path / "opt"))
    monkeypatch.setattr("deploys.llama_cpp.build.STALL_SECONDS", 1)
    first = repository(tmp_path / "origin")
    serve = partial(Stalling, directory=str(tmp_path / "origin" / ".git"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = GitSource(f"http://127.0.0.1:{server.server_port}", first)
        settings = replace(SETTINGS, source=source, commit=first)
        build = plan_build(settings, CPU, MACHINE)
        script = source_script(settings, build).replace(" sleep ", " : ")
        try:
            done = subprocess.run(
                ["sh", "-eu", "-c", script], capture_output=True, text=True, check=False, timeout=60
            )
        finally:
            Stalling.end.set()
            server.shutdown()
    assert done.returncode == 0, done.stderr
    assert (Path(build.work) / "source" / "CMakeLists.txt").read_text() == "# 1\n"


def test_a_commit_is_fetched_from_a_real_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploys.llama_cpp.build.BUILDS_ROOT", str(tmp_path / "opt"))
    origin = tmp_path / "origin"
    first = repository(origin)
    settings = replace(SETTINGS, source=GitSource(f"file://{origin}", first), commit=first)
    build = plan_build(settings, CPU, MACHINE)
    subprocess.run(["sh", "-eu", "-c", source_script(settings, build)], check=True)
    assert (Path(build.work) / "source" / "CMakeLists.txt").read_text() == "# 1\n"


def test_progress_is_ninjas_own_count(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        "-- Configuring done\n[1/216] Building C object ggml/x.c.o\n[12/216] Linking [9/9] y\n"
    )
    done = subprocess.run(
        ["sh", "-c", BUILD_PROBE], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    amount = build_progress(done.stdout.splitlines())
    assert amount is not None
    assert (amount.done, amount.total) == (12, 216)
    assert build_progress([]) is None


def test_finished_and_prepared_builds_are_told_apart() -> None:
    state = parse_builds(
        [
            "@@llamaherd:build b1-0c1e570-aa",
            json.dumps({"name": "b1-0c1e570-aa", "seconds": 9}),
            "@@llamaherd:prepared .work-b2-ffffff-bb",
        ]
    )
    assert state.builds["b1-0c1e570-aa"]["seconds"] == 9
    assert state.prepared == {"b2-ffffff-bb"}
    assert parse_builds([]) == LlamaCppState()


def test_a_damaged_manifest_fails_this_host_and_names_the_folder() -> None:
    with pytest.raises(FactProcessError, match=r"/opt/llama\.cpp/b1/manifest\.json is damaged"):
        parse_builds(["@@llamaherd:build b1", '{"name": '])


CHANGES: tuple[dict[str, object], ...] = (
    {},
    {"backends": ("vulkan",)},
    {"rpc": True},
    {"compiler_cache": "sccache"},
    {"static": True, "flash_attention_quants": ("all",)},
)


@pytest.mark.parametrize(
    ("cuda", "change"),
    [
        *((CPU, change) for change in CHANGES[:-1]),  # the last ones need CUDA
        *((CUDA, change) for change in CHANGES),
        *((CudaSettings("distribution", "12.4"), change) for change in CHANGES),
    ],
)
def test_a_definition_that_is_set_here_is_one_that_a_fleet_file_cannot_set(
    cuda: CudaSettings, change: dict[str, object]
) -> None:
    with_cuda = cuda.provider != "none" and "backends" not in change
    settings = replace(SETTINGS, **change)  # type: ignore[arg-type]
    definitions = cmake_definitions(settings, cuda, MACHINE)
    provider = cuda.provider if with_cuda else None
    free = [name for name in definitions if not cmake.setting_of(name, change, provider)]
    assert free == []


def test_a_definition_that_a_fleet_file_cannot_set_is_set_here() -> None:
    names = set(cmake_definitions(SETTINGS, CUDA, MACHINE)) | {"CMAKE_INSTALL_PREFIX"}
    assert set(cmake.ALWAYS) | set(cmake.WITH_CUDA) == names


def test_definitions_are_in_the_case_that_cmake_knows() -> None:
    assert cmake.misspelt("ggml_lto") == "GGML_LTO"
    assert cmake.misspelt("Cmake_C_Flags") == "CMAKE_C_FLAGS"
    for name in ("GGML_LTO", "CMAKE_DISABLE_FIND_PACKAGE_OpenMP", "Vulkan_GLSLC_EXECUTABLE"):
        assert cmake.misspelt(name) is None
