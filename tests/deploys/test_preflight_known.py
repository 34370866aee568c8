"""What is known beforehand is told beforehand: by settings, by the platform, by this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deploys.packages import deb_names, rpm_names, wanted
from deploys.preflight import by_area, problems, questions
from deploys.preflight.controller import controller_findings
from facts.gpu import Gpu
from facts.system import Listener, SystemState
from inventories.settings import (
    AptPackage,
    ArchiveSource,
    Artifact,
    ClaudeCodeSettings,
    CudaRepository,
    CudaSettings,
    DriverSettings,
    GitSource,
    HostSettings,
    LlamaCppSettings,
    ModelSettings,
    OpenCodeModel,
    OpenCodeProvider,
    OpenCodeSettings,
    SecretReference,
    ServerSettings,
    SshSettings,
    Tls,
)
from inventories.sizing.dimensions import CacheLayers, Dimensions
from llamaherd.plan.preflight import preflight_rows

GIB = 1024**3
RTX5090 = Gpu(0, "NVIDIA GeForce RTX 5090", "GPU-2", 32607, 32000, "12.0", "580.65.06")
FILE = Artifact("m.gguf", 4096, "a" * 64, url="https://hub.example.com/m.gguf")
MODEL = ModelSettings("glm", "GLM", "/var/lib/llamaherd/models/glm", (FILE,))
SHAPE = Dimensions("deepseek2", 47, 202752, 2048, 154880, cache=(CacheLayers(47, 576, 0),))
SERVER = ServerSettings("coder", "glm", 8888, 8192)
BUILD = LlamaCppSettings(GitSource("https://example.org/llama.cpp", "0" * 40), 8146, "0" * 40)
HOST = HostSettings(
    name="gpu-01",
    ssh=SshSettings("10.0.0.11"),
    cuda=CudaSettings("none"),
    llama_cpp=BUILD,
    models=(MODEL,),
    servers=(SERVER,),
)
FACTS = SystemState(
    distribution="debian",
    version_id="12",
    architecture="x86_64",
    cpu="EPYC",
    glibc="2.36",
    systemd=252,
    root=True,
    memory_total=64 * GIB,
    disk_free={"/opt": 50 * GIB, "/var/lib": 50 * GIB},
)
CARD = replace(FACTS, gpus=(RTX5090,))
PROVIDER = OpenCodeProvider(
    "llamaherd-coder",
    "llama-server",
    "gpu-01/coder",
    "http://127.0.0.1:8888/v1",
    (OpenCodeModel("glm", "GLM", 8192, 2048),),
)
ARCHIVE = Artifact("opencode.tgz", 9, "c" * 64, url="https://example.org/o.tgz")
OPENCODE = OpenCodeSettings("1.18.33", {"x86_64": ARCHIVE}, ("dev",), (PROVIDER,), PROVIDER.id)


def served(**change: object) -> HostSettings:
    """The host, its one server changed."""
    return replace(HOST, servers=(replace(SERVER, **change),))  # type: ignore[arg-type]


def test_a_host_in_order_has_no_problems() -> None:
    assert problems(replace(HOST, opencode=OPENCODE), FACTS) == []


# Toolkits -----------------------------------------------------------------------------------------


def test_the_toolkit_that_is_there_is_judged_by_its_own_version() -> None:
    settings = replace(HOST, cuda=CudaSettings("existing", path="/usr/local/cuda-12.4"))
    assert questions(settings) == {
        "toolkits": ("/usr/local/cuda-12.4",),
        "files": ("/usr/local/cuda-12.4/bin/nvcc",),
    }
    old = replace(CARD, toolkits={"/usr/local/cuda-12.4": "12.4.131"})
    (found,) = problems(settings, old)
    assert "(compute capability 12.0) needs CUDA 12.8 or newer" in found
    assert found.endswith("install CUDA 12.8 or newer and set cuda.path to it")
    assert problems(settings, replace(CARD, toolkits={"/usr/local/cuda-12.4": "12.8.93"})) == []
    driver = replace(RTX5090, driver="570.133.07", compute_capability="8.9")
    new = replace(FACTS, gpus=(driver,), toolkits={"/usr/local/cuda-12.4": "13.0.88"})
    (found,) = problems(settings, new)
    assert found.endswith("or install CUDA 12.8 and set cuda.path to it")


def test_the_distributions_toolkit_is_judged_by_its_declared_version_or_its_own() -> None:
    settings = replace(HOST, cuda=CudaSettings("distribution", "11.8"))
    (found,) = problems(settings, CARD)
    assert "needs CUDA 12.8 or newer" in found
    assert "set cuda.provider to nvidia-repo or wheels, and cuda.version to 12.8" in found
    unsaid = replace(settings, cuda=CudaSettings("distribution"))
    assert questions(unsaid) == {"toolkits": ("/usr",)}
    assert problems(unsaid, CARD) == []
    (found,) = problems(unsaid, replace(CARD, toolkits={"/usr": "11.8.89"}))
    assert "needs CUDA 12.8 or newer" in found
    # Its compiler and libc are those that it goes with.
    other = replace(CARD, glibc="2.41", compiler="14.2.0", toolkits={"/usr": "12.8.93"})
    assert problems(unsaid, other) == []


@pytest.mark.parametrize(
    ("cuda", "facts", "message"),
    [
        (
            CudaSettings("existing", path="/opt/x"),
            replace(CARD, toolkits={"/opt/x": ""}, missing=("file /opt/x/bin/nvcc",)),
            "there is no /opt/x/bin/nvcc on this host: set cuda.path",
        ),
        (
            CudaSettings("existing", path="/opt/x"),
            replace(CARD, toolkits={"/opt/x": ""}),
            "/opt/x/bin/nvcc does not run on this host: mend cuda.path",
        ),
        (
            CudaSettings("distribution", "12.8"),
            replace(CARD, toolkits={"/usr": "13.0.88"}),
            "the distribution's toolkit is 13.0.88, and cuda.version says 12.8",
        ),
        (
            CudaSettings("distribution"),
            replace(CARD, distribution="rocky", version_id="9.6", like=("rhel",)),
            "rocky has no nvidia-cuda-toolkit of its own",
        ),
        (
            CudaSettings("wheels", "13.0", wheels=(replace(FILE, name="nvcc_x86_64.whl"),)),
            replace(CARD, architecture="aarch64"),
            "nvcc_x86_64.whl is not for aarch64: lock wheels for this machine",
        ),
        (
            CudaSettings(
                "nvidia-repo",
                "13.0",
                repositories=(CudaRepository("ubuntu2404", "https://x/x86_64/", FILE, ()),),
            ),
            CARD,
            "this host is debian12 (x86_64), and the lock file has NVIDIA's repository for ubuntu",
        ),
    ],
)
def test_a_toolkit_that_the_host_cannot_have_is_refused(
    cuda: CudaSettings, facts: SystemState, message: str
) -> None:
    found = [f"{each.summary}: {each.remedy}" for each in by_area(HOST, facts)["GPU"]]
    assert found == []
    found = [
        f"{each.summary}: {each.remedy}" for each in by_area(replace(HOST, cuda=cuda), facts)["GPU"]
    ]
    assert any(message in text for text in found)


def test_a_driver_that_is_locked_for_other_hosts_only_is_refused() -> None:
    repository = CudaRepository(
        "rhel9", "https://x/x86_64/", FILE, (AptPackage("nvidia-open", "580.1-1", "0" * 64),)
    )
    driver = DriverSettings(580, "580.1", (repository,))
    found = problems(replace(HOST, driver=driver), FACTS)
    assert any("llamaherd lock --update driver" in text for text in found)


# Servers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cache_type_k": "q8_0"}, "glm keeps keys and values together (MLA): set cache_type_k"),
        ({"split_mode": "tensor"}, "deepseek2 by tensors: use layer"),
        ({"context": 262144}, "262144 tokens, and glm was trained for 202752"),
        ({"extra_args": ("--port", "1")}, "--port is set from the fleet file"),
    ],
)
def test_settings_that_no_server_could_start_with_are_refused(
    change: dict[str, object], message: str
) -> None:
    settings = replace(served(**change), models=(replace(MODEL, dimensions=SHAPE),))
    (found,) = by_area(settings, FACTS)["settings"]
    assert message in f"{found.summary}: {found.remedy}"
    assert found.component == "llama_server"


@pytest.mark.parametrize("flag", ["--rope-scaling", "--yarn-orig-ctx", "--override-kv"])
def test_a_model_that_is_stretched_by_hand_may_have_more_context(flag: str) -> None:
    settings = served(context=262144, extra_args=(flag, "x"))
    settings = replace(settings, models=(replace(MODEL, dimensions=SHAPE),))
    assert by_area(settings, FACTS)["settings"] == []


def test_a_router_gives_no_model_a_template_in_a_file(tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ x }}")
    part = replace(SERVER, chat_template_file=str(template))
    (found,) = problems(served(models=(part,), models_max=1), FACTS)
    assert "which a server with several models can't give it" in found


def test_a_vulkan_server_names_its_gpus_by_index() -> None:
    settings = replace(
        served(gpus=("GPU-8f6f9d1c",)), llama_cpp=replace(BUILD, backends=("vulkan",))
    )
    (found,) = problems(settings, FACTS)
    assert found.startswith("servers.coder.gpus: Vulkan knows GPUs by index")


def test_what_a_server_needs_on_the_host_is_looked_for_while_it_does_not_run() -> None:
    tls = Tls("/etc/ssl/a.pem", "/etc/ssl/a.key")
    settings = served(tls=tls, unix_socket=True, socket_group="www")
    assert questions(settings) == {
        "groups": ("www",),
        "files": ("/etc/ssl/a.pem", "/etc/ssl/a.key"),
    }
    facts = replace(
        FACTS,
        masked=("llama-server@coder.service", "llama-server@other.service"),
        missing=("file /etc/ssl/a.key", "group www"),
    )
    assert problems(settings, facts) == [
        "llama-server@coder.service is masked: run systemctl unmask llama-server@coder.service",
        "/etc/ssl/a.key is missing: put it there, or change servers.coder.tls",
        "the host has no group www: create it (groupadd www), or change servers.coder.socket_group",
    ]
    running = (Listener(8888, "llama-server[9]", "llama-server@coder.service"),)
    assert problems(settings, replace(facts, listeners=running)) == []


# The host -----------------------------------------------------------------------------------------


def test_accounts_that_the_host_lacks_are_told_with_the_setting_that_names_them() -> None:
    claude = ClaudeCodeSettings(("ann", "dev"), "gpu-01/coder", "http://x", "glm", 2048)
    settings = replace(HOST, opencode=OPENCODE, claude_code=claude)
    assert questions(settings) == {"accounts": ("dev", "ann")}
    found = problems(settings, replace(FACTS, missing=("account dev", "account ann")))
    assert [text.rpartition(" ")[2] for text in found] == [
        "opencode.users",
        "clients.claude_code.users",
        "clients.claude_code.users",
    ]


def test_a_distribution_that_nothing_is_installed_on_is_refused() -> None:
    (found,) = by_area(HOST, replace(FACTS, distribution="arch", version_id=""))["system"]
    assert found.summary == "arch isn't supported"


def test_an_architecture_without_opencode_is_refused() -> None:
    found = problems(replace(HOST, opencode=OPENCODE), replace(FACTS, architecture="riscv64"))
    assert "no OpenCode 1.18.33 is locked for riscv64 (locked: x86_64): run llamaherd lock " in (
        "".join(found)
    )


ROCKY = replace(FACTS, distribution="rocky", version_id="9.6", like=("rhel", "centos", "fedora"))
STOCK = ("baseos", "appstream", "extras")


@pytest.mark.parametrize(
    ("repositories", "there", "lacking"),
    [
        (STOCK, (), ["CRB", "EPEL"]),
        (
            ("rhel-9-for-x86_64-baseos-rpms", "rhel-9-for-x86_64-appstream-rpms"),
            (),
            ["CRB", "EPEL"],
        ),
        ((*STOCK, "crb"), (), ["EPEL"]),
        ((*STOCK, "codeready-builder-for-rhel-9-x86_64-rpms", "epel"), (), []),
        (STOCK, ("/usr/bin/ninja", "/usr/bin/rg"), []),
        # A site's own mirror may have it all; a host may not have told.
        ((*STOCK, "example-mirror"), (), []),
        ((), (), []),
    ],
)
def test_what_stock_hosts_of_the_rhel_family_cannot_install_is_told(
    repositories: tuple[str, ...], there: tuple[str, ...], lacking: list[str]
) -> None:
    settings = replace(HOST, opencode=OPENCODE)
    assert {"ninja-build", "ripgrep"} <= set(rpm_names(wanted(settings)))
    facts = replace(ROCKY, repositories=repositories, there=dict.fromkeys(there, 1))
    found = by_area(settings, facts)["system"]
    assert [each.subject for each in found] == lacking


def test_vulkans_shader_compiler_must_come_from_elsewhere_on_ubuntu_22_04() -> None:
    settings = replace(HOST, llama_cpp=replace(BUILD, backends=("vulkan",)))
    jammy = replace(FACTS, distribution="ubuntu", version_id="22.04", like=("debian",))
    (found,) = problems(settings, jammy)
    assert found.startswith("ubuntu 22.04 has no package glslc")
    found_there = replace(jammy, there={"/usr/local/bin/glslc": 1})
    assert problems(settings, found_there) == []
    # What is there is taken; apt is asked for it wherever it may have it.
    assert set(wanted(settings)) - set(deb_names(wanted(settings), found_there)) == {"glslc"}
    assert "glslc" in deb_names(wanted(settings), jammy)
    assert "glslc" in deb_names(wanted(settings), replace(FACTS, there=found_there.there))
    assert problems(settings, FACTS) == []
    assert problems(HOST, jammy) == []


# This machine -------------------------------------------------------------------------------------


def test_secrets_that_this_machine_cannot_have_are_named_and_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GIVEN_KEY", "hush")
    given, gone = SecretReference(env="GIVEN_KEY"), SecretReference(env="NO_SUCH_KEY")
    token = SecretReference(env="NO_SUCH_TOKEN")
    settings = replace(
        served(api_key=gone),
        models=(replace(MODEL, token=token),),
        opencode=replace(OPENCODE, providers=(replace(PROVIDER, api_key=given),)),
    )
    found = problems(settings, FACTS)
    assert [text.partition(": ")[0] for text in found] == [
        "secret from environment variable NO_SUCH_KEY",
        "secret from environment variable NO_SUCH_TOKEN",
    ]
    assert "hush" not in "".join(found)
    # A model that is there asks no hub.
    there = replace(FACTS, there={f"{MODEL.directory}/m.gguf": 4096})
    assert len(problems(settings, there)) == 1


def test_a_command_that_has_no_secret_is_asked_once_a_run(tmp_path: Path) -> None:
    script = f"echo x >> {tmp_path}/asked; exit 1"
    key = SecretReference(command=("/bin/sh", "-c", script))
    for _ in range(3):
        (found,) = problems(served(api_key=key), FACTS)
    assert "it exited 1" in found
    assert (tmp_path / "asked").read_text() == "x\n"


def test_files_of_this_machine_are_looked_for_where_they_are_still_to_come(tmp_path: Path) -> None:
    def local(name: str) -> Artifact:
        return Artifact(name, 4, "a" * 64, path=str(tmp_path / name))

    settings = replace(
        served(chat_template_file=str(tmp_path / "t.jinja")),
        models=(replace(MODEL, files=(local("m.gguf"),)),),
        llama_cpp=replace(BUILD, source=ArchiveSource(local("source.tar"))),
        opencode=replace(OPENCODE, artifacts={"x86_64": local("o.tgz")}),
    )
    found = [each.summary for each in controller_findings(settings, FACTS)]
    assert len(found) == 4
    assert all(str(tmp_path) in text for text in found)
    for name in ("t.jinja", "m.gguf", "source.tar", "o.tgz"):
        (tmp_path / name).write_text("1234")
    assert controller_findings(settings, FACTS) == []
    (tmp_path / "m.gguf").write_text("12345")
    (wrong,) = controller_findings(settings, FACTS)
    assert "has 5 bytes, the lock file says 4" in wrong.summary
    there = replace(FACTS, there={f"{MODEL.directory}/m.gguf": 4})
    assert controller_findings(settings, there) == []


# Memory that prompts may take ---------------------------------------------------------------------


def memory_detail(settings: HostSettings, facts: SystemState) -> str:
    (row,) = [row for row in preflight_rows(settings, facts) if row.area == "memory"]
    assert row.ok
    return row.detail


def test_prompts_of_an_unset_limit_are_noted_where_they_have_no_room_and_not_refused() -> None:
    small = replace(FACTS, memory_total=6 * GIB)
    assert memory_detail(HOST, FACTS) == "64.0 GiB"
    assert "server coder may keep up to 8.0 GiB of prompts in memory" in memory_detail(HOST, small)
    assert memory_detail(served(cache_ram=1024), small) == "6.0 GiB"
    assert memory_detail(served(cache_ram=0), small) == "6.0 GiB"


def test_prompts_without_a_limit_are_noted() -> None:
    detail = memory_detail(served(cache_ram=-1), FACTS)
    assert detail.endswith("without a limit: set servers.coder.cache_ram")
