"""A model and context that can't fit are refused beforehand, with numbers and remedies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from test_estimates import dimensions

from deploys.preflight import problems
from deploys.preflight.memory import declared_as, declared_findings, memory_findings
from facts.gpu import Gpu
from facts.system import SystemState
from inventories.resolve import declared_gpus
from inventories.settings import (
    Adapter,
    Artifact,
    CudaSettings,
    DeclaredGpu,
    DraftSettings,
    HostSettings,
    ModelSettings,
    ServerSettings,
    SshSettings,
    from_data,
    to_data,
)

GIB = 1024**3
CARD = Gpu(0, "NVIDIA GeForce RTX 4090", "GPU-1", 24564, 24000, "8.9", "580.65.06")
SECOND = replace(CARD, index=1, uuid="GPU-2")
FACTS = SystemState(
    distribution="debian",
    systemd=252,
    root=True,
    glibc="2.36",
    memory_total=64 * GIB,
    disk_free={"/opt": 50 * GIB},
    gpus=(CARD,),
)


def model(name: str) -> ModelSettings:
    """A family's model as a host gets it."""
    known = dimensions(name)
    assert known.weights is not None
    size = known.weights.input + known.weights.device
    file = Artifact(f"{name}.gguf", size, "0" * 64, url=f"https://hub.example.com/{name}.gguf")
    return ModelSettings(name, name, "/var/lib/models", (file,), dimensions=known)


def host(*servers: ServerSettings, cuda: str = "wheels") -> HostSettings:
    """A host with these servers and their models."""
    used = sorted({server.model for server in servers})
    return HostSettings(
        name="gpu-01",
        ssh=SshSettings("10.0.0.11"),
        cuda=CudaSettings(cuda, "13.0" if cuda == "wheels" else None),  # type: ignore[arg-type]
        models=tuple(model(name) for name in used),
        servers=servers,
    )


def texts(settings: HostSettings, facts: SystemState = FACTS) -> list[str]:
    """What is refused, as people read it."""
    return [f"{found.summary}: {found.remedy}" for found in memory_findings(settings, facts)]


GLM = ServerSettings("coder", "glm-4.7-flash", 8888, 65536, parallel=2)


def test_the_recipes_server_fits_its_card() -> None:
    assert texts(host(replace(GLM, parallel=1))) == []


def test_too_long_a_context_is_refused_with_the_numbers_and_the_settings() -> None:
    (text,) = texts(host(replace(GLM, context=131072)))
    assert "server coder would need" in text
    assert "GPU 0 (NVIDIA GeForce RTX 4090), which has 24.0 GiB" in text
    assert "weights 15.7 GiB" in text
    assert "131,072 tokens x 2 in f16 13.2 GiB" in text
    assert "set servers.coder.context to" in text
    assert "with cache_type_k and cache_type_v q8_0" in text
    assert "servers.coder.n_cpu_moe" in text
    assert "a smaller quantisation of models.glm-4.7-flash" in text


def test_the_context_that_is_proposed_fits() -> None:
    (text,) = texts(host(replace(GLM, context=131072)))
    proposed = int(text.partition("servers.coder.context to ")[2].split()[0])
    assert 32768 < proposed < 131072
    assert texts(host(replace(GLM, context=proposed))) == []


def test_preflight_tells_it_with_everything_else() -> None:
    settings = host(replace(GLM, context=131072))
    found = problems(settings, replace(FACTS, systemd=0))
    assert len(found) == 2


def test_servers_on_one_card_are_summed() -> None:
    small = ServerSettings("chat", "llama-3.1-8b", 8889, 32768, parallel=1)
    each = replace(GLM, parallel=1)
    assert texts(host(each)) == []
    assert texts(host(small)) == []
    (text,) = texts(host(each, small))
    assert "servers coder, chat would need" in text
    assert "llama-3.1-8b: weights" in text
    apart = host(replace(each, gpus=("0",)), replace(small, gpus=("GPU-2",)))
    assert texts(apart, replace(FACTS, gpus=(CARD, SECOND))) == []


def test_a_second_card_carries_what_one_cannot() -> None:
    both = replace(FACTS, gpus=(CARD, SECOND))
    big = replace(GLM, context=131072)
    assert texts(host(big), both) == []
    (text,) = texts(host(replace(big, gpus=("0",))), both)
    assert "servers.coder.gpus" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("--n-cpu-moe", "30"),
        ("--cache-type-k", "q4_0", "--cache-type-v", "q4_0"),
        ("--n-gpu-layers", "10"),
    ],
)
def test_what_the_arguments_do_about_it_counts(arguments: tuple[str, ...]) -> None:
    assert texts(host(replace(GLM, context=98304, extra_args=arguments))) == []


def test_what_is_not_known_is_not_refused() -> None:
    settings = host(replace(GLM, context=131072))
    unknown = replace(settings, models=(replace(settings.models[0], dimensions=None),))
    assert texts(unknown) == []
    assert texts(replace(settings, models=())) == []
    shared = replace(FACTS, gpus=(replace(CARD, memory_total=None),))
    assert texts(settings, shared) == []
    assert texts(host(replace(GLM, context=131072, gpus=("7",)))) == []


def test_a_host_without_gpus_needs_the_memory() -> None:
    settings = host(GLM, cuda="none")
    assert texts(settings) == []
    (text,) = texts(settings, replace(FACTS, memory_total=16 * GIB))
    assert "the host has 16.0 GiB" in text
    assert "servers.coder.context" in text


def test_dimensions_travel_with_the_host_data() -> None:
    settings = host(GLM)
    assert from_data(HostSettings, to_data(settings)) == settings


# Declared cards ---------------------------------------------------------------------------------


def declared(*gpus: DeclaredGpu, facts: SystemState = FACTS) -> list[str]:
    """What is said of a host that declares these cards."""
    settings = replace(host(replace(GLM, parallel=1)), gpus=gpus)
    return [f"{found.summary}: {found.remedy}" for found in declared_findings(settings, facts)]


ADA = DeclaredGpu(24 * GIB, "NVIDIA GeForce RTX 4090")


@pytest.mark.parametrize(
    "gpu",
    [ADA, DeclaredGpu(24564 * 1024**2), replace(ADA, uuid="GPU-1")],
    ids=["as sold", "in MiB", "by UUID"],
)
def test_the_card_that_was_declared_is_fine(gpu: DeclaredGpu) -> None:
    assert declared(gpu) == []


def test_a_card_that_is_gone_is_told_with_where_to_look() -> None:
    (text,) = declared(ADA, ADA)
    assert "GPU 1 is declared (NVIDIA GeForce RTX 4090, 24576M)" in text
    assert "the driver doesn't list it" in text
    assert "lspci" in text
    settings = replace(host(GLM), gpus=(ADA, ADA))
    assert any("GPU 1 is declared" in problem for problem in problems(settings, FACTS))


def test_another_card_is_told_with_the_line_to_write() -> None:
    (text,) = declared(DeclaredGpu(32 * GIB, "NVIDIA GeForce RTX 5090"))
    assert "GPU 0 is declared as NVIDIA GeForce RTX 5090, 32768M, and is NVIDIA GeForce" in text
    assert "gpus: [{name: NVIDIA GeForce RTX 4090, memory: 24564M}]" in text
    both = replace(FACTS, gpus=(CARD, SECOND))
    (text,) = declared(ADA, facts=both)
    assert "GPU 1 (NVIDIA GeForce RTX 4090, 24564M, GPU-2) isn't declared" in text
    assert "memory: 24564M, count: 2}]" in text
    assert "lspci" not in text


def test_the_line_to_write_declares_the_cards() -> None:
    both = replace(FACTS, gpus=(CARD, SECOND, replace(CARD, index=2, name="NVIDIA L4")))
    (text,) = declared(ADA, facts=both)
    line = text.partition("entry, ")[2]
    written = declared_gpus(yaml.safe_load(line)["gpus"])
    assert written is not None
    assert declared(*written, facts=both) == []


def test_what_is_not_declared_or_has_no_cards_at_all_has_no_finding() -> None:
    settings = host(GLM)
    assert declared_findings(settings, FACTS) == []
    assert declared(ADA, facts=replace(FACTS, gpus=())) == []
    on_cpu = replace(host(GLM, cuda="none"), gpus=(ADA, ADA))
    assert declared_findings(on_cpu, FACTS) == []
    assert declared_as([replace(CARD, memory_total=None)]) == []


def test_settings_count_as_their_arguments_do() -> None:
    full = replace(GLM, context=98304)
    assert len(texts(host(full))) == 1
    assert texts(host(replace(full, cache_type_k="q8_0", cache_type_v="q8_0"))) == []
    assert texts(host(replace(full, gpu_layers="10"))) == []  # placed by hand: nothing is said


def test_a_router_needs_what_it_loads_at_once() -> None:
    both = (GLM, replace(GLM, model="llama-3.1-8b", context=32768, parallel=1))
    router = replace(GLM, models=both)
    settings = replace(host(*both), servers=(router,))
    (text,) = texts(settings)
    assert "server coder would need" in text
    assert "llama-3.1-8b: weights" in text
    assert texts(replace(settings, servers=(replace(router, models_max=1),))) == []


def test_prompts_that_do_not_fit_into_the_hosts_memory_are_refused() -> None:
    (text,) = texts(host(replace(GLM, cache_ram=10**6)))
    assert text.startswith("server coder would need 976.6 GiB of memory, the host has 64.0 GiB")
    assert "(prompts 976.6 GiB)" in text
    assert text.endswith("set servers.coder.cache_ram lower")


def test_experts_and_prompts_are_summed_with_what_lies_on_the_cpu() -> None:
    outside = replace(GLM, context=32768, n_cpu_moe=40, cache_ram=8192)
    on_cpu = ServerSettings("chat", "llama-3.1-8b", 8889, 32768, parallel=2, gpus=())
    assert texts(host(outside, on_cpu)) == []
    small = replace(FACTS, memory_total=24 * GIB)
    assert texts(host(outside), small) == []
    assert texts(host(replace(on_cpu, gpus=())), small) == []
    (text,) = texts(host(outside, on_cpu), small)
    assert "servers coder, chat would need" in text
    assert "weights 4.3 GiB, experts 12.3 GiB, K/V 8.0 GiB, prompts 8.0 GiB" in text
    assert "keep fewer layers' experts of models.glm-4.7-flash in host memory" in text
    # Not told how much: llama.cpp's own limit is no promise to use it.
    unsaid = replace(outside, cache_ram=None, n_cpu_moe=None)
    assert texts(host(unsaid), replace(FACTS, memory_total=4 * GIB)) == []


# Beside the model -------------------------------------------------------------------------------


def with_draft(settings: HostSettings, draft: str) -> HostSettings:
    """The same host, its first server with a draft model."""
    server = replace(settings.servers[0], draft=DraftSettings(draft))
    models = (*settings.models, model(draft))
    return replace(settings, servers=(server,), models=models)


def test_a_draft_model_and_its_cache_count() -> None:
    alone = host(replace(GLM, parallel=1))
    assert texts(alone) == []
    (text,) = texts(with_draft(alone, "llama-3.1-8b"))
    assert "server coder would need" in text
    on_cpu = with_draft(host(replace(GLM, gpus=(), parallel=1)), "llama-3.1-8b")
    needed = sum(file.size for each in on_cpu.models for file in each.files)
    assert texts(on_cpu, replace(FACTS, memory_total=64 * GIB)) == []
    (text,) = texts(on_cpu, replace(FACTS, memory_total=needed + GIB))
    assert f"weights {needed / GIB:.1f} GiB" in text


def test_adapters_count() -> None:
    settings = host(replace(GLM, parallel=1))
    (own,) = settings.models
    file = Artifact("adapters/a.gguf", 8 * GIB, "1" * 64, url="https://hub.example.com/a.gguf")
    big = replace(own, files=(*own.files, file), adapters=(Adapter("a", file.name),))
    (text,) = texts(replace(settings, models=(big,)))
    assert "weights 23.7 GiB" in text
