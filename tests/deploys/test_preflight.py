"""What can't work is refused beforehand, with the setting that mends it."""

import itertools
from dataclasses import replace

import pytest

from deploys.preflight import problems
from deploys.preflight.compatibility import (
    GCC,
    TOOLKITS,
    Combination,
    conflicts,
    driver_conflicts,
)
from facts.gpu import Gpu
from facts.system import Listener, SystemState
from inventories.settings import (
    CudaSettings,
    GitSource,
    HostSettings,
    LlamaCppSettings,
    ModelSettings,
    ServerSettings,
    SshSettings,
)

GIB = 1024**3
RTX4090 = Gpu(0, "NVIDIA GeForce RTX 4090", "GPU-1", 24564, 24000, "8.9", "580.65.06")
RTX5090 = Gpu(0, "NVIDIA GeForce RTX 5090", "GPU-2", 32607, 32000, "12.0", "580.65.06")
V100 = Gpu(0, "Tesla V100", "GPU-3", 32768, 32000, "7.0", "580.65.06")
GOOD = SystemState(
    distribution="debian",
    version_id="12",
    architecture="x86_64",
    glibc="2.36",
    systemd=252,
    root=True,
    disk_free={"/opt": 50 * GIB, "/var/lib": 50 * GIB},
    gpus=(RTX4090,),
)
HOST = HostSettings(
    name="gpu-01",
    ssh=SshSettings("10.0.0.11", user="ops"),
    cuda=CudaSettings("nvidia-repo", "13.0"),
    servers=(ServerSettings("coder", "glm", 8888, 65536),),
)


def test_a_build_too_old_for_a_served_model_is_refused() -> None:
    model = ModelSettings("glm", "GLM", "/m", (), llama_cpp_build=7832)
    idle = ModelSettings("idle", "Idle", "/i", (), llama_cpp_build=9999)
    source = GitSource("https://git.example.com/llama.cpp", "0c1e5700" * 5)
    old = LlamaCppSettings(source=source, build_number=7831, commit="0c1e570")
    host = replace(HOST, models=(model, idle), llama_cpp=old)
    found = problems(host, GOOD)
    assert found == [
        "build 7831 is too old for the model glm, which needs b7832 or newer "
        "(models.glm.llama_cpp_build): set llama_cpp to a newer build"
    ]
    new = replace(old, build_number=7832)
    assert problems(replace(host, llama_cpp=new), GOOD) == []


def test_a_good_host_has_no_problems() -> None:
    assert problems(HOST, GOOD) == []


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (replace(GOOD, root=False), "no root rights as ops: allow that user sudo"),
        (replace(GOOD, systemd=0), "a host without systemd"),
        (replace(GOOD, systemd=239), "needs systemd 247"),
        (replace(GOOD, disk_free={"/opt": GIB // 2}), "/opt has 512.0 MiB left"),
        (replace(GOOD, gpus=()), "no GPU answers (nvidia-smi)"),
        (
            replace(GOOD, listeners=(Listener(8888, "nginx[7]", "nginx.service"),)),
            "port 8888 of server coder is taken by nginx[7]: stop that, or set servers.coder.port",
        ),
    ],
)
def test_a_problem_names_its_remedy(facts: SystemState, message: str) -> None:
    (found,) = problems(HOST, facts)
    assert message in found


def test_our_own_server_on_its_port_is_no_stranger() -> None:
    own = replace(
        GOOD, listeners=(Listener(8888, "llama-server[9]", "llama-server@coder.service"),)
    )
    assert problems(HOST, own) == []


def test_all_problems_are_told_at_once() -> None:
    assert len(problems(HOST, replace(GOOD, systemd=0, gpus=()))) == 2


@pytest.mark.parametrize(
    ("toolkit", "glibc", "gpu", "message"),
    [
        ("12.9", "2.41", RTX4090, "set cuda.version to 13.0"),
        ("13.0", "2.36", replace(RTX4090, driver="570.133.07"), "set cuda.version to 12.8"),
        ("12.4", "2.36", RTX5090, "needs CUDA 12.8 or newer"),
        ("13.0", "2.36", V100, "set cuda.version to 12.9"),
        ("13.0", "2.42", RTX4090, "does not compile with glibc 2.42: set cuda.version to 13.3"),
        ("", "", replace(RTX5090, driver="565.57"), "needs driver 570.26 or newer, it has 565.57"),
    ],
)
def test_what_does_not_go_together(toolkit: str, glibc: str, gpu: Gpu, message: str) -> None:
    (found,) = conflicts(Combination(toolkit, glibc, (gpu,)))
    assert message in found


@pytest.mark.parametrize(
    ("toolkit", "glibc", "gpu"),
    [
        ("13.0", "2.41", RTX4090),
        ("13.0", "2.36", RTX5090),
        ("12.9", "2.36", V100),
        ("13.3", "2.43", RTX4090),
        ("14.0", "2.50", replace(RTX5090, compute_capability="13.0")),
        ("11.0", "2.36", RTX4090),
        ("", "", RTX4090),
        ("13.0", "2.36", replace(RTX4090, compute_capability=None, driver="[N/A]")),
    ],
)
def test_what_goes_together_or_is_not_known(toolkit: str, glibc: str, gpu: Gpu) -> None:
    assert conflicts(Combination(toolkit, glibc, (gpu,))) == []


BUILD = LlamaCppSettings(GitSource("https://example.org/llama.cpp", "0" * 40), 8146, "0" * 40)


def test_the_rows_go_up_and_no_row_takes_back_what_an_older_one_had_but_old_cards() -> None:
    releases = [row.release for row in TOOLKITS]
    assert releases == sorted(releases)
    for older, newer in itertools.pairwise(TOOLKITS):
        assert newer.driver >= older.driver
        assert newer.gcc >= older.gcc
        assert newer.capabilities[0] >= older.capabilities[0]
        assert newer.capabilities[1] >= older.capabilities[1]


@pytest.mark.parametrize(
    ("platform", "toolkit", "message"),
    [
        (("debian", "13"), "12.6", "takes no gcc newer than 13, the host has 14"),
        (("debian", "13"), "12.6", "set cuda.version to 12.8 or newer, or install gcc-13"),
        (("debian", "13"), "12.6", "CMAKE_CUDA_HOST_COMPILER: /usr/bin/g++-13"),
        (("ubuntu", "26.04"), "12.9", "takes no gcc newer than 14, the host has 15"),
        (("debian", "12"), "12.0", ""),
        (("rocky", "9.6"), "11.8", ""),
    ],
)
def test_the_distributions_compiler_and_the_toolkit_must_go_together(
    platform: tuple[str, str], toolkit: str, message: str
) -> None:
    facts = replace(GOOD, distribution=platform[0], version_id=platform[1])
    settings = replace(HOST, cuda=CudaSettings("wheels", toolkit), llama_cpp=BUILD)
    found = [text for text in problems(settings, facts) if "gcc" in text]
    assert len(found) == bool(message)
    assert message in "".join(found)
    own = replace(BUILD, cmake={"CMAKE_CUDA_HOST_COMPILER": "/usr/bin/g++-11"})
    assert not [t for t in problems(replace(settings, llama_cpp=own), facts) if "gcc" in t]


@pytest.mark.parametrize(
    ("compiler", "refused"), [("12.2.0", False), ("13.3.0", True), ("12", False), ("", False)]
)
def test_the_compiler_that_the_host_has_is_judged_not_its_distributions(
    compiler: str, refused: bool
) -> None:
    settings = replace(HOST, cuda=CudaSettings("wheels", "12.0"), llama_cpp=BUILD)
    found = problems(settings, replace(GOOD, compiler=compiler))
    assert any("takes no gcc newer than 12, the host has 13" in text for text in found) == refused


def test_a_declared_architecture_is_judged_as_a_card_is() -> None:
    settings = replace(HOST, llama_cpp=replace(BUILD, architectures=("70", "120a")))
    settings = replace(settings, cuda=CudaSettings("wheels", "12.6"))
    (found,) = problems(settings, GOOD)
    assert "llama_cpp.architectures (compute capability 12.0) needs CUDA 12.8" in found


def test_a_build_without_cuda_asks_nothing_of_the_gpu() -> None:
    settings = replace(HOST, llama_cpp=replace(BUILD, backends=("vulkan",)))
    assert problems(settings, replace(GOOD, gpus=(), glibc="2.43")) == []


def test_every_distribution_that_is_supported_has_its_compiler() -> None:
    assert set(GCC) == {
        *("debian12", "debian13", "ubuntu2204", "ubuntu2404", "ubuntu2604", "rhel9", "rhel10")
    }


@pytest.mark.parametrize(
    ("branch", "modules", "gpu", "message"),
    [
        (580, "open", V100, "set driver.modules to proprietary"),
        (590, "proprietary", V100, "set driver.branch to 580"),
        (580, "proprietary", RTX5090, "set driver.modules: open"),
        (565, "open", RTX5090, "set driver.branch to 570 or more"),
        (580, "open", RTX5090, ""),
        (580, "proprietary", V100, ""),
        (470, "proprietary", replace(V100, compute_capability=None), ""),
    ],
)
def test_a_driver_branch_and_its_modules_must_run_the_card(
    branch: int, modules: str, gpu: Gpu, message: str
) -> None:
    found = driver_conflicts(branch, modules, (gpu,))
    assert bool(found) == bool(message)
    assert message in "".join(found)
